//! Archives that were fetched, as trees in the store.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use wardian_proto::{Digest, DigestFunction, RelPath};
use wardian_store::{BlobStore, Upload};
use wardian_toolchains::{ArchivedFile, DirectoryImport, ImportError, ImportLimits};

use super::FetchError;
use super::fetch::{blocking, pieces};

/// Files that were unpacked and are not stored yet.
const FILES_WAITING_MAX: usize = 16;

/// What an archive may hold.
const LIMITS: ImportLimits =
    ImportLimits { entries_max: 500_000, bytes_max: 8 << 30, file_bytes_max: 2 << 30, path_depth_max: 64 };

/// Stores what an archive holds below a directory. Returns the root of the tree.
pub(super) async fn store(
    blobs: &Arc<dyn BlobStore>,
    function: DigestFunction,
    archive: File,
    directory: RelPath,
    spool: PathBuf,
) -> Result<Digest, FetchError> {
    // A channel, because decompression blocks and the store does not.
    let (sender, mut files) = mpsc::channel(FILES_WAITING_MAX);
    let unpacking = tokio::spawn(blocking(move || {
        let import = DirectoryImport {
            name: "archive",
            directory: &directory,
            function,
            limits: LIMITS,
            spool: &spool,
        };
        let deliver = |file| sender.blocking_send(file).map_err(|_| ImportError::Abandoned);
        let tree =
            import.unpack(archive, || !sender.is_closed(), deliver).map_err(|error| refused(&error))?;
        tree.ok_or_else(|| FetchError::NotFound(format!("the archive has no directory {directory}")))
    }));
    let stored = store_files(blobs, &mut files).await;
    // Unpacking ends soon even when storing failed.
    drop(files);
    let tree = unpacking.await.unwrap_or_else(|join| std::panic::resume_unwind(join.into_panic()));
    stored?;
    let tree = tree?;
    // The Directories when all files are there, children before parents.
    for (digest, bytes) in tree.directories {
        blobs.put(Upload::bytes(digest, bytes)).await?;
    }
    Ok(tree.root)
}

async fn store_files(
    blobs: &Arc<dyn BlobStore>,
    files: &mut mpsc::Receiver<ArchivedFile>,
) -> Result<(), FetchError> {
    while let Some(file) = files.recv().await {
        blobs
            .put(match file {
                ArchivedFile::Small(digest, bytes) => Upload::bytes(digest, bytes),
                ArchivedFile::Large(digest, file) => Upload::stream(digest, pieces(file)),
            })
            .await?;
    }
    Ok(())
}

fn refused(error: &ImportError) -> FetchError {
    match error {
        ImportError::Spool(source) => super::fetch::spool_failed(source),
        error => FetchError::Aborted(error.to_string()),
    }
}
