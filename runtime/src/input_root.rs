//! The input tree of an action: complete or refused, then staged as private copies.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use wardian_proto::{Digest, Directory, FileEntry, RelPath, Segment};
use wardian_store::tree::closure;
use wardian_store::{BlobStore, StoreError};

use crate::{Failure, Limits};

/// Files up to this size are fetched and written together.
const SMALL_FILE_BYTES: u64 = 64 * 1024;

/// Small files fetched in one batch, and batches that are fetched and written at once.
const BATCH_FILES: usize = 512;
const BATCHES_AT_ONCE_MAX: usize = 4;

/// Larger files that are fetched and written at once.
const LARGE_AT_ONCE_MAX: usize = 4;

/// An input tree all of whose blobs were found in the store.
#[derive(Debug)]
pub(crate) struct InputRoot {
    root: Digest,
    directories: HashMap<Digest, Directory>,
}

/// One thing to make while staging.
enum Entry {
    Directory(RelPath),
    File(RelPath, FileEntry),
    Symlink(RelPath, String),
}

impl InputRoot {
    /// Reads the whole tree. Every blob that is missing is named in the failure.
    pub(crate) async fn read(store: &dyn BlobStore, root: Digest, limits: &Limits) -> Result<Self, Failure> {
        let found = closure(store, root, limits.tree).await?;
        let mut missing = found.missing.clone();
        missing.extend(store.find_missing(&found.files()).await?);
        if !missing.is_empty() {
            return Err(Failure::MissingBlobs(missing));
        }
        Ok(Self { root, directories: found.directories })
    }

    /// Lays the tree out below `target`, which must be empty. Every file is a copy of its own.
    pub(crate) async fn stage(
        &self,
        store: &dyn BlobStore,
        target: &Path,
        limits: &Limits,
    ) -> Result<(), Failure> {
        let entries = self.entries(limits)?;
        let root =
            Dir::open_ambient_dir(target, ambient_authority()).map_err(Failure::io("open input root"))?;
        let root = Arc::new(root);
        let mut small = Vec::new();
        let mut large = Vec::new();
        let mut made = Vec::new();
        for entry in entries {
            match entry {
                Entry::File(path, file) if file.digest.size() <= SMALL_FILE_BYTES => small.push((path, file)),
                Entry::File(path, file) => large.push((path, file)),
                other => made.push(other),
            }
        }
        let dir = Arc::clone(&root);
        blocking(move || make_directories_and_links(&dir, made)).await?;
        let batches = small.chunks(BATCH_FILES).map(|batch| self.stage_small(store, &root, batch).boxed());
        all_of(batches.collect(), BATCHES_AT_ONCE_MAX).await?;
        let large = large.into_iter().map(|(path, file)| self.stage_large(store, &root, path, file).boxed());
        all_of(large.collect(), LARGE_AT_ONCE_MAX).await
    }

    /// The digests of all files.
    pub(crate) fn files(&self) -> impl Iterator<Item = Digest> {
        self.directories.values().flat_map(|directory| &directory.files).map(|file| file.digest)
    }

    async fn stage_large(
        &self,
        store: &dyn BlobStore,
        root: &Arc<Dir>,
        path: RelPath,
        file: FileEntry,
    ) -> Result<(), Failure> {
        let dir = Arc::clone(root);
        let handle = blocking(move || create_file(&dir, &path, file.is_executable)).await?;
        store.copy_to(&file.digest, handle).await.map_err(|error| match error {
            // It is the disk under the file that is full, and not the store's.
            StoreError::NoSpace(_) => {
                Failure::Unavailable("write input file: no space left on the worker".into())
            }
            error => error.into(),
        })
    }

