//! Writes outputs below one local directory and nowhere else.
//!
//! Everything goes through a directory handle that no path and no symlink leads out of. Files appear whole
//! or not at all: they are written beside their place and renamed.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use wardian_proto::{PathError, RelPath};

use super::TransferError;

/// Why outputs could not be brought back.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OutputError {
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: io::Error },
    #[error("cannot write {path}: a directory is there; remove it or choose another --output-root")]
    DirectoryThere { path: String },
    #[error("symlink {path} to {target:?} was not written: it leads out of the output root")]
    Escapes { path: RelPath, target: String },
    #[error("the server returned output {0:?}, which was not asked for; nothing was written")]
    NotAsked(String),
    #[error("the server returned output {path:?}: {source}; nothing was written")]
    Path { path: String, source: PathError },
    #[error("output {path}: {why}; nothing was written")]
    Message { path: RelPath, why: String },
    #[error("outputs have more than {limit} {what}; nothing was written")]
    Limit { what: &'static str, limit: u64 },
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// A local directory that outputs go into.
#[derive(Debug)]
pub struct OutputWriter {
    root: Dir,
    shown: PathBuf,
}

impl OutputWriter {
    /// Opens the directory, making it when it is not there. Blocks, as all methods do.
    pub fn open(root: &Path) -> Result<Self, OutputError> {
        let open = || {
            Dir::create_ambient_dir_all(root, ambient_authority())?;
            Dir::open_ambient_dir(root, ambient_authority())
        };
        let failed = |source| OutputError::Write { path: root.display().to_string(), source };
        Ok(Self { root: open().map_err(failed)?, shown: root.to_owned() })
    }

    /// Makes a directory and those above it.
    pub fn directory(&self, at: &RelPath) -> Result<(), OutputError> {
        self.open_directory(at).map(drop)
    }

    /// Makes a symlink, replacing a file or symlink.
    pub fn symlink(&self, at: &RelPath, target: &str) -> Result<(), OutputError> {
        if at.parent().unwrap_or_default().resolve(target).is_err() {
            return Err(OutputError::Escapes { path: at.clone(), target: target.to_owned() });
        }
        let (parent, name) = self.place(at)?;
        let temporary = temporary_name();
        let made = make_symlink(&parent, target, &temporary).and_then(|()| {
            parent.rename(&temporary, &parent, &name).inspect_err(|_| drop(parent.remove_file(&temporary)))
        });
        made.map_err(self.failed(at))
    }

    /// Starts a file. It appears when it is committed, replacing a file or symlink.
    pub fn begin(&self, at: &RelPath, is_executable: bool) -> Result<NewFile, OutputError> {
        let (parent, name) = self.place(at)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        set_mode(&mut options, is_executable);
        let temporary = temporary_name();
        let file = parent.open_with(&temporary, &options).map_err(self.failed(at))?;
        let shown = self.shown(at);
        Ok(NewFile { file: file.into_std(), place: Place { parent, temporary, name, shown, done: false } })
    }

    /// Returns the directory that holds a path, made when it is not there, and the path's last name.
    fn place(&self, at: &RelPath) -> Result<(Dir, String), OutputError> {
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            return Err(OutputError::DirectoryThere { path: self.shown(at) });
        };
        Ok((self.open_directory(&parent)?, name.to_owned()))
    }

    fn open_directory(&self, at: &RelPath) -> Result<Dir, OutputError> {
        let open = || {
            if at.is_root() {
                return self.root.try_clone();
            }
            self.root.create_dir_all(at.as_str())?;
            self.root.open_dir(at.as_str())
        };
        open().map_err(self.failed(at))
    }

    fn shown(&self, at: &RelPath) -> String {
        self.shown.join(at.as_str()).display().to_string()
    }

    fn failed(&self, at: &RelPath) -> impl FnOnce(io::Error) -> OutputError {
        failed(self.shown(at))
    }
}

/// A file that is not at its place yet. Dropping it without a commit leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    /// Where the bytes go.
    pub file: std::fs::File,
    /// Where the file goes.
    pub place: Place,
}

/// Where a new file will be.
#[derive(Debug)]
pub struct Place {
    parent: Dir,
    temporary: String,
    name: String,
    shown: String,
    done: bool,
}

impl Place {
    /// Puts the file where it belongs.
    pub fn commit(mut self) -> Result<(), OutputError> {
        let renamed = self.parent.rename(&self.temporary, &self.parent, &self.name);
        self.done = renamed.is_ok();
        renamed.map_err(failed(&self.shown))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.done {
            // Nobody can be told here, and the name says what it is.
            let _ = self.parent.remove_file(&self.temporary);
        }
    }
}

