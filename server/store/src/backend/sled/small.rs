//! Small blobs and values: appended together, and read at once when they are in memory.

use std::collections::HashSet;

use bytes::Bytes;
use wardian_proto::Digest;

use super::SledStore;
use super::append::{Item, charge_of};
use super::engine::Engine;
use super::record::blob_key;
use crate::{StoreError, Verified};

impl SledStore {
    /// Stores verified small blobs with one append.
    pub(super) async fn put_small(&self, blobs: Vec<(Verified, Bytes)>) -> Result<(), StoreError> {
        self.run(move |engine| {
            let mut items = Vec::with_capacity(blobs.len());
            let mut seen = HashSet::with_capacity(blobs.len());
            for (verified, data) in blobs {
                let digest = verified.digest();
                let new = !digest.is_empty_blob() && seen.insert(digest);
                if new && !engine.is_stored(&blob_key(&digest))? {
                    items.push(Item::blob(&verified, data));
                }
            }
            store(engine, items)
        })
        .await
    }
}

/// Appends records, after making room for them.
pub(super) fn store(engine: &Engine, items: Vec<Item>) -> Result<(), StoreError> {
    if !items.is_empty() {
        let charge = engine.reserve(charge_of(&items, engine.sizes.segment))?;
        engine.append(items, charge)?;
    }
    engine.acknowledge()
}

pub(super) fn get_blob(engine: &Engine, digest: &Digest) -> Result<Bytes, StoreError> {
    if digest.is_empty_blob() {
        return Ok(Bytes::new());
    }
    engine.read(&blob_key(digest))?.ok_or(StoreError::NotFound(*digest))
}

/// Reads a small blob when that takes no waiting.
pub(super) fn get_blob_now(engine: &Engine, digest: &Digest) -> Option<Result<Bytes, StoreError>> {
    if digest.is_empty_blob() {
        return Some(Ok(Bytes::new()));
    }
    Some(engine.read_now(&blob_key(digest))?.ok_or(StoreError::NotFound(*digest)))
}

/// Promises the blobs that are stored, and returns the others.
pub(super) fn find_missing(engine: &Engine, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
    let mut missing = Vec::new();
    let leased = engine.leased();
    for digest in digests {
        if engine.find(&blob_key(digest), leased)?.is_none() {
            missing.push(*digest);
        }
    }
    Ok(missing)
}

/// The failure of a batch, for each of its members.
pub(super) fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::NoSpace(what) => StoreError::NoSpace(what),
        StoreError::Io { operation, source } => {
            StoreError::Io { operation, source: std::io::Error::new(source.kind(), source.to_string()) }
        }
        StoreError::Database(error) => StoreError::Database(error.clone()),
        StoreError::Indexing => StoreError::Indexing,
        other => StoreError::Damaged(other.to_string()),
    }
}
