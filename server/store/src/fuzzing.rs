//! What fuzzers run: everything that parses bytes from a client or from the disk, with what must hold then.
//!
//! The targets in `fuzz/` call these under libFuzzer, which needs a nightly compiler; the tests below call
//! them for a bounded number of inputs made from good ones, as part of every `cargo test`.

use bytes::Bytes;
use prost::Message as _;
use wardian_proto::{
    Digest, DigestFunction, DigestFunctions, Directory, InstanceName, ReadName, ResourceNameError, WriteName,
    reapi,
};

use crate::action_cache::files_of_tree;
use crate::backend::fuzzing as segments;
use crate::chunking::{Chunker, Chunking, FastCdc, RepMaxCdc};

#[path = "../../../fuzz/harness.rs"]
mod harness;

pub use harness::Target;

/// Everything that is fuzzed.
pub const TARGETS: &[Target] = &[
    Target {
        name: "segment_record",
        run: segments::segment_record,
        seeds: segments::records,
        inputs: 100_000,
    },
    Target {
        name: "segment_footer",
        run: segments::segment_footer,
        seeds: segments::footers,
        inputs: 100_000,
    },
    Target { name: "read_name", run: read_name, seeds: read_names, inputs: 100_000 },
    Target { name: "write_name", run: write_name, seeds: write_names, inputs: 100_000 },
    Target { name: "directory", run: directory, seeds: directories, inputs: 100_000 },
    Target { name: "tree", run: tree, seeds: trees, inputs: 100_000 },
    Target { name: "chunks", run: chunks, seeds: blobs, inputs: 10_000 },
];

/// Runs the target of this name. Panics when there is none.
pub fn run(name: &str, input: &[u8]) {
    harness::run_of(TARGETS, name, input);
}

const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// A name that is taken is written as one that means the same.
fn read_name(input: &[u8]) {
    let Ok(Ok(name)) = std::str::from_utf8(input).map(parse_read) else { return };
    assert_eq!(parse_read(&name.to_string()), Ok(name));
}

fn write_name(input: &[u8]) {
    let Ok(Ok(name)) = std::str::from_utf8(input).map(parse_write) else { return };
    assert_eq!(parse_write(&name.to_string()), Ok(name));
}

fn parse_read(name: &str) -> Result<ReadName, ResourceNameError> {
    ReadName::parse(name, all_functions)
}

fn parse_write(name: &str) -> Result<WriteName, ResourceNameError> {
    WriteName::parse(name, all_functions)
}

fn all_functions(_: &InstanceName) -> DigestFunctions {
    DigestFunctions::all_but_murmur3()
}

/// The names in a Directory that is taken are single segments, each of them once.
fn directory(input: &[u8]) {
    let Ok(directory) = Directory::decode(FUNCTION, input) else { return };
    let files = directory.files.iter().map(|entry| &entry.name);
    let directories = directory.directories.iter().map(|entry| &entry.name);
    let symlinks = directory.symlinks.iter().map(|entry| &entry.name);
    let mut names: Vec<&str> = files.chain(directories).chain(symlinks).map(|name| name.as_str()).collect();
    for name in &names {
        assert!(!matches!(*name, "" | "." | "..") && !name.contains(['/', '\0']), "{name:?}");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "a name twice");
}

/// A Tree that is taken names the files that its message has.
fn tree(input: &[u8]) {
    let Some(mut found) = files_of_tree(FUNCTION, Bytes::copy_from_slice(input)) else { return };
    let tree = reapi::Tree::decode(input).expect("what is taken is a Tree");
    let directories = tree.root.iter().chain(&tree.children);
    let digests = directories.flat_map(|directory| &directory.files).map(|file| file.digest.as_ref());
    let mut named: Vec<Digest> =
        digests.map(|digest| Digest::from_wire(FUNCTION, digest).expect("was parsed before")).collect();
    named.sort_unstable_by_key(Digest::to_string);
    found.sort_unstable_by_key(Digest::to_string);
    assert_eq!(found, named);
}

/// How much longer than its input a blob is, so that there is more than one chunk in it.
const REPEATED: usize = 8;

