//! A pack of objects as it came from an origin: kept in a file, and given an index.
//!
//! A few bytes of deltas may stand for any number of bytes. So what they say they unfold to is added up while they are
//! read, before any of them is unfolded.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gix_error::{bail, corruption};
use gix_pack::data::entry::Header;
use gix_pack::data::input::{BytesToEntriesIter, Entry, EntryDataMode, Mode};
use gix_pack::{Bundle, data, index};
use gix_utils::progress::Discard;
use gix_zlib::Inflate;

use super::{FetchError, failed};
use crate::assets::fetch::spool_failed;

/// Bytes of one object.
const OBJECT_BYTES_MAX: usize = 128 << 20;

/// Bytes of all objects that lead from a whole one to a delta: as many may be in memory while the last is unfolded.
const CHAIN_BYTES_MAX: u64 = 1 << 30;

/// Bytes of an object that is read, together with the deltas that it is unfolded from.
const READING_BYTES_MAX: usize = 4 * OBJECT_BYTES_MAX;

/// Bytes that are written at once.
const COPY_BYTES: usize = 64 << 10;

/// The two numbers that a delta begins with are no longer than this.
const DELTA_HEAD_BYTES_MAX: usize = 20;

const HASH: gix_hash::Kind = gix_hash::Kind::Sha1;

/// Why a pack is not there: the origin's fault, or this machine's.
pub(super) enum ReceiveError {
    Origin(std::io::Error),
    Spool(std::io::Error),
}

/// Keeps a pack in a file.
pub(super) fn receive(pack: &mut dyn Read, path: &Path, stopped: &AtomicBool) -> Result<(), ReceiveError> {
    let mut file = File::create_new(path).map_err(ReceiveError::Spool)?;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = pack.read(&mut buffer).map_err(ReceiveError::Origin)?;
        if read == 0 || stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        file.write_all(&buffer[..read]).map_err(ReceiveError::Spool)?;
    }
}

/// Unfolds the objects of a pack one after the other, and writes down where each is.
pub(super) fn open(path: &Path, stopped: &AtomicBool) -> Result<Bundle, FetchError> {
    let pack = data::File::at(path, HASH).map_err(failed)?;
    if pack.num_objects() == 0 {
        return Err(FetchError::NotFound("the repository sent no objects".into()));
    }
    let reader = BufReader::new(File::open(path).map_err(|error| spool_failed(&error))?);
    let entries = BytesToEntriesIter::new_from_header(reader, Mode::Verify, EntryDataMode::Crc32, HASH);
    let entries = entries.map_err(failed)?;
    let version = entries.version();
    let mut weighed = Weighed::new(entries, &pack);
    let index_path = path.with_extension("idx");
    let index = File::create_new(&index_path).map_err(|error| spool_failed(&error))?;
    let mut index = BufWriter::new(index);
    let written = index::write_data_iter_to_stream(
        index::Version::default(),
        || Ok((slice, &pack)),
        &mut weighed,
        Some(1),
        &mut Discard,
        &mut index,
        stopped,
        HASH,
        Some(OBJECT_BYTES_MAX),
        version,
    );
    if weighed.is_too_much {
        let text = format!("git: deltas unfold to more than the limit of {CHAIN_BYTES_MAX} bytes");
        return Err(FetchError::Exhausted(text));
    }
    written.map_err(failed)?;
    index.flush().map_err(|error| spool_failed(&error))?;
    let index = index::File::at(&index_path, HASH).map_err(failed)?;
    Ok(Bundle { pack: pack.with_alloc_limit_bytes(Some(READING_BYTES_MAX)), index })
}

fn slice<'r>(range: data::EntryRange, pack: &'r &data::File) -> Option<&'r [u8]> {
    pack.entry_slice(range)
}

/// The entries of a pack, as long as what they unfold to is not too much.
struct Weighed<'a, I> {
    entries: I,
    pack: &'a data::File,
    inflate: Inflate,
    /// Of each entry, in their order: where it is, and the bytes of all objects that lead to it, its own included.
    chains: Vec<(u64, u64)>,
    /// The largest object that is whole, and all that are deltas.
    largest: u64,
    deltas: u64,
    /// Whether a delta names its base by its hash. Then any may lead to any.
    has_names: bool,
    is_too_much: bool,
}

impl<'a, I> Weighed<'a, I> {
    fn new(entries: I, pack: &'a data::File) -> Self {
        let inflate = Inflate::default();
        let chains = Vec::new();
        Self { entries, pack, inflate, chains, largest: 0, deltas: 0, has_names: false, is_too_much: false }
    }

    fn weigh(&mut self, entry: &Entry) -> gix_error::Result<()> {
        let below = match entry.header {
            Header::OfsDelta { base_distance } => {
                let base = Header::verified_base_pack_offset(entry.pack_offset, base_distance);
                let base = base.and_then(|at| self.chains.binary_search_by_key(&at, |(at, _)| *at).ok());
                let Some(base) = base else { bail!(corruption("a delta has no base in the pack")) };
                Some(self.chains[base].1)
            }
            Header::RefDelta { .. } => {
                self.has_names = true;
                Some(0)
            }
            Header::Commit | Header::Tree | Header::Blob | Header::Tag => None,
        };
        let own = if below.is_some() { self.unfolded(entry)? } else { entry.decompressed_size };
        match below {
            Some(_) => self.deltas = self.deltas.saturating_add(own),
            None => self.largest = self.largest.max(own),
        }
        let chain = own.saturating_add(below.unwrap_or(0));
        let any = if self.has_names { self.largest.saturating_add(self.deltas) } else { 0 };
        if chain.max(any) > CHAIN_BYTES_MAX {
            self.is_too_much = true;
            bail!(corruption("deltas unfold to too much"));
        }
        self.chains.push((entry.pack_offset, chain));
        Ok(())
    }

