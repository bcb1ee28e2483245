//! A commit's objects as a tree of Directories.

use std::collections::HashMap;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use gix_hash::ObjectId;
use gix_object::tree::EntryKind;
use gix_object::{CommitRefIter, Kind, TagRefIter, TreeRefIter};
use wardian_proto::{Digest, DigestFunction, PATH_BYTES_MAX, RelPath};
use wardian_store::tree_builder::{BuiltTree, TreeBuilder};
use wardian_toolchains::ArchivedFile;

use super::FetchError;
use crate::assets::archive::{Deliver, LIMITS};
use crate::assets::fetch::spool_failed;

/// Tags that lead to tags.
const TAGS_MAX: usize = 8;

/// Files up to this size are handed on in memory.
const SMALL_FILE_BYTES_MAX: usize = 1 << 20;

/// The objects that were fetched.
pub(super) struct Objects<'a> {
    bundle: gix_pack::Bundle,
    inflate: gix_zlib::Inflate,
    stopped: &'a AtomicBool,
}

impl<'a> Objects<'a> {
    pub(super) fn new(bundle: gix_pack::Bundle, stopped: &'a AtomicBool) -> Self {
        Self { bundle, inflate: gix_zlib::Inflate::default(), stopped }
    }

    fn get(&mut self, id: &gix_hash::oid) -> Result<(Kind, Vec<u8>), FetchError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(FetchError::Aborted("nobody waits for it any more".into()));
        }
        let mut bytes = Vec::new();
        let found = self.bundle.find(id, &mut bytes, &mut self.inflate, &mut gix_pack::cache::Never);
        match found.map_err(super::failed)? {
            Some((data, _)) => {
                let kind = data.kind;
                Ok((kind, bytes))
            }
            None => Err(FetchError::Aborted(format!("the repository did not send object {id}"))),
        }
    }

    fn of_kind(&mut self, id: &gix_hash::oid, wanted: Kind) -> Result<Vec<u8>, FetchError> {
        match self.get(id)? {
            (kind, bytes) if kind == wanted => Ok(bytes),
            (kind, _) => {
                Err(FetchError::Aborted(format!("object {id} is a {kind} and should be a {wanted}")))
            }
        }
    }

    /// The tree of a commit, or of a tag that leads to one.
    fn root(&mut self, commit: ObjectId) -> Result<ObjectId, FetchError> {
        let mut id = commit;
        for _ in 0..TAGS_MAX {
            let (kind, bytes) = self.get(&id)?;
            match kind {
                Kind::Commit => {
                    return CommitRefIter::from_bytes(&bytes, gix_hash::Kind::Sha1)
                        .tree_id()
                        .map_err(super::failed);
                }
                Kind::Tag => {
                    id = TagRefIter::from_bytes(&bytes, gix_hash::Kind::Sha1)
                        .target_id()
                        .map_err(super::failed)?;
                }
                kind => return Err(FetchError::NotFound(format!("{id} is a {kind} and no commit"))),
            }
        }
        Err(FetchError::Aborted(format!("{commit} leads through more than {TAGS_MAX} tags")))
    }

    fn entries(&mut self, tree: &gix_hash::oid) -> Result<Vec<(String, EntryKind, ObjectId)>, FetchError> {
        let bytes = self.of_kind(tree, Kind::Tree)?;
        let entry = |entry: gix_error::Result<gix_object::tree::EntryRef<'_>>| {
            let entry = entry.map_err(super::failed)?;
            let name = std::str::from_utf8(entry.filename)
                .map_err(|_| FetchError::Aborted("a name in the repository is not UTF-8".into()))?;
            Ok((name.to_owned(), entry.mode.kind(), entry.oid.to_owned()))
        };
        // One more than there may be, which whoever counts them refuses.
        let most = usize::try_from(LIMITS.entries_max).map_or(usize::MAX, |most| most + 1);
        TreeRefIter::from_bytes(&bytes, gix_hash::Kind::Sha1).take(most).map(entry).collect()
    }

    /// Where a symlink leads.
    fn target(&mut self, path: &RelPath, id: &gix_hash::oid) -> Result<String, FetchError> {
        let bytes = self.of_kind(id, Kind::Blob)?;
        let why = if bytes.is_empty() || bytes.contains(&0) {
            "leads to no path"
        } else if bytes.len() >= PATH_BYTES_MAX {
            "leads to a path that is too long"
        } else if let Ok(target) = String::from_utf8(bytes) {
            return Ok(target);
        } else {
            "leads to a path that is not UTF-8"
        };
        Err(FetchError::Aborted(format!("symlink {path} in the repository {why}")))
    }
}

