//! What a command left behind: found, hashed, uploaded, listed in the result.
//!
//! Where it is found is an [`OutputSource`]: a staged folder, or a workspace.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use wardian_proto::{Digest, DigestFunction, RelPath, Segment, reapi};
use wardian_store::BlobStore;
use wardian_store::tree_builder::{BuiltTree, TreeBuilder};

use crate::action::{ActionSpec, DirectoryFormat, OutputPath, OutputSpec};
use crate::input_root::blocking;
use crate::{Failure, Limits};

mod staged;
mod upload;
mod workspace;

pub(crate) use staged::StagedOutputs;
pub(crate) use workspace::WorkspaceOutputs;

/// Pieces in which files are hashed and uploaded.
const PIECE_BYTES: usize = 256 * 1024;

/// Output files up to this size are read once, and uploaded in batches.
const SMALL_FILE_BYTES: u64 = 64 * 1024;

/// Bytes of small files that are held from hashing them to uploading them.
const SMALL_FILES_HELD_BYTES_MAX: u64 = 16 << 20;

/// What an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputKind {
    File,
    Directory,
    Symlink,
    /// A pipe, a socket, a device.
    Special,
}

/// A file that is about to be read.
pub(crate) struct OutputFile {
    pub(crate) size: u64,
    pub(crate) is_executable: bool,
    /// Its digest, when that is known without reading.
    pub(crate) digest: Option<Digest>,
    pub(crate) content: Box<dyn Read + Send>,
}

/// Where a command left its outputs. Its functions may block. No link leads out of it.
pub(crate) trait OutputSource: Send + Sync + 'static {
    /// What is at a path itself; `None` when nothing is there, or nothing that could be an output.
    fn kind(&self, path: &RelPath) -> Result<Option<OutputKind>, Failure>;

    /// What the symlink at a path leads to in the end.
    fn target_kind(&self, path: &RelPath) -> Result<Option<OutputKind>, Failure>;

    /// The target of the symlink at a path.
    fn link_target(&self, path: &RelPath) -> Result<String, Failure>;

    /// The names in a directory, up to one more than `names_max`.
    fn list(&self, path: &RelPath, names_max: usize) -> Result<Vec<(Segment, OutputKind)>, Failure>;

    /// Opens a file.
    fn open(&self, path: &RelPath) -> Result<OutputFile, Failure>;
}

/// A file to be uploaded: where it is, what it was found to be, and its content when that is small.
struct FoundFile {
    path: RelPath,
    digest: Digest,
    content: Option<Bytes>,
}

/// Everything that a scan of the outputs found.
#[derive(Default)]
struct Found {
    result: reapi::ActionResult,
    files: Vec<FoundFile>,
    messages: Vec<(Digest, Bytes)>,
    entries: usize,
    bytes: u64,
    held_bytes: u64,
}

/// Collects the outputs of a finished command into the store and returns the result's output fields.
pub(crate) async fn collect(
    store: &dyn BlobStore,
    source: Arc<dyn OutputSource>,
    spec: &ActionSpec,
    limits: &Limits,
) -> Result<reapi::ActionResult, Failure> {
    if spec.outputs.all().next().is_none() {
        return Ok(reapi::ActionResult::default());
    }
    let (outputs, format) = (spec.outputs.clone(), spec.directory_format);
    let (function, limits) = (spec.action.function(), limits.clone());
    let scanned = Arc::clone(&source);
    let found = blocking(move || {
        let mut scan = Scan { source: &*scanned, function, format, limits: &limits, found: Found::default() };
        scan.all(&outputs)?;
        Ok(scan.found)
    })
    .await?;
    upload::upload(store, &source, found.files, found.messages).await?;
    Ok(found.result)
}

