//! A local directory as an input tree: names, digests and where the bytes are.
//!
//! Files are hashed here and read again when they are sent; a file that changes in between is noticed then.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use wardian_proto::{Digest, PathError, RelPath, Segment};
use wardian_store::READ_CHUNK_BYTES;
use wardian_store::tree_builder::{TreeBuildError, TreeBuilder};

use super::Blobs;
use super::action_spec::DIGEST_FUNCTION;
use super::output_writer::is_unfinished;

/// Names files, as .gitignore does, that are no inputs.
const IGNORE_FILE: &str = ".wardianignore";

/// What a local tree may hold.
#[derive(Clone, Copy, Debug)]
pub struct InputLimits {
    /// Files and symlinks.
    pub files_max: usize,
    /// Levels below the root.
    pub depth_max: usize,
    /// Bytes of all files together.
    pub bytes_max: u64,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self { files_max: 120_000, depth_max: 128, bytes_max: 32 << 30 }
    }
}

/// Why a local tree cannot be an input.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InputError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{} is not UTF-8, and the API knows only UTF-8 names; rename it", .0.display())]
    NotUtf8(PathBuf),
    #[error("{} is {what}; an input holds only files, directories and symlinks", path.display())]
    Kind { path: PathBuf, what: &'static str },
    #[error(
        "{} is a symlink to the absolute path {target}; make it relative, or put a copy there",
        path.display()
    )]
    AbsoluteSymlink { path: PathBuf, target: String },
    #[error("{} holds more than {limit} {what}; name a smaller directory", root.display())]
    Limit { root: PathBuf, what: &'static str, limit: u64 },
    #[error("{}: {source}", path.display())]
    Name { path: PathBuf, source: PathError },
    #[error("{0}")]
    Ignore(String),
    #[error(transparent)]
    Tree(#[from] TreeBuildError),
}

/// A local tree that was walked and hashed.
#[derive(Debug, Default)]
pub struct LocalTree {
    /// The names; further trees may be grafted on.
    pub tree: TreeBuilder,
    /// Where the bytes of the files are.
    pub blobs: Blobs,
    /// Files and symlinks found.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl LocalTree {
    /// Reads a directory. Blocks.
    pub fn walk(directory: &Path, limits: InputLimits) -> Result<Self, InputError> {
        let mut walk = Walk { root: directory, limits, found: Self::default() };
        walk.level(directory, &RelPath::root(), 0)?;
        Ok(walk.found)
    }

    /// Reads a directory as people mean it: without what its .gitignore and .wardianignore name, and without .git.
    /// What Git itself would not know (a global ignore file, ignore files above) plays no part, so that the same
    /// directory is the same tree for everybody. Blocks.
    pub fn walk_unignored(directory: &Path, limits: InputLimits) -> Result<Self, InputError> {
        let mut walk = Walk { root: directory, limits, found: Self::default() };
        let entries = ignore::WalkBuilder::new(directory)
            .standard_filters(false)
            .git_ignore(true)
            .require_git(false)
            .add_custom_ignore_filename(IGNORE_FILE)
            .filter_entry(|entry| entry.file_name() != ".git" && !is_unfinished(entry.file_name()))
            .sort_by_file_name(std::cmp::Ord::cmp)
            .build();
        for entry in entries {
            let entry = entry.map_err(|error| InputError::Ignore(error.to_string()))?;
            let path = entry.path();
            let below = path.strip_prefix(directory).expect("the walk stays below its directory");
            let text = below.to_str().ok_or_else(|| InputError::NotUtf8(path.to_owned()))?;
            let at = RelPath::parse(text).map_err(name_error(path))?;
            let Some(file_type) = entry.file_type() else { continue };
            walk.entry(path, &at, file_type, entry.depth())?;
        }
        Ok(walk.found)
    }

    /// Finishes the tree: its Directory messages join the blobs to store. Returns the root's digest.
    pub fn finish(self) -> (Digest, Blobs) {
        let built = self.tree.build(DIGEST_FUNCTION);
        let mut blobs = self.blobs;
        for (digest, bytes) in built.directories {
            blobs.add_bytes(digest, bytes);
        }
        (built.root, blobs)
    }
}

struct Walk<'a> {
    root: &'a Path,
    limits: InputLimits,
    found: LocalTree,
}

