//! Output directories.

use std::collections::HashSet;

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use wardian_proto::reapi;
use wardian_proto::reapi::command::OutputDirectoryFormat as Format;

use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};
use crate::{Built, TestAction};

pub(super) const CHECKS: &[Check] = &[
    check!(out_13_a_tree_has_every_directory_below: "OUT-13"),
    check!(out_13_equal_directories_have_equal_trees: "OUT-13"),
    check!(out_14_a_tree_that_says_so_is_sorted: "OUT-14"),
    check!(out_15_directories_come_in_the_format_asked_for: "OUT-15"),
    check!(out_15_the_directory_is_the_root_of_the_tree: "OUT-15"),
    check!(out_15_an_unknown_format_is_a_tree: "OUT-15").own(),
    check!(out_16_empty_directories_are_outputs: "OUT-16"),
];

/// Directories in directories, some of them equal, some empty.
const SCRIPT: &str = "mkdir -p out/a/same out/b/same out/empty/below out/deep/er; \
                      echo x > out/a/same/f; echo x > out/b/same/f; echo $1 > out/deep/er/g; \
                      echo y > out/top; ln -s top out/link";

/// A Tree, and the bytes it came in.
pub(super) struct StoredTree {
    pub(super) message: reapi::Tree,
    bytes: Bytes,
}

/// The Tree of an output directory.
pub(super) async fn tree_of(
    subject: &Subject,
    built: &Built,
    directory: &reapi::OutputDirectory,
) -> Result<StoredTree, Stop> {
    let bytes = subject.get(&subject.digest_in(built, directory.tree_digest.as_ref())?).await?;
    let message = reapi::Tree::decode(bytes.clone());
    let message = message.map_err(|error| Stop::failed(format!("a Tree that is none: {error}")))?;
    Ok(StoredTree { message, bytes })
}

/// The only output of an action that makes a directory.
async fn made(subject: &Subject, action: TestAction) -> Result<(Built, reapi::OutputDirectory), Stop> {
    let built = subject.upload(action.outputs(&["out"])).await?;
    let result = subject.succeed_as(&built, subject.request(&built)).await?.result();
    let mut directories = result.output_directories;
    let count = directories.len();
    let directory = directories.pop().filter(|_| count == 1);
    let directory = directory.ok_or_else(|| Stop::failed(format!("{count} output directories, not one")))?;
    ensure_eq!(directory.path, "out", "its path");
    Ok((built, directory))
}

/// What digest the bytes of a Directory have, on the wire.
fn digest_of(subject: &Subject, directory: &[u8]) -> reapi::Digest {
    subject.digest(directory).to_wire()
}

async fn out_13_a_tree_has_every_directory_below(subject: &Subject) -> Verdict {
    let (built, directory) = made(subject, subject.script(SCRIPT)).await?;
    let tree = tree_of(subject, &built, &directory).await?.message;
    let root = tree.root.clone().ok_or_else(|| Stop::failed("a Tree without a root"))?;
    let children: Vec<_> =
        tree.children.iter().map(|child| (digest_of(subject, &child.encode_to_vec()), child)).collect();
    let mut paths = Vec::new();
    let mut pending = vec![(String::new(), &root)];
    while let Some((path, directory)) = pending.pop() {
        for node in &directory.directories {
            let below = children.iter().find(|(digest, _)| Some(digest) == node.digest.as_ref());
            let (_, child) =
                below.ok_or_else(|| Stop::failed(format!("{path}{} is not in the Tree", node.name)))?;
            pending.push((format!("{path}{}/", node.name), child));
        }
        paths.extend(directory.files.iter().map(|node| format!("{path}{}", node.name)));
        paths.extend(directory.symlinks.iter().map(|node| format!("{path}{}@", node.name)));
        if directory.files.is_empty() && directory.directories.is_empty() {
            paths.push(path);
        }
    }
    paths.sort();
    let expected = ["a/same/f", "b/same/f", "deep/er/g", "empty/below/", "link@", "top"];
    ensure_eq!(paths, expected, "what is in the Tree");
    Ok(())
}

async fn out_13_equal_directories_have_equal_trees(subject: &Subject) -> Verdict {
    let mut digests = Vec::new();
    // Made in different orders, so that a file system may list them in different orders.
    for order in ["a b c d e f g h", "h g f e d c b a", "d h b f a e c g"] {
        let script = format!(
            "mkdir out; for i in {order}; do mkdir out/$i.d; echo $i > out/$i.d/f; echo $i > out/$i; done"
        );
        let (_, directory) = made(subject, subject.script(&script)).await?;
        digests.push(directory.tree_digest.ok_or_else(|| Stop::failed("no tree_digest"))?);
    }
    digests.dedup();
    ensure_eq!(digests.len(), 1, "distinct Trees of equal directories");
    Ok(())
}

/// The messages of a Tree as they are on the wire: the number of the field, and the bytes.
fn fields(mut bytes: Bytes) -> Result<Vec<(u8, Bytes)>, Stop> {
    let mut fields = Vec::new();
    let broken = |what: &str| Stop::failed(format!("a Tree on the wire: {what}"));
    while !bytes.is_empty() {
        let tag = bytes[0];
        ensure!(tag == 0x0a || tag == 0x12, "a Tree has a field with tag {tag:#x}");
        let (number, wire_type) = decode_key(&mut bytes).map_err(|_| broken("no tag"))?;
        ensure!(wire_type == WireType::LengthDelimited, "a Tree has a field of type {wire_type:?}");
        let length = decode_varint(&mut bytes).map_err(|_| broken("no length"))?;
        let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
        let length = length.ok_or_else(|| broken("a field is longer than the message"))?;
        fields.push((u8::try_from(number).expect("1 or 2, by the tag"), bytes.split_to(length)));
    }
    Ok(fields)
}

