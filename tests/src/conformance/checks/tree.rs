//! GetTree.

use bytes::Bytes;
use futures::TryStreamExt as _;
use prost::Message as _;
use tonic::{Code, Status};
use wardian_proto::{Digest, RelPath, reapi};
use wardian_store::tree_builder::TreeBuilder;

use super::super::outcome::{ensure, ensure_eq, refused_as};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(tree_01_a_root_that_is_not_stored_is_not_found: "TREE-01"),
    check!(tree_02_other_missing_directories_are_left_out: "TREE-02"),
    check!(tree_03_pages_have_no_more_than_was_asked_for: "TREE-03"),
    check!(tree_03_a_negative_page_size_is_refused: "TREE-03").own(),
    check!(tree_04_tokens_go_on_in_another_call: "TREE-04", "TREE-05"),
    check!(tree_06_tokens_that_nobody_gave_are_refused: "TREE-06").own(),
    check!(tree_06_blobs_that_are_no_directories_are_refused: "TREE-06").own(),
    check!(tree_07_the_root_comes_first: "TREE-07").own(),
    check!(tree_08_a_directory_comes_once_however_often_it_occurs: "TREE-08").own(),
    check!(tree_09_the_empty_blob_is_one_empty_directory: "TREE-09"),
];

fn request(subject: &Subject, root: &Digest) -> reapi::GetTreeRequest {
    reapi::GetTreeRequest {
        instance_name: subject.instance(),
        root_digest: Some(root.to_wire()),
        digest_function: root.function().wire().into(),
        ..Default::default()
    }
}

async fn get_tree(
    subject: &Subject,
    request: reapi::GetTreeRequest,
) -> Result<Vec<reapi::GetTreeResponse>, Status> {
    subject.cas().get_tree(request).await?.into_inner().try_collect().await
}

fn digests(subject: &Subject, pages: &[reapi::GetTreeResponse]) -> Vec<Digest> {
    let directories = pages.iter().flat_map(|page| &page.directories);
    directories.map(|directory| subject.digest(&directory.encode_to_vec())).collect()
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text).expect("a good path")
}

/// Stores a tree of 1 + `width` + 1 directories, the innermost of which occurs in all of the second level.
/// Returns the root and all of them.
async fn stored_tree(subject: &Subject, width: usize) -> Result<(Digest, Vec<Digest>), Stop> {
    let unique = subject.digest(subject.fresh_name().as_bytes());
    let mut tree = TreeBuilder::new();
    for i in 0..width {
        let own = subject.digest(format!("{unique} {i}").as_bytes());
        tree.file(&path(&format!("d{i:03}/own")), own, false).expect("no clash");
        tree.file(&path(&format!("d{i:03}/shared/file")), unique, false).expect("no clash");
    }
    let built = tree.build(subject.function());
    subject.put_all(&built.directories).await?;
    let mut all: Vec<Digest> = built.directories.iter().map(|(digest, _)| *digest).collect();
    all.sort();
    all.dedup();
    Ok((built.root, all))
}

/// What came, whether or not the root is among it and however often.
fn distinct(mut found: Vec<Digest>, root: &Digest) -> Vec<Digest> {
    found.push(*root);
    found.sort();
    found.dedup();
    found
}

async fn tree_01_a_root_that_is_not_stored_is_not_found(subject: &Subject) -> Verdict {
    let absent = subject.digest(&subject.fresh(100));
    refused_as(get_tree(subject, request(subject, &absent)).await, Code::NotFound, "an absent root")?;
    Ok(())
}

async fn tree_02_other_missing_directories_are_left_out(subject: &Subject) -> Verdict {
    let mut tree = TreeBuilder::new();
    tree.graft(&path("gone"), subject.digest(&subject.fresh(100))).expect("no clash");
    tree.file(&path("here/file"), subject.digest(&subject.fresh(100)), false).expect("no clash");
    let built = tree.build(subject.function());
    subject.put_all(&built.directories).await?;
    let pages = get_tree(subject, request(subject, &built.root)).await?;
    let mut expected: Vec<_> = built.directories.iter().map(|(digest, _)| *digest).collect();
    expected.sort();
    ensure_eq!(distinct(digests(subject, &pages), &built.root), expected, "directories that are there");
    Ok(())
}

