//! A server that is killed at random moments keeps every promise after the restart.
//!
//! WARDIAN_CRASHES says how often it is killed (50 without it), WARDIAN_SEED repeats a run's random numbers.
//! When exactly the server dies differs all the same.

mod damage;
mod ledger;
mod load;
mod promises;

use std::fs::File;
use std::path::Path;

use rand::{Rng as _, RngExt as _};
use tempfile::TempDir;
use wardian_tests::{Random, ServerProcess, random, soon};

use damage::Damage;
use ledger::Ledger;
use load::Load;

use crate::SERVER;

const CRASHES_DEFAULT: u32 = 50;

/// How often a server is killed on one folder before the next folder is begun.
const CRASHES_PER_FOLDER: u32 = 10;

/// Uploads that end before the server is killed, at the most.
const UPLOADS_MAX: u32 = 60;

/// Whether a store drops what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Nothing is ever evicted: what was acknowledged must be there.
    Plenty,
    /// The smallest store there can be: eviction runs all the time.
    Scarce,
}

impl Room {
    fn settings(self) -> String {
        let capacity_mib: u64 = match self {
            Self::Plenty => 4096,
            Self::Scarce => 32,
        };
        format!(
            "[store]\ncapacity_bytes = {}\nlease_seconds = 2\n[worker]\nslots = 1\nnative = false\n",
            capacity_mib << 20
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_is_kept_when_the_server_is_killed() {
    let crashes = number_from_environment("WARDIAN_CRASHES").unwrap_or(CRASHES_DEFAULT.into());
    let seed = number_from_environment("WARDIAN_SEED").unwrap_or_else(new_seed);
    eprintln!("{crashes} crashes; WARDIAN_SEED={seed} gives these random numbers again");
    let mut random = random(seed);
    let mut left = u32::try_from(crashes).expect("a sensible number of crashes");
    let mut room = Room::Plenty;
    while left > 0 {
        let here = left.min(CRASHES_PER_FOLDER);
        one_folder(room, here, &mut random).await;
        left -= here;
        room = if room == Room::Plenty { Room::Scarce } else { Room::Plenty };
    }
}

async fn one_folder(room: Room, crashes: u32, random: &mut Random) {
    let folder = tempfile::tempdir().expect("a folder for the server");
    let mut ledger = Ledger::new(room == Room::Plenty, random.next_u64());
    for crash in 0..crashes {
        let store = folder.path().join("data/store");
        let old = damage::segments(&store);
        let log = folder.path().join("log");
        let mut server = start(&folder, room, &log);
        ledger = soon("the proof of all promises", promises::check(&server, ledger)).await;
        let load = Load { uploads: random.random_range(1..=UPLOADS_MAX), seed: random.next_u64() };
        let before = ledger.mark();
        ledger = soon("the last upload", load.until_killed(&mut server, ledger)).await;
        drop(server);
        let damage = Damage::random(random);
        eprintln!("{room:?}, crash {crash} after {} uploads, {damage:?}", load.uploads);
        if damage == Damage::TailTorn {
            ledger.forget_since(before);
        }
        damage.inflict(&store, &old, &log, random);
    }
    let server = start(&folder, room, &folder.path().join("log"));
    soon("the proof of all promises", promises::check(&server, ledger)).await;
}

/// Starts a server whose log tells what it flushed.
fn start(folder: &TempDir, room: Room, log: &Path) -> ServerProcess {
    let log = File::create(log).expect("a log can be written");
    let server = ServerProcess::start_traced(
        Path::new(SERVER),
        folder.path(),
        &room.settings(),
        damage::LOG_FILTER,
        log,
    );
    server.expect("the server starts")
}

fn number_from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

/// A seed that differs from run to run.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
