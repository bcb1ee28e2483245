//! Shared pins: what they cost, what they keep, and that nothing of them stays behind.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use wardian_proto::{DigestFunction, RelPath, reapi};

use super::*;
use crate::Upload;
use crate::backend::{CAPACITY_BYTES_MIN, MemoryStore, SledOptions, SledStore};
use crate::layers::{Metered, Meters, Operation};
use crate::tree_builder::TreeBuilder;

/// A tree and its blobs.
struct Tree {
    root: Digest,
    blobs: Vec<(Digest, Bytes)>,
}

/// A tree of files whose contents are their paths; `shared` is grafted in beside them.
fn tree(paths: &[&str], shared: Option<&Tree>) -> Tree {
    let (mut builder, mut blobs) = (TreeBuilder::new(), Vec::new());
    for path in paths {
        let content = Bytes::copy_from_slice(path.as_bytes());
        let digest = DigestFunction::Sha256.digest(&content);
        builder.file(&RelPath::parse(path).unwrap(), digest, false).unwrap();
        blobs.push((digest, content));
    }
    if let Some(shared) = shared {
        builder.graft(&RelPath::parse("tools").unwrap(), shared.root).unwrap();
        blobs.extend(shared.blobs.iter().cloned());
    }
    let built = builder.build(DigestFunction::Sha256);
    blobs.extend(built.directories);
    Tree { root: built.root, blobs }
}

async fn upload(store: &dyn BlobStore, blobs: &[(Digest, Bytes)]) {
    for (digest, data) in blobs {
        store.put(Upload::bytes(*digest, data.clone())).await.unwrap();
    }
}

async fn pinned(pins: &TreePins, tree: &Tree) -> Arc<PinnedTree> {
    match pins.pin(tree.root).await.unwrap() {
        TreePin::Pinned(pinned) => pinned,
        TreePin::Missing(missing) => panic!("missing: {missing:?}"),
    }
}

async fn missing(pins: &TreePins, tree: &Tree) -> HashSet<Digest> {
    match pins.pin(tree.root).await.unwrap() {
        TreePin::Pinned(_) => panic!("all is there"),
        TreePin::Missing(missing) => {
            let distinct: HashSet<_> = missing.iter().copied().collect();
            assert_eq!(distinct.len(), missing.len(), "each is named once");
            distinct
        }
    }
}

fn in_memory() -> (TreePins, Arc<MemoryStore>, Arc<Meters>) {
    let (store, meters) = (Arc::new(MemoryStore::new(1 << 20)), Arc::new(Meters::default()));
    let metered = Arc::new(Metered::new(Arc::clone(&store), Arc::clone(&meters)));
    (TreePins::new(metered, TreePinLimits::default()), store, meters)
}

#[tokio::test]
async fn everything_missing_is_named_until_nothing_is() {
    let (pins, store, _) = in_memory();
    let tree = tree(&["a", "deep/b", "deep/c/d", "deep/c/e"], None);
    let mut order: Vec<_> = tree.blobs.iter().rev().cloned().collect();
    assert_eq!(missing(&pins, &tree).await, HashSet::from([tree.root]));
    let directories =
        order.iter().position(|(digest, _)| *digest == DigestFunction::Sha256.digest(b"deep/c/e"));
    for blob in order.drain(..directories.unwrap()) {
        upload(&*store, &[blob]).await;
    }
    assert_eq!(missing(&pins, &tree).await, order.iter().map(|(digest, _)| *digest).collect());
    let last = order.pop().unwrap();
    upload(&*store, &order).await;
    assert_eq!(missing(&pins, &tree).await, HashSet::from([last.0]));
    assert_eq!(pins.pinned_blobs(), 0);
    upload(&*store, &[last]).await;
    assert_eq!(pinned(&pins, &tree).await.root, tree.root);
}

#[tokio::test]
async fn trees_that_are_not_sorted_are_refused() {
    let (pins, store, _) = in_memory();
    let digest = Some(Digest::empty(DigestFunction::Sha256).to_wire());
    let node = |name: &str| reapi::DirectoryNode { name: name.into(), digest: digest.clone() };
    let sorted = reapi::Directory { directories: vec![node("a"), node("b")], ..Default::default() };
    let unsorted = reapi::Directory { directories: vec![node("b"), node("a")], ..Default::default() };
    let root_over = |directory: &reapi::Directory| {
        let bytes = Bytes::from(directory.encode_to_vec());
        let below = DigestFunction::Sha256.digest(&bytes);
        let node = reapi::DirectoryNode { name: "below".into(), digest: Some(below.to_wire()) };
        let root = reapi::Directory { directories: vec![node], ..Default::default() };
        let root = Bytes::from(root.encode_to_vec());
        let digest = DigestFunction::Sha256.digest(&root);
        Tree { root: digest, blobs: vec![(below, bytes), (digest, root)] }
    };
    let (sorted, unsorted) = (root_over(&sorted), root_over(&unsorted));
    upload(&*store, &sorted.blobs).await;
    upload(&*store, &unsorted.blobs).await;
    pinned(&pins, &sorted).await;
    // The second time as well, when nothing needs to be read.
    for _ in 0..2 {
        let error = pins.pin(unsorted.root).await.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("not sorted"), "{error}");
    }
}

