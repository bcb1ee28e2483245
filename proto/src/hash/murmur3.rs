//! MurmurHash3, the 128-bit variant for 64-bit machines, piece by piece.
//!
//! The crates that offer it want the whole input at once. The hash is written as the reference program
//! leaves it in memory: two little-endian words.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

const BLOCK_BYTES: usize = 16;

/// A running computation with seed 0.
#[derive(Clone, Default)]
pub(super) struct Murmur3 {
    h1: u64,
    h2: u64,
    length: u64,
    /// The start of a block that is not whole yet.
    pending: [u8; BLOCK_BYTES],
    pending_bytes: usize,
}

impl Murmur3 {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        self.length = self.length.wrapping_add(bytes.len() as u64);
        if self.pending_bytes > 0 {
            let take = bytes.len().min(BLOCK_BYTES - self.pending_bytes);
            self.pending[self.pending_bytes..self.pending_bytes + take].copy_from_slice(&bytes[..take]);
            self.pending_bytes += take;
            bytes = &bytes[take..];
            if self.pending_bytes < BLOCK_BYTES {
                return;
            }
            let block = self.pending;
            self.block(&block);
            self.pending_bytes = 0;
        }
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        for block in blocks {
            self.block(block);
        }
        self.pending[..rest.len()].copy_from_slice(rest);
        self.pending_bytes = rest.len();
    }

    fn block(&mut self, block: &[u8; BLOCK_BYTES]) {
        let (k1, k2) = words(block);
        self.h1 ^= mix1(k1);
        self.h1 = self.h1.rotate_left(27).wrapping_add(self.h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        self.h2 ^= mix2(k2);
        self.h2 = self.h2.rotate_left(31).wrapping_add(self.h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }

    pub(super) fn finish(mut self) -> [u8; 16] {
        self.pending[self.pending_bytes..].fill(0);
        let (k1, k2) = words(&self.pending);
        // A half that no byte reached mixes to 0.
        let mut h1 = self.h1 ^ mix1(k1) ^ self.length;
        let mut h2 = self.h2 ^ mix2(k2) ^ self.length;
        h1 = h1.wrapping_add(h2);
        h2 = h2.wrapping_add(h1);
        (h1, h2) = (last_mix(h1), last_mix(h2));
        h1 = h1.wrapping_add(h2);
        h2 = h2.wrapping_add(h1);
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&h1.to_le_bytes());
        hash[8..].copy_from_slice(&h2.to_le_bytes());
        hash
    }
}

fn words(block: &[u8; BLOCK_BYTES]) -> (u64, u64) {
    let whole = u128::from_le_bytes(*block);
    (whole as u64, (whole >> 64) as u64)
}

fn mix1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn last_mix(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(seed: u64, data: &[u8]) -> [u8; 16] {
        let mut state = Murmur3 { h1: seed, h2: seed, ..Murmur3::default() };
        state.update(data);
        state.finish()
    }

    /// The check of the hash's own test suite: 256 keys of growing length under falling seeds, and the hash
    /// of their hashes. 0x6384ba69 is its published value for this variant.
    #[test]
    fn the_published_verification_value_comes_out() {
        let key: Vec<u8> = (0..=255).collect();
        let hashes: Vec<u8> = (0..256).flat_map(|n| hash(256 - n as u64, &key[..n])).collect();
        let whole = hash(0, &hashes);
        assert_eq!(u32::from_le_bytes(whole[..4].try_into().unwrap()), 0x6384_ba69);
    }
}
