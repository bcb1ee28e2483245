//! The format of a segment: header, records, and once sealed an index of the records at its end.
//!
//! A footer is written only after the records before it were flushed to the disk: a segment that has one is
//! whole, one without must be read before it is trusted.
//!
//! ```text
//! segment  = "WDSG" version:u32 0:u64   record*   [footer]
//! record   = "WDRC" kind:u8 0:u8 key_len:u16 payload_len:u64 payload_crc:u32 header_crc:u32  key  payload
//! footer   = entry*  entries_at:u64 count:u32 entries_crc:u32 "WDFT" version:u32
//! entry    = kind:u8 0:u8 key_len:u16 offset:u64 payload_len:u64  key
//! ```
//!
//! Numbers are little-endian. The header's checksum covers the header before it and the key. The key of a blob is
//! digest function, hash and size; the key of a record is its table's name and its key. Offsets count from
//! the segment's start and nothing names a file, so a segment can be read wherever it is.

use wardian_proto::{Digest, DigestFunction};

use crate::{StoreError, Table};

/// Version of the format.
const VERSION: u32 = 1;
const SEGMENT_MAGIC: [u8; 4] = *b"WDSG";
const RECORD_MAGIC: [u8; 4] = *b"WDRC";
const FOOTER_MAGIC: [u8; 4] = *b"WDFT";

/// Length of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 16;
/// Length of a record before its key.
pub(super) const RECORD_HEADER_BYTES: u64 = 24;
/// Length of a footer entry before its key.
const ENTRY_BYTES: usize = 20;
/// Length of a footer after its entries.
pub(super) const TRAILER_BYTES: u64 = 24;
/// Longest key: a record's key is an instance name and a digest.
pub(super) const KEY_BYTES_MAX: usize = 4096;

/// Marks keys of records; below it are digest functions.
const RECORD_KEY: u8 = 0xff;

/// What a record in a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A blob; its key is its digest.
    Blob,
    /// A value of a record table.
    Value,
    /// Says that a key holds nothing any more: a value was deleted, or a blob was found damaged.
    Deleted,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Blob),
            2 => Some(Self::Value),
            3 => Some(Self::Deleted),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Blob => 1,
            Self::Value => 2,
            Self::Deleted => 3,
        }
    }
}

/// One record of a segment: what it is and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) offset: u64,
    pub(super) payload_len: u64,
    pub(super) key: Vec<u8>,
}

impl Entry {
    /// Where the payload starts.
    pub(super) fn payload_at(&self) -> u64 {
        self.offset + RECORD_HEADER_BYTES + self.key.len() as u64
    }

    /// Where the record ends.
    pub(super) fn end(&self) -> u64 {
        self.payload_at() + self.payload_len
    }
}

/// Whether a key is that of a record table.
pub(super) fn is_record_key(key: &[u8]) -> bool {
    key.first() == Some(&RECORD_KEY)
}

/// Key of a blob: function, hash, size, so that a wrong size is another blob.
pub(super) fn blob_key(digest: &Digest) -> Vec<u8> {
    let mut key = Vec::with_capacity(41);
    key.push(u8::try_from(digest.function().wire() as i32).expect("enum values are below 255"));
    key.extend_from_slice(digest.hash());
    key.extend_from_slice(&digest.size().to_be_bytes());
    key
}

/// The digest that a blob's key stands for.
pub(super) fn key_digest(key: &[u8]) -> Option<Digest> {
    let (&function, rest) = key.split_first()?;
    let (hash, size) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
    let function = *DigestFunction::ALL.iter().find(|f| f.wire() as i32 == i32::from(function))?;
    Digest::from_parts(function, hash, u64::from_be_bytes(size.try_into().ok()?))
}

/// Key of a record of a table.
pub(super) fn record_key(table: Table, key: &[u8]) -> Result<Vec<u8>, StoreError> {
    let whole = [&[RECORD_KEY], table.name().as_bytes(), &[0], key].concat();
    if whole.len() > KEY_BYTES_MAX {
        return Err(StoreError::RecordTooLarge {
            what: "key",
            bytes: whole.len() as u64,
            limit: KEY_BYTES_MAX as u64,
        });
    }
    Ok(whole)
}

pub(super) fn segment_header() -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    header[..4].copy_from_slice(&SEGMENT_MAGIC);
    header[4..8].copy_from_slice(&VERSION.to_le_bytes());
    header
}

pub(super) fn is_segment_header(bytes: &[u8]) -> bool {
    bytes == segment_header()
}

/// The bytes of a record before its payload.
pub(super) fn record_header(kind: Kind, key: &[u8], payload_len: u64, payload_crc: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(RECORD_HEADER_BYTES as usize + key.len());
    header.extend_from_slice(&RECORD_MAGIC);
    header.extend_from_slice(&[kind.byte(), 0]);
    header.extend_from_slice(&u16::try_from(key.len()).expect("keys are short").to_le_bytes());
    header.extend_from_slice(&payload_len.to_le_bytes());
    header.extend_from_slice(&payload_crc.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header);
    crc.update(key);
    header.extend_from_slice(&crc.finalize().to_le_bytes());
    header.extend_from_slice(key);
    header
}

/// A parsed record header: what the record is, and the checksum its payload must have.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) entry: Entry,
    pub(super) payload_crc: u32,
}

