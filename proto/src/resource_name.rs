//! ByteStream resource names of the CAS.
//!
//! Read: `[instance/]blobs/HASH/SIZE` or `[instance/]compressed-blobs/COMPRESSOR/HASH/SIZE`.
//! Write: `[instance/]uploads/UUID/` followed by one of the two, then optional client metadata.
//!
//! HASH is `sha256tree/HASH`, `blake3/HASH` or `gitsha1/HASH` for these three functions; the others go by the
//! hash's length among the functions that the instance offers.

use std::fmt;

use crate::digest::parse_size;
use crate::instance_name::RESERVED;
use crate::{Digest, DigestError, DigestFunctions, InstanceName, InstanceNameError};

/// Longest resource name in bytes, client metadata included.
const RESOURCE_NAME_BYTES_MAX: usize = 4096;

/// How the bytes of a transfer are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// The blob's own bytes.
    Identity,
    /// Zstandard frames.
    Zstd,
    /// Raw DEFLATE (RFC 1951).
    Deflate,
    /// Brotli (RFC 7932).
    Brotli,
}

impl Compressor {
    /// The name used in resource names; identity has none there.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
            Self::Deflate => "deflate",
            Self::Brotli => "brotli",
        }
    }

    fn from_segment(text: &str) -> Option<Self> {
        [Self::Zstd, Self::Deflate, Self::Brotli].into_iter().find(|c| c.name() == text)
    }
}

/// Why a resource name was refused. All of these are the caller's mistake (INVALID_ARGUMENT).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ResourceNameError {
    #[error("resource name is {0} bytes long; limit is {RESOURCE_NAME_BYTES_MAX}")]
    TooLong(usize),
    #[error("{0:?} is no name to read; expected [INSTANCE/]blobs/HASH/SIZE")]
    NotARead(String),
    #[error("{0:?} is no name to write; expected [INSTANCE/]uploads/UUID/blobs/HASH/SIZE")]
    NotAWrite(String),
    #[error("resource name has an empty upload id")]
    EmptyUploadId,
    #[error("{0:?} is no compressor; expected zstd, deflate or brotli")]
    Compressor(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Instance(#[from] InstanceNameError),
}

/// What a ByteStream Read names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadName {
    /// The instance to read from.
    pub instance: InstanceName,
    /// The encoding of the bytes sent.
    pub compressor: Compressor,
    /// The blob, by the digest of its uncompressed bytes.
    pub digest: Digest,
}

impl ReadName {
    /// Parses a name as a ReadRequest carries it; `offered` says which functions an instance offers.
    pub fn parse(
        name: &str,
        offered: impl Fn(&InstanceName) -> DigestFunctions,
    ) -> Result<Self, ResourceNameError> {
        let not_a_read = || ResourceNameError::NotARead(name.to_owned());
        let (instance, keyword, rest) = split(name, not_a_read)?;
        if keyword == "uploads" {
            return Err(not_a_read());
        }
        let (compressor, digest, metadata) = blob(keyword, rest, &offered(&instance), not_a_read)?;
        if !metadata.is_empty() {
            return Err(not_a_read());
        }
        Ok(Self { instance, compressor, digest })
    }
}

impl fmt::Display for ReadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_blob(f, &self.instance.prefix(), self.compressor, &self.digest)
    }
}

/// What a ByteStream Write names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WriteName {
    /// The instance to write to.
    pub instance: InstanceName,
    /// The client's id of this upload. Clients may use one id for several blobs.
    pub upload_id: String,
    /// The encoding of the bytes received.
    pub compressor: Compressor,
    /// The blob, by the digest of its uncompressed bytes.
    pub digest: Digest,
}

impl WriteName {
    /// Parses a name as a WriteRequest carries it; trailing client metadata is dropped. `offered` says which
    /// functions an instance offers.
    pub fn parse(
        name: &str,
        offered: impl Fn(&InstanceName) -> DigestFunctions,
    ) -> Result<Self, ResourceNameError> {
        let not_a_write = || ResourceNameError::NotAWrite(name.to_owned());
        let (instance, keyword, rest) = split(name, not_a_write)?;
        if keyword != "uploads" {
            return Err(not_a_write());
        }
        let [upload_id, kind, rest @ ..] = rest.as_slice() else { return Err(not_a_write()) };
        if upload_id.is_empty() {
            return Err(ResourceNameError::EmptyUploadId);
        }
        let (compressor, digest, _metadata) = blob(kind, rest.to_vec(), &offered(&instance), not_a_write)?;
        Ok(Self { instance, upload_id: (*upload_id).to_owned(), compressor, digest })
    }
}

