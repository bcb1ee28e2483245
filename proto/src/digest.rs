//! The content address: which function, which hash, how many bytes.

use std::fmt;
use std::str::FromStr;

use crate::{DigestFunction, DigestFunctions, reapi};

/// Longest hash of any function in [`DigestFunction`], in bytes.
pub(crate) const HASH_BYTES_MAX: usize = 64;

/// Largest size a digest may carry: the wire type is a non-negative `int64`.
pub const SIZE_BYTES_MAX: u64 = i64::MAX as u64;

/// Why a digest was refused. All of these are the caller's mistake (INVALID_ARGUMENT).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DigestError {
    #[error("digest is missing")]
    Missing,
    #[error("digest hash {hash:?} is not {digits} lower-case hex digits ({function})")]
    Hash { hash: String, digits: usize, function: &'static str },
    #[error("digest size_bytes {0} is negative")]
    NegativeSize(i64),
    #[error("digest size {0:?} is not a decimal number of bytes")]
    Size(String),
    #[error("digest function {function} is not offered here; offered: {offered}")]
    FunctionNotOffered { function: String, offered: String },
    #[error(
        "digest hash {hash:?} has a length that no function has which may stay unnamed here; offered: {offered}"
    )]
    HashLength { hash: String, offered: String },
    #[error("{0:?} is not a digest; write it as HASH/SIZE or FUNCTION/HASH/SIZE")]
    Syntax(String),
}

impl DigestError {
    /// Characters of a refused hash that a message repeats.
    pub(crate) const HASH_CHARS_SHOWN: usize = 130;
}

/// A content address. Two blobs are the same blob exactly when their digests are equal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    function: DigestFunction,
    hash: [u8; HASH_BYTES_MAX],
    size: u64,
}

impl Digest {
    /// Parses the parts of a wire digest.
    pub fn parse(function: DigestFunction, hash: &str, size_bytes: i64) -> Result<Self, DigestError> {
        let size = u64::try_from(size_bytes).map_err(|_| DigestError::NegativeSize(size_bytes))?;
        Self::from_hex(function, hash, size)
    }

    fn from_hex(function: DigestFunction, hash: &str, size: u64) -> Result<Self, DigestError> {
        let digits = function.hash_bytes() * 2;
        let mut bytes = [0; HASH_BYTES_MAX];
        if hash.len() == digits && decode_lower_hex(hash, &mut bytes) {
            return Ok(Self { function, hash: bytes, size });
        }
        Err(DigestError::Hash {
            // A hostile "hash" can be megabytes long; the message need not be.
            hash: hash.chars().take(DigestError::HASH_CHARS_SHOWN).collect(),
            digits,
            function: function.name(),
        })
    }

    /// Parses an optional wire digest; absent is an error.
    pub fn from_wire(function: DigestFunction, wire: Option<&reapi::Digest>) -> Result<Self, DigestError> {
        let wire = wire.ok_or(DigestError::Missing)?;
        Self::parse(function, &wire.hash, wire.size_bytes)
    }

    /// Restores a digest from hash bytes and size, as a store's key holds them.
    pub fn from_parts(function: DigestFunction, hash: &[u8], size: u64) -> Option<Self> {
        if hash.len() != function.hash_bytes() || size > SIZE_BYTES_MAX {
            return None;
        }
        let mut bytes = [0; HASH_BYTES_MAX];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Self { function, hash: bytes, size })
    }

    /// Returns the wire form.
    pub fn to_wire(&self) -> reapi::Digest {
        reapi::Digest {
            hash: self.hash_hex(),
            size_bytes: i64::try_from(self.size).expect("SIZE_BYTES_MAX is i64::MAX"),
        }
    }

    /// The digest that a finished computation found.
    pub(crate) fn of_hash(function: DigestFunction, hash: [u8; HASH_BYTES_MAX], size: u64) -> Self {
        Self { function, hash, size }
    }

    /// The digest of no bytes at all.
    pub fn empty(function: DigestFunction) -> Self {
        function.digest(&[])
    }

    /// Whether this names the empty blob, which always counts as stored.
    pub fn is_empty_blob(&self) -> bool {
        self.size == 0 && *self == Self::empty(self.function)
    }

    /// The digest function.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// The hash as bytes.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.function.hash_bytes()]
    }

    /// The hash as lower-case hex.
    pub fn hash_hex(&self) -> String {
        hex::encode(self.hash())
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Writes `HASH/SIZE`, or `FUNCTION/HASH/SIZE` when the function must be named: the form of resource names and
/// of the command line.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.function.must_be_named() {
            write!(f, "{}/", self.function.name())?;
        }
        write!(f, "{}/{}", self.hash_hex(), self.size)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses `HASH/SIZE` or `FUNCTION/HASH/SIZE`.
