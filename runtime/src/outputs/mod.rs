//! What a command left behind: found below the staged root, uploaded, listed in the result.
//!
//! Everything is opened relative to one cap-std handle, so a symlink that an action made leads nowhere
//! outside its own directory.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, FileType, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use prost::Message;
use rustix::fs::OFlags;
use wardian_proto::{Digest, DigestFunction, RelPath, Segment, reapi};
use wardian_store::tree_builder::{BuiltTree, TreeBuilder};
use wardian_store::{BlobStore, StoreError, Upload};

use crate::action::{ActionSpec, DirectoryFormat, OutputPath, OutputSpec};
use crate::input_root::blocking;
use crate::{Failure, Limits};

/// Pieces in which files are hashed and uploaded.
const PIECE_BYTES: usize = 256 * 1024;

/// Output files up to this size are uploaded in batches.
const SMALL_FILE_BYTES: u64 = 64 * 1024;

/// Bytes of small files and Directories uploaded in one batch.
const BATCH_BYTES: usize = 4 << 20;

/// A file to be uploaded: where it is and what it was found to be.
struct FoundFile {
    path: RelPath,
    digest: Digest,
}

/// Everything that a scan of the outputs found.
#[derive(Default)]
struct Found {
    result: reapi::ActionResult,
    files: Vec<FoundFile>,
    messages: Vec<(Digest, Bytes)>,
    entries: usize,
    bytes: u64,
}

/// Collects the outputs of a finished command into the store and returns the result's output fields.
pub(crate) async fn collect(
    store: &dyn BlobStore,
    root: &Path,
    spec: &ActionSpec,
    limits: &Limits,
) -> Result<reapi::ActionResult, Failure> {
    let dir = Dir::open_ambient_dir(root, ambient_authority()).map_err(Failure::io("open output root"))?;
    let dir = Arc::new(dir);
    let (outputs, format) = (spec.outputs.clone(), spec.directory_format);
    let (function, limits) = (spec.action.function(), limits.clone());
    let scan_dir = Arc::clone(&dir);
    let found = blocking(move || {
        let mut scan = Scan { dir: &scan_dir, function, format, limits: &limits, found: Found::default() };
        scan.all(&outputs)?;
        Ok(scan.found)
    })
    .await?;
    upload(store, &dir, found.files, found.messages).await?;
    Ok(found.result)
}

struct Scan<'a> {
    dir: &'a Dir,
    function: DigestFunction,
    format: DirectoryFormat,
    limits: &'a Limits,
    found: Found,
}

/// What a legacy output field says an output must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Any,
    File,
    Directory,
}

