//! Results of actions, served only while everything they name is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use wardian_proto::{Digest, DigestFunction, Directory, InstanceName, reapi};

use crate::blob_store::blocking;
use crate::recent::Recent;
use crate::tree::{TreeLimits, closure};
use crate::{BlobStore, RecordStore, StoreError, Table};

/// Largest Tree message that is looked into, and most blobs that one result may need.
const TREE_BYTES_MAX: u64 = 64 << 20;
const BLOBS_MAX: usize = 1_000_000;

/// Memory for the digests that output directories were found to need.
const CLOSURES_BYTES_MAX: u64 = 32 << 20;

/// What remembering a closure costs beside its digests, in bytes.
const CLOSURE_OVERHEAD_BYTES: usize = 128;

/// The action cache of every instance. Clones share it.
#[derive(Clone)]
pub struct ActionCache {
    shared: Arc<Shared>,
}

struct Shared {
    records: Arc<dyn RecordStore>,
    blobs: Arc<dyn BlobStore>,
    /// What output directories need. Digests name contents, so this stays true whatever is evicted, and
    /// whether it is all there is asked each time.
    closures: Recent<OutputDirectory, Arc<[Digest]>>,
    counters: Counters,
}

/// How a result names a directory. The same bytes may be read in both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OutputDirectory {
    Tree(Digest),
    Root(Digest),
}

#[derive(Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    incomplete: AtomicU64,
}

/// What look-ups came to since the server started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActionCacheStats {
    /// Results that were served.
    pub hits: u64,
    /// Actions without a result.
    pub misses: u64,
    /// Results that were not served, because blobs they need are not stored or they cannot be read.
    pub incomplete: u64,
}

impl ActionCache {
    /// An action cache whose results refer to blobs in `blobs`.
    pub fn new(records: Arc<dyn RecordStore>, blobs: Arc<dyn BlobStore>) -> Self {
        let (closures, counters) = (Recent::new(CLOSURES_BYTES_MAX), Counters::default());
        Self { shared: Arc::new(Shared { records, blobs, closures, counters }) }
    }

    /// Returns the stored result when every blob it needs is there, and refreshes them all.
    ///
    /// An incomplete or unreadable result is a miss: the client then runs the action again.
    pub async fn get(
        &self,
        instance: &InstanceName,
        action: &Digest,
    ) -> Result<Option<reapi::ActionResult>, StoreError> {
        let counters = &self.shared.counters;
        let stored = self.shared.records.get(Table::ActionCache, &key(instance, action)).await?;
        let Some(bytes) = stored else {
            counters.misses.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        };
        let complete = match reapi::ActionResult::decode(bytes) {
            Ok(result) => self.shared.is_complete(action, &result).await?.then_some(result),
            Err(_) => None,
        };
        let counter = if complete.is_some() { &counters.hits } else { &counters.incomplete };
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(complete)
    }

    /// Stores a result, replacing an older one.
    pub async fn put(
        &self,
        instance: &InstanceName,
        action: &Digest,
        result: &reapi::ActionResult,
    ) -> Result<(), StoreError> {
        let value = result.encode_to_vec().into();
        self.shared.records.put(Table::ActionCache, &key(instance, action), value).await
    }

    /// What look-ups came to so far.
    pub fn stats(&self) -> ActionCacheStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        ActionCacheStats {
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            incomplete: read(&counters.incomplete),
        }
    }
}

impl Shared {
    /// Whether every blob that the result needs is stored.
    async fn is_complete(&self, action: &Digest, result: &reapi::ActionResult) -> Result<bool, StoreError> {
        let Some((mut needed, directories)) = named(action.function(), result) else { return Ok(false) };
        for directory in directories {
            let Some(below) = self.closure(directory).await? else { return Ok(false) };
            needed.extend_from_slice(&below);
            if needed.len() > BLOBS_MAX {
                return Ok(false);
            }
        }
        Ok(self.blobs.find_missing(&needed).await?.is_empty())
    }

    /// Every blob that an output directory needs, itself included; `None` when it is not there, cannot be
    /// read or is too large.
    async fn closure(&self, directory: OutputDirectory) -> Result<Option<Arc<[Digest]>>, StoreError> {
        if let Some(known) = self.closures.get(&directory) {
            return Ok(Some(known));
        }
        let read = match directory {
            OutputDirectory::Tree(tree) => self.blobs_of_tree(tree).await,
            OutputDirectory::Root(root) => self.blobs_below(root).await,
        };
        let blobs: Arc<[Digest]> = match read {
            Ok(Some(blobs)) => blobs.into(),
            Ok(None)
            | Err(
                StoreError::NotFound(_)
                | StoreError::Directory { .. }
                | StoreError::TreeLimit { .. }
                | StoreError::TooLarge { .. },
            ) => return Ok(None),
            Err(error) => return Err(error),
        };
        let weight = (CLOSURE_OVERHEAD_BYTES + size_of_val(&*blobs)) as u64;
        self.closures.insert(directory, Arc::clone(&blobs), weight);
        Ok(Some(blobs))
    }

