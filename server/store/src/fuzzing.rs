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

/// One thing that is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is that of the libFuzzer target.
    pub name: &'static str,
    /// Panics when the input is not treated as it should be.
    pub run: fn(&[u8]),
    /// Good inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Everything that is fuzzed.
pub const TARGETS: &[Target] = &[
    Target { name: "segment_record", run: segments::segment_record, seeds: segments::records },
    Target { name: "segment_footer", run: segments::segment_footer, seeds: segments::footers },
    Target { name: "read_name", run: read_name, seeds: read_names },
    Target { name: "write_name", run: write_name, seeds: write_names },
    Target { name: "directory", run: directory, seeds: directories },
    Target { name: "tree", run: tree, seeds: trees },
];

/// Runs the target of this name. Panics when there is none.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(input);
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
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{Rng as _, RngExt as _, SeedableRng as _};

    use super::*;

    /// Inputs for each target.
    const INPUTS: u32 = 100_000;

    /// Changes made to a good input, at the most.
    const CHANGES_MAX: u32 = 6;

    const INPUT_BYTES_MAX: usize = 4096;

    #[test]
    fn every_target_is_one_of_libfuzzer_too() {
        let manifest = include_str!("../../../fuzz/Cargo.toml");
        let names = manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|bin| bin.split('"').next());
        // Those of the worker are listed there.
        let names: Vec<_> = names.filter(|name| !name.starts_with("workspace_")).collect();
        assert_eq!(names, TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
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
                run(target.name, &input);
            }
        }
    }

    #[test]
    fn inputs_made_from_good_ones_are_treated_as_they_should_be() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(0);
        for target in TARGETS {
            let seeds = (target.seeds)();
            for _ in 0..INPUTS {
                let mut input = seeds[random.random_range(0..seeds.len())].clone();
                for _ in 0..random.random_range(1..=CHANGES_MAX) {
                    change(&mut input, &seeds, &mut random);
                }
                // What went wrong is the panic; this says with which input.
                let outcome = std::panic::catch_unwind(|| (target.run)(&input));
                assert!(outcome.is_ok(), "{} with input {input:02x?}", target.name);
            }
        }
    }

    /// Makes one of the changes that fuzzers make.
    fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Xoshiro256PlusPlus) {
        let at = random.random_range(0..=input.len());
        let to = random.random_range(at..=input.len());
        match random.random_range(0..7) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => {
                input[at] = [0, 1, 0x7f, 0x80, 0xff, b'/', b'.'][random.random_range(0..7)]
            }
            2 => input.insert(at, random.next_u32() as u8),
            3 => drop(input.drain(at..to)),
            4 => input.truncate(at),
            5 => input.extend_from_within(at..to),
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let from = random.random_range(0..=other.len());
                input.splice(at..to, other[from..].iter().copied());
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}
