//! Outputs in a staged folder.
//!
//! Everything is opened relative to one cap-std handle, so a symlink that an action made leads nowhere
//! outside its own directory.

use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, FileType, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;
use wardian_proto::{RelPath, Segment};

use super::{OutputFile, OutputKind, OutputSource, special};
use crate::Failure;

/// The folder that an action ran in.
pub(crate) struct StagedOutputs {
    dir: Dir,
}

impl StagedOutputs {
    /// Opens the folder.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let dir = Dir::open_ambient_dir(root, ambient_authority());
        Ok(Self { dir: dir.map_err(Failure::io("open output root"))? })
    }
}

fn kind(file_type: FileType) -> OutputKind {
    if file_type.is_symlink() {
        OutputKind::Symlink
    } else if file_type.is_dir() {
        OutputKind::Directory
    } else if file_type.is_file() {
        OutputKind::File
    } else {
        OutputKind::Special
    }
}

impl OutputSource for StagedOutputs {
    fn kind(&self, path: &RelPath) -> Result<Option<OutputKind>, Failure> {
        if path.is_root() {
            return Ok(Some(OutputKind::Directory));
        }
        match self.dir.symlink_metadata(path.as_str()) {
            Ok(metadata) => Ok(Some(kind(metadata.file_type()))),
            // A parent that is a file or a link out of the root holds no output either.
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(Failure::io("look up output")(error)),
        }
    }

    fn target_kind(&self, path: &RelPath) -> Result<Option<OutputKind>, Failure> {
        // `metadata` follows the link, inside the root only.
        Ok(self.dir.metadata(path.as_str()).ok().map(|metadata| kind(metadata.file_type())))
    }

    fn link_target(&self, path: &RelPath) -> Result<String, Failure> {
        let target =
            self.dir.read_link_contents(path.as_str()).map_err(Failure::io("read output symlink"))?;
        target.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::FailedPrecondition(format!("output symlink {path} has a target that is not UTF-8"))
        })
    }

    fn list(&self, path: &RelPath, names_max: usize) -> Result<Vec<(Segment, OutputKind)>, Failure> {
        let text = if path.is_root() { "." } else { path.as_str() };
        let mut names = Vec::new();
        let entries = self.dir.read_dir(text).map_err(Failure::io("list output directory"))?;
        for entry in entries.take(names_max.saturating_add(1)) {
            let entry = entry.map_err(Failure::io("list output directory"))?;
            let name = entry.file_name().into_string().ok().and_then(|name| Segment::parse(&name).ok());
            let name = name.ok_or_else(|| {
                Failure::FailedPrecondition(format!("output directory {path} has a name that is not UTF-8"))
            })?;
            names.push((name, kind(entry.file_type().map_err(Failure::io("look up output"))?)));
        }
        Ok(names)
    }

    fn open(&self, path: &RelPath) -> Result<OutputFile, Failure> {
        let file = open_file(&self.dir, path)?;
        let metadata = file.metadata().map_err(Failure::io("look up output file"))?;
        Ok(OutputFile {
            size: metadata.len(),
            is_executable: metadata.mode() & 0o111 != 0,
            digest: None,
            content: Box::new(file.into_std()),
        })
    }
}

/// Whether nothing is at a path: it does not exist, or a symlink of the action leads out of the root.
///
/// The second is refused by cap-std itself, so it has no error number; an action that took its own rights
/// away is told apart by that, and is a failure.
fn absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => true,
        ErrorKind::PermissionDenied => error.raw_os_error() != Some(rustix::io::Errno::ACCESS.raw_os_error()),
        _ => false,
    }
}

/// Opens a regular file. What was one when it was looked at may be a pipe now, if the action left a
/// process behind: opening it must not wait for a writer.
fn open_file(dir: &Dir, path: &RelPath) -> Result<File, Failure> {
    let mut options = OpenOptions::new();
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("the flag is a low bit");
    options.read(true).custom_flags(flags);
    let file = dir.open_with(path.as_str(), &options).map_err(Failure::io("open output file"))?;
    let metadata = file.metadata().map_err(Failure::io("look up output file"))?;
    if metadata.is_file() { Ok(file) } else { Err(special(path)) }
}