    async fn blobs_of_tree(&self, tree: Digest) -> Result<Option<Vec<Digest>>, StoreError> {
        let bytes = self.blobs.get(&tree, TREE_BYTES_MAX).await?;
        let files = blocking(move || Ok(files_of_tree(tree.function(), bytes))).await?;
        Ok(files.map(|mut blobs| {
            blobs.push(tree);
            blobs
        }))
    }

    async fn blobs_below(&self, root: Digest) -> Result<Option<Vec<Digest>>, StoreError> {
        let below = closure(&*self.blobs, root, TreeLimits::default()).await?;
        let mut blobs = below.files();
        blobs.extend(below.order);
        Ok(below.missing.is_empty().then_some(blobs))
    }
}

/// The blobs and the directories that a result names; `None` when any of it is no digest.
fn named(
    function: DigestFunction,
    result: &reapi::ActionResult,
) -> Option<(Vec<Digest>, Vec<OutputDirectory>)> {
    let parse = |wire: &Option<reapi::Digest>| Digest::from_wire(function, wire.as_ref()).ok();
    let mut blobs = Vec::with_capacity(result.output_files.len() + 2);
    for file in &result.output_files {
        blobs.push(parse(&file.digest)?);
    }
    for stream in [&result.stdout_digest, &result.stderr_digest] {
        if stream.is_some() {
            blobs.push(parse(stream)?);
        }
    }
    let mut directories = Vec::new();
    for directory in &result.output_directories {
        if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
            return None;
        }
        if directory.tree_digest.is_some() {
            directories.push(OutputDirectory::Tree(parse(&directory.tree_digest)?));
        }
        if directory.root_directory_digest.is_some() {
            directories.push(OutputDirectory::Root(parse(&directory.root_directory_digest)?));
        }
    }
    let mut seen = std::collections::HashSet::new();
    directories.retain(|directory| seen.insert(*directory));
    Some((blobs, directories))
}

/// Lists the files of an encoded Tree; `None` when it is none.
///
/// One Directory at a time: a message of two-byte children would decode to a hundred times its size.
pub(crate) fn files_of_tree(function: DigestFunction, mut bytes: Bytes) -> Option<Vec<Digest>> {
    let mut files = Vec::new();
    while bytes.has_remaining() {
        let (field, wire_type) = decode_key(&mut bytes).ok()?;
        if wire_type != WireType::LengthDelimited {
            return None;
        }
        let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
        if length > bytes.len() || length as u64 > TreeLimits::default().directory_bytes_max {
            return None;
        }
        let message = bytes.split_to(length);
        // 1 is the root, 2 a child; whatever else a later version adds names no file.
        if field == 1 || field == 2 {
            let directory = Directory::decode(function, &message).ok()?;
            files.extend(directory.files.iter().map(|f| f.digest));
        }
        if files.len() > BLOBS_MAX {
            return None;
        }
    }
    Some(files)
}