    async fn stage_small(
        &self,
        store: &dyn BlobStore,
        root: &Arc<Dir>,
        batch: &[(RelPath, FileEntry)],
    ) -> Result<(), Failure> {
        let digests: Vec<Digest> = batch.iter().map(|(_, file)| file.digest).collect();
        let contents: Result<Vec<Bytes>, StoreError> = store.get_batch(&digests).await.into_iter().collect();
        let contents = contents?;
        let root = Arc::clone(root);
        let batch = batch.to_vec();
        blocking(move || {
            for ((path, file), content) in batch.into_iter().zip(contents) {
                create_file(&root, &path, file.is_executable)?
                    .write_all(&content)
                    .map_err(Failure::io("write input file"))?;
            }
            Ok(())
        })
        .await
    }

    /// Every path of the tree, parents first. A subtree that occurs twice is listed twice.
    fn entries(&self, limits: &Limits) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        let mut bytes: u64 = 0;
        let mut pending = vec![(RelPath::root(), self.root)];
        while let Some((path, digest)) = pending.pop() {
            let directory = &self.directories[&digest];
            let join = |name: &Segment| {
                let joined = path.join(name);
                // Checked again as a whole: each name may be short and the path too long.
                RelPath::parse(joined.as_str())
                    .map_err(|e| Failure::InvalidArgument(format!("input root: {e}")))
            };
            for file in &directory.files {
                bytes = bytes.saturating_add(file.digest.size());
                entries.push(Entry::File(join(&file.name)?, file.clone()));
            }
            for link in &directory.symlinks {
                entries.push(Entry::Symlink(join(&link.name)?, link.target.clone()));
            }
            for child in &directory.directories {
                let path = join(&child.name)?;
                entries.push(Entry::Directory(path.clone()));
                pending.push((path, child.digest));
            }
            if entries.len() > limits.input_entries_max {
                return Err(Failure::InvalidArgument(format!(
                    "input root has more than {} entries (limit input_entries_max)",
                    limits.input_entries_max
                )));
            }
        }
        if bytes > limits.input_bytes_max {
            return Err(Failure::InvalidArgument(format!(
                "input root has {bytes} bytes; limit input_bytes_max is {}",
                limits.input_bytes_max
            )));
        }
        Ok(entries)
    }
}

/// Makes the leading directories of every output, as the API asks before a run.
pub(crate) async fn make_directories(target: &Path, paths: Vec<RelPath>) -> Result<(), Failure> {
    let target = target.to_owned();
    blocking(move || {
        let root =
            Dir::open_ambient_dir(target, ambient_authority()).map_err(Failure::io("open input root"))?;
        for parent in paths {
            root.create_dir_all(parent.as_str()).map_err(|error| {
                Failure::InvalidArgument(format!("leading directories of output {parent}: {error}"))
            })?;
        }
        Ok(())
    })
    .await
}

/// Does so many of the things to do at once; the first that fails ends all.
async fn all_of(tasks: Vec<BoxFuture<'_, Result<(), Failure>>>, at_once_max: usize) -> Result<(), Failure> {
    futures::stream::iter(tasks).buffer_unordered(at_once_max).try_collect().await
}

fn make_directories_and_links(root: &Dir, entries: Vec<Entry>) -> Result<(), Failure> {
    let mut links = Vec::new();
    for entry in entries {
        match entry {
            Entry::Directory(path) => {
                root.create_dir(path.as_str()).map_err(Failure::io("make input directory"))?;
            }
            Entry::Symlink(path, target) => links.push((path, target)),
            Entry::File(..) => unreachable!("files were taken out by the caller"),
        }
    }
    for (path, target) in links {
        // `symlink` refuses absolute targets. A link is only written here; every later look goes through a handle that
        // no link leads out of.
        root.symlink_contents(&target, path.as_str()).map_err(Failure::io("make input symlink"))?;
    }
    Ok(())
}

fn create_file(root: &Dir, path: &RelPath, is_executable: bool) -> Result<std::fs::File, Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(if is_executable { 0o755 } else { 0o644 });
    let file = root.open_with(path.as_str(), &options).map_err(Failure::io("create input file"))?;
    Ok(file.into_std())
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

#[cfg(test)]
#[path = "input_root_tests.rs"]
mod tests;
