//! SHA256TREE: SHA-256 of leaves of 1024 bytes, joined pairwise by one raw compression each.
//!
//! Left subtrees are full: the left part of any blob is the largest power of two of leaves that leaves
//! something for the right. So a subtree is joined as soon as its sibling is whole and more bytes follow.

use sha2::Digest as _;

const LEAF_BYTES: usize = 1024;

/// Where the compression of two children starts: the fractional bits of the square roots of the ninth to the
/// sixteenth prime.
const PARENT_STATE: [u32; 8] =
    [0xcbbb_9d5d, 0x629a_292a, 0x9159_015a, 0x152f_ecd8, 0x6733_2667, 0x8eb4_4a87, 0xdb0c_2e0d, 0x47b5_481d];

type Node = [u8; 32];

/// A running computation.
#[derive(Clone, Default)]
pub(super) struct Sha256Tree {
    leaf: sha2::Sha256,
    leaf_bytes: usize,
    /// Leaves that are whole and have something behind them.
    leaves: u64,
    /// Full subtrees from left to right, each larger than the next: at most one for each bit of `leaves`.
    subtrees: Vec<Node>,
}

impl Sha256Tree {
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.leaf_bytes == LEAF_BYTES {
                self.end_leaf();
            }
            let take = bytes.len().min(LEAF_BYTES - self.leaf_bytes);
            self.leaf.update(&bytes[..take]);
            self.leaf_bytes += take;
            bytes = &bytes[take..];
        }
    }

    fn end_leaf(&mut self) {
        let mut node: Node = self.leaf.finalize_reset().into();
        self.leaf_bytes = 0;
        self.leaves += 1;
        for _ in 0..self.leaves.trailing_zeros() {
            let left = self.subtrees.pop().expect("a subtree for each bit of the count");
            node = parent(&left, &node);
        }
        self.subtrees.push(node);
    }

    pub(super) fn finish(self) -> Node {
        let last: Node = self.leaf.finalize().into();
        self.subtrees.iter().rev().fold(last, |right, left| parent(left, &right))
    }
}

/// One compression of SHA-256 without its last step, the addition of the state it began with.
fn parent(left: &Node, right: &Node) -> Node {
    let mut block = [0; 64];
    block[..32].copy_from_slice(left);
    block[32..].copy_from_slice(right);
    let mut state = PARENT_STATE;
    sha2::compress256(&mut state, &[block.into()]);
    let mut node = [0; 32];
    for ((word, begun), bytes) in state.iter().zip(PARENT_STATE).zip(node.as_chunks_mut::<4>().0) {
        *bytes = word.wrapping_sub(begun).to_be_bytes();
    }
    node
}

#[cfg(test)]
mod tests {
    use crate::DigestFunction;

    /// Length of the input, bytes 0 to 250 over and over, and its hash: the vectors published with the API.
    const VECTORS: &str = include_str!("sha256tree_vectors.txt");

    #[test]
    fn published_vectors_come_out() {
        let mut count = 0;
        for line in VECTORS.lines() {
            let (length, hash) = line.split_once('\t').unwrap();
            let data: Vec<u8> = (0..length.parse().unwrap()).map(|i: usize| (i % 251) as u8).collect();
            assert_eq!(DigestFunction::Sha256Tree.digest(&data).hash_hex(), hash, "{length} bytes");
            count += 1;
        }
        assert_eq!(count, 18);
    }

    #[test]
    fn up_to_one_leaf_it_is_plain_sha256() {
        for length in [0, 1, 1023, 1024] {
            let data = vec![7; length];
            let (tree, plain) =
                (DigestFunction::Sha256Tree.digest(&data), DigestFunction::Sha256.digest(&data));
            assert_eq!(tree.hash_hex(), plain.hash_hex());
            assert_ne!(tree, plain);
        }
    }
}