impl Walk<'_> {
    /// Takes in one entry; what is in a directory comes later.
    fn entry(
        &mut self,
        path: &Path,
        at: &RelPath,
        file_type: fs::FileType,
        depth: usize,
    ) -> Result<(), InputError> {
        if depth > self.limits.depth_max {
            return Err(self.limit("levels of directories", self.limits.depth_max as u64));
        }
        if file_type.is_dir() {
            Ok(self.found.tree.directory(at)?)
        } else if file_type.is_symlink() {
            self.symlink(path, at)
        } else if file_type.is_file() {
            self.file(path, at)
        } else {
            Err(InputError::Kind { what: kind(file_type), path: path.to_owned() })
        }
    }

    fn level(&mut self, directory: &Path, at: &RelPath, depth: usize) -> Result<(), InputError> {
        if depth > self.limits.depth_max {
            return Err(self.limit("levels of directories", self.limits.depth_max as u64));
        }
        self.found.tree.directory(at)?;
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.map_err(io(directory))? {
            if is_unfinished(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            let name = entry.file_name().into_string().map_err(|_| InputError::NotUtf8(path.clone()))?;
            let name = Segment::parse(&name).map_err(name_error(&path))?;
            let relative = RelPath::parse(at.join(&name).as_str()).map_err(name_error(&path))?;
            let file_type = entry.file_type().map_err(io(&path))?;
            if file_type.is_dir() {
                self.level(&path, &relative, depth + 1)?;
            } else if file_type.is_symlink() {
                self.symlink(&path, &relative)?;
            } else if file_type.is_file() {
                self.file(&path, &relative)?;
            } else {
                return Err(InputError::Kind { what: kind(file_type), path });
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, at: &RelPath) -> Result<(), InputError> {
        self.count()?;
        let (digest, is_executable) = hash_file(path)?;
        self.found.bytes += digest.size();
        if self.found.bytes > self.limits.bytes_max {
            return Err(self.limit("bytes", self.limits.bytes_max));
        }
        self.found.tree.file(at, digest, is_executable)?;
        self.found.blobs.add_file(digest, path.to_owned());
        Ok(())
    }

    fn symlink(&mut self, path: &Path, at: &RelPath) -> Result<(), InputError> {
        self.count()?;
        let target = fs::read_link(path).map_err(io(path))?;
        let Some(text) = target.to_str() else { return Err(InputError::NotUtf8(path.to_owned())) };
        if target.has_root() {
            return Err(InputError::AbsoluteSymlink { path: path.to_owned(), target: text.to_owned() });
        }
        Ok(self.found.tree.symlink(at, text)?)
    }

    fn count(&mut self) -> Result<(), InputError> {
        self.found.files += 1;
        if self.found.files > self.limits.files_max {
            return Err(self.limit("files", self.limits.files_max as u64));
        }
        Ok(())
    }

    fn limit(&self, what: &'static str, limit: u64) -> InputError {
        InputError::Limit { root: self.root.to_owned(), what, limit }
    }
}

/// Returns digest and executable bit of a file. Blocks.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, bool), InputError> {
    let mut file = File::open(path).map_err(io(path))?;
    let metadata = file.metadata().map_err(io(path))?;
    let is_executable = is_executable(&metadata);
    let mut hasher = DIGEST_FUNCTION.hasher(metadata.len());
    let mut chunk = vec![0; READ_CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).map_err(io(path))? {
            0 => return Ok((hasher.finish(), is_executable)),
            n => hasher.update(&chunk[..n]),
        }
    }
}

#[cfg(unix)]
fn is_executable(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0
}

/// Hosts without the bit run what they are told to run.
#[cfg(not(unix))]
fn is_executable(_: &fs::Metadata) -> bool {
    true
}

#[cfg(unix)]
fn kind(file_type: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    match file_type {
        t if t.is_socket() => "a socket",
        t if t.is_fifo() => "a named pipe",
        t if t.is_block_device() || t.is_char_device() => "a device",
        _ => "neither file nor directory",
    }
}

#[cfg(not(unix))]
fn kind(_: fs::FileType) -> &'static str {
    "neither file nor directory"
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> InputError {
    let path = path.to_owned();
    move |source| InputError::Io { path, source }
}