impl Scan<'_> {
    fn all(&mut self, outputs: &OutputSpec) -> Result<(), Failure> {
        match outputs {
            OutputSpec::Paths(paths) => self.each(paths, Wanted::Any),
            OutputSpec::Typed { files, directories } => {
                self.each(files, Wanted::File)?;
                self.each(directories, Wanted::Directory)
            }
        }
    }

    fn each(&mut self, outputs: &[OutputPath], wanted: Wanted) -> Result<(), Failure> {
        for output in outputs {
            if let Some(file_type) = self.file_type(&output.path)? {
                self.one(output, file_type, wanted)?;
            }
        }
        Ok(())
    }

    /// The kind of what is at a path itself; `None` when nothing is there.
    fn file_type(&self, path: &RelPath) -> Result<Option<FileType>, Failure> {
        if path.is_root() {
            return Ok(Some(FileType::dir()));
        }
        match self.dir.symlink_metadata(path.as_str()) {
            Ok(metadata) => Ok(Some(metadata.file_type())),
            // A parent that is a file or a link out of the root holds no output either.
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(Failure::io("look up output")(error)),
        }
    }

    #[allow(deprecated)]
    fn one(&mut self, output: &OutputPath, file_type: FileType, wanted: Wanted) -> Result<(), Failure> {
        let path = output.requested.clone();
        let wrong = |what: &str| {
            Err(Failure::FailedPrecondition(format!("output {path:?} was to be {what}, and it is not")))
        };
        if file_type.is_symlink() {
            let link = self.symlink(output)?;
            // `metadata` follows the link, inside the root only.
            let target = self.dir.metadata(output.path.as_str()).ok().map(|m| m.file_type());
            match (wanted, target) {
                (Wanted::Any, _) => {}
                (Wanted::File, Some(t)) if t.is_file() => {
                    self.found.result.output_file_symlinks.push(link);
                    return Ok(());
                }
                (Wanted::Directory, Some(t)) if t.is_dir() => {
                    self.found.result.output_directory_symlinks.push(link);
                    return Ok(());
                }
                (Wanted::File, _) => return wrong("a file or a symlink to one"),
                (Wanted::Directory, _) => return wrong("a directory or a symlink to one"),
            }
            // Clients of version 2.0 look for links in the older fields.
            match target {
                Some(t) if t.is_dir() => self.found.result.output_directory_symlinks.push(link.clone()),
                Some(_) => self.found.result.output_file_symlinks.push(link.clone()),
                None => {}
            }
            self.found.result.output_symlinks.push(link);
            return Ok(());
        }
        if file_type.is_dir() {
            if wanted == Wanted::File {
                return wrong("a file");
            }
            return self.directory(output);
        }
        if !file_type.is_file() {
            return Err(special(&output.path));
        }
        if wanted == Wanted::Directory {
            return wrong("a directory");
        }
        let (digest, is_executable) = self.file(&output.path)?;
        let digest = Some(digest.to_wire());
        self.found.result.output_files.push(reapi::OutputFile {
            path,
            digest,
            is_executable,
            ..Default::default()
        });
        Ok(())
    }

    fn symlink(&mut self, output: &OutputPath) -> Result<reapi::OutputSymlink, Failure> {
        let target = self.link_target(&output.path)?;
        Ok(reapi::OutputSymlink { path: output.requested.clone(), target, node_properties: None })
    }

    fn link_target(&mut self, path: &RelPath) -> Result<String, Failure> {
        self.count(0)?;
        let target =
            self.dir.read_link_contents(path.as_str()).map_err(Failure::io("read output symlink"))?;
        let target = target.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::FailedPrecondition(format!("output symlink {path} has a target that is not UTF-8"))
        })?;
        if target.starts_with('/') {
            return Err(Failure::FailedPrecondition(format!(
                "output symlink {path} has the absolute target {target:?}; absolute symlinks are disallowed"
            )));
        }
        Ok(target)
    }

    /// Hashes a file and notes it for upload.
    fn file(&mut self, path: &RelPath) -> Result<(Digest, bool), Failure> {
        let mut file = open_file(self.dir, path)?;
        let metadata = file.metadata().map_err(Failure::io("look up output file"))?;
        // A file with holes has a size that nobody wrote; reading it would take that long all the same.
        if metadata.len() > self.limits.output_bytes_max - self.found.bytes {
            return Err(self.too_many_bytes());
        }
        let mut hasher = self.function.hasher();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = file.read(&mut piece).map_err(Failure::io("read output file"))?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            if self.found.bytes + hasher.size() > self.limits.output_bytes_max {
                return Err(self.too_many_bytes());
            }
        }
        let digest = hasher.finish();
        self.count(digest.size())?;
        self.found.files.push(FoundFile { path: path.clone(), digest });
        Ok((digest, metadata.mode() & 0o111 != 0))
    }

    fn directory(&mut self, output: &OutputPath) -> Result<(), Failure> {
        let mut tree = TreeBuilder::new();
        let mut pending = vec![(output.path.clone(), RelPath::root())];
        while let Some((path, inside)) = pending.pop() {
            let depth_max = self.limits.tree.depth_max;
            if inside.segments().count() > depth_max {
                // Deeper trees are not accepted as inputs either.
                let text =
                    format!("output directory {:?} has more than {depth_max} levels", output.requested);
                return Err(Failure::ResourceExhausted(text));
            }
            tree.directory(&inside).map_err(|e| Failure::Internal(e.to_string()))?;
            for (name, file_type) in self.list(&path)? {
                let (path, inside) = (path.join(&name), inside.join(&name));
                if file_type.is_dir() {
                    self.count(0)?;
                    pending.push((path, inside));
                    continue;
                }
                let added = if file_type.is_symlink() {
                    tree.symlink(&inside, &self.link_target(&path)?)
                } else if file_type.is_file() {
                    let (digest, is_executable) = self.file(&path)?;
                    tree.file(&inside, digest, is_executable)
                } else {
                    return Err(special(&path));
                };
                added.map_err(|e| Failure::Internal(e.to_string()))?;
            }
        }
        self.add_directory(output, tree.build(self.function));
        Ok(())
    }

    fn list(&self, path: &RelPath) -> Result<Vec<(Segment, FileType)>, Failure> {
        let text = if path.is_root() { "." } else { path.as_str() };
        let mut names = Vec::new();
        for entry in self.dir.read_dir(text).map_err(Failure::io("list output directory"))? {
            let entry = entry.map_err(Failure::io("list output directory"))?;
            let name = entry.file_name().into_string().ok().and_then(|name| Segment::parse(&name).ok());
            let name = name.ok_or_else(|| {
                Failure::FailedPrecondition(format!("output directory {path} has a name that is not UTF-8"))
            })?;
            names.push((name, entry.file_type().map_err(Failure::io("look up output"))?));
            if self.found.entries + names.len() > self.limits.output_entries_max {
                return Err(self.too_many_entries());
            }
        }
        Ok(names)
    }

    fn add_directory(&mut self, output: &OutputPath, built: BuiltTree) {
        let mut directory = reapi::OutputDirectory { path: output.requested.clone(), ..Default::default() };
        if self.format.root_directory {
            directory.root_directory_digest = Some(built.root.to_wire());
            self.found.messages.extend(built.directories.iter().cloned());
        }
        if self.format.tree {
            let tree = Bytes::from(tree_message(&built).encode_to_vec());
            let digest = self.function.digest(&tree);
            directory.tree_digest = Some(digest.to_wire());
            directory.is_topologically_sorted = true;
            self.found.messages.push((digest, tree));
        }
        self.found.result.output_directories.push(directory);
    }

    fn count(&mut self, bytes: u64) -> Result<(), Failure> {
        self.found.entries += 1;
        self.found.bytes += bytes;
        if self.found.entries > self.limits.output_entries_max {
            return Err(self.too_many_entries());
        }
        if self.found.bytes > self.limits.output_bytes_max {
            return Err(self.too_many_bytes());
        }
        Ok(())
    }

    fn too_many_entries(&self) -> Failure {
        let max = self.limits.output_entries_max;
        Failure::ResourceExhausted(format!("outputs have more than {max} entries (limit output_entries_max)"))
    }

    fn too_many_bytes(&self) -> Failure {
        let max = self.limits.output_bytes_max;
        Failure::ResourceExhausted(format!("outputs have more than {max} bytes (limit output_bytes_max)"))
    }
}