impl fmt::Display for WriteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = format!("{}uploads/{}/", self.instance.prefix(), self.upload_id);
        write_blob(f, &prefix, self.compressor, &self.digest)
    }
}

type Refusal<'a> = &'a dyn Fn() -> ResourceNameError;

/// Splits at the first reserved keyword from the left: (instance, keyword, what follows).
fn split(
    name: &str,
    refuse: impl Fn() -> ResourceNameError,
) -> Result<(InstanceName, &str, Vec<&str>), ResourceNameError> {
    if name.len() > RESOURCE_NAME_BYTES_MAX {
        return Err(ResourceNameError::TooLong(name.len()));
    }
    let segments: Vec<&str> = name.split('/').collect();
    let at = segments.iter().position(|s| RESERVED.contains(s)).ok_or_else(&refuse)?;
    let instance = InstanceName::parse(&segments[..at].join("/"))?;
    // `/blobs/..` splits into an empty first segment: an empty instance has no leading slash.
    if at == 1 && segments[0].is_empty() {
        return Err(InstanceNameError::EmptySegment.into());
    }
    Ok((instance, segments[at], segments[at + 1..].to_vec()))
}

/// Parses what follows `blobs/` or `compressed-blobs/`.
fn blob<'a>(
    keyword: &str,
    rest: Vec<&'a str>,
    offered: &DigestFunctions,
    refuse: impl Fn() -> ResourceNameError,
) -> Result<(Compressor, Digest, Vec<&'a str>), ResourceNameError> {
    let refuse: Refusal<'_> = &refuse;
    let (compressor, rest) = match (keyword, rest.as_slice()) {
        ("blobs", rest) => (Compressor::Identity, rest),
        ("compressed-blobs", [compressor, rest @ ..]) => {
            let parsed = Compressor::from_segment(compressor)
                .ok_or_else(|| ResourceNameError::Compressor((*compressor).to_owned()))?;
            (parsed, rest)
        }
        _ => return Err(refuse()),
    };
    let (function, rest) = match rest {
        [name @ ("sha256tree" | "blake3" | "gitsha1"), rest @ ..] => (Some(offered.named(name)?), rest),
        rest => (None, rest),
    };
    let [hash, size, metadata @ ..] = rest else { return Err(refuse()) };
    let size = i64::try_from(parse_size(size)?).expect("parse_size refuses more than i64::MAX");
    let function = function.map_or_else(|| offered.infer(hash), Ok)?;
    let digest = Digest::parse(function, hash, size)?;
    Ok((compressor, digest, metadata.to_vec()))
}

