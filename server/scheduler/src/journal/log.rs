//! A file that is only added to: changes that the database does not have yet.
//!
//! Adding is one write to the system's memory and no flush, so that a killed process loses nothing of it and a power
//! failure the last moments. A frame is the length and the checksum of its body; the body is a kind, the length of an
//! operation's name, the name, and for all but forgotten operations the record. Reading ends at the first frame that is
//! torn.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::job::OperationName;

/// What is to be in the database: for each operation its record, or nothing.
pub(super) type Changes = HashMap<OperationName, Option<Vec<u8>>>;

/// What the names of files begin with; a number follows, in hexadecimal and of one length.
const PREFIX: &str = "log-";

/// Length and checksum.
const HEADER_BYTES: usize = 8;

const FORGOTTEN: u8 = 0;
const RECORD: u8 = 1;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    file: File,
    length: u64,
    /// Its end is torn, so that nothing that is added could be read.
    is_torn: bool,
}

impl Log {
    /// Makes a file that must not be there yet.
    pub(super) fn create(folder: &Path, number: u64) -> io::Result<Self> {
        let path = folder.join(format!("{PREFIX}{number:016x}"));
        let file = File::options().append(true).create_new(true).open(&path)?;
        Ok(Self { number, path, file, length: 0, is_torn: false })
    }

    /// How much is in it.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether nothing can be added any more.
    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Adds frames: all of them, or none.
    pub(super) fn add(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.is_torn {
            return Err(io::Error::other("the log is torn"));
        }
        let written = self.file.write_all(frames);
        match written {
            Ok(()) => self.length += frames.len() as u64,
            // What is torn would hide all that comes after it.
            Err(_) => self.is_torn = self.file.set_len(self.length).is_err(),
        }
        written
    }
}

/// Adds a frame to those that are to be written.
pub(super) fn frame(frames: &mut Vec<u8>, name: &OperationName, record: Option<&[u8]>) {
    let name = name.as_str().as_bytes();
    let name_length = u16::try_from(name.len()).expect("names of operations are short");
    let start = frames.len();
    frames.extend_from_slice(&[0; HEADER_BYTES]);
    frames.push(if record.is_some() { RECORD } else { FORGOTTEN });
    frames.extend_from_slice(&name_length.to_le_bytes());
    frames.extend_from_slice(name);
    frames.extend_from_slice(record.unwrap_or_default());
    let body = &frames[start + HEADER_BYTES..];
    let length = u32::try_from(body.len()).expect("responses are far below 4 GiB");
    let checksum = crc32fast::hash(body);
    frames[start..start + 4].copy_from_slice(&length.to_le_bytes());
    frames[start + 4..start + HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

/// The files of a folder, in the order in which they were written.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| u64::from_str_radix(number, 16).ok()) {
            files.push((number, entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads a file into the changes; returns how many bytes of it are torn.
pub(super) fn read(bytes: &[u8], changes: &mut Changes) -> usize {
    let mut rest = bytes;
    while let Some((Frame { name, record }, after)) = first(rest) {
        changes.insert(name, record.map(<[u8]>::to_vec));
        rest = after;
    }
    rest.len()
}

struct Frame<'a> {
    name: OperationName,
    record: Option<&'a [u8]>,
}

/// The first frame, and what comes after it.
fn first(bytes: &[u8]) -> Option<(Frame<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*checksum) {
        return None;
    }
    let (kind, body) = body.split_first()?;
    let (name_length, body) = body.split_first_chunk()?;
    let (name, record) = body.split_at_checked(usize::from(u16::from_le_bytes(*name_length)))?;
    let name = OperationName::from_client(std::str::from_utf8(name).ok()?);
    match *kind {
        FORGOTTEN => Some((Frame { name, record: None }, rest)),
        RECORD => Some((Frame { name, record: Some(record) }, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> OperationName {
        OperationName::from_client(name)
    }

    fn frames() -> Vec<u8> {
        let mut frames = Vec::new();
        frame(&mut frames, &named("a"), Some(b"first"));
        frame(&mut frames, &named("b"), Some(b""));
        frame(&mut frames, &named("a"), Some(b"second"));
        frame(&mut frames, &named("b"), None);
        frames
    }

    #[test]
    fn the_last_frame_of_an_operation_counts() {
        let mut changes = Changes::new();
        assert_eq!(read(&frames(), &mut changes), 0);
        assert_eq!(changes, Changes::from([(named("a"), Some(b"second".to_vec())), (named("b"), None)]));
    }

    #[test]
    fn whatever_is_torn_ends_it_and_nothing_before_is_lost() {
        let whole = frames();
        for cut in 0..whole.len() {
            let mut changes = Changes::new();
            let torn = read(&whole[..cut], &mut changes);
            assert!(torn < whole.len() / 3 && changes.len() <= 2);
            let mut damaged = whole.clone();
            damaged[cut] ^= 0x20;
            assert!(read(&damaged, &mut Changes::new()) > 0, "byte {cut}");
        }
    }

    #[test]
    fn files_come_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("log-x"), "no number").unwrap();
        for number in [0x10, 2] {
            let mut log = Log::create(folder.path(), number).unwrap();
            log.add(&frames()).unwrap();
            assert_eq!(log.length(), frames().len() as u64);
        }
        let numbers: Vec<u64> = files(folder.path()).unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [2, 0x10]);
        assert!(Log::create(folder.path(), 2).is_err());
    }
}
