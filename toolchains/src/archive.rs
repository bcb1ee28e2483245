//! Reads tar archives that nobody vouches for, member by member, within limits.
//!
//! A member that could reach outside of its archive, or that is no file, directory or symlink, fails the
//! whole archive. Nothing here touches the file system.

use std::cell::Cell;
use std::io::{self, Read};

use tar::EntryType;
use wardian_proto::{PATH_BYTES_MAX, PathError, RelPath};
use wardian_store::tree_builder::TreeBuildError;

use crate::ImportError;

/// Bytes that may stand between the contents of two members: headers, long names, padding.
const HEADER_BYTES_MAX: u64 = 64 << 10;

/// Bytes of a member that are read at a time.
const READ_BYTES_MAX: usize = 64 << 10;

/// What an import may unpack. The counts run over the package and the archives inside of it together.
#[derive(Clone, Copy, Debug)]
pub struct ImportLimits {
    /// Members of archives, those that are not imported included.
    pub entries_max: u64,
    /// Bytes of all members.
    pub bytes_max: u64,
    /// Bytes of one member.
    pub file_bytes_max: u64,
    /// Names in a path, from the root of the imported tree down.
    pub path_depth_max: u64,
}

impl Default for ImportLimits {
    fn default() -> Self {
        Self { entries_max: 50_000, bytes_max: 1 << 30, file_bytes_max: 256 << 20, path_depth_max: 32 }
    }
}

/// What is wrong with one member of an archive.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EntryProblem {
    #[error("its path is not UTF-8")]
    NotText,
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("it is {0}; only plain files, directories and symlinks are imported")]
    Kind(&'static str),
    #[error("it is a symlink to {target:?}, which {why}")]
    Link { target: String, why: &'static str },
    #[error(transparent)]
    Place(#[from] TreeBuildError),
    #[error("it is there twice")]
    Twice,
    #[error("the archive ends in the middle of it")]
    Truncated,
    #[error("it is longer than it says")]
    Longer,
    #[error("there are more {what} than the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
}

/// How much was unpacked so far, in all archives of one import.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    entries: Cell<u64>,
    bytes: Cell<u64>,
}

impl Totals {
    pub(crate) fn count(&self, bytes: u64, limits: &ImportLimits) -> Result<(), EntryProblem> {
        self.entries.set(self.entries.get() + 1);
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        below("members of archives", self.entries.get(), limits.entries_max)?;
        below("bytes in one file", bytes, limits.file_bytes_max)?;
        below("bytes in all files", self.bytes.get(), limits.bytes_max)
    }
}

/// Refuses what is more than a limit.
pub(crate) fn below(what: &'static str, count: u64, limit: u64) -> Result<(), EntryProblem> {
    if count > limit { Err(EntryProblem::Limit { what, limit }) } else { Ok(()) }
}

/// What a member of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File {
        size: u64,
        is_executable: bool,
    },
    Directory,
    /// Leads nowhere outside of its archive.
    Symlink(String),
}

/// A member of an archive, at the moment when its bytes can be read.
pub(crate) struct Member<'a> {
    /// Where it is in its archive.
    pub(crate) path: RelPath,
    pub(crate) kind: Kind,
    pub(crate) data: &'a mut dyn Read,
}

impl Member<'_> {
    /// Shows the bytes of a file of this size, piece by piece.
    pub(crate) fn read(
        &mut self,
        size: u64,
        piece: &mut dyn FnMut(&[u8]) -> Result<(), MemberError>,
    ) -> Result<(), MemberError> {
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(usize::MAX).clamp(1, READ_BYTES_MAX)];
        let mut left = size;
        loop {
            match self.data.read(&mut buffer).map_err(MemberError::Io)? as u64 {
                0 if left == 0 => return Ok(()),
                0 => return Err(EntryProblem::Truncated.into()),
                read => {
                    // A tar reader ends at the member's size; a zip archive or a folder may hold more.
                    left = left.checked_sub(read).ok_or(EntryProblem::Longer)?;
                    piece(&buffer[..usize::try_from(read).expect("no more than the buffer holds")])?;
                }
            }
        }
    }
}

/// What went wrong at a member: in the archive, or outside of it and told already.
#[derive(Debug)]
pub(crate) enum MemberError {
    Problem(EntryProblem),
    Io(io::Error),
    Told(ImportError),
}

impl<T: Into<EntryProblem>> From<T> for MemberError {
    fn from(problem: T) -> Self {
        Self::Problem(problem.into())
    }
}

