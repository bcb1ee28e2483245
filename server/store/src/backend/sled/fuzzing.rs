//! What fuzzers run against the format of segments: see `crate::fuzzing`.
//!
//! Both checks are made on the bytes as they are, which the checksum nearly always refuses, and on the same
//! bytes with a right checksum, as somebody who means harm would write them.

use wardian_proto::DigestFunction;

use super::record::{
    Entry, Footer, KEY_BYTES_MAX, Kind, RECORD_HEADER_BYTES, TRAILER_BYTES, blob_key, key_digest,
    parse_footer, parse_record, record_header,
};

const HEADER: usize = RECORD_HEADER_BYTES as usize;
const TRAILER: usize = TRAILER_BYTES as usize;

/// A record header that is taken fits its bytes, ends somewhere, and is written as it was read.
pub(crate) fn segment_record(bytes: &[u8]) {
    check_record(bytes);
    check_record(&with_record_checksum(bytes));
}

fn check_record(bytes: &[u8]) {
    for offset in [0, u64::MAX] {
        let Some(parsed) = parse_record(bytes, offset) else { continue };
        let Entry { kind, payload_len, key, .. } = &parsed.entry;
        assert!(key.len() <= KEY_BYTES_MAX && HEADER + key.len() <= bytes.len());
        assert!(parsed.entry.end() >= offset);
        let again = parse_record(&record_header(*kind, key, *payload_len, parsed.payload_crc), offset);
        assert_eq!(again.expect("a header that was written").entry, parsed.entry);
        if let Some(digest) = key_digest(key) {
            assert_eq!(&blob_key(&digest), key);
        }
    }
}

/// A footer that is taken names only records before itself, and is written as it was read.
pub(crate) fn segment_footer(bytes: &[u8]) {
    check_footer(bytes);
    check_footer(&with_footer_checksum(bytes));
}

fn check_footer(bytes: &[u8]) {
    let Some(entries) = parse_footer(bytes) else { return };
    let trailer = &bytes[bytes.len() - TRAILER..];
    let entries_at = u64::from_le_bytes(trailer[..8].try_into().expect("eight bytes"));
    for entry in &entries {
        assert!(entry.key.len() <= KEY_BYTES_MAX && entry.end() <= entries_at);
    }
    assert_eq!(parse_footer(&Footer::of(&entries).finish(entries_at)), Some(entries));
}

fn with_record_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(room) = bytes.len().checked_sub(HEADER) {
        let said = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let key = said.min(room);
        bytes[..4].copy_from_slice(b"WDRC");
        bytes[6..8].copy_from_slice(&u16::try_from(key).expect("not above what was said").to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..20]);
        crc.update(&bytes[HEADER..HEADER + key]);
        bytes[20..24].copy_from_slice(&crc.finalize().to_le_bytes());
    }
    bytes
}

fn with_footer_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(at) = bytes.len().checked_sub(TRAILER) {
        let crc = crc32fast::hash(&bytes[..at]);
        bytes[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
        bytes[at + 16..at + 20].copy_from_slice(b"WDFT");
        bytes[at + 20..].copy_from_slice(&1_u32.to_le_bytes());
    }
    bytes
}

/// Records to begin with.
pub(crate) fn records() -> Vec<Vec<u8>> {
    let key = blob_key(&DigestFunction::Sha256.digest(b"blob"));
    let blob = record_header(Kind::Blob, &key, 4, crc32fast::hash(b"blob"));
    let value = record_header(Kind::Value, b"\xffaction-cache\0key", 1 << 40, 7);
    vec![[&blob[..], b"blob"].concat(), value, record_header(Kind::Deleted, b"\xff\0", 0, 0)]
}

/// Footers to begin with.
pub(crate) fn footers() -> Vec<Vec<u8>> {
    let key = blob_key(&DigestFunction::Sha256.digest(b"blob"));
    let entry = |offset| Entry { kind: Kind::Blob, offset, payload_len: 4, key: key.clone() };
    let entries = [entry(16), entry(116)];
    vec![Footer::of(&[]).finish(16), Footer::of(&entries[..1]).finish(200), Footer::of(&entries).finish(300)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_with_a_right_checksum_are_looked_into() {
        for record in records() {
            let mut other = record.clone();
            other[8] ^= 1;
            assert!(parse_record(&other, 0).is_none());
            assert!(parse_record(&with_record_checksum(&other), 0).is_some());
        }
        for footer in &footers()[1..] {
            let mut other = footer.clone();
            other[4] ^= 1;
            assert!(parse_footer(&other).is_none());
            assert!(parse_footer(&with_footer_checksum(&other)).is_some());
        }
    }
}