///
/// Without a function the hash's length tells; 32 digits are MD5.
impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let syntax = || DigestError::Syntax(text.chars().take(160).collect());
        let all = DigestFunctions::all_but_murmur3();
        let (rest, size) = text.rsplit_once('/').ok_or_else(syntax)?;
        let (function, hash) = match rest.split_once('/') {
            Some((name, hash)) => (DigestFunction::from_name(name).ok_or_else(syntax)?, hash),
            None => (all.infer(rest)?, rest),
        };
        Self::from_hex(function, hash, parse_size(size)?)
    }
}

/// Stands for characters that are no lower-case hex digits.
const NO_DIGIT: u8 = 0xff;

const HEX_DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};

/// Decodes digits in one pass, unlike the crate that encodes, which takes upper case as well: digests are parsed by
/// the hundred thousand. False when one is no lower-case digit.
fn decode_lower_hex(text: &str, bytes: &mut [u8]) -> bool {
    let mut seen = 0;
    for ([high, low], byte) in text.as_bytes().as_chunks::<2>().0.iter().zip(bytes) {
        let (high, low) = (HEX_DIGITS[usize::from(*high)], HEX_DIGITS[usize::from(*low)]);
        seen |= high | low;
        *byte = high << 4 | (low & 0xf);
    }
    seen < 16
}

/// Parses a size as resource names write it: decimal digits, nothing else.
pub(crate) fn parse_size(text: &str) -> Result<u64, DigestError> {
    let refused = || DigestError::Size(text.chars().take(40).collect());
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refused());
    }
    let size: u64 = text.parse().map_err(|_| refused())?;
    if size > SIZE_BYTES_MAX { Err(refused()) } else { Ok(size) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn refuses(hash: &str, size: i64) -> DigestError {
        Digest::parse(DigestFunction::Sha256, hash, size).unwrap_err()
    }

    #[test]
    fn empty_blob_is_known() {
        assert_eq!(Digest::empty(DigestFunction::Sha256).to_string(), format!("{HASH}/0"));
        assert!(format!("{HASH}/0").parse::<Digest>().unwrap().is_empty_blob());
        assert!(!format!("{HASH}/1").parse::<Digest>().unwrap().is_empty_blob());
    }

    #[test]
    fn upper_case_short_and_foreign_hashes_are_refused() {
        assert!(matches!(refuses(&HASH.to_uppercase(), 0), DigestError::Hash { .. }));
        assert!(matches!(refuses(&HASH[1..], 0), DigestError::Hash { .. }));
        assert!(matches!(refuses(&HASH.replace('e', "g"), 0), DigestError::Hash { .. }));
        assert!(matches!(refuses("", 0), DigestError::Hash { .. }));
    }

    #[test]
    fn negative_size_is_refused() {
        assert_eq!(refuses(HASH, -1), DigestError::NegativeSize(-1));
    }

    #[test]
    fn sizes_are_plain_decimal() {
        for bad in ["", "-1", "+1", " 1", "1 ", "0x1", "9223372036854775808", "99999999999999999999"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_size("9223372036854775807").unwrap(), SIZE_BYTES_MAX);
    }

    #[test]
    fn the_function_is_part_of_the_digest() {
        let blake3 = DigestFunction::Blake3.digest(b"x");
        assert!(blake3.to_string().starts_with("blake3/"), "{blake3}");
        let sha256 = Digest::from_parts(DigestFunction::Sha256, blake3.hash(), 1).unwrap();
        assert_ne!(sha256, blake3);
        assert_ne!(sha256.to_string(), blake3.to_string());
        assert_eq!(format!("sha256/{sha256}").parse(), Ok(sha256));
        assert!(format!("vso/{sha256}").parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn text_and_wire_round_trip(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            function in proptest::sample::select(DigestFunction::ALL),
        ) {
            let digest = function.digest(&bytes);
            let text = if function == DigestFunction::Murmur3 { format!("murmur3/{digest}") } else { digest.to_string() };
            prop_assert_eq!(text.parse::<Digest>().unwrap(), digest);
            let wire = digest.to_wire();
            prop_assert_eq!(Digest::from_wire(digest.function(), Some(&wire)).unwrap(), digest);
            prop_assert_eq!(
                Digest::from_parts(digest.function(), digest.hash(), digest.size()),
                Some(digest)
            );
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,200}", size in any::<i64>()) {
            let _ = text.parse::<Digest>();
            if let Ok(digest) = Digest::parse(DigestFunction::Sha256, &text, size) {
                prop_assert_eq!(digest.hash_hex(), text);
            }
        }
    }
}