/// Shows every member of a tar archive to `visit`, in the archive's order.
pub(crate) fn walk(
    archive: &str,
    reader: impl Read,
    (limits, totals): (&ImportLimits, &Totals),
    visit: &mut dyn FnMut(Member<'_>) -> Result<(), MemberError>,
) -> Result<(), ImportError> {
    let broken = |source| ImportError::Archive { archive: archive.to_owned(), source };
    let allowance = Cell::new(HEADER_BYTES_MAX);
    let mut tar = tar::Archive::new(Allowed { reader, allowance: &allowance });
    let mut entries = tar.entries().map_err(broken)?;
    loop {
        // What the tar crate reads to find the next member, it holds in memory.
        allowance.set(HEADER_BYTES_MAX);
        let Some(entry) = entries.next().transpose().map_err(broken)? else { return Ok(()) };
        let at_entry = |path: &[u8], error| at_entry(archive, path, error);
        let mut entry = entry;
        let name = entry.path_bytes().into_owned();
        allowance.set(entry.size());
        totals.count(entry.size(), limits).map_err(|why| at_entry(&name, why.into()))?;
        if entry.header().entry_type() != EntryType::XGlobalHeader {
            let (path, kind) = member(&entry, &name).map_err(|why| at_entry(&name, why.into()))?;
            visit(Member { path, kind, data: &mut entry }).map_err(|error| at_entry(&name, error))?;
        }
        io::copy(&mut entry, &mut io::sink()).map_err(broken)?;
    }
}

/// An error at a member, with where it is.
pub(crate) fn at_entry(archive: &str, path: &[u8], error: MemberError) -> ImportError {
    let archive = archive.to_owned();
    match error {
        MemberError::Problem(why) => {
            let path = String::from_utf8_lossy(&path[..path.len().min(PATH_BYTES_MAX)]).into_owned();
            ImportError::Entry { archive, path, why }
        }
        MemberError::Io(source) => ImportError::Archive { archive, source },
        MemberError::Told(error) => error,
    }
}

fn member<R: Read>(entry: &tar::Entry<'_, R>, name: &[u8]) -> Result<(RelPath, Kind), EntryProblem> {
    let name = std::str::from_utf8(name).map_err(|_| EntryProblem::NotText)?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let header = entry.header();
    match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let is_executable = header.mode().unwrap_or(0) & 0o111 != 0;
            Ok((below_root(name)?, Kind::File { size: entry.size(), is_executable }))
        }
        EntryType::Directory => {
            let name = name.strip_suffix('/').unwrap_or(name);
            Ok((RelPath::parse(if name == "." { "" } else { name })?, Kind::Directory))
        }
        EntryType::Symlink => symlink(below_root(name)?, &entry.link_name_bytes().unwrap_or_default()),
        EntryType::Link => Err(EntryProblem::Kind("a hard link")),
        EntryType::Char | EntryType::Block => Err(EntryProblem::Kind("a device")),
        EntryType::Fifo => Err(EntryProblem::Kind("a pipe")),
        EntryType::GNUSparse => Err(EntryProblem::Kind("a sparse file")),
        _ => Err(EntryProblem::Kind("of an unknown kind")),
    }
}

/// The path of what is not a directory, so cannot take the place of the archive's root.
pub(crate) fn below_root(name: &str) -> Result<RelPath, EntryProblem> {
    let path = RelPath::parse(name)?;
    if path.is_root() { Err(TreeBuildError::Root.into()) } else { Ok(path) }
}

/// A symlink that stays inside of its archive.
pub(crate) fn symlink(path: RelPath, target: &[u8]) -> Result<(RelPath, Kind), EntryProblem> {
    let target = std::str::from_utf8(target).map_err(|_| EntryProblem::NotText)?;
    match why_no_link(&path, target) {
        Some(why) => Err(EntryProblem::Link { target: target.chars().take(120).collect(), why }),
        None => Ok((path, Kind::Symlink(target.to_owned()))),
    }
}

/// Says why a symlink is refused, if it is.
///
/// `..` is allowed only in front. A member's parents are directories, never symlinks, so there `..` means
/// what it says; behind a name it could go up from wherever another symlink leads.
fn why_no_link(path: &RelPath, target: &str) -> Option<&'static str> {
    if target.is_empty() {
        return Some("is empty");
    }
    if target.starts_with('/') {
        return Some("is absolute");
    }
    if target.contains('\0') {
        return Some("holds a NUL byte");
    }
    let mut parts = target.split('/').skip_while(|part| matches!(*part, ".." | "." | ""));
    if parts.any(|part| part == "..") {
        return Some("goes up again after going down");
    }
    match path.parent().unwrap_or_default().resolve(target) {
        Ok(_) => None,
        Err(PathError::Escapes(_)) => Some("leads out of its archive"),
        Err(_) => Some("is no path"),
    }
}

/// Reads until an allowance is used up. Whoever goes on reading then gets an error.
pub(crate) struct Allowed<'a, R> {
    pub(crate) reader: R,
    pub(crate) allowance: &'a Cell<u64>,
}

impl<R: io::Seek> io::Seek for Allowed<'_, R> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

impl<R: Read> Read for Allowed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::other("the headers of its members take more bytes than is allowed"));
        }
        let read = self.reader.read(&mut buffer[..most])?;
        self.allowance.set(left - read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, target: &str, allowed: bool) {
        let why = why_no_link(&RelPath::parse(path).unwrap(), target);
        assert_eq!(why.is_none(), allowed, "{path} -> {target}: {why:?}");
    }

    #[test]
    fn links_stay_inside() {
        check("a", "b", true);
        check("d/e/a", "../../b/c", true);
        check("d/a", "..", true);
        check("d/a", "./../b/./c", true);
        check("a", "..", false);
        check("d/a", "../../b", false);
        check("a", "/etc/passwd", false);
        check("a", "", false);
        check("a", "b\0", false);
    }

    #[test]
    fn links_do_not_go_up_behind_a_name() {
        // `x/y/up -> ../..` is the root; `z -> x/y/up/..` would be above it, though its letters are not.
        check("x/y/up", "../..", true);
        check("z", "x/y/up/..", false);
    }
}
