//! Brings the outputs of an ActionResult to the local disk.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use wardian_proto::{Digest, RelPath, reapi};
use wardian_store::{BlobStore, StoreError};

use super::action_spec::DIGEST_FUNCTION;
use super::output_tree::{Flat, FlatFile, Tree};
use super::transfer::{TRANSFERS_MAX, batches};
use super::{OutputError, OutputLimits, OutputWriter, TransferError, fetch_into};

/// Largest standard output or error that is fetched to be shown.
const LOG_BYTES_MAX: u64 = 64 << 20;

/// An output that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadedOutput {
    /// Where it is below the output root.
    pub path: RelPath,
    /// What it is.
    pub kind: OutputKind,
}

/// What an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OutputKind {
    File {
        digest: Digest,
    },
    /// The digest is that of the Tree, or of the root Directory when there is no Tree.
    Directory {
        digest: Digest,
        files: usize,
        bytes: u64,
    },
    Symlink {
        target: String,
    },
}

/// Downloads outputs that were asked for. Everything is checked before the first is written.
///
/// What is in the way is replaced; other files in output directories stay.
pub async fn download_outputs(
    store: &dyn BlobStore,
    result: &reapi::ActionResult,
    asked: &BTreeSet<RelPath>,
    writer: Arc<OutputWriter>,
    limits: &OutputLimits,
) -> Result<Vec<DownloadedOutput>, OutputError> {
    let (outputs, flat) = plan(store, result, asked, limits).await?;
    let Flat { files, directories, symlinks, .. } = flat;
    on_disk(&writer, move |writer| directories.iter().try_for_each(|path| writer.directory(path))).await?;
    let groups = batches(files, |file| file.digest.size());
    let transfers = groups.into_iter().map(|group| fetch(store, group, &writer));
    stream::iter(transfers).buffer_unordered(TRANSFERS_MAX).try_collect::<()>().await?;
    on_disk(&writer, move |writer| symlinks.iter().try_for_each(|(path, to)| writer.symlink(path, to)))
        .await?;
    Ok(outputs)
}

/// Checks what the server returned and lists what to write.
async fn plan(
    store: &dyn BlobStore,
    result: &reapi::ActionResult,
    asked: &BTreeSet<RelPath>,
    limits: &OutputLimits,
) -> Result<(Vec<DownloadedOutput>, Flat), OutputError> {
    let parse = |path: &str| -> Result<RelPath, OutputError> {
        let parsed =
            RelPath::parse(path).map_err(|source| OutputError::Path { path: path.to_owned(), source })?;
        if asked.contains(&parsed) { Ok(parsed) } else { Err(OutputError::NotAsked(path.to_owned())) }
    };
    let (mut outputs, mut flat) = (Vec::new(), Flat::default());
    for output in &result.output_files {
        let path = parse(&output.path)?;
        let digest = parse_digest(&path, output.digest.as_ref())?;
        let file = FlatFile { path: path.clone(), digest, is_executable: output.is_executable };
        flat.file(file, limits)?;
        outputs.push(DownloadedOutput { path, kind: OutputKind::File { digest } });
    }
    for output in &result.output_directories {
        let path = parse(&output.path)?;
        let wire = output.tree_digest.as_ref().or(output.root_directory_digest.as_ref());
        let digest = parse_digest(&path, wire)?;
        let tree = Tree::read(store, digest, output, limits).await?;
        let before = (flat.files.len(), flat.bytes);
        flat.tree(path.clone(), &tree, limits)?;
        let (files, bytes) = (flat.files.len() - before.0, flat.bytes - before.1);
        outputs.push(DownloadedOutput { path, kind: OutputKind::Directory { digest, files, bytes } });
    }
    for output in symlinks(result) {
        let (path, target) = (parse(&output.path)?, output.target.clone());
        flat.symlinks.push((path.clone(), target.clone()));
        outputs.push(DownloadedOutput { path, kind: OutputKind::Symlink { target } });
    }
    flat.check_entries(limits)?;
    outputs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((outputs, flat))
}

/// Older servers tell symlinks to files from symlinks to directories and may list both ways.
#[allow(deprecated)]
fn symlinks(result: &reapi::ActionResult) -> impl Iterator<Item = &reapi::OutputSymlink> {
    let older = result.output_file_symlinks.iter().chain(&result.output_directory_symlinks);
    let older = older.filter(|old| !result.output_symlinks.iter().any(|new| new.path == old.path));
    result.output_symlinks.iter().chain(older)
}

fn parse_digest(path: &RelPath, wire: Option<&reapi::Digest>) -> Result<Digest, OutputError> {
    Digest::from_wire(DIGEST_FUNCTION, wire)
        .map_err(|error| OutputError::Message { path: path.clone(), why: error.to_string() })
}

async fn fetch(
    store: &dyn BlobStore,
    group: Vec<FlatFile>,
    writer: &Arc<OutputWriter>,
) -> Result<(), OutputError> {
    if let [file] = group.as_slice() {
        return fetch_large(store, file, writer).await;
    }
    let digests: Vec<_> = group.iter().map(|file| file.digest).collect();
    let blobs: Result<Vec<Bytes>, StoreError> = store.get_batch(&digests).await.into_iter().collect();
    let blobs = blobs.map_err(TransferError::from)?;
    on_disk(writer, move |writer| {
        group.iter().zip(blobs).try_for_each(|(file, bytes)| write(writer, file, &bytes))
    })
    .await
}

fn write(writer: &OutputWriter, file: &FlatFile, bytes: &[u8]) -> Result<(), OutputError> {
    let mut new = writer.begin(&file.path, file.is_executable)?;
    new.file.write_all(bytes).map_err(TransferError::Write)?;
    new.place.commit()
}

