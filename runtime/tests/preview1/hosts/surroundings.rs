//! What lies outside of every guest's tree: canaries that nobody may read or change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

use crate::guest::Ended;

/// What the canaries hold.
pub const CANARY: &str = "the canary outside of the case";

/// A folder at a path that is known when cases are written, with a canary in it.
pub const OUTSIDE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/outside");

/// The folder beside the other canary, for a host's use.
const INSIDE: &str = "inside";

static OUTSIDE_IS_MADE: Once = Once::new();

/// A folder with a canary in it, and room for a host.
pub(super) struct Surroundings(TempDir);

impl Surroundings {
    pub(super) fn new() -> Self {
        OUTSIDE_IS_MADE.call_once(|| {
            // What an earlier run left is no evidence.
            let _ = fs::remove_dir_all(OUTSIDE);
            fs::create_dir_all(OUTSIDE).expect("the target folder can be written");
            fs::write(Path::new(OUTSIDE).join("canary"), CANARY).expect("the target folder can be written");
        });
        let folder = tempfile::tempdir().expect("a folder for the case");
        fs::write(folder.path().join("canary"), CANARY).expect("the folder can be written");
        fs::create_dir(folder.path().join(INSIDE)).expect("the folder can be written");
        Self(folder)
    }

    /// The folder for the host's use.
    pub(super) fn inside(&self) -> PathBuf {
        self.0.path().join(INSIDE)
    }

    /// What a guest did to the surroundings, or knows of them.
    pub(super) fn complaints(&self, ended: &Ended) -> Vec<String> {
        let mut complaints = Vec::new();
        if contents(self.0.path()) != ["canary", INSIDE] || contents(Path::new(OUTSIDE)) != ["canary"] {
            complaints.push("something was made or removed outside".into());
        }
        for folder in [self.0.path(), Path::new(OUTSIDE)] {
            if !fs::read(folder.join("canary")).is_ok_and(|content| content == CANARY.as_bytes()) {
                complaints.push("the canary was changed".into());
            }
        }
        let tells = |stream: &[u8]| stream.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        if tells(&ended.stdout) || tells(&ended.stderr) {
            complaints.push("the canary was read".into());
        }
        complaints
    }
}

fn contents(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