/// Parses the header and the key of a record that starts at `offset`; `None` when they are torn, or when the
/// record would end beyond what a file can hold.
pub(super) fn parse_record(bytes: &[u8], offset: u64) -> Option<Parsed> {
    let (header, rest) = bytes.split_at_checked(RECORD_HEADER_BYTES as usize)?;
    if header[..4] != RECORD_MAGIC {
        return None;
    }
    let key = rest.get(..usize::from(u16_at(header, 6)))?;
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..20]);
    crc.update(key);
    if crc.finalize() != u32_at(header, 20) {
        return None;
    }
    let payload_len = u64_at(header, 8);
    checked_end(offset, key, payload_len)?;
    let entry = Entry { kind: Kind::from_byte(header[4])?, offset, payload_len, key: key.to_vec() };
    Some(Parsed { entry, payload_crc: u32_at(header, 16) })
}

fn checked_end(offset: u64, key: &[u8], payload_len: u64) -> Option<u64> {
    offset.checked_add(RECORD_HEADER_BYTES + key.len() as u64)?.checked_add(payload_len)
}

/// The footer of a segment while its records are being written.
#[derive(Debug, Default)]
pub(super) struct Footer {
    entries: Vec<u8>,
    count: u32,
}

impl Footer {
    /// The footer of a segment with these records.
    pub(super) fn of(entries: &[Entry]) -> Self {
        let mut footer = Self::default();
        for entry in entries {
            footer.push(entry.kind, &entry.key, entry.offset, entry.payload_len);
        }
        footer
    }

    /// Adds a record and returns which one of the segment it is.
    pub(super) fn push(&mut self, kind: Kind, key: &[u8], offset: u64, payload_len: u64) -> u32 {
        self.entries.extend_from_slice(&[kind.byte(), 0]);
        self.entries.extend_from_slice(&u16::try_from(key.len()).expect("keys are short").to_le_bytes());
        self.entries.extend_from_slice(&offset.to_le_bytes());
        self.entries.extend_from_slice(&payload_len.to_le_bytes());
        self.entries.extend_from_slice(key);
        self.count += 1;
        self.count - 1
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records so far.
    pub(super) fn entries(&self) -> Vec<Entry> {
        parse_entries(&self.entries, u64::MAX).expect("written by push")
    }

    /// Bytes on disk, the trailer included.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64 + TRAILER_BYTES
    }

    /// The bytes to write behind the records, which end at `entries_at`.
    pub(super) fn finish(self, entries_at: u64) -> Vec<u8> {
        let mut bytes = self.entries;
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&entries_at.to_le_bytes());
        bytes.extend_from_slice(&self.count.to_le_bytes());
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&FOOTER_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes
    }
}

/// Bytes that a record adds to its segment, its footer entry included.
pub(super) fn record_cost(key: &[u8], payload_len: u64) -> u64 {
    RECORD_HEADER_BYTES + ENTRY_BYTES as u64 + 2 * key.len() as u64 + payload_len
}

/// Where a footer starts and how many records it lists, from its last bytes.
pub(super) fn parse_trailer(bytes: &[u8]) -> Option<(u64, u32)> {
    let whole = bytes.len() == TRAILER_BYTES as usize
        && bytes[16..20] == FOOTER_MAGIC
        && u32_at(bytes, 20) == VERSION;
    whole.then(|| (u64_at(bytes, 0), u32_at(bytes, 8)))
}

/// Parses a footer, from its first entry to the segment's end.
pub(super) fn parse_footer(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (rest, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_BYTES as usize)?)?;
    let (entries_at, count) = parse_trailer(trailer)?;
    if crc32fast::hash(rest) != u32_at(trailer, 12) {
        return None;
    }
    parse_entries(rest, entries_at).filter(|entries| entries.len() == count as usize)
}

/// Parses footer entries, whose records end before `end`.
fn parse_entries(mut bytes: &[u8], end: u64) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (head, after) = bytes.split_at_checked(ENTRY_BYTES)?;
        let (key, after) = after.split_at_checked(usize::from(u16_at(head, 2)))?;
        bytes = after;
        let (offset, payload_len) = (u64_at(head, 4), u64_at(head, 12));
        if key.len() > KEY_BYTES_MAX || checked_end(offset, key, payload_len)? > end {
            return None;
        }
        entries.push(Entry { kind: Kind::from_byte(head[0])?, offset, payload_len, key: key.to_vec() });
    }
    Some(entries)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_footers_come_back_and_every_flipped_bit_is_seen() {
        let digest = DigestFunction::Sha256.digest(b"x");
        let key = blob_key(&digest);
        assert_eq!(key_digest(&key), Some(digest));
        let entry = Entry { kind: Kind::Blob, offset: 16, payload_len: 1, key: key.clone() };
        let header = record_header(Kind::Blob, &key, 1, 7);
        let parsed = parse_record(&header, 16).unwrap();
        assert_eq!((parsed.entry, parsed.payload_crc), (entry.clone(), 7));
        let footer = Footer::of(std::slice::from_ref(&entry)).finish(1000);
        assert_eq!(parse_footer(&footer).unwrap(), [entry]);
        for bit in 0..header.len() * 8 {
            let mut torn = header.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_record(&torn, 16).is_none(), "bit {bit}");
        }
        let endless = record_header(Kind::Blob, &key, u64::MAX - 16, 7);
        assert!(parse_record(&endless, 16).is_none());
        for cut in 0..footer.len() {
            assert!(parse_footer(&footer[..cut]).is_none());
            assert!(parse_record(&header[..cut.min(header.len() - 1)], 16).is_none());
        }
    }
}
