//! Puts a package into a blob store as a Directory tree; only what the store lacks is uploaded.

use std::io;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use wardian_proto::{Digest, RelPath};
use wardian_store::tree_builder::TreeBuildError;
use wardian_store::{BlobStore, READ_CHUNK_BYTES, StoreError, Upload};

use crate::unpack::{Blobs, Parcel, Unpacked, unpack};
use crate::{EntryProblem, ImportLimits, Package};

/// Parcels that wait between unpacking and the store. With the one being filled and the one being
/// uploaded, this bounds what an import holds in memory.
const PARCELS_WAITING_MAX: usize = 1;

/// Directory messages uploaded together.
const DIRECTORIES_MAX: usize = 500;

/// A toolchain in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Digest of the tree's root Directory.
    pub root: Digest,
    /// Digests of the WebAssembly modules, in the manifest's order.
    pub modules: Vec<Digest>,
    /// Files in the tree, each path counted.
    pub files: usize,
    /// Bytes of the files, each blob counted once.
    pub bytes: u64,
    /// Blobs that the store lacked, Directory messages included.
    pub blobs_uploaded: usize,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the package file that were unpacked and stored.
    pub package_bytes_done: u64,
    /// Size of the package file.
    pub package_bytes: u64,
    /// Files found so far.
    pub files: usize,
    /// Blobs uploaded so far.
    pub blobs_uploaded: usize,
    /// Bytes of those blobs.
    pub bytes_uploaded: u64,
}

/// Why a package was not imported. Blobs may have been uploaded by then; no tree refers to them.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ImportError {
    #[error("could not open package {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("archive {archive}: {source}")]
    Archive { archive: String, source: io::Error },
    #[error("archive {archive} was refused because of {path:?}: {why}")]
    Entry { archive: String, path: String, why: EntryProblem },
    #[error("the package holds no {0}, which the manifest names")]
    Missing(RelPath),
    #[error("could not place the module: {why}")]
    Place { path: RelPath, why: TreeBuildError },
    #[error("could not keep a large file in the folder for temporary files: {0}")]
    Spool(io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nobody waits for the import any more")]
    Abandoned,
}

/// Imports a package. What the store has already is not uploaded again; the root comes last.
pub async fn import(
    store: &dyn BlobStore,
    package: &Package,
    limits: ImportLimits,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Imported, ImportError> {
    let opened = tokio::fs::metadata(package.path()).await;
    let package_bytes =
        opened.map_err(|source| ImportError::Open { path: package.path().to_owned(), source })?.len();
    // A channel, because decompression blocks and the store does not.
    let (sender, receiver) = mpsc::channel(PARCELS_WAITING_MAX);
    let package = package.clone();
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack(&package, &limits, |parcel| sender.blocking_send(parcel).map_err(|_| ImportError::Abandoned))
    });
    let mut storing = Storing { store, progress, at: Progress { package_bytes, ..Progress::default() } };
    let stored = storing.parcels(receiver).await;
    // The receiver is gone by now, so unpacking ends soon even when storing failed.
    let unpacked = unpacking.await.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()));
    stored?;
    storing.finish(unpacked?).await
}

struct Storing<'a> {
    store: &'a dyn BlobStore,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
    at: Progress,
}

impl Storing<'_> {
    async fn parcels(&mut self, mut parcels: mpsc::Receiver<Parcel>) -> Result<(), ImportError> {
        while let Some(parcel) = parcels.recv().await {
            match parcel.blobs {
                Blobs::Small(blobs) => self.small(blobs).await?,
                Blobs::Large(digest, file) => self.large(digest, file).await?,
            }
            self.at.files = parcel.files;
            self.at.package_bytes_done = parcel.package_bytes_read;
            (self.progress)(self.at);
        }
        Ok(())
    }

    /// Uploads the Directories when all files are there, children before parents.
    async fn finish(mut self, unpacked: Unpacked) -> Result<Imported, ImportError> {
        let Unpacked { tree, modules, files, bytes } = unpacked;
        for directories in tree.directories.chunks(DIRECTORIES_MAX) {
            self.small(directories.to_vec()).await?;
        }
        self.at = Progress { package_bytes_done: self.at.package_bytes, files, ..self.at };
        (self.progress)(self.at);
        Ok(Imported { root: tree.root, modules, files, bytes, blobs_uploaded: self.at.blobs_uploaded })
    }

    async fn small(&mut self, mut blobs: Vec<(Digest, Bytes)>) -> Result<(), ImportError> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let missing = self.store.find_missing(&digests).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let missing: std::collections::HashSet<_> = missing.into_iter().collect();
        blobs.retain(|(digest, _)| missing.contains(digest));
        let uploads = blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
        for (outcome, (digest, _)) in self.store.put_batch(uploads).await.into_iter().zip(&blobs) {
            outcome?;
            self.uploaded(digest);
        }
        Ok(())
    }

    async fn large(&mut self, digest: Digest, file: std::fs::File) -> Result<(), ImportError> {
        if self.store.find_missing(&[digest]).await?.is_empty() {
            return Ok(());
        }
        self.store.put(Upload::stream(digest, pieces(file))).await?;
        self.uploaded(&digest);
        Ok(())
    }

    fn uploaded(&mut self, digest: &Digest) {
        self.at.blobs_uploaded += 1;
        self.at.bytes_uploaded += digest.size();
    }
}

/// Reads a file to its end.
fn pieces(file: std::fs::File) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    futures::stream::try_unfold(tokio::fs::File::from_std(file), |mut file| async move {
        let mut piece = BytesMut::with_capacity(READ_CHUNK_BYTES);
        let failed = |source| StoreError::Io { operation: "read unpacked file", source };
        let read = file.read_buf(&mut piece).await.map_err(failed)?;
        Ok((read > 0).then(|| (piece.freeze(), file)))
    })
}