async fn out_14_a_tree_that_says_so_is_sorted(subject: &Subject) -> Verdict {
    let (built, directory) = made(subject, subject.script(SCRIPT)).await?;
    if !directory.is_topologically_sorted {
        ensure!(!subject.is_own(), "our Trees are sorted");
        return Err(Stop::skipped("is_topologically_sorted is not set"));
    }
    let fields = fields(tree_of(subject, &built, &directory).await?.bytes)?;
    let numbers: Vec<_> = fields.iter().map(|(number, _)| *number).collect();
    let is_root_first = numbers.first() == Some(&1) && numbers[1..].iter().all(|number| *number == 2);
    ensure!(is_root_first, "fields on the wire: {numbers:?}");
    let (mut named, mut seen) = (HashSet::new(), HashSet::new());
    for (i, (_, bytes)) in fields.iter().enumerate() {
        let own = digest_of(subject, bytes);
        ensure!(i == 0 || named.contains(&own), "directory {i} comes before its parents, or has none");
        ensure!(seen.insert(own), "directory {i} occurs twice");
        let directory = reapi::Directory::decode(bytes.clone());
        let directory = directory.map_err(|error| Stop::failed(format!("directory {i}: {error}")))?;
        named.extend(directory.directories.into_iter().filter_map(|node| node.digest));
    }
    // `a` and `b` are equal, so they are one, as is what is in them.
    ensure_eq!(seen.len(), 7, "distinct directories");
    Ok(())
}

async fn out_15_directories_come_in_the_format_asked_for(subject: &Subject) -> Verdict {
    for (format, needs_tree, needs_root) in [
        (Format::TreeOnly, true, false),
        (Format::DirectoryOnly, false, true),
        (Format::TreeAndDirectory, true, true),
    ] {
        let mut action = subject.script(SCRIPT);
        action.command.output_directory_format = format.into();
        let (_, directory) = made(subject, action).await?;
        let (tree, root) = (directory.tree_digest.is_some(), directory.root_directory_digest.is_some());
        // More than was asked for is fine.
        ensure!(tree || !needs_tree, "{}: no tree_digest", format.as_str_name());
        ensure!(root || !needs_root, "{}: no root_directory_digest", format.as_str_name());
        if subject.is_own() {
            ensure_eq!((tree, root), (needs_tree, needs_root), "{}", format.as_str_name());
        }
        let Some(root_digest) = directory.root_directory_digest else { continue };
        // Each Directory is a blob, so that GetTree finds them all.
        let request = reapi::GetTreeRequest {
            instance_name: subject.instance(),
            root_digest: Some(root_digest),
            digest_function: subject.function().wire().into(),
            ..Default::default()
        };
        let mut pages = subject.cas().get_tree(request).await?.into_inner();
        let mut found = HashSet::new();
        while let Some(page) = pages.message().await? {
            found.extend(page.directories.iter().map(prost::Message::encode_to_vec));
        }
        ensure_eq!(found.len(), 7, "distinct directories that GetTree finds");
    }
    Ok(())
}

async fn out_15_the_directory_is_the_root_of_the_tree(subject: &Subject) -> Verdict {
    let mut action = subject.script(SCRIPT);
    action.command.output_directory_format = Format::TreeAndDirectory.into();
    let (built, directory) = made(subject, action).await?;
    let tree = tree_of(subject, &built, &directory).await?;
    let root = fields(tree.bytes)?.into_iter().find(|(number, _)| *number == 1);
    let (_, root) = root.ok_or_else(|| Stop::failed("a Tree without a root"))?;
    ensure_eq!(directory.root_directory_digest, Some(digest_of(subject, &root)), "root_directory_digest");
    Ok(())
}

async fn out_15_an_unknown_format_is_a_tree(subject: &Subject) -> Verdict {
    let mut action = subject.script(SCRIPT);
    action.command.output_directory_format = 99;
    let (_, directory) = made(subject, action).await?;
    let came = (directory.tree_digest.is_some(), directory.root_directory_digest.is_some());
    ensure_eq!(came, (true, false), "tree_digest and root_directory_digest");
    Ok(())
}

async fn out_16_empty_directories_are_outputs(subject: &Subject) -> Verdict {
    let mut action = subject.script("mkdir out");
    action.command.output_directory_format = Format::TreeAndDirectory.into();
    let (built, directory) = made(subject, action).await?;
    let tree = tree_of(subject, &built, &directory).await?;
    // The root is there, and empty.
    ensure_eq!(tree.message.root, Some(reapi::Directory::default()), "root of the Tree");
    ensure_eq!(&tree.bytes[..], b"\x0a\x00", "the Tree");
    ensure_eq!(directory.root_directory_digest, Some(digest_of(subject, b"")), "root_directory_digest");
    let (built, directory) = made(subject, subject.script("mkdir -p out/below")).await?;
    let root = tree_of(subject, &built, &directory).await?.message.root.unwrap_or_default();
    let names: Vec<_> = root.directories.iter().map(|node| node.name.as_str()).collect();
    ensure_eq!(names, ["below"], "directories in the directory");
    Ok(())
}