/// Key of a record: function, hash, size, then the instance's name.
fn key(instance: &InstanceName, action: &Digest) -> Vec<u8> {
    let mut key = format!("{}/{action}/", action.function().name()).into_bytes();
    key.extend_from_slice(instance.as_str().as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Upload;
    use crate::backend::MemoryStore;
    use crate::layers::{Metered, Meters, Operation};

    fn digest(data: &[u8]) -> Digest {
        DigestFunction::Sha256.digest(data)
    }

    async fn upload(store: &MemoryStore, data: &[u8]) {
        BlobStore::put(store, Upload::bytes(digest(data), data.to_vec())).await.unwrap();
    }

    /// Stores `result`, then says before and after uploading each blob whether it is served.
    async fn becomes_complete(result: reapi::ActionResult, blobs: &[&[u8]]) {
        let store = Arc::new(MemoryStore::new(1 << 20));
        let cache = ActionCache::new(store.clone(), store.clone());
        let (instance, action) = (InstanceName::default(), digest(b"action"));
        cache.put(&instance, &action, &result).await.unwrap();
        for blob in blobs {
            assert_eq!(cache.get(&instance, &action).await.unwrap(), None);
            upload(&store, blob).await;
        }
        assert_eq!(cache.get(&instance, &action).await.unwrap(), Some(result));
    }

    #[tokio::test]
    async fn a_result_is_hidden_until_files_and_streams_are_stored() {
        let output = reapi::OutputFile { digest: Some(digest(b"out").to_wire()), ..Default::default() };
        let result = reapi::ActionResult {
            output_files: vec![output],
            stdout_digest: Some(digest(b"text").to_wire()),
            stderr_digest: Some(digest(b"").to_wire()),
            ..Default::default()
        };
        becomes_complete(result, &[b"out", b"text"]).await;
    }

    #[tokio::test]
    async fn a_result_is_hidden_until_the_files_inside_its_trees_are_stored() {
        let node = reapi::FileNode {
            name: "f".into(),
            digest: Some(digest(b"inside").to_wire()),
            ..Default::default()
        };
        let root = reapi::Directory { files: vec![node], ..Default::default() };
        let tree = reapi::Tree { root: Some(root.clone()), children: vec![] }.encode_to_vec();
        let root = root.encode_to_vec();
        let directory = reapi::OutputDirectory {
            tree_digest: Some(digest(&tree).to_wire()),
            root_directory_digest: Some(digest(&root).to_wire()),
            ..Default::default()
        };
        let result = reapi::ActionResult { output_directories: vec![directory], ..Default::default() };
        becomes_complete(result, &[&tree, &root, b"inside"]).await;
    }

    /// A result with one output directory, named in one way, and the blobs it needs: the file last.
    fn with_directory(as_tree: bool) -> (reapi::ActionResult, Vec<Vec<u8>>) {
        let node = |name: &str, data: &[u8]| reapi::FileNode {
            name: name.into(),
            digest: Some(digest(data).to_wire()),
            ..Default::default()
        };
        let child = reapi::Directory { files: vec![node("f", b"inside")], ..Default::default() };
        let bytes = child.encode_to_vec();
        let entry = reapi::DirectoryNode { name: "d".into(), digest: Some(digest(&bytes).to_wire()) };
        let root = reapi::Directory { directories: vec![entry], ..Default::default() };
        let (wire, mut blobs, mut directory) =
            (|data: &[u8]| Some(digest(data).to_wire()), Vec::new(), reapi::OutputDirectory::default());
        if as_tree {
            blobs.push(reapi::Tree { root: Some(root), children: vec![child] }.encode_to_vec());
            directory.tree_digest = wire(&blobs[0]);
        } else {
            blobs.extend([root.encode_to_vec(), bytes]);
            directory.root_directory_digest = wire(&blobs[0]);
        }
        blobs.push(b"inside".to_vec());
        (reapi::ActionResult { output_directories: vec![directory], ..Default::default() }, blobs)
    }

    /// The closure is read once; that all of it is there is asked each time, the Tree itself included.
    #[tokio::test]
    async fn a_remembered_closure_does_not_hide_what_is_gone() {
        for as_tree in [true, false] {
            let (result, blobs) = with_directory(as_tree);
            let (store, meters) = (Arc::new(MemoryStore::new(1 << 20)), Arc::new(Meters::default()));
            let metered = Arc::new(Metered::new(Arc::clone(&store), Arc::clone(&meters)));
            let cache = ActionCache::new(store.clone(), metered);
            let (instance, action) = (InstanceName::default(), digest(b"action"));
            cache.put(&instance, &action, &result).await.unwrap();
            for blob in &blobs {
                assert_eq!(cache.get(&instance, &action).await.unwrap(), None);
                upload(&store, blob).await;
            }
            assert!(cache.get(&instance, &action).await.unwrap().is_some());
            let reads = || meters.read(Operation::Read).calls + meters.read(Operation::GetBatch).calls;
            let before = reads();
            for blob in &blobs {
                store.evict(&digest(blob));
                assert_eq!(cache.get(&instance, &action).await.unwrap(), None);
                upload(&store, blob).await;
                assert!(cache.get(&instance, &action).await.unwrap().is_some());
            }
            assert_eq!(reads(), before, "what the directory needs is known");
            let stats = cache.stats();
            let count = blobs.len() as u64;
            assert_eq!((stats.hits, stats.misses, stats.incomplete), (1 + count, 0, 2 * count));
        }
    }

    #[tokio::test]
    async fn instances_do_not_see_each_other() {
        let store = Arc::new(MemoryStore::new(1 << 20));
        let cache = ActionCache::new(store.clone(), store);
        let result = reapi::ActionResult { exit_code: 3, ..Default::default() };
        let action = digest(b"action");
        cache.put(&InstanceName::parse("a").unwrap(), &action, &result).await.unwrap();
        assert_eq!(cache.get(&InstanceName::parse("b").unwrap(), &action).await.unwrap(), None);
    }
}