fn write_blob(
    f: &mut fmt::Formatter<'_>,
    prefix: &str,
    compressor: Compressor,
    digest: &Digest,
) -> fmt::Result {
    match compressor {
        Compressor::Identity => write!(f, "{prefix}blobs/{digest}"),
        other => write!(f, "{prefix}compressed-blobs/{}/{digest}", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DigestFunction;

    fn all(_: &InstanceName) -> DigestFunctions {
        DigestFunctions::all_but_murmur3()
    }

    const H: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn reads(name: &str, instance: &str, compressor: Compressor, size: u64) {
        let name = ReadName::parse(&name.replace("HASH", H), all).unwrap();
        assert_eq!((name.instance.as_str(), name.compressor), (instance, compressor));
        assert_eq!(name.digest.size(), size);
    }

    #[track_caller]
    fn writes(name: &str, instance: &str, upload_id: &str, compressor: Compressor) {
        let name = WriteName::parse(&name.replace("HASH", H), all).unwrap();
        assert_eq!((name.instance.as_str(), name.upload_id.as_str()), (instance, upload_id));
        assert_eq!(name.compressor, compressor);
    }

    #[test]
    fn read_names() {
        reads("blobs/HASH/0", "", Compressor::Identity, 0);
        reads("main/blobs/HASH/12", "main", Compressor::Identity, 12);
        reads("a/b/c/compressed-blobs/zstd/HASH/5", "a/b/c", Compressor::Zstd, 5);
    }

    #[test]
    fn write_names_with_and_without_metadata() {
        writes("uploads/U/blobs/HASH/1", "", "U", Compressor::Identity);
        writes("main/uploads/U/blobs/HASH/1/some/blobs/file.c", "main", "U", Compressor::Identity);
        writes("x/uploads/U/compressed-blobs/brotli/HASH/1", "x", "U", Compressor::Brotli);
    }

    #[test]
    fn three_functions_are_named_and_the_rest_told_by_length() {
        let function =
            |name: &str| Some(ReadName::parse(&name.replace("HASH", H), all).ok()?.digest.function());
        assert_eq!(function("blobs/HASH/1"), Some(DigestFunction::Sha256));
        assert_eq!(function("a/blobs/blake3/HASH/1"), Some(DigestFunction::Blake3));
        assert_eq!(function("compressed-blobs/zstd/sha256tree/HASH/1"), Some(DigestFunction::Sha256Tree));
        assert_eq!(function(&format!("blobs/{}/1", &H[..32])), Some(DigestFunction::Md5));
        let weak = |_: &InstanceName| DigestFunctions::new(vec![DigestFunction::Murmur3]).unwrap();
        let name = ReadName::parse(&format!("blobs/{}/1", &H[..32]), weak).unwrap();
        assert_eq!(name.digest.function(), DigestFunction::Murmur3);
        assert!(ReadName::parse(&format!("blobs/{H}/1"), weak).is_err());
        assert!(ReadName::parse(&format!("blobs/blake3/{H}/1"), weak).is_err());
    }

    #[test]
    fn malformed_names_are_refused() {
        for name in [
            "",
            "/",
            "main",
            "blobs",
            "blobs/HASH",
            "/blobs/HASH/1",
            "blobs/HASH/-1",
            "blobs/HASH/x",
            "blobs/HASH/1/tail",
            "blobs//1",
            "a//blobs/HASH/1",
            "actions/blobs/HASH/1",
            "compressed-blobs/identity/HASH/1",
            "compressed-blobs/HASH/1",
            "blobs/blake3/HASH",
            "blobs/gitsha1/HASH/1",
            "blobs/BLAKE3/HASH/1",
            "blobs/vso/HASH/1",
            "blobs/sha256/HASH/1",
            "uploads/U/blobs/HASH/1",
        ] {
            assert!(ReadName::parse(&name.replace("HASH", H), all).is_err(), "{name}");
        }
        for name in [
            "blobs/HASH/1",
            "uploads/blobs/HASH/1",
            "uploads//blobs/HASH/1",
            "uploads/U/HASH/1",
            "uploads/U/uploads/HASH/1",
            "uploads/U/blobs/HASH",
        ] {
            assert!(WriteName::parse(&name.replace("HASH", H), all).is_err(), "{name}");
        }
        assert!(ReadName::parse(&"x".repeat(5000), all).is_err());
    }

    fn instance() -> impl Strategy<Value = InstanceName> {
        proptest::collection::vec("[a-z][a-z0-9-]{0,8}", 0..4)
            .prop_filter_map("reserved", |s| InstanceName::parse(&s.join("/")).ok())
    }

    fn compressor() -> impl Strategy<Value = Compressor> {
        prop_oneof![
            Just(Compressor::Identity),
            Just(Compressor::Zstd),
            Just(Compressor::Deflate),
            Just(Compressor::Brotli)
        ]
    }

    proptest! {
        #[test]
        fn names_round_trip(
            instance in instance(),
            compressor in compressor(),
            data in proptest::collection::vec(any::<u8>(), 0..64),
            upload_id in "[a-zA-Z0-9-]{1,36}",
            function in proptest::sample::select(DigestFunction::ALL),
        ) {
            let digest = function.digest(&data);
            // MD5 and MURMUR3 look alike; the set decides.
            let all = |_: &InstanceName| DigestFunctions::new(vec![function]).unwrap();
            let read = ReadName { instance: instance.clone(), compressor, digest };
            prop_assert_eq!(ReadName::parse(&read.to_string(), all).unwrap(), read);
            let write = WriteName { instance, upload_id, compressor, digest };
            prop_assert_eq!(WriteName::parse(&write.to_string(), all).unwrap(), write);
        }

        #[test]
        fn arbitrary_text_never_panics(name in "([a-z/.]|blobs/|uploads/|[0-9a-f]{64}|/[0-9]{1,20}){0,12}") {
            let _ = ReadName::parse(&name, all);
            let _ = WriteName::parse(&name, all);
        }
    }
}
