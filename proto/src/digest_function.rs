//! Digest functions, and the sets of them that instances offer.

use std::fmt;
use std::sync::Arc;

use crate::{Digest, DigestError, Hasher, reapi};

/// A digest function that this server can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    /// SHA-256, 64 hex digits.
    Sha256,
    /// SHA-1, 40 hex digits. Collisions can be made.
    Sha1,
    /// MD5, 32 hex digits. Collisions are easily made.
    Md5,
    /// SHA-384, 96 hex digits.
    Sha384,
    /// SHA-512, 128 hex digits.
    Sha512,
    /// MurmurHash3 with 128 bits, x64 variant, 32 hex digits. No cryptographic function at all.
    Murmur3,
    /// SHA-256 over a binary tree of leaves of 1024 bytes, 64 hex digits.
    Sha256Tree,
    /// BLAKE3, 64 hex digits.
    Blake3,
    /// SHA-1 as git names a file's content, 40 hex digits. Collisions can be made.
    GitSha1,
}

impl DigestFunction {
    /// Every function, in the order of the wire's numbers.
    pub const ALL: &'static [Self] = &[
        Self::Sha256,
        Self::Sha1,
        Self::Md5,
        Self::Sha384,
        Self::Sha512,
        Self::Murmur3,
        Self::Sha256Tree,
        Self::Blake3,
        Self::GitSha1,
    ];

    /// Length of a hash in bytes.
    pub const fn hash_bytes(self) -> usize {
        match self {
            Self::Md5 | Self::Murmur3 => 16,
            Self::Sha1 | Self::GitSha1 => 20,
            Self::Sha256 | Self::Sha256Tree | Self::Blake3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The enum value on the wire.
    pub const fn wire(self) -> reapi::digest_function::Value {
        use reapi::digest_function::Value;
        match self {
            Self::Sha256 => Value::Sha256,
            Self::Sha1 => Value::Sha1,
            Self::Md5 => Value::Md5,
            Self::Sha384 => Value::Sha384,
            Self::Sha512 => Value::Sha512,
            Self::Murmur3 => Value::Murmur3,
            Self::Sha256Tree => Value::Sha256tree,
            Self::Blake3 => Value::Blake3,
            Self::GitSha1 => Value::Gitsha1,
        }
    }

    /// The lower-case name, as resource names spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Murmur3 => "murmur3",
            Self::Sha256Tree => "sha256tree",
            Self::Blake3 => "blake3",
            Self::GitSha1 => "gitsha1",
        }
    }

    /// Finds a function by its lower-case name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|function| function.name() == name)
    }

    /// Whether requests and resource names must name it: an older function has hashes of the same length.
    pub const fn must_be_named(self) -> bool {
        matches!(self, Self::Sha256Tree | Self::Blake3 | Self::GitSha1)
    }

    /// Starts the hash of a blob of `size` bytes; only GITSHA1 needs to know the size before the bytes.
    pub fn hasher(self, size: u64) -> Hasher {
        Hasher::new(self, size)
    }

    /// Returns the digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher(bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Why functions cannot be offered together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestFunctionsError {
    /// There is none.
    #[error("names no digest function")]
    Empty,
    /// There is one twice.
    #[error("names {} twice", .0.wire().as_str_name())]
    Repeated(DigestFunction),
    /// Resource names and unset fields would mean either.
    #[error("names MD5 and MURMUR3: their hashes have the same length, and nothing tells them apart")]
    Ambiguous,
}

/// The digest functions that an instance offers, the preferred one first. A hash's length, or the name that comes
/// with it, tells which of them is meant. Clones share the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestFunctions(Arc<[DigestFunction]>);

impl DigestFunctions {
    /// The functions for which nobody knows how to make two blobs of one digest.
    pub fn collision_resistant() -> Self {
        use DigestFunction::{Blake3, Sha256, Sha256Tree, Sha384, Sha512};
        Self([Sha256, Sha384, Sha512, Sha256Tree, Blake3].into())
    }

    /// Every function but MURMUR3, which looks like MD5.
    pub fn all_but_murmur3() -> Self {
        Self(DigestFunction::ALL.iter().copied().filter(|f| *f != DigestFunction::Murmur3).collect())
    }

