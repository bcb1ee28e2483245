//! Running computations of every digest function.

mod murmur3;
mod sha256tree;

use murmur3::Murmur3;
use sha2::Digest as _;
use sha256tree::Sha256Tree;

use crate::digest::HASH_BYTES_MAX;
use crate::{Digest, DigestFunction};

/// A running hash that also counts its bytes.
#[derive(Clone)]
pub struct Hasher {
    function: DigestFunction,
    state: State,
    size: u64,
}

// One computation at a time: the largest state decides, and boxing it would cost more than it saves.
#[allow(clippy::large_enum_variant)]
#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    /// SHA-1 and GITSHA1, which differ in what comes first.
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Murmur3(Murmur3),
    Sha256Tree(Sha256Tree),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Starts the hash of a blob of `size` bytes.
    ///
    /// GITSHA1 hashes the size before the bytes, which is why it must be known; with more or fewer bytes
    /// than that the result is no digest of anything.
    pub(crate) fn new(function: DigestFunction, size: u64) -> Self {
        let state = match function {
            DigestFunction::Sha256 => State::Sha256(sha2::Sha256::new()),
            DigestFunction::Sha1 => State::Sha1(sha1::Sha1::new()),
            DigestFunction::GitSha1 => {
                State::Sha1(sha1::Sha1::new_with_prefix(format!("blob {size}\0").as_bytes()))
            }
            DigestFunction::Md5 => State::Md5(md5::Md5::new()),
            DigestFunction::Sha384 => State::Sha384(sha2::Sha384::new()),
            DigestFunction::Sha512 => State::Sha512(sha2::Sha512::new()),
            DigestFunction::Murmur3 => State::Murmur3(Murmur3::default()),
            DigestFunction::Sha256Tree => State::Sha256Tree(Sha256Tree::default()),
            DigestFunction::Blake3 => State::Blake3(Box::default()),
        };
        Self { function, state, size: 0 }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Md5(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
            State::Murmur3(state) => state.update(bytes),
            State::Sha256Tree(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Bytes added so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest of everything added.
    pub fn finish(self) -> Digest {
        let mut hash = [0; HASH_BYTES_MAX];
        let mut put = |bytes: &[u8]| hash[..bytes.len()].copy_from_slice(bytes);
        match self.state {
            State::Sha256(state) => put(&state.finalize()),
            State::Sha1(state) => put(&state.finalize()),
            State::Md5(state) => put(&state.finalize()),
            State::Sha384(state) => put(&state.finalize()),
            State::Sha512(state) => put(&state.finalize()),
            State::Murmur3(state) => put(&state.finish()),
            State::Sha256Tree(state) => put(&state.finish()),
            State::Blake3(state) => put(state.finalize().as_bytes()),
        }
        Digest::of_hash(self.function, hash, self.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn hashes(function: DigestFunction, data: &[u8], hash: &str) {
        assert_eq!(function.digest(data).hash_hex(), hash, "{}", function.name());
    }

    /// Values of the empty input and of `abc` as the standards and reference programs give them.
    #[test]
    fn known_hashes() {
        use DigestFunction::*;
        hashes(Sha256, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        hashes(Sha256Tree, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        hashes(Sha1, b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d");
        hashes(Md5, b"abc", "900150983cd24fb0d6963f7d28e17f72");
        hashes(Sha1, b"", "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        hashes(GitSha1, b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        hashes(GitSha1, b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a");
        hashes(Blake3, b"", "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        hashes(Murmur3, b"", "00000000000000000000000000000000");
        hashes(
            Sha384,
            b"abc",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        );
        hashes(
            Sha512,
            b"abc",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        );
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            data in proptest::collection::vec(any::<u8>(), 0..5000),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
            cuts.sort_unstable();
            for function in DigestFunction::ALL {
                let mut hasher = function.hasher(data.len() as u64);
                let mut at = 0;
                for &cut in cuts.iter().chain([&data.len()]) {
                    hasher.update(&data[at..cut]);
                    at = cut;
                }
                prop_assert_eq!(hasher.finish(), function.digest(&data));
            }
        }
    }
}
