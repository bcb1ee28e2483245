//! Cutting blobs into chunks by their content, and joining chunks into blobs.
//!
//! [`Chunker`] finds the cuts of a stream of bytes in bounded memory. [`Chunks`] does both over a store: what it
//! returned as the chunks of a blob is stored, and what it joined was verified like any other upload.

mod chunks;
mod fast_cdc;
mod rep_max_cdc;

use bytes::{Bytes, BytesMut};

pub use chunks::{Chunks, ChunksError, Spliced};
pub use fast_cdc::FastCdc;
pub use rep_max_cdc::RepMaxCdc;

/// A way to cut a blob into chunks, with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chunking {
    /// FastCDC as published in 2020.
    FastCdc2020(FastCdc),
    /// RepMaxCDC.
    RepMaxCdc(RepMaxCdc),
}

impl Chunking {
    /// A blob of fewer bytes is one chunk.
    pub fn whole_below(self) -> u64 {
        match self {
            Self::FastCdc2020(fast) => u64::from(fast.max_bytes()),
            Self::RepMaxCdc(rep_max) => 2 * u64::from(rep_max.min_bytes()),
        }
    }

    /// Name and parameters in bytes: what two chunkings have in common only if they cut alike.
    fn tag(self) -> Vec<u8> {
        let (name, first, second) = match self {
            Self::FastCdc2020(fast) => (b'f', fast.average_bytes(), fast.seed()),
            Self::RepMaxCdc(rep_max) => (b'r', rep_max.min_bytes(), rep_max.horizon_bytes()),
        };
        [&[name], &first.to_be_bytes()[..], &second.to_be_bytes()].concat()
    }
}

enum Cutter {
    FastCdc2020(fast_cdc::Cutter),
    RepMaxCdc(rep_max_cdc::Cutter),
}

/// Cuts bytes that come piece by piece. Holds one window of them: a few megabytes with the usual parameters.
pub struct Chunker {
    cutter: Cutter,
    /// As many bytes as a cut may depend on.
    window_bytes: usize,
    buffer: BytesMut,
}

impl Chunker {
    /// A chunker at the beginning of a blob.
    pub fn new(chunking: Chunking) -> Self {
        let (cutter, window_bytes) = match chunking {
            Chunking::FastCdc2020(fast) => {
                (Cutter::FastCdc2020(fast_cdc::Cutter::new(fast)), fast.max_bytes() as usize + 1)
            }
            Chunking::RepMaxCdc(rep_max) => {
                (Cutter::RepMaxCdc(rep_max_cdc::Cutter::new(rep_max)), rep_max.window_bytes())
            }
        };
        Self { cutter, window_bytes, buffer: BytesMut::new() }
    }

