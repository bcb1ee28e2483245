//! Random blobs, the same for the same seed.

use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use wardian_proto::Digest;

/// Random numbers that a seed decides.
pub type Random = Xoshiro256PlusPlus;

/// Random numbers from a seed.
pub fn random(seed: u64) -> Random {
    Random::seed_from_u64(seed)
}

/// Bytes and their digest.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of [`Self::data`].
    pub digest: Digest,
    /// The bytes.
    pub data: Bytes,
}

impl Blob {
    /// A blob whose size lies in `sizes`.
    pub fn random(random: &mut Random, sizes: std::ops::RangeInclusive<usize>) -> Self {
        let mut data = vec![0; random.random_range(sizes)];
        random.fill_bytes(&mut data);
        Self { digest: crate::digest(&data), data: data.into() }
    }
}