/// Chunks make up the blob, have the sizes that their kind allows, and do not depend on how the blob comes in.
fn chunks(input: &[u8]) {
    let [kind, first, second, piece, data @ ..] = input else { return };
    let (first, second) = (u32::from(*first), u32::from(*second));
    let (chunking, sizes) = if kind % 2 == 0 {
        let average = 1024 << (first % 2);
        let fast = FastCdc::new(average, second).expect("allowed parameters");
        (Chunking::FastCdc2020(fast), fast.min_bytes() as usize..=fast.max_bytes() as usize)
    } else {
        let min = 64 + first;
        let rep_max = RepMaxCdc::new(min, 16 * second).expect("allowed parameters");
        (Chunking::RepMaxCdc(rep_max), min as usize..=2 * min as usize - 1)
    };
    let blob = data.repeat(REPEATED);
    let found = cut(chunking, &blob, usize::from(*piece) + 1);
    assert_eq!(found.concat(), blob, "the chunks make up the blob");
    assert!(found == cut(chunking, &blob, usize::MAX), "pieces do not matter");
    // The end of a blob may be smaller than a chunk may be.
    let (last, others) = match found.split_last() {
        Some((last, others)) => (last.len(), others),
        None => return,
    };
    assert!(last <= *sizes.end() && others.iter().all(|chunk| sizes.contains(&chunk.len())));
}

fn cut(chunking: Chunking, blob: &[u8], piece: usize) -> Vec<Bytes> {
    let mut chunker = Chunker::new(chunking);
    let mut found = Vec::new();
    for piece in blob.chunks(piece) {
        chunker.add(piece);
        found.extend(std::iter::from_fn(|| chunker.next_chunk()));
    }
    found.extend(std::iter::from_fn(|| chunker.next_at_end()));
    found
}

/// Kind, two parameters, the size of the pieces, and the bytes of a blob that is repeated.
fn blobs() -> Vec<Vec<u8>> {
    let mixed = (0..2000_u32).map(|at| at.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]);
    let mixed: Vec<u8> = mixed.collect();
    vec![
        [&[0, 0, 0, 99][..], &mixed].concat(),
        [&[0, 1, 7, 255][..], &[0; 1000]].concat(),
        [&[1, 0, 10, 0][..], &mixed].concat(),
        [&[1, 200, 0, 50][..], &mixed].concat(),
    ]
}

fn read_names() -> Vec<Vec<u8>> {
    let digest = FUNCTION.digest(b"blob");
    let names = [
        format!("blobs/{digest}"),
        format!("main/blobs/{digest}"),
        format!("a/b/compressed-blobs/zstd/blake3/{digest}"),
    ];
    names.map(String::into_bytes).into()
}

fn write_names() -> Vec<Vec<u8>> {
    let digest = FUNCTION.digest(b"blob");
    let names = [
        format!("uploads/7d5a1c2e-0000-4000-8000-000000000000/blobs/{digest}"),
        format!("main/uploads/u/compressed-blobs/deflate/{digest}"),
        format!("a/b/uploads/u/blobs/{digest}/out/file.o"),
    ];
    names.map(String::into_bytes).into()
}

fn example() -> reapi::Directory {
    let digest = Some(FUNCTION.digest(b"blob").to_wire());
    let file =
        |name: &str| reapi::FileNode { name: name.into(), digest: digest.clone(), ..Default::default() };
    reapi::Directory {
        files: vec![file("a.c"), file("b.c")],
        directories: vec![reapi::DirectoryNode { name: "sub".into(), digest: digest.clone() }],
        symlinks: vec![reapi::SymlinkNode { name: "l".into(), target: "a.c".into(), ..Default::default() }],
        ..Default::default()
    }
}

fn directories() -> Vec<Vec<u8>> {
    vec![Vec::new(), example().encode_to_vec()]
}

fn trees() -> Vec<Vec<u8>> {
    let children = vec![reapi::Directory::default(), example()];
    vec![
        Vec::new(),
        reapi::Tree { root: Some(example()), children: Vec::new() }.encode_to_vec(),
        reapi::Tree { root: Some(example()), children }.encode_to_vec(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_of_libfuzzer_too() {
        harness::assert_listed("wardian-store", TARGETS);
    }

    #[test]
    fn good_inputs_are_good() {
        let taken = |name: &str, input: &[u8]| match name {
            "read_name" => parse_read(std::str::from_utf8(input).unwrap()).is_ok(),
            "write_name" => parse_write(std::str::from_utf8(input).unwrap()).is_ok(),
            "directory" => Directory::decode(FUNCTION, input).is_ok(),
            "tree" => files_of_tree(FUNCTION, Bytes::copy_from_slice(input)).is_some(),
            // These have tests of their own.
            _ => true,
        };
        for target in TARGETS {
            for input in (target.seeds)() {
                assert!(taken(target.name, &input), "{}: {input:02x?}", target.name);
            }
        }
    }

    #[test]
    fn inputs_made_from_good_ones_are_treated_as_they_should_be() {
        harness::try_all(TARGETS);
    }
}
