//! Packages that are no tar archives: wheels, which are zip archives, and folders. Member by member, within the
//! same limits and with the same refusals.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use wardian_proto::{PATH_BYTES_MAX, RelPath};

use crate::archive::{Allowed, Kind, Member, MemberError, Totals, at_entry, below, below_root, symlink};
use crate::{EntryProblem, ImportError, ImportLimits};

/// What a member is shown to.
pub(crate) type Visit<'a> = dyn FnMut(Member<'_>) -> Result<(), MemberError> + 'a;

/// Bytes of a zip archive that may be read before its members are known: to find its index, and for each member
/// that it may have.
const ZIP_END_BYTES_MAX: u64 = 1 << 20;
const ZIP_INDEX_BYTES_PER_ENTRY: u64 = 128;

/// Shows every member of a zip archive.
pub(crate) fn walk_zip(
    archive: &str,
    file: impl Read + io::Seek,
    (limits, totals): (&ImportLimits, &Totals),
    visit: &mut Visit<'_>,
) -> Result<(), ImportError> {
    let broken = |source: zip::result::ZipError| ImportError::Archive {
        archive: archive.to_owned(),
        source: io::Error::other(source),
    };
    // The zip crate holds the whole index in memory.
    let index_bytes_max = limits.entries_max.saturating_mul(ZIP_INDEX_BYTES_PER_ENTRY);
    let allowance = Cell::new(index_bytes_max.saturating_add(ZIP_END_BYTES_MAX));
    let mut zip = zip::ZipArchive::new(Allowed { reader: file, allowance: &allowance }).map_err(broken)?;
    allowance.set(u64::MAX);
    below("members of archives", zip.len() as u64, limits.entries_max)
        .map_err(|why| at_entry(archive, b"", why.into()))?;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(broken)?;
        let (name, size) = (entry.name_raw().to_vec(), entry.size());
        let told = |error| at_entry(archive, &name, error);
        totals.count(size, limits).map_err(|why| told(why.into()))?;
        let (path, kind) = zip_member(&name, &mut entry).map_err(told)?;
        // One byte more, so that a member that is longer than it says is noticed.
        let mut data = entry.take(size.saturating_add(1));
        visit(Member { path, kind, data: &mut data }).map_err(told)?;
    }
    Ok(())
}

fn zip_member<R: Read>(
    name: &[u8],
    entry: &mut zip::read::ZipFile<'_, R>,
) -> Result<(RelPath, Kind), MemberError> {
    let name = std::str::from_utf8(name).map_err(|_| EntryProblem::NotText)?;
    if let Some(name) = name.strip_suffix('/') {
        return Ok((RelPath::parse(name)?, Kind::Directory));
    }
    if entry.encrypted() {
        return Err(EntryProblem::Kind("encrypted").into());
    }
    let path = below_root(name)?;
    let mode = entry.unix_mode().unwrap_or(0o644);
    // The kind of file, where the archive was made on Unix; zero means that it does not say.
    match mode & 0o170_000 {
        0 | 0o100_000 => Ok((path, Kind::File { size: entry.size(), is_executable: mode & 0o111 != 0 })),
        // The target is the content.
        0o120_000 => {
            let mut target = Vec::new();
            let most = PATH_BYTES_MAX as u64 + 1;
            entry.take(most).read_to_end(&mut target).map_err(MemberError::Io)?;
            Ok(symlink(path, &target)?)
        }
        _ => Err(EntryProblem::Kind("no plain file").into()),
    }
}

/// Shows every file and directory below a folder, in the order of their names.
pub(crate) fn walk_folder(
    folder: &Path,
    (limits, totals): (&ImportLimits, &Totals),
    visit: &mut Visit<'_>,
) -> Result<(), ImportError> {
    let mut open = vec![(folder.to_owned(), RelPath::root())];
    while let Some((folder, at)) = open.pop() {
        let failed = |source| ImportError::Open { path: folder.clone(), source };
        let mut entries =
            std::fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let shown = path.to_string_lossy().into_owned();
            let told = |error| at_entry("folder", shown.as_bytes(), error);
            let name = name.to_str().ok_or_else(|| told(EntryProblem::NotText.into()))?;
            let relative = at.resolve(name).map_err(|why| told(why.into()))?;
            below("names in a path", relative.segments().count() as u64, limits.path_depth_max)
                .map_err(|why| told(why.into()))?;
            let file_type = entry.file_type().map_err(|error| told(MemberError::Io(error)))?;
            if file_type.is_dir() {
                totals.count(0, limits).map_err(|why| told(why.into()))?;
                visit(Member { path: relative.clone(), kind: Kind::Directory, data: &mut io::empty() })
                    .map_err(told)?;
                open.push((path, relative));
                continue;
            }
            if !file_type.is_file() {
                return Err(told(EntryProblem::Kind("no plain file").into()));
            }
            let mut data = File::open(&path).map_err(|error| told(MemberError::Io(error)))?;
            let metadata = data.metadata().map_err(|error| told(MemberError::Io(error)))?;
            totals.count(metadata.len(), limits).map_err(|why| told(why.into()))?;
            let kind = Kind::File { size: metadata.len(), is_executable: is_executable(&metadata) };
            visit(Member { path: relative, kind, data: &mut data }).map_err(told)?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    false
}
