//! Input trees: complete, staged, and refused.

use wardian_proto::DigestFunction;
use wardian_store::Upload;
use wardian_store::backend::MemoryStore;
use wardian_store::tree_builder::TreeBuilder;

use super::*;

fn path(text: &str) -> RelPath {
    RelPath::parse(text).unwrap()
}

async fn upload(store: &MemoryStore, data: &[u8]) -> Digest {
    let digest = DigestFunction::Sha256.digest(data);
    BlobStore::put(store, Upload::bytes(digest, data.to_vec())).await.unwrap();
    digest
}

async fn store_tree(store: &MemoryStore, tree: TreeBuilder) -> Digest {
    let built = tree.build(DigestFunction::Sha256);
    for (digest, bytes) in built.directories {
        BlobStore::put(store, Upload::bytes(digest, bytes)).await.unwrap();
    }
    built.root
}

#[tokio::test]
async fn every_missing_blob_is_named() {
    let store = MemoryStore::new(1 << 20);
    let (a, b) = (DigestFunction::Sha256.digest(b"a"), DigestFunction::Sha256.digest(b"b"));
    let gone = DigestFunction::Sha256.digest(b"dir");
    let mut tree = TreeBuilder::new();
    tree.file(&path("a"), a, false).unwrap();
    tree.file(&path("d/b"), b, false).unwrap();
    tree.graft(&path("gone"), gone).unwrap();
    let root = store_tree(&store, tree).await;
    let failure = InputRoot::read(&store, root, &Limits::default()).await.unwrap_err();
    let Failure::MissingBlobs(mut missing) = failure else { panic!("{failure}") };
    missing.sort_unstable();
    let mut expected = vec![a, b, gone];
    expected.sort_unstable();
    assert_eq!(missing, expected);
}

#[tokio::test]
async fn staging_makes_private_copies_with_modes_and_links() {
    use std::os::unix::fs::PermissionsExt as _;
    let store = MemoryStore::new(1 << 20);
    let (small, large) = (upload(&store, b"small").await, upload(&store, &vec![9; 100_000]).await);
    let mut tree = TreeBuilder::new();
    tree.file(&path("bin/tool"), large, true).unwrap();
    tree.file(&path("src/a"), small, false).unwrap();
    tree.symlink(&path("src/link"), "../bin/tool").unwrap();
    tree.directory(&path("empty")).unwrap();
    let root = store_tree(&store, tree).await;
    let input = InputRoot::read(&store, root, &Limits::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    input.stage(&store, folder.path(), &Limits::default()).await.unwrap();
    let mode = |p: &str| std::fs::metadata(folder.path().join(p)).unwrap().permissions().mode() & 0o111;
    assert_eq!((mode("bin/tool"), mode("src/a")), (0o111, 0));
    assert_eq!(std::fs::read(folder.path().join("src/link")).unwrap().len(), 100_000);
    assert!(folder.path().join("empty").is_dir());
}

#[tokio::test]
async fn limits_on_entries_and_bytes_are_named() {
    let store = MemoryStore::new(1 << 20);
    let data = upload(&store, &[1; 1000]).await;
    let mut tree = TreeBuilder::new();
    for i in 0..5 {
        tree.file(&path(&format!("f{i}")), data, false).unwrap();
    }
    let root = store_tree(&store, tree).await;
    let input = InputRoot::read(&store, root, &Limits::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (limits, name) in [
        (Limits { input_entries_max: 4, ..Limits::default() }, "input_entries_max"),
        (Limits { input_bytes_max: 4000, ..Limits::default() }, "input_bytes_max"),
    ] {
        let failure = input.stage(&store, folder.path(), &limits).await.unwrap_err();
        assert!(failure.to_string().contains(name), "{failure}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
