//! `wardian toolchain verify`: every blob of a toolchain, byte by byte, and its smoke test.

use anyhow::{Context as _, ensure};
use futures::TryStreamExt as _;
use wardian_store::tree::{TreeLimits, closure};
use wardian_store::{BlobStore as _, ByteRange};
use wardian_toolchains::{Manifest, Toolchain};

use super::super::format;
use super::super::progress::Progress;
use super::smoke;
use crate::client::Client;

/// Reads the whole tree and runs the smoke test of the manifest, if there is one.
pub(super) async fn verify(
    client: &Client,
    toolchain: &Toolchain,
    manifest: Option<&Manifest>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let (store, label) = (client.store(), toolchain.label());
    let tree = closure(store, toolchain.tree, TreeLimits::default()).await?;
    ensure!(tree.missing.is_empty(), "{label}: {} Directories are not stored", tree.missing.len());
    let files = tree.files();
    let missing = store.find_missing(&files).await?;
    ensure!(missing.is_empty(), "{label}: {} files are not stored; add it again", missing.len());
    let total = files.iter().map(|digest| digest.size()).sum();
    let task = progress.bytes(&format!("reading {label}"), total);
    for digest in &files {
        let mut hasher = digest.function().hasher(digest.size());
        let mut pieces = store.read(digest, ByteRange::default()).await?;
        while let Some(piece) = pieces.try_next().await.with_context(|| digest.to_string())? {
            hasher.update(&piece);
            task.advance(piece.len() as u64);
        }
        let found = hasher.finish();
        ensure!(found == *digest, "{label}: blob {digest} has other bytes: they have digest {found}");
    }
    task.finish(&format!("{label}: {} files, {}, all as they should be", files.len(), format::size(total)));
    match manifest.and_then(|manifest| manifest.smoke.as_ref()) {
        Some(test) => smoke::run(client, toolchain, test, progress).await?,
        None => progress.say("there is no smoke test to run: name the manifest itself if it is yours"),
    }
    Ok(())
}