#[tokio::test]
async fn what_is_pinned_is_neither_read_nor_looked_up_again() {
    let (pins, store, meters) = in_memory();
    let tools = tree(&["bin/cc", "lib/x", "lib/y", "lib/deep/z"], None);
    let (one, two) = (tree(&["one.c"], Some(&tools)), tree(&["two.c", "sub/two.h"], Some(&tools)));
    upload(&*store, &one.blobs).await;
    upload(&*store, &two.blobs).await;
    let calls = || [Operation::GetBatch, Operation::Pin].map(|operation| meters.read(operation).items);

    let first = pinned(&pins, &one).await;
    // Five Directories (the root, tools, bin, lib, lib/deep), and five files beside them.
    assert_eq!((calls(), pins.pinned_blobs()), ([5, 10], 10));
    let again = pinned(&pins, &one).await;
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(calls(), [5, 10]);
    let other = pinned(&pins, &two).await;
    assert_eq!((calls(), pins.pinned_blobs()), ([7, 14], 14), "only what is not shared");
    drop((first, again));
    assert_eq!(pins.pinned_blobs(), 12, "the first action's own Directory and file");
    drop(other);
    assert_eq!(pins.pinned_blobs(), 0);
    assert!(pins.shared.pinned().trees.is_empty());

    pinned(&pins, &one).await;
    assert_eq!(calls(), [7, 24], "contents are remembered, presence is proved anew");
}

#[tokio::test]
async fn limits_are_named_and_leave_nothing_pinned() {
    let store: Arc<dyn BlobStore> = Arc::new(MemoryStore::new(1 << 20));
    let deep = tree(&["1/2/3/f"], None);
    upload(&*store, &deep.blobs).await;
    let with = |tree: TreeLimits, pinned_blobs_max: usize| {
        let limits = TreePinLimits { tree, pinned_blobs_max, ..TreePinLimits::default() };
        TreePins::new(Arc::clone(&store), limits)
    };
    let pins = with(TreeLimits { depth_max: 2, ..TreeLimits::default() }, 100);
    assert!(matches!(pins.pin(deep.root).await, Err(StoreError::TreeLimit { what: "levels", .. })));
    assert_eq!(pins.pinned_blobs(), 0);
    let pins = with(TreeLimits::default(), 4);
    assert!(matches!(pins.pin(deep.root).await, Err(StoreError::TooManyPins(4))));
    assert_eq!(pins.pinned_blobs(), 0);
    let pins = with(TreeLimits { depth_max: 3, ..TreeLimits::default() }, 5);
    let held = pinned(&pins, &deep).await;
    assert_eq!(pins.pinned_blobs(), 5);

    // A level on top of what is pinned counts, although the walk down to it is short.
    let higher = tree(&[], Some(&deep));
    upload(&*store, &higher.blobs).await;
    assert!(matches!(pins.pin(higher.root).await, Err(StoreError::TooManyPins(5))));
    drop(held);
    assert_eq!(pins.pinned_blobs(), 0);
    let pins = with(TreeLimits { depth_max: 3, ..TreeLimits::default() }, 6);
    let _held = pinned(&pins, &deep).await;
    assert!(matches!(pins.pin(higher.root).await, Err(StoreError::TreeLimit { what: "levels", .. })));
    assert_eq!(pins.pinned_blobs(), 5);
}

#[tokio::test]
async fn trees_pinned_at_the_same_time_are_all_let_go() {
    let (pins, store, _) = in_memory();
    let tools = tree(&["bin/cc", "lib/x"], None);
    let names: Vec<String> = (0..50).map(|i| format!("{i}.c")).collect();
    let trees: Vec<Tree> = names.iter().map(|name| tree(&[name], Some(&tools))).collect();
    for tree in &trees {
        upload(&*store, &tree.blobs).await;
    }
    let held = futures::future::join_all(trees.iter().map(|tree| pinned(&pins, tree))).await;
    assert_eq!(held.len(), 50);
    drop(held);
    assert_eq!(pins.pinned_blobs(), 0);
    assert!(pins.shared.pinned().trees.is_empty());
}

/// Bytes that do not compress, different for each seed.
fn noise(seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..200_000).map(next).collect::<Vec<u8>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_trees_survive_any_traffic_and_are_evicted_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let options = SledOptions {
        capacity_bytes: Some(CAPACITY_BYTES_MIN),
        lease: Duration::ZERO,
        ..SledOptions::default()
    };
    let store = Arc::new(SledStore::open(folder.path(), options).unwrap());
    let pins = TreePins::new(store.clone(), TreePinLimits::default());
    let tools = tree(&["bin/cc", "lib/x", "lib/y"], None);
    let (one, two) = (tree(&["one.c"], Some(&tools)), tree(&["two.c"], Some(&tools)));
    upload(&*store, &one.blobs).await;
    upload(&*store, &two.blobs).await;
    let (held, other) = (pinned(&pins, &one).await, pinned(&pins, &two).await);
    drop(held);
    let traffic = async |seeds: std::ops::Range<u64>| {
        for seed in seeds {
            let data = noise(seed);
            let digest = DigestFunction::Sha256.digest(&data);
            store.put(Upload::bytes(digest, data)).await.unwrap();
        }
    };
    traffic(0..400).await;
    let digests: Vec<Digest> = two.blobs.iter().map(|(digest, _)| *digest).collect();
    for outcome in store.get_batch(&digests).await {
        outcome.unwrap();
    }
    assert_eq!(store.find_missing(&[one.root]).await.unwrap(), [one.root], "the other action has ended");
    drop(other);
    traffic(400..1200).await;
    assert_eq!(store.find_missing(&digests).await.unwrap().len(), digests.len());
}
