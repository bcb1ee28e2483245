//! What happens to the files between a crash and the restart.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use wardian_tests::Random;

/// Files that are cut, of those written last.
const FILES_CUT: usize = 2;

/// What a server must log for it to be known what it flushed.
pub(super) const LOG_FILTER: &str = "error,wardian_store::backend::sled::durable=trace";

/// Bytes that are torn off the newest segment, at the most.
const TORN_BYTES_MAX: u64 = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Nothing,
    IndexDeleted,
    /// The index files that were written last end somewhere before their end.
    IndexCut,
    /// The segment that was written last ends somewhere before its end, or has other bytes there, as after a
    /// power failure: never where it had been flushed.
    TailTorn,
}

impl Damage {
    /// Most crashes do no damage.
    pub(super) fn random(random: &mut Random) -> Self {
        match random.random_range(0..10) {
            0 | 1 => Self::IndexDeleted,
            2 | 3 => Self::IndexCut,
            4 | 5 => Self::TailTorn,
            _ => Self::Nothing,
        }
    }

    /// Does it to the store in a folder. Only segments that were not among `old` are torn: others were flushed
    /// when the server started, which a power failure takes back as little.
    pub(super) fn inflict(self, store: &Path, old: &[PathBuf], log: &Path, random: &mut Random) {
        let index = store.join("index");
        match self {
            Self::Nothing => {}
            Self::IndexDeleted => fs::remove_dir_all(index).expect("the index can be removed"),
            Self::IndexCut => {
                let mut files = Vec::new();
                files_below(&index, &mut files);
                files.sort_by_key(|file| {
                    fs::metadata(file).and_then(|m| m.modified()).expect("files have a time")
                });
                for file in files.iter().rev().take(FILES_CUT) {
                    cut(file, random);
                }
            }
            Self::TailTorn => {
                let newest = segments(store).into_iter().rfind(|path| !old.contains(path));
                if let Some(newest) = newest {
                    tear(&newest, flushed(&newest, log), random);
                }
            }
        }
    }
}

fn cut(file: &Path, random: &mut Random) {
    let file = File::options().write(true).open(file).expect("the index can be written");
    let length = file.metadata().expect("files have a length").len();
    file.set_len(random.random_range(0..=length)).expect("files can be cut");
}

/// The shared segments of a store, by their numbers.
pub(super) fn segments(store: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let folder = store.join("segments");
    if folder.is_dir() {
        files_below(&folder, &mut files);
    }
    files.retain(|file| file.extension().is_some_and(|kind| kind == "shared"));
    files.sort();
    files
}

/// Bytes of a segment that were flushed, by the log of the server that wrote it.
fn flushed(segment: &Path, log: &Path) -> u64 {
    let log = fs::read_to_string(log).expect("the log can be read");
    let Some(last) = log.lines().rfind(|line| line.contains(" flushed ")) else { return 0 };
    let number = |name: &str| -> u64 {
        let field = last.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        field.and_then(|field| field.parse().ok()).unwrap_or_else(|| panic!("no {name} in {last:?}"))
    };
    let id = segment.file_stem().and_then(|id| id.to_str()).and_then(|id| u64::from_str_radix(id, 16).ok());
    let id = id.expect("segments are named by their number");
    match id {
        id if id == number("open") => number("offset"),
        id if id < number("next") => u64::MAX,
        _ => 0,
    }
}

/// Cuts bytes behind `from` off the end of a file, or writes something else there.
fn tear(path: &Path, from: u64, random: &mut Random) {
    let file = File::options().write(true).open(path).expect("the segment can be written");
    let length = file.metadata().expect("files have a length").len();
    let torn = random.random_range(0..=length.saturating_sub(from).min(TORN_BYTES_MAX));
    if random.random_range(0..2) == 0 {
        file.set_len(length - torn).expect("files can be cut");
    } else {
        let bytes = vec![0x5a; usize::try_from(torn).expect("a few")];
        file.write_all_at(&bytes, length - torn).expect("the segment can be written");
    }
}

fn files_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the index can be listed") {
        let path = entry.expect("the index can be listed").path();
        if path.is_dir() {
            files_below(&path, files);
        } else {
            files.push(path);
        }
    }
}