/// The Tree of a directory: the root, then every distinct child, parents before children.
///
/// The builder puts children before parents, so the reverse is the order that the API calls
/// topologically sorted.
fn tree_message(built: &BuiltTree) -> reapi::Tree {
    let decode = |(_, bytes): &(Digest, Bytes)| {
        reapi::Directory::decode(bytes.clone()).expect("the builder encoded these bytes")
    };
    let mut directories = built.directories.iter().rev().map(decode);
    reapi::Tree { root: directories.next(), children: directories.collect() }
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

fn special(path: &RelPath) -> Failure {
    Failure::FailedPrecondition(format!("output {path} is neither a file, a directory nor a symlink"))
}

/// Uploads what the store does not have yet.
async fn upload(
    store: &dyn BlobStore,
    dir: &Arc<Dir>,
    files: Vec<FoundFile>,
    messages: Vec<(Digest, Bytes)>,
) -> Result<(), Failure> {
    let mut digests: Vec<Digest> = files.iter().map(|f| f.digest).collect();
    digests.extend(messages.iter().map(|(digest, _)| *digest));
    let mut missing: std::collections::HashSet<Digest> =
        store.find_missing(&digests).await?.into_iter().collect();
    let mut batch = Batch { store, uploads: Vec::new(), bytes: 0 };
    for (digest, bytes) in messages {
        if missing.remove(&digest) {
            batch.add(Upload::bytes(digest, bytes)).await?;
        }
    }
    for file in files {
        if !missing.remove(&file.digest) {
            continue;
        }
        let opened = {
            let (dir, path) = (Arc::clone(dir), file.path.clone());
            blocking(move || open_file(&dir, &path)).await?
        };
        let pieces = pieces(opened.into_std());
        if file.digest.size() <= SMALL_FILE_BYTES {
            batch.add(Upload::stream(file.digest, pieces)).await?;
        } else {
            store.put(Upload::stream(file.digest, pieces)).await?;
        }
    }
    batch.flush().await
}

/// Small uploads on their way into one call.
struct Batch<'a> {
    store: &'a dyn BlobStore,
    uploads: Vec<Upload>,
    bytes: usize,
}

impl Batch<'_> {
    async fn add(&mut self, upload: Upload) -> Result<(), Failure> {
        self.bytes += usize::try_from(upload.digest().size()).unwrap_or(usize::MAX);
        self.uploads.push(upload);
        // An open file is held for each upload: bound their number too.
        if self.bytes >= BATCH_BYTES || self.uploads.len() >= 128 { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        self.bytes = 0;
        let outcomes = self.store.put_batch(std::mem::take(&mut self.uploads)).await;
        outcomes.into_iter().collect::<Result<(), StoreError>>().map_err(Failure::from)
    }
}

fn pieces(file: std::fs::File) -> impl futures::Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    futures::stream::try_unfold(file, |mut file| async move {
        let read = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE_BYTES];
            let read = file.read(&mut piece)?;
            piece.truncate(read);
            Ok::<_, std::io::Error>((!piece.is_empty()).then_some((Bytes::from(piece), file)))
        });
        read.await
            .map_err(std::io::Error::other)
            .and_then(|outcome| outcome)
            .map_err(|source| StoreError::Io { operation: "read output file", source })
    })
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