    /// The size of the object that a delta makes, as it says itself; it is compared with what comes out.
    fn unfolded(&mut self, entry: &Entry) -> gix_error::Result<u64> {
        let start = entry.pack_offset + u64::from(entry.header_size);
        let compressed = self.pack.entry_slice(start..start + entry.compressed_size).unwrap_or_default();
        let mut head = [0; DELTA_HEAD_BYTES_MAX];
        self.inflate.reset();
        let (_, _, length) = self.inflate.prefix(compressed, &mut head)?;
        let mut head = &head[..length];
        match (number(&mut head), number(&mut head)) {
            (Some(_), Some(size)) => Ok(size),
            _ => bail!(corruption("a delta does not say what it makes")),
        }
    }
}

impl<I: Iterator<Item = gix_error::Result<Entry>>> Iterator for Weighed<'_, I> {
    type Item = gix_error::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entries.next()?;
        Some(entry.and_then(|entry| self.weigh(&entry).map(|()| entry)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

/// Seven bits in each byte, the lowest first.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an entry is made of; bases are told by their place in the pack.
    enum Made {
        Whole(&'static [u8]),
        /// The whole base and then some bytes, said to make an object of this size.
        Delta {
            base: usize,
            base_size: u64,
            more: &'static [u8],
            size: u64,
        },
        Named {
            size: u64,
        },
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value > 0x7f {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    /// Instructions that copy a base of less than 256 bytes and add to it.
    fn delta(base_size: u64, more: &[u8], size: u64) -> Vec<u8> {
        let copy = [0x90, base_size as u8];
        [&varint(base_size)[..], &varint(size), &copy, &[more.len() as u8], more].concat()
    }

    /// A zlib stream that compresses nothing.
    fn stored(data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(data.len()).unwrap();
        let (a, b) = data.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        let head = [0x78, 0x01, 0x01];
        let sum = (b << 16 | a).to_be_bytes();
        [&head[..], &length.to_le_bytes(), &(!length).to_le_bytes(), data, &sum].concat()
    }

    fn pack(entries: &[Made]) -> Vec<u8> {
        let count = u32::try_from(entries.len()).unwrap();
        let mut pack = data::header::encode(data::Version::V2, count).to_vec();
        let mut offsets = Vec::new();
        for made in entries {
            let at = pack.len() as u64;
            let (header, bytes) = match made {
                Made::Whole(bytes) => (Header::Blob, bytes.to_vec()),
                Made::Delta { base, base_size, more, size } => {
                    let base_distance = at - offsets[*base];
                    (Header::OfsDelta { base_distance }, delta(*base_size, more, *size))
                }
                Made::Named { size } => (Header::RefDelta { base_id: HASH.null() }, delta(3, b"x", *size)),
            };
            offsets.push(at);
            header.write_to(bytes.len() as u64, &mut pack).unwrap();
            pack.extend(stored(&bytes));
        }
        let mut hasher = gix_hash::hasher(HASH);
        hasher.update(&pack);
        pack.extend_from_slice(hasher.try_finalize().unwrap().as_slice());
        pack
    }

    fn opened(entries: &[Made]) -> Result<Bundle, FetchError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pack");
        let stopped = AtomicBool::new(false);
        assert!(receive(&mut &pack(entries)[..], &path, &stopped).is_ok());
        open(&path, &stopped)
    }

    #[test]
    fn deltas_become_objects() {
        let bundle = opened(&[
            Made::Whole(b"one"),
            Made::Delta { base: 0, base_size: 3, more: b" two", size: 7 },
            Made::Delta { base: 1, base_size: 7, more: b" three", size: 13 },
        ]);
        let bundle = bundle.unwrap();
        let id = gix_object::compute_hash(HASH, gix_object::Kind::Blob, b"one two three").unwrap();
        let mut bytes = Vec::new();
        let mut inflate = Inflate::default();
        assert!(bundle.find(&id, &mut bytes, &mut inflate, &mut gix_pack::cache::Never).unwrap().is_some());
        assert_eq!(bytes, b"one two three");
        assert!(matches!(opened(&[]), Err(FetchError::NotFound(_))));
    }

    #[test]
    fn what_small_deltas_unfold_to_is_added_up_before_it_is_done() {
        const SIZE: u64 = 100 << 20;
        let chain = |length: usize| {
            let link = |base| Made::Delta {
                base,
                base_size: if base == 0 { 3 } else { SIZE },
                more: b"x",
                size: SIZE,
            };
            std::iter::once(Made::Whole(b"one")).chain((0..length).map(link)).collect::<Vec<_>>()
        };
        // What they say is not true, which shows when they are unfolded.
        assert!(matches!(opened(&chain(10)), Err(FetchError::Aborted(_))));
        assert!(matches!(opened(&chain(11)), Err(FetchError::Exhausted(_))));
        // Side by side they are unfolded one after the other.
        let beside = |_| Made::Delta { base: 0, base_size: 3, more: b"x", size: SIZE };
        let entries: Vec<_> = std::iter::once(Made::Whole(b"one")).chain((0..20).map(beside)).collect();
        assert!(matches!(opened(&entries), Err(FetchError::Aborted(_))));
        // Unless it is not known what leads to what.
        let entries: Vec<_> = (0..11).map(|_| Made::Named { size: SIZE }).collect();
        assert!(matches!(opened(&entries), Err(FetchError::Exhausted(_))));
    }

    #[test]
    fn a_number_has_an_end() {
        assert_eq!(number(&mut &varint(u64::MAX >> 1)[..]), Some(u64::MAX >> 1));
        assert_eq!(number(&mut &[0x80; 20][..]), None);
        assert_eq!(number(&mut &[0x80][..]), None);
    }
}
