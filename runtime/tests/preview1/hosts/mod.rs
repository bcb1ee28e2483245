//! The hosts that every case runs on.

mod staged;
mod surroundings;

use std::sync::LazyLock;

use wasmtime::{Config, Engine, OptLevel};

pub use surroundings::{CANARY, OUTSIDE};

use crate::guest::{Ended, Guest, Host};
use surroundings::Surroundings;

/// How much a guest may write to a stream.
const STREAM_BYTES_MAX: usize = 1 << 20;

/// One engine for all guests of this process.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::None);
    Engine::new(&config).expect("these settings go together")
});

/// Runs a guest on every host that it is for; returns what is wrong.
pub fn complaints(guest: &Guest) -> Vec<String> {
    let module = wat::parse_str(guest.module()).unwrap_or_else(|error| panic!("{error}\n{}", guest.module()));
    let mut complaints = Vec::new();
    if guest.only_ours.is_none() {
        let surroundings = Surroundings::new();
        let ended = staged::run(&surroundings.inside(), &module, &guest.setup);
        complaints.extend(judge(guest, Host::Wasmtime, &ended, &surroundings));
    }
    complaints
}

fn judge(guest: &Guest, host: Host, ended: &Ended, surroundings: &Surroundings) -> Vec<String> {
    let mut complaints = guest.complaints(host, ended);
    complaints.extend(surroundings.complaints(ended));
    complaints.iter().map(|complaint| format!("{host:?}: {complaint}")).collect()
}
