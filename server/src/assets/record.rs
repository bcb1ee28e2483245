//! Assets as records, and the keys they are found under.

use std::time::{Duration, SystemTime};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use wardian_proto::{Digest, DigestFunction, asset};

use super::{Kind, Wanted};

/// Content that a URI stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asset {
    /// A blob, or the root of a tree.
    pub(crate) digest: Digest,
    /// When it was pushed, or began to be fetched.
    pub(crate) since: SystemTime,
    pub(crate) expires_at: Option<SystemTime>,
    /// What is true of it.
    pub(crate) qualifiers: Vec<asset::Qualifier>,
    pub(crate) references_blobs: Vec<Digest>,
    pub(crate) references_directories: Vec<Digest>,
}

impl Asset {
    /// The time it was made, then everything else as the API's own message.
    pub(super) fn encode(&self) -> Bytes {
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wire = |digests: &[Digest]| digests.iter().map(Digest::to_wire).collect();
        let message = asset::PushBlobRequest {
            qualifiers: self.qualifiers.clone(),
            expire_at: self.expires_at.map(Into::into),
            blob_digest: Some(self.digest.to_wire()),
            references_blobs: wire(&self.references_blobs),
            references_directories: wire(&self.references_directories),
            digest_function: self.digest.function().wire().into(),
            ..Default::default()
        };
        let mut bytes = BytesMut::new();
        bytes.put_u64(since.as_secs());
        bytes.put_u32(since.subsec_nanos());
        bytes.extend_from_slice(&message.encode_to_vec());
        bytes.freeze()
    }

    /// Reads a record; `None` when it is none of this function.
    pub(super) fn decode(function: DigestFunction, mut bytes: Bytes) -> Option<Self> {
        let (seconds, nanos) = (bytes.try_get_u64().ok()?, bytes.try_get_u32().ok()?);
        let message = asset::PushBlobRequest::decode(bytes).ok()?;
        let parse = |wire: &wardian_proto::reapi::Digest| Digest::from_wire(function, Some(wire)).ok();
        let parse_all = |wire: &[wardian_proto::reapi::Digest]| wire.iter().map(parse).collect::<Option<_>>();
        if message.digest_function != i32::from(function.wire()) {
            return None;
        }
        Some(Self {
            digest: parse(message.blob_digest.as_ref()?)?,
            since: SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos.min(999_999_999)))?,
            expires_at: match message.expire_at {
                Some(time) => Some(SystemTime::try_from(time).ok()?),
                None => None,
            },
            qualifiers: message.qualifiers,
            references_blobs: parse_all(&message.references_blobs)?,
            references_directories: parse_all(&message.references_directories)?,
        })
    }
}

/// A hash over texts that no other list of texts has.
#[derive(Default)]
struct Key(Vec<u8>);

impl Key {
    fn with(mut self, part: &[u8]) -> Self {
        self.0.put_u64(part.len() as u64);
        self.0.extend_from_slice(part);
        self
    }

    fn of(wanted: &Wanted) -> Self {
        let kind: &[u8] = match wanted.kind {
            Kind::Blob => b"blob",
            Kind::Directory => b"directory",
        };
        let key = Self::default().with(kind).with(wanted.instance.as_str().as_bytes());
        let key = key.with(wanted.function.name().as_bytes());
        let pairs = wanted.qualifiers.public.iter();
        pairs.fold(key, |key, (name, value)| key.with(name.as_bytes()).with(value.as_bytes()))
    }

    fn hash(self) -> Vec<u8> {
        DigestFunction::Sha256.digest(&self.0).hash().to_vec()
    }
}

/// Key of the record of a URI. Qualifiers match only exactly; headers are no part of it.
pub(super) fn key(wanted: &Wanted, uri: &str) -> Vec<u8> {
    Key::of(wanted).with(b"uri").with(uri.as_bytes()).hash()
}

/// What tells fetches apart that go on at once.
pub(super) fn flight_key(wanted: &Wanted) -> Vec<u8> {
    let key = Key::of(wanted).with(b"uris");
    let key = wanted.uris.iter().fold(key, |key, uri| key.with(uri.as_bytes()));
    let oldest = format!("{:?}", wanted.oldest);
    key.with(oldest.as_bytes()).with(&wanted.qualifiers.secrets_hash()).hash()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assets::qualifiers::Qualifiers;

    #[test]
    fn records_round_trip() {
        let digest = DigestFunction::Blake3.digest(b"x");
        let asset = Asset {
            digest,
            since: SystemTime::UNIX_EPOCH + Duration::new(5, 6),
            expires_at: Some(SystemTime::UNIX_EPOCH + Duration::new(7, 8)),
            qualifiers: vec![asset::Qualifier { name: "a".into(), value: "b".into() }],
            references_blobs: vec![digest],
            references_directories: vec![],
        };
        let bytes = asset.encode();
        assert_eq!(Asset::decode(DigestFunction::Blake3, bytes.clone()), Some(asset));
        assert_eq!(Asset::decode(DigestFunction::Sha256, bytes.clone()), None);
        assert_eq!(Asset::decode(DigestFunction::Blake3, bytes.slice(..10)), None);
    }

    #[test]
    fn keys_depend_on_all_but_headers() {
        let wanted = |pairs: &[(&str, &str)]| Wanted {
            kind: Kind::Blob,
            instance: Default::default(),
            function: DigestFunction::Sha256,
            uris: vec!["u".into()],
            qualifiers: Qualifiers::parse(
                &pairs
                    .iter()
                    .map(|(n, v)| asset::Qualifier { name: (*n).into(), value: (*v).into() })
                    .collect::<Vec<_>>(),
            )
            .unwrap(),
            oldest: None,
        };
        let plain = key(&wanted(&[("a", "b")]), "u");
        assert_eq!(key(&wanted(&[("a", "b"), ("http_header:Authorization", "secret")]), "u"), plain);
        assert_ne!(key(&wanted(&[("a", "c")]), "u"), plain);
        assert_ne!(key(&wanted(&[("a", "b")]), "v"), plain);
        assert_ne!(key(&Wanted { kind: Kind::Directory, ..wanted(&[("a", "b")]) }, "u"), plain);
        let secret = |value| flight_key(&wanted(&[("http_header:Authorization", value)]));
        assert_ne!(secret("one"), secret("two"));
    }
}