fn failed(path: impl Display) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.to_string();
    move |source| match source.kind() {
        io::ErrorKind::IsADirectory => OutputError::DirectoryThere { path },
        _ => OutputError::Write { path, source },
    }
}

/// How the names of files begin and end that are not at their places yet.
const UNFINISHED: (&str, &str) = (".wardian-", ".part");

fn temporary_name() -> String {
    let (start, end) = UNFINISHED;
    format!("{start}{}{end}", uuid::Uuid::new_v4().simple())
}

/// Whether this name is that of an output on its way, which is gone or renamed in a moment and nobody's input.
pub(super) fn is_unfinished(name: &OsStr) -> bool {
    let (start, end) = UNFINISHED;
    let id = name.to_str().and_then(|name| name.strip_prefix(start)?.strip_suffix(end));
    id.is_some_and(|id| uuid::Uuid::try_parse(id).is_ok())
}

#[cfg(unix)]
fn set_mode(options: &mut OpenOptions, is_executable: bool) {
    use cap_std::fs::OpenOptionsExt as _;
    // The umask takes away what the person does not want to give.
    options.mode(if is_executable { 0o777 } else { 0o666 });
}

#[cfg(not(unix))]
fn set_mode(_: &mut OpenOptions, _: bool) {}

#[cfg(unix)]
fn make_symlink(parent: &Dir, target: &str, name: &str) -> io::Result<()> {
    parent.symlink(target, name)
}

#[cfg(not(unix))]
fn make_symlink(parent: &Dir, target: &str, name: &str) -> io::Result<()> {
    parent.symlink_file(target, name)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text).unwrap()
    }

    fn write(writer: &OutputWriter, at: &str, text: &str) -> Result<(), OutputError> {
        let mut new = writer.begin(&path(at), at.ends_with("tool"))?;
        new.file.write_all(text.as_bytes()).unwrap();
        new.place.commit()
    }

    #[test]
    fn files_directories_and_symlinks_are_made_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let writer = OutputWriter::open(&dir.path().join("new")).unwrap();
        write(&writer, "a/b/tool", "one").unwrap();
        write(&writer, "a/b/tool", "two").unwrap();
        writer.directory(&path("a/empty")).unwrap();
        writer.symlink(&path("a/link"), "b/tool").unwrap();
        writer.symlink(&path("a/link"), "../a/b/tool").unwrap();
        let root = dir.path().join("new/a");
        assert_eq!(fs::read_to_string(root.join("link")).unwrap(), "two");
        assert_eq!(fs::metadata(root.join("b/tool")).unwrap().permissions().mode() & 0o100, 0o100);
        assert!(root.join("empty").is_dir());
        assert_eq!(fs::read_dir(root.join("b")).unwrap().count(), 1);
    }

    #[test]
    fn symlinks_on_the_way_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("out")).unwrap();
        fs::create_dir_all(dir.path().join("secret")).unwrap();
        fs::write(dir.path().join("secret/f"), "old").unwrap();
        symlink("../secret", dir.path().join("out/relative")).unwrap();
        symlink(dir.path().join("secret"), dir.path().join("out/absolute")).unwrap();
        symlink("../secret/f", dir.path().join("out/file")).unwrap();
        let writer = OutputWriter::open(&dir.path().join("out")).unwrap();
        for at in ["relative/f", "absolute/f", "relative/new/f"] {
            assert!(write(&writer, at, "new").is_err(), "{at}");
        }
        // A symlink at the very place is replaced, not followed.
        write(&writer, "file", "new").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("secret/f")).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path().join("secret")).unwrap().count(), 1);
    }

    #[test]
    fn symlinks_that_would_lead_out_are_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let writer = OutputWriter::open(dir.path()).unwrap();
        for target in ["/etc", "../..", "../../x", "b/../../../x"] {
            let error = writer.symlink(&path("a/link"), target).unwrap_err();
            assert!(matches!(error, OutputError::Escapes { .. }), "{target}: {error}");
        }
        writer.symlink(&path("a/link"), "..").unwrap();
    }

    #[test]
    fn nothing_is_left_of_a_file_that_was_not_committed() {
        let dir = tempfile::tempdir().unwrap();
        let writer = OutputWriter::open(dir.path()).unwrap();
        drop(writer.begin(&path("f"), false).unwrap());
        fs::create_dir(dir.path().join("d")).unwrap();
        let error = write(&writer, "d", "x").unwrap_err().to_string();
        assert!(error.contains("a directory is there"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