fn name_error(path: &Path) -> impl FnOnce(PathError) -> InputError {
    let path = path.to_owned();
    move |source| InputError::Name { path, source }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::client::output_writer::OutputWriter;

    #[track_caller]
    fn refuses(directory: &Path, limits: InputLimits, expected: &str) {
        let error = LocalTree::walk(directory, limits).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn the_tree_is_the_one_that_the_builder_makes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        fs::write(dir.path().join("a/tool"), "x").unwrap();
        fs::set_permissions(dir.path().join("a/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("twin"), "x").unwrap();
        symlink("a/tool", dir.path().join("link")).unwrap();

        let (x, path) = (DIGEST_FUNCTION.digest(b"x"), |p| RelPath::parse(p).unwrap());
        let mut expected = TreeBuilder::new();
        expected.symlink(&path("link"), "a/tool").unwrap();
        expected.file(&path("twin"), x, false).unwrap();
        expected.file(&path("a/tool"), x, true).unwrap();
        expected.directory(&path("a/empty")).unwrap();

        let walked = LocalTree::walk(dir.path(), InputLimits::default()).unwrap();
        assert_eq!((walked.files, walked.bytes), (3, 2));
        let (root, blobs) = walked.finish();
        assert_eq!(root, expected.build(DIGEST_FUNCTION).root);
        // Root, a, the empty directory, and one blob for the two equal files.
        assert_eq!(blobs.digests().len(), 4);
    }

    #[test]
    fn ignored_files_are_no_inputs() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [".git", "sub", "build", "empty"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let files =
            [".git/config", "a.c", "a.o", "sub/b.c", "sub/b.o", "sub/keep.o", "build/x", ".hidden", "s.key"];
        for file in files {
            fs::write(dir.path().join(file), file).unwrap();
        }
        fs::write(dir.path().join(".gitignore"), "*.o\n/build\n").unwrap();
        fs::write(dir.path().join("sub/.gitignore"), "!keep.o\n").unwrap();
        fs::write(dir.path().join(".wardianignore"), "*.key\n").unwrap();

        let mut expected = TreeBuilder::new();
        for file in
            [".gitignore", ".hidden", ".wardianignore", "a.c", "sub/.gitignore", "sub/b.c", "sub/keep.o"]
        {
            let digest = hash_file(&dir.path().join(file)).unwrap().0;
            expected.file(&RelPath::parse(file).unwrap(), digest, false).unwrap();
        }
        expected.directory(&RelPath::parse("empty").unwrap()).unwrap();
        let walked = LocalTree::walk_unignored(dir.path(), InputLimits::default()).unwrap();
        assert_eq!(walked.finish().0, expected.build(DIGEST_FUNCTION).root);
        let limits = InputLimits { files_max: 6, ..InputLimits::default() };
        assert!(LocalTree::walk_unignored(dir.path(), limits).is_err());
    }

    #[test]
    fn outputs_that_another_run_is_writing_are_no_inputs() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.c"), "x").unwrap();
        fs::write(dir.path().join(".wardian-mine.part"), "x").unwrap();
        let before = LocalTree::walk(dir.path(), InputLimits::default()).unwrap().finish().0;
        let writer = OutputWriter::open(dir.path()).unwrap();
        let unfinished = writer.begin(&RelPath::parse("a.o").unwrap(), false).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        for walk in [LocalTree::walk, LocalTree::walk_unignored] {
            assert_eq!(walk(dir.path(), InputLimits::default()).unwrap().finish().0, before);
        }
        unfinished.place.commit().unwrap();
        let walked = LocalTree::walk(dir.path(), InputLimits::default()).unwrap();
        assert_ne!(walked.finish().0, before);
    }

    #[test]
    fn absolute_symlinks_and_sockets_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        refuses(dir.path(), InputLimits::default(), "link is a symlink to the absolute path /etc/passwd");
        fs::remove_file(dir.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        refuses(dir.path(), InputLimits::default(), "s is a socket");
    }

    #[test]
    fn limits_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("1/2/3")).unwrap();
        fs::write(dir.path().join("a"), "four").unwrap();
        fs::write(dir.path().join("b"), "five!").unwrap();
        let limits = InputLimits::default();
        refuses(dir.path(), InputLimits { files_max: 1, ..limits }, "more than 1 files");
        refuses(dir.path(), InputLimits { bytes_max: 8, ..limits }, "more than 8 bytes");
        refuses(dir.path(), InputLimits { depth_max: 2, ..limits }, "more than 2 levels");
        refuses(&dir.path().join("none"), limits, "none: No such file");
    }
}
