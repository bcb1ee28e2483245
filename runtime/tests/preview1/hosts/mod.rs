//! The hosts that every case runs on.

mod staged;
mod surroundings;
mod workspace;

use std::sync::LazyLock;

use wasmtime::{Config, Engine, Module, Strategy};

pub use surroundings::{CANARY, OUTSIDE};

use crate::guest::{Ended, Guest, Host};
use surroundings::Surroundings;
use workspace::Spill;

/// How much a guest may write to a stream.
const STREAM_BYTES_MAX: usize = 1 << 20;

/// One engine for all guests of this process, with the compiler that is fast.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    config.strategy(Strategy::Winch);
    Engine::new(&config).expect("these settings go together")
});

fn compile(guest: &Guest) -> Module {
    let text = guest.module();
    Module::new(&ENGINE, &text).unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

/// Runs a guest on every host that it is for; returns what is wrong.
pub fn complaints(guest: &Guest) -> Vec<String> {
    let module = compile(guest);
    let mut complaints = Vec::new();
    if guest.only_ours.is_none() {
        complaints.extend(on_wasmtime(guest, &module));
    }
    complaints.extend(on_ours(guest, &module));
    complaints
}

/// Runs a guest on wasmtime-wasi and on our host.
pub fn on_both(guest: &Guest) -> [Ended; 2] {
    let module = compile(guest);
    let surroundings = Surroundings::new();
    let ours = workspace::run(&surroundings.inside(), &module, &guest.setup, Spill::Seldom);
    let wasmtime = staged::run(&surroundings.inside(), &module, &guest.setup);
    [wasmtime, ours.expect("the store is unharmed")]
}

fn on_wasmtime(guest: &Guest, module: &Module) -> Vec<String> {
    let surroundings = Surroundings::new();
    let ended = staged::run(&surroundings.inside(), module, &guest.setup);
    judge(guest, Host::Wasmtime, &ended, &surroundings)
}

/// Runs a guest twice, the second time with nothing kept in memory, and wants the same from both.
fn on_ours(guest: &Guest, module: &Module) -> Vec<String> {
    let surroundings = Surroundings::new();
    let run = |spill| workspace::run(&surroundings.inside(), module, &guest.setup, spill);
    let (ended, again) = match (run(Spill::Seldom), run(Spill::Always)) {
        (Ok(ended), Ok(again)) => (ended, again),
        (Err(why), _) | (_, Err(why)) => return vec![format!("Ours: {why}")],
    };
    let mut complaints = judge(guest, Host::Ours, &ended, &surroundings);
    complaints.extend(judge(guest, Host::Ours, &again, &surroundings));
    complaints.dedup();
    if ended != again {
        complaints.push("Ours: two runs differ".into());
    }
    complaints
}

fn judge(guest: &Guest, host: Host, ended: &Ended, surroundings: &Surroundings) -> Vec<String> {
    let mut complaints = guest.complaints(host, ended);
    complaints.extend(surroundings.complaints(ended));
    complaints.iter().map(|complaint| format!("{host:?}: {complaint}")).collect()
}
