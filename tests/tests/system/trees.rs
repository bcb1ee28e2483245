//! GetTree.

use bytes::Bytes;
use futures::TryStreamExt as _;
use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{Digest, DigestFunction, RelPath, reapi};
use wardian_store::tree_builder::TreeBuilder;
use wardian_tests::{TestServer, bytes_of, code, digest};

async fn get_tree(
    server: &TestServer,
    request: reapi::GetTreeRequest,
) -> Result<Vec<reapi::GetTreeResponse>, Status> {
    server.cas().get_tree(request).await?.into_inner().try_collect().await
}

fn request(root: Digest) -> reapi::GetTreeRequest {
    reapi::GetTreeRequest { root_digest: Some(root.to_wire()), ..Default::default() }
}

fn directories(pages: &[reapi::GetTreeResponse]) -> Vec<reapi::Directory> {
    pages.iter().flat_map(|page| page.directories.clone()).collect()
}

/// Uploads a tree of 1 + `width` + 1 directories; the innermost is shared by all of the second level.
async fn stored_tree(server: &TestServer, width: usize) -> Digest {
    let mut tree = TreeBuilder::new();
    for i in 0..width {
        let path = |name: &str| RelPath::parse(&format!("d{i:03}/{name}")).unwrap();
        tree.file(&path("own"), digest(&i.to_le_bytes()), false).unwrap();
        tree.file(&path("shared/file"), digest(b"file"), false).unwrap();
    }
    let built = tree.build(DigestFunction::Sha256);
    server.put_all(&built.directories).await;
    built.root
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_comes_first_and_every_directory_once() {
    let server = TestServer::start().await;
    let root = stored_tree(&server, 5).await;
    let pages = get_tree(&server, request(root)).await.unwrap();
    let found = directories(&pages);
    assert_eq!(digest(&found[0].encode_to_vec()), root);
    let mut distinct: Vec<_> = found.iter().map(|d| digest(&d.encode_to_vec())).collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!((found.len(), distinct.len()), (7, 7));
    assert_eq!(pages.last().unwrap().next_page_token, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_resume_in_new_calls() {
    let server = TestServer::start().await;
    let root = stored_tree(&server, 10).await;
    let paged = |page_size, page_token: &str| reapi::GetTreeRequest {
        page_size,
        page_token: page_token.into(),
        ..request(root)
    };
    let pages = get_tree(&server, paged(5, "")).await.unwrap();
    let sizes: Vec<_> = pages.iter().map(|page| page.directories.len()).collect();
    assert_eq!(sizes, [5, 5, 2]);
    let (last, others) = pages.split_last().unwrap();
    assert_eq!(last.next_page_token, "");
    for (i, page) in others.iter().enumerate() {
        // Another page size too: the token alone says where to go on.
        let rest = get_tree(&server, paged(3, &page.next_page_token)).await.unwrap();
        assert_eq!(directories(&rest), directories(&pages[i + 1..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_pages_are_refused() {
    let server = TestServer::start().await;
    let (root, other) = (stored_tree(&server, 3).await, stored_tree(&server, 4).await);
    let pages = get_tree(&server, reapi::GetTreeRequest { page_size: 2, ..request(other) }).await.unwrap();
    let foreign = pages[0].next_page_token.clone();
    for token in
        ["garbage", "-1", &foreign, &format!("{}:-1", root.hash_hex()), &format!("{}:", root.hash_hex())]
    {
        let asked = reapi::GetTreeRequest { page_token: token.to_owned(), ..request(root) };
        assert_eq!(code(&get_tree(&server, asked).await), Code::InvalidArgument, "{token}");
    }
    let asked = reapi::GetTreeRequest { page_size: -1, ..request(root) };
    assert_eq!(code(&get_tree(&server, asked).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_beyond_the_end_is_refused() {
    let server = TestServer::start().await;
    let root = stored_tree(&server, 3).await;
    let page_token = format!("{}:{}", root.hash_hex(), 100);
    let asked = reapi::GetTreeRequest { page_token, ..request(root) };
    assert_eq!(code(&get_tree(&server, asked).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_directories_are_left_out_but_not_the_root() {
    let server = TestServer::start().await;
    let mut tree = TreeBuilder::new();
    tree.graft(&RelPath::parse("gone").unwrap(), digest(b"a directory that nobody uploaded")).unwrap();
    tree.file(&RelPath::parse("here/file").unwrap(), digest(b"file"), false).unwrap();
    let built = tree.build(DigestFunction::Sha256);
    assert_eq!(code(&get_tree(&server, request(built.root)).await), Code::NotFound);
    server.put_all(&built.directories).await;
    let found = directories(&get_tree(&server, request(built.root)).await.unwrap());
    assert_eq!(found.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_directory_has_one_directory() {
    let server = TestServer::start().await;
    let empty = Digest::empty(DigestFunction::Sha256);
    let found = directories(&get_tree(&server, request(empty)).await.unwrap());
    assert_eq!(found, [reapi::Directory::default()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_no_directory_is_refused() {
    let server = TestServer::start().await;
    for data in [Bytes::from_static(b"\xff\xff\xff not a message"), bytes_of(100_000, 3)] {
        let root = server.put(data).await;
        assert_eq!(code(&get_tree(&server, request(root)).await), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_no_directory_fails_the_call() {
    // It could also be left out, like a missing one; but who asks is told what is wrong with the tree.
    let server = TestServer::start().await;
    let child = server.put(Bytes::from_static(b"\xff\xff\xff not a message")).await.to_wire();
    let node = reapi::DirectoryNode { name: "child".into(), digest: Some(child) };
    let root = reapi::Directory { directories: vec![node], ..Default::default() };
    let root = server.put(root.encode_to_vec()).await;
    assert_eq!(code(&get_tree(&server, request(root)).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_trees_come_in_pages_that_fit_a_message() {
    let server = TestServer::start().await;
    // Twenty directories of about 400 kB each: more than one message may hold.
    let mut tree = TreeBuilder::new();
    for i in 0..20 {
        for j in 0..3000 {
            let path = format!("{i}/{i}-{j}-{}", "long-name-".repeat(5));
            tree.file(&RelPath::parse(&path).unwrap(), digest(b"file"), false).unwrap();
        }
    }
    let built = tree.build(DigestFunction::Sha256);
    server.put_all(&built.directories).await;
    let pages = get_tree(&server, request(built.root)).await.unwrap();
    assert!(pages.len() > 1);
    assert_eq!(directories(&pages).len(), 21);
}