    /// Adds the next bytes of the blob.
    pub fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next chunk that no later byte can change; `None` until there are more.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        (self.buffer.len() >= self.window_bytes).then(|| self.cut())
    }

    /// Returns the next chunk once all bytes were added; `None` at the end of the blob.
    pub fn next_at_end(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.cut())
    }

    fn cut(&mut self) -> Bytes {
        let window = &self.buffer[..self.buffer.len().min(self.window_bytes)];
        let length = match &mut self.cutter {
            Cutter::FastCdc2020(cutter) => cutter.cut(window),
            Cutter::RepMaxCdc(cutter) => cutter.cut(window),
        };
        self.buffer.split_to(length).freeze()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// Bytes that look random, the same in every language: the top bytes of xorshift64*.
    pub(crate) fn noise(count: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut step = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        };
        (0..count).map(|_| step()).collect()
    }

    fn lengths(chunking: Chunking, data: &[u8], piece: usize) -> Vec<usize> {
        let mut chunker = Chunker::new(chunking);
        let mut found = Vec::new();
        let mut whole = Vec::new();
        for piece in data.chunks(piece) {
            chunker.add(piece);
            while let Some(chunk) = chunker.next_chunk() {
                found.push(chunk.len());
                whole.extend_from_slice(&chunk);
            }
        }
        while let Some(chunk) = chunker.next_at_end() {
            found.push(chunk.len());
            whole.extend_from_slice(&chunk);
        }
        assert!(whole == data, "the chunks make up the blob");
        found
    }

    fn fast(average: u32, seed: u32) -> Chunking {
        Chunking::FastCdc2020(FastCdc::new(average, seed).unwrap())
    }

    fn rep_max(min: u32, horizon: u32) -> Chunking {
        Chunking::RepMaxCdc(RepMaxCdc::new(min, horizon).unwrap())
    }

    /// The whole list in one number: its SHA-256 as decimals with commas between them.
    fn summary(lengths: &[usize]) -> (usize, String) {
        let text: Vec<String> = lengths.iter().map(usize::to_string).collect();
        (lengths.len(), hex::encode(&Sha256::digest(text.join(","))[..8]))
    }

    /// Numbers from programs of a few lines that follow the definitions word by word and share no code with this
    /// one; the gear table in them is the MD5 of each byte sixty-four times over.
    #[test]
    fn chk_21_and_22_cuts_are_where_the_definitions_put_them() {
        let data = noise(1 << 20);
        for (chunking, first, count, digest) in VECTORS {
            let found = lengths(chunking(), &data, 10_000);
            assert_eq!(found[..first.len()], **first, "{:?}", chunking());
            assert_eq!(summary(&found), (*count, (*digest).to_owned()), "{:?}", chunking());
        }
    }

    type Vector = (fn() -> Chunking, &'static [usize], usize, &'static str);

    const VECTORS: &[Vector] = &[
        (|| fast(4096, 0), &[2791, 5120, 4325, 4336], 223, "0da7a33f59f4149e"),
        (|| fast(16_384, 666), &[19302, 20975, 17507, 19900], 58, "19611e476aa98868"),
        (|| rep_max(2048, 16_384), &[3893, 2086, 2073, 2768], 385, "4a2fcb2f01e2ecc2"),
        (|| rep_max(64, 100), &[77, 83, 71, 66], 12299, "ac7a5f325af87947"),
        (|| rep_max(16_384, 131_072), &[31892, 19438, 21823, 17437], 48, "8a394ca5a061dc29"),
    ];

    #[test]
    fn parameters_that_the_api_does_not_allow_are_refused() {
        for average in [0, 512, 1000, 1025, 2 << 20, u32::MAX] {
            assert_eq!(FastCdc::new(average, 0), None, "{average}");
        }
        assert!(FastCdc::new(1024, u32::MAX).is_some());
        assert_eq!(RepMaxCdc::new(63, 0), None);
        assert_eq!(RepMaxCdc::new(u32::MAX, u32::MAX), None);
        assert!(RepMaxCdc::new(64, 0).is_some());
    }

    #[test]
    fn no_horizon_gives_chunks_of_one_size() {
        assert_eq!(lengths(rep_max(100, 0), &noise(450), 7), [100, 100, 100, 150]);
    }

    /// Data in which every place is as good as any other.
    #[test]
    fn uniform_data_is_cut_all_the_same() {
        let zeros = vec![0; 300_000];
        assert!(lengths(fast(1024, 0), &zeros, 999).iter().all(|l| *l <= 4096));
        let found = lengths(rep_max(1000, 8000), &zeros, 999);
        assert!(found.iter().all(|l| (1000..2000).contains(l)), "{found:?}");
    }

    /// What both are for: a change moves the cuts near it and no others.
    #[test]
    fn cuts_come_back_after_an_insertion() {
        let before = noise(2_000_000);
        let after = [&before[..1_000_000], b"inserted", &before[1_000_000..]].concat();
        for chunking in [fast(16_384, 0), rep_max(8192, 65_536)] {
            let cuts = |data: &[u8]| -> Vec<Vec<u8>> {
                let mut at = 0;
                lengths(chunking, data, 50_000)
                    .into_iter()
                    .map(|length| {
                        at += length;
                        Sha256::digest(&data[at - length..at]).to_vec()
                    })
                    .collect()
            };
            let old: std::collections::HashSet<_> = cuts(&before).into_iter().collect();
            let new = cuts(&after);
            let fresh = new.iter().filter(|digest| !old.contains(*digest)).count();
            assert!(fresh <= 6, "{chunking:?}: {fresh} of {} chunks are new", new.len());
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter_and_sizes_keep_their_bounds(
            data in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..20_000),
                proptest::collection::vec(0..3_u8, 0..20_000),
            ],
            piece in 1..5000_usize,
            min in 64..600_u32,
            horizon in 0..5000_u32,
        ) {
            let found = lengths(rep_max(min, horizon), &data, piece);
            prop_assert_eq!(&found, &lengths(rep_max(min, horizon), &data, usize::MAX));
            prop_assert_eq!(&found, &rep_max_cdc::tests::by_definition(min, horizon, &data));
            if data.len() >= min as usize {
                prop_assert!(found.iter().all(|l| (min as usize..2 * min as usize).contains(l)), "{found:?}");
            }
            let found = lengths(fast(1024, 0), &data, piece);
            prop_assert_eq!(&found, &lengths(fast(1024, 0), &data, usize::MAX));
            prop_assert!(found.iter().rev().skip(1).all(|l| (256..=4096).contains(l)), "{found:?}");
        }
    }
}