async fn tree_03_pages_have_no_more_than_was_asked_for(subject: &Subject) -> Verdict {
    let (root, all) = stored_tree(subject, 10).await?;
    for page_size in [1, 5, 100] {
        let asked = reapi::GetTreeRequest { page_size, ..request(subject, &root) };
        let pages = get_tree(subject, asked).await?;
        let sizes: Vec<_> = pages.iter().map(|page| page.directories.len()).collect();
        let within = sizes.iter().all(|size| i32::try_from(*size).is_ok_and(|size| size <= page_size));
        ensure!(within, "page_size {page_size}: pages of {sizes:?}");
        ensure_eq!(distinct(digests(subject, &pages), &root), all, "directories with page_size {page_size}");
    }
    Ok(())
}

async fn tree_03_a_negative_page_size_is_refused(subject: &Subject) -> Verdict {
    let (root, _) = stored_tree(subject, 2).await?;
    let asked = reapi::GetTreeRequest { page_size: -1, ..request(subject, &root) };
    refused_as(get_tree(subject, asked).await, Code::InvalidArgument, "page_size -1")?;
    Ok(())
}

async fn tree_04_tokens_go_on_in_another_call(subject: &Subject) -> Verdict {
    let (root, all) = stored_tree(subject, 10).await?;
    let asked = reapi::GetTreeRequest { page_size: 4, ..request(subject, &root) };
    let pages = get_tree(subject, asked.clone()).await?;
    let Some((last, others)) = pages.split_last() else { return Err(Stop::failed("no page came")) };
    ensure_eq!(last.next_page_token, "", "token of the last page");
    ensure!(
        others.iter().all(|page| !page.next_page_token.is_empty()),
        "a page before the last has no token"
    );
    for (i, page) in others.iter().enumerate() {
        let resumed = reapi::GetTreeRequest { page_token: page.next_page_token.clone(), ..asked.clone() };
        let rest = get_tree(subject, resumed).await?;
        ensure_eq!(digests(subject, &rest), digests(subject, &pages[i + 1..]), "what follows page {i}");
    }
    ensure_eq!(distinct(digests(subject, &pages), &root), all, "all pages together");
    Ok(())
}

async fn tree_06_tokens_that_nobody_gave_are_refused(subject: &Subject) -> Verdict {
    let ((root, _), (other, _)) = (stored_tree(subject, 3).await?, stored_tree(subject, 4).await?);
    let asked = reapi::GetTreeRequest { page_size: 2, ..request(subject, &other) };
    let foreign = get_tree(subject, asked).await?[0].next_page_token.clone();
    for page_token in ["garbage".to_owned(), foreign] {
        let asked = reapi::GetTreeRequest { page_token: page_token.clone(), ..request(subject, &root) };
        refused_as(get_tree(subject, asked).await, Code::InvalidArgument, &format!("token {page_token:?}"))?;
    }
    Ok(())
}

async fn tree_06_blobs_that_are_no_directories_are_refused(subject: &Subject) -> Verdict {
    let garbage = [b"\xff\xff\xff no message ", &subject.fresh(20)[..]].concat();
    let garbage = subject.put(&Bytes::from(garbage)).await?;
    refused_as(get_tree(subject, request(subject, &garbage)).await, Code::InvalidArgument, "as the root")?;
    let node = reapi::DirectoryNode { name: "child".into(), digest: Some(garbage.to_wire()) };
    let root = reapi::Directory { directories: vec![node], ..Default::default() };
    let root = subject.put(&root.encode_to_vec().into()).await?;
    refused_as(get_tree(subject, request(subject, &root)).await, Code::InvalidArgument, "below the root")?;
    Ok(())
}

async fn tree_07_the_root_comes_first(subject: &Subject) -> Verdict {
    let (root, _) = stored_tree(subject, 3).await?;
    let found = digests(subject, &get_tree(subject, request(subject, &root)).await?);
    ensure_eq!(found.first(), Some(&root), "the first directory");
    Ok(())
}

async fn tree_08_a_directory_comes_once_however_often_it_occurs(subject: &Subject) -> Verdict {
    let (root, all) = stored_tree(subject, 5).await?;
    let mut found = digests(subject, &get_tree(subject, request(subject, &root)).await?);
    found.sort();
    ensure_eq!(found, all, "directories");
    Ok(())
}

async fn tree_09_the_empty_blob_is_one_empty_directory(subject: &Subject) -> Verdict {
    let pages = get_tree(subject, request(subject, &Digest::empty(subject.function()))).await?;
    let found: Vec<_> = pages.into_iter().flat_map(|page| page.directories).collect();
    ensure_eq!(found, [reapi::Directory::default()], "directories");
    Ok(())
}