/// Hands on the files below a directory of a commit, each once, and builds their tree.
pub(super) fn build(
    mut objects: Objects<'_>,
    commit: ObjectId,
    directory: &RelPath,
    function: DigestFunction,
    spool: &Path,
    deliver: &mut Deliver<'_>,
) -> Result<BuiltTree, FetchError> {
    let mut root = objects.root(commit)?;
    for segment in directory.segments() {
        let inside = objects.entries(&root)?;
        let next = inside.into_iter().find(|(name, kind, _)| name == segment && *kind == EntryKind::Tree);
        let missing = || FetchError::NotFound(format!("the commit has no directory {directory}"));
        root = next.ok_or_else(missing)?.2;
    }
    let mut tree = TreeBuilder::new();
    let mut files: HashMap<ObjectId, (Digest, u64)> = HashMap::new();
    let (mut entries, mut bytes) = (0, 0);
    let mut open = vec![(RelPath::root(), root)];
    while let Some((folder, id)) = open.pop() {
        for (name, kind, id) in objects.entries(&id)? {
            entries += 1;
            below("entries", entries, LIMITS.entries_max)?;
            let path = if name.contains('/') { None } else { folder.resolve(&name).ok() };
            let path =
                path.filter(|path| *path != folder && path.parent().as_ref() == Some(&folder)).ok_or_else(
                    || FetchError::Aborted(format!("{name:?} in the repository is no name of a file")),
                )?;
            below("names in a path", path.segments().count() as u64, LIMITS.path_depth_max)?;
            let placed = match kind {
                EntryKind::Tree => {
                    open.push((path.clone(), id));
                    tree.directory(&path)
                }
                // What another repository holds is not fetched: an empty directory, as in a fresh clone.
                EntryKind::Commit => tree.directory(&path),
                EntryKind::Link => {
                    let target = objects.target(&path, &id)?;
                    bytes += target.len() as u64;
                    below("bytes in all files and symlinks", bytes, LIMITS.bytes_max)?;
                    tree.symlink(&path, &target)
                }
                EntryKind::Blob | EntryKind::BlobExecutable => {
                    let (digest, size) = match files.get(&id) {
                        Some(known) => *known,
                        None => {
                            let data = objects.of_kind(&id, Kind::Blob)?;
                            let known = (function.digest(&data), data.len() as u64);
                            deliver(file(known.0, data, spool)?)?;
                            files.insert(id, known);
                            known
                        }
                    };
                    bytes += size;
                    below("bytes in all files and symlinks", bytes, LIMITS.bytes_max)?;
                    tree.file(&path, digest, kind == EntryKind::BlobExecutable)
                }
            };
            placed.map_err(|error| FetchError::Aborted(error.to_string()))?;
        }
    }
    Ok(tree.build(function))
}

fn file(digest: Digest, data: Vec<u8>, spool: &Path) -> Result<ArchivedFile, FetchError> {
    if data.len() <= SMALL_FILE_BYTES_MAX {
        return Ok(ArchivedFile::Small(digest, Bytes::from(data)));
    }
    let write = || {
        let mut file = tempfile::tempfile_in(spool)?;
        file.write_all(&data)?;
        file.rewind()?;
        Ok(file)
    };
    write().map(|file| ArchivedFile::Large(digest, file)).map_err(|error| spool_failed(&error))
}

fn below(what: &str, count: u64, limit: u64) -> Result<(), FetchError> {
    if count > limit {
        return Err(FetchError::Exhausted(format!("the commit has more {what} than the limit of {limit}")));
    }
    Ok(())
}