    /// A set in order of preference.
    pub fn new(functions: Vec<DigestFunction>) -> Result<Self, DigestFunctionsError> {
        if functions.is_empty() {
            return Err(DigestFunctionsError::Empty);
        }
        let mut earlier = functions.iter().enumerate();
        if let Some((_, repeated)) = earlier.find(|(at, function)| functions[..*at].contains(function)) {
            return Err(DigestFunctionsError::Repeated(*repeated));
        }
        if functions.contains(&DigestFunction::Md5) && functions.contains(&DigestFunction::Murmur3) {
            return Err(DigestFunctionsError::Ambiguous);
        }
        Ok(Self(functions.into()))
    }

    /// The functions, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = DigestFunction> + '_ {
        self.0.iter().copied()
    }

    /// The function meant by a request's `digest_function` field.
    ///
    /// Unset means the function whose hashes have the length of `hash`, among those that need not be named.
    /// Without a hash it is the first on offer.
    pub fn resolve(&self, value: i32, hash: Option<&str>) -> Result<DigestFunction, DigestError> {
        use reapi::digest_function::Value;
        let value = Value::try_from(value).map_err(|_| self.not_offered(format!("number {value}")))?;
        if value == Value::Unknown {
            return hash.map_or(Ok(self.0[0]), |hash| self.infer(hash));
        }
        let named = self.iter().find(|function| function.wire() == value);
        named.ok_or_else(|| self.not_offered(value.as_str_name().to_owned()))
    }

    /// The function that a hash alone stands for, by its length.
    pub fn infer(&self, hash: &str) -> Result<DigestFunction, DigestError> {
        let fits = |f: &DigestFunction| !f.must_be_named() && f.hash_bytes() * 2 == hash.len();
        self.iter().find(fits).ok_or_else(|| DigestError::HashLength {
            // A hostile "hash" can be megabytes long; the message need not be.
            hash: hash.chars().take(DigestError::HASH_CHARS_SHOWN).collect(),
            offered: self.to_string(),
        })
    }

    /// Finds an offered function by the name that resource names give it.
    pub(crate) fn named(&self, name: &str) -> Result<DigestFunction, DigestError> {
        let found = self.iter().find(|function| function.name() == name);
        found.ok_or_else(|| self.not_offered(name.to_owned()))
    }

    fn not_offered(&self, function: String) -> DigestError {
        DigestError::FunctionNotOffered { function, offered: self.to_string() }
    }
}

/// Lists the names that the protocol gives the functions.
impl fmt::Display for DigestFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(|function| function.wire().as_str_name()).collect();
        f.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(functions: &[DigestFunction]) -> DigestFunctions {
        DigestFunctions::new(functions.to_vec()).unwrap()
    }

    #[track_caller]
    fn infers(set: &DigestFunctions, digits: usize, function: Option<DigestFunction>) {
        assert_eq!(set.resolve(0, Some(&"a".repeat(digits))).ok(), function, "{digits} digits");
    }

    #[test]
    fn an_unset_function_is_told_by_the_hash() {
        use DigestFunction::*;
        let all = DigestFunctions::all_but_murmur3();
        for (digits, function) in [(32, Md5), (40, Sha1), (64, Sha256), (96, Sha384), (128, Sha512)] {
            infers(&all, digits, Some(function));
        }
        infers(&all, 66, None);
        infers(&offered(&[Murmur3]), 32, Some(Murmur3));
        // These are never meant by an unset field.
        infers(&offered(&[Blake3, Sha256Tree]), 64, None);
        infers(&offered(&[GitSha1]), 40, None);
    }

    #[test]
    fn a_named_function_must_be_offered() {
        let set = DigestFunctions::collision_resistant();
        for function in DigestFunction::ALL {
            let found = set.resolve(function.wire() as i32, Some(""));
            assert_eq!(found.ok(), set.iter().find(|f| f == function));
        }
        let error = set.resolve(3, None).unwrap_err();
        assert!(error.to_string().contains("MD5 is not offered"), "{error}");
        assert!(set.resolve(4, None).is_err(), "VSO");
        assert!(set.resolve(77, None).is_err());
    }

    #[test]
    fn sets_that_tell_nothing_apart_are_refused() {
        use DigestFunction::{Md5, Murmur3};
        assert_eq!(DigestFunctions::new(vec![]), Err(DigestFunctionsError::Empty));
        assert_eq!(DigestFunctions::new(vec![Md5; 2]), Err(DigestFunctionsError::Repeated(Md5)));
        assert_eq!(DigestFunctions::new(vec![Murmur3, Md5]), Err(DigestFunctionsError::Ambiguous));
    }
}