async fn fetch_large(
    store: &dyn BlobStore,
    file: &FlatFile,
    writer: &Arc<OutputWriter>,
) -> Result<(), OutputError> {
    let (path, is_executable) = (file.path.clone(), file.is_executable);
    let new = on_disk(writer, move |writer| writer.begin(&path, is_executable)).await?;
    fetch_into(store, file.digest, tokio::fs::File::from_std(new.file)).await?;
    on_disk(writer, move |_| new.place.commit()).await
}

/// Runs blocking work on the pool made for it.
async fn on_disk<T: Send + 'static>(
    writer: &Arc<OutputWriter>,
    work: impl FnOnce(&OutputWriter) -> Result<T, OutputError> + Send + 'static,
) -> Result<T, OutputError> {
    let writer = writer.clone();
    match tokio::task::spawn_blocking(move || work(&writer)).await {
        Ok(result) => result,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

/// Returns what an action wrote to standard output or error: inline, or from the CAS.
pub async fn logged_bytes(
    store: &dyn BlobStore,
    raw: &Bytes,
    digest: Option<&reapi::Digest>,
) -> Result<Bytes, TransferError> {
    match digest.map(|wire| Digest::from_wire(DIGEST_FUNCTION, Some(wire))) {
        Some(Ok(digest)) if raw.is_empty() => Ok(store.get(&digest, LOG_BYTES_MAX).await?),
        _ => Ok(raw.clone()),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use wardian_store::Upload;
    use wardian_store::backend::MemoryStore;

    use super::*;

    async fn stored(store: &MemoryStore, bytes: impl Into<Bytes>) -> Option<reapi::Digest> {
        let bytes = bytes.into();
        let digest = DIGEST_FUNCTION.digest(&bytes);
        store.put(Upload::bytes(digest, bytes)).await.unwrap();
        Some(digest.to_wire())
    }

    async fn download(
        store: &MemoryStore,
        result: &reapi::ActionResult,
        asked: &[&str],
    ) -> (tempfile::TempDir, Result<Vec<DownloadedOutput>, OutputError>) {
        let dir = tempfile::tempdir().unwrap();
        let writer = Arc::new(OutputWriter::open(dir.path()).unwrap());
        let asked = asked.iter().map(|path| RelPath::parse(path).unwrap()).collect();
        let outputs = download_outputs(store, result, &asked, writer, &OutputLimits::default()).await;
        (dir, outputs)
    }

    fn file(path: &str, digest: Option<reapi::Digest>) -> reapi::OutputFile {
        reapi::OutputFile { path: path.to_owned(), digest, ..Default::default() }
    }

    #[tokio::test]
    async fn files_trees_and_symlinks_arrive() {
        let store = MemoryStore::new(8 << 20);
        let large = vec![7; 1 << 20];
        let node =
            |name: &str, digest| reapi::FileNode { name: name.to_owned(), digest, ..Default::default() };
        let files = vec![node("x", stored(&store, "ex").await), node("y", stored(&store, "why").await)];
        let directory = reapi::Directory { files, ..Default::default() };
        let tree = reapi::Tree { root: Some(directory.clone()), ..Default::default() };
        let by = |path: &str, tree_digest, root_directory_digest| reapi::OutputDirectory {
            path: path.to_owned(),
            tree_digest,
            root_directory_digest,
            ..Default::default()
        };
        let link = |path: &str| reapi::OutputSymlink {
            path: path.to_owned(),
            target: "large".to_owned(),
            ..Default::default()
        };
        #[allow(deprecated)]
        let result = reapi::ActionResult {
            output_files: vec![file("large", stored(&store, large.clone()).await)],
            output_directories: vec![
                by("tree", stored(&store, tree.encode_to_vec()).await, None),
                by("a/dir", None, stored(&store, directory.encode_to_vec()).await),
            ],
            output_symlinks: vec![link("link")],
            output_file_symlinks: vec![link("link")],
            ..Default::default()
        };
        let (dir, outputs) = download(&store, &result, &["large", "tree", "a/dir", "link"]).await;
        let paths: Vec<_> = outputs.unwrap().into_iter().map(|o| o.path.as_str().to_owned()).collect();
        assert_eq!(paths, ["a/dir", "large", "link", "tree"]);
        assert_eq!(std::fs::read(dir.path().join("link")).unwrap(), large);
        assert_eq!(std::fs::read(dir.path().join("tree/x")).unwrap(), b"ex");
        assert_eq!(std::fs::read(dir.path().join("a/dir/y")).unwrap(), b"why");
    }

    #[tokio::test]
    async fn what_was_not_asked_for_or_leads_out_is_refused_before_anything_is_written() {
        let store = MemoryStore::new(1 << 20);
        let good = file("good", stored(&store, "ok").await);
        for bad in ["../x", "/etc/x", ".bashrc", "good/../../x", ""] {
            let result = reapi::ActionResult {
                output_files: vec![good.clone(), file(bad, good.digest.clone())],
                ..Default::default()
            };
            let (dir, outputs) = download(&store, &result, &["good"]).await;
            assert!(outputs.is_err(), "{bad}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{bad}");
        }
    }

    #[tokio::test]
    async fn logs_come_inline_or_from_the_store() {
        let store = MemoryStore::new(1 << 20);
        let digest = stored(&store, "stored").await;
        let (none, inline) = (Bytes::new(), Bytes::from("inline"));
        assert_eq!(logged_bytes(&store, &none, digest.as_ref()).await.unwrap(), "stored");
        assert_eq!(logged_bytes(&store, &inline, digest.as_ref()).await.unwrap(), "inline");
        assert_eq!(logged_bytes(&store, &none, None).await.unwrap(), "");
    }
}
