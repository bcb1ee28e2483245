//! Results of actions, served only while everything they name is stored.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use wardian_proto::{Digest, DigestFunction, Directory, InstanceName, reapi};

use crate::blob_store::blocking;
use crate::tree::{TreeLimits, closure};
use crate::{BlobStore, RecordStore, StoreError, Table};

/// Largest Tree message that is looked into, and most files that all trees of one result may name.
const TREE_BYTES_MAX: u64 = 64 << 20;
const TREE_FILES_MAX: usize = 1_000_000;

/// The action cache of every instance.
#[derive(Clone)]
pub struct ActionCache {
    records: Arc<dyn RecordStore>,
    blobs: Arc<dyn BlobStore>,
}

impl ActionCache {
    /// An action cache whose results refer to blobs in `blobs`.
    pub fn new(records: Arc<dyn RecordStore>, blobs: Arc<dyn BlobStore>) -> Self {
        Self { records, blobs }
    }

    /// Returns the stored result when every blob it needs is there.
    ///
    /// An incomplete or unreadable result is a miss: the client then runs the action again.
    pub async fn get(
        &self,
        instance: &InstanceName,
        action: &Digest,
    ) -> Result<Option<reapi::ActionResult>, StoreError> {
        let Some(bytes) = self.records.get(Table::ActionCache, &key(instance, action)).await? else {
            return Ok(None);
        };
        let Ok(result) = reapi::ActionResult::decode(bytes) else { return Ok(None) };
        match self.is_complete(action, &result).await {
            Ok(true) => Ok(Some(result)),
            Ok(false) => Ok(None),
            Err(
                StoreError::Directory { .. } | StoreError::TreeLimit { .. } | StoreError::TooLarge { .. },
            ) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores a result, replacing an older one.
    pub async fn put(
        &self,
        instance: &InstanceName,
        action: &Digest,
        result: &reapi::ActionResult,
    ) -> Result<(), StoreError> {
        self.records.put(Table::ActionCache, &key(instance, action), result.encode_to_vec().into()).await
    }

    /// Whether every blob that the result needs is stored.
    async fn is_complete(&self, action: &Digest, result: &reapi::ActionResult) -> Result<bool, StoreError> {
        let function = action.function();
        let parse = |wire: &Option<reapi::Digest>| Digest::from_wire(function, wire.as_ref()).ok();
        let mut needed = Vec::new();
        for file in &result.output_files {
            let Some(digest) = parse(&file.digest) else { return Ok(false) };
            needed.push(digest);
        }
        for stream in [&result.stdout_digest, &result.stderr_digest] {
            if stream.is_some() {
                let Some(digest) = parse(stream) else { return Ok(false) };
                needed.push(digest);
            }
        }
        let mut seen = HashSet::new();
        for directory in &result.output_directories {
            if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
                return Ok(false);
            }
            if directory.tree_digest.is_some() {
                let Some(tree) = parse(&directory.tree_digest) else { return Ok(false) };
                if seen.insert(tree) {
                    let Some(files) = self.tree_files(&tree).await? else { return Ok(false) };
                    needed.extend(files);
                }
            }
            if directory.root_directory_digest.is_some() {
                let Some(root) = parse(&directory.root_directory_digest) else { return Ok(false) };
                if seen.insert(root) {
                    let below = closure(&*self.blobs, root, TreeLimits::default()).await?;
                    if !below.missing.is_empty() {
                        return Ok(false);
                    }
                    needed.extend(below.files());
                }
            }
            if needed.len() > TREE_FILES_MAX {
                return Ok(false);
            }
        }
        Ok(self.blobs.find_missing(&needed).await?.is_empty())
    }

    /// The files that a stored Tree message names; `None` when it is absent or no Tree.
    async fn tree_files(&self, tree: &Digest) -> Result<Option<Vec<Digest>>, StoreError> {
        let bytes: Bytes = match self.blobs.get(tree, TREE_BYTES_MAX).await {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let function = tree.function();
        blocking(move || Ok(files_of_tree(function, bytes))).await
    }
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
        if files.len() > TREE_FILES_MAX {
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