struct Scan<'a> {
    source: &'a dyn OutputSource,
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
            if let Some(kind) = self.source.kind(&output.path)? {
                self.one(output, kind, wanted)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, output: &OutputPath, kind: OutputKind, wanted: Wanted) -> Result<(), Failure> {
        match kind {
            OutputKind::Symlink => self.symlink(output, wanted),
            OutputKind::Directory if wanted == Wanted::File => Err(wrong(output, "a file")),
            OutputKind::Directory => self.directory(output),
            OutputKind::Special => Err(special(&output.path)),
            OutputKind::File if wanted == Wanted::Directory => Err(wrong(output, "a directory")),
            OutputKind::File => {
                let (digest, is_executable) = self.file(&output.path)?;
                self.found.result.output_files.push(reapi::OutputFile {
                    path: output.requested.clone(),
                    digest: Some(digest.to_wire()),
                    is_executable,
                    ..Default::default()
                });
                Ok(())
            }
        }
    }

    #[allow(deprecated)]
    fn symlink(&mut self, output: &OutputPath, wanted: Wanted) -> Result<(), Failure> {
        let target = self.link_target(&output.path)?;
        let link = reapi::OutputSymlink { path: output.requested.clone(), target, node_properties: None };
        let leads_to = self.source.target_kind(&output.path)?;
        let result = &mut self.found.result;
        match (wanted, leads_to) {
            (Wanted::File, Some(OutputKind::File)) => result.output_file_symlinks.push(link),
            (Wanted::Directory, Some(OutputKind::Directory)) => result.output_directory_symlinks.push(link),
            (Wanted::File, _) => return Err(wrong(output, "a file or a symlink to one")),
            (Wanted::Directory, _) => return Err(wrong(output, "a directory or a symlink to one")),
            (Wanted::Any, leads_to) => {
                // Clients of version 2.0 look for links in the older fields.
                match leads_to {
                    Some(OutputKind::Directory) => result.output_directory_symlinks.push(link.clone()),
                    Some(_) => result.output_file_symlinks.push(link.clone()),
                    None => {}
                }
                result.output_symlinks.push(link);
            }
        }
        Ok(())
    }

    fn link_target(&mut self, path: &RelPath) -> Result<String, Failure> {
        self.count(0)?;
        self.source.link_target(path)
    }

    /// Finds a file's digest and notes it for upload.
    fn file(&mut self, path: &RelPath) -> Result<(Digest, bool), Failure> {
        let file = self.source.open(path)?;
        // A file with holes has a size that nobody wrote; reading it would take that long all the same.
        if file.size > self.limits.output_bytes_max - self.found.bytes {
            return Err(self.too_many_bytes());
        }
        let known = file.digest.filter(|digest| digest.function() == self.function);
        let (digest, content) = match known {
            Some(digest) => (digest, None),
            None => self.hash(file.content, file.size)?,
        };
        self.count(digest.size())?;
        self.found.files.push(FoundFile { path: path.clone(), digest, content });
        Ok((digest, file.is_executable))
    }

    /// Hashes a file, and keeps its bytes when they are few.
    fn hash(
        &mut self,
        mut content: Box<dyn Read + Send>,
        size: u64,
    ) -> Result<(Digest, Option<Bytes>), Failure> {
        let read = Failure::io("read output file");
        if size <= SMALL_FILE_BYTES && self.found.held_bytes + size <= SMALL_FILES_HELD_BYTES_MAX {
            let mut bytes = Vec::with_capacity(usize::try_from(size).expect("it is small"));
            // It may grow, if the action left a process behind.
            content.take(SMALL_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
            self.found.held_bytes += bytes.len() as u64;
            return Ok((self.function.digest(&bytes), Some(bytes.into())));
        }
        let mut hasher = self.function.hasher(size);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = content.read(&mut piece).map_err(&read)?;
            if length == 0 {
                return Ok((hasher.finish(), None));
            }
            hasher.update(&piece[..length]);
            if self.found.bytes + hasher.size() > self.limits.output_bytes_max {
                return Err(self.too_many_bytes());
            }
        }
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
            for (name, kind) in self.list(&path)? {
                let (path, inside) = (path.join(&name), inside.join(&name));
                let added = match kind {
                    OutputKind::Directory => {
                        self.count(0)?;
                        pending.push((path, inside));
                        continue;
                    }
                    OutputKind::Symlink => tree.symlink(&inside, &self.link_target(&path)?),
                    OutputKind::File => {
                        let (digest, is_executable) = self.file(&path)?;
                        tree.file(&inside, digest, is_executable)
                    }
                    OutputKind::Special => return Err(special(&path)),
                };
                added.map_err(|e| Failure::Internal(e.to_string()))?;
            }
        }
        self.add_directory(output, tree.build(self.function));
        Ok(())
    }

    fn list(&self, path: &RelPath) -> Result<Vec<(Segment, OutputKind)>, Failure> {
        let names_max = self.limits.output_entries_max - self.found.entries;
        let names = self.source.list(path, names_max)?;
        if names.len() > names_max { Err(self.too_many_entries()) } else { Ok(names) }
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

fn wrong(output: &OutputPath, what: &str) -> Failure {
    let path = &output.requested;
    Failure::FailedPrecondition(format!("output {path:?} was to be {what}, and it is not"))
}

fn special(path: &RelPath) -> Failure {
    Failure::FailedPrecondition(format!("output {path} is neither a file, a directory nor a symlink"))
}

#[cfg(test)]
mod tests;
