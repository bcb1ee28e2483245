//! What happens to the index between a crash and the restart. The segments are always left alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use wardian_tests::Random;

/// Files that are cut, of those written last.
const FILES_CUT: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Nothing,
    IndexDeleted,
    /// The index files that were written last end somewhere before their end.
    IndexCut,
}

impl Damage {
    /// Most crashes do no damage.
    pub(super) fn random(random: &mut Random) -> Self {
        match random.random_range(0..10) {
            0 | 1 => Self::IndexDeleted,
            2 | 3 => Self::IndexCut,
            _ => Self::Nothing,
        }
    }

    /// Does it to the store in a folder.
    pub(super) fn inflict(self, store: &Path, random: &mut Random) {
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
        }
    }
}

fn cut(file: &Path, random: &mut Random) {
    let file = File::options().write(true).open(file).expect("the index can be written");
    let length = file.metadata().expect("files have a length").len();
    file.set_len(random.random_range(0..=length)).expect("files can be cut");
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
