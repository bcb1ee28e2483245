//! What the whole-system tests are built from: a real server on a loopback port, actions, guests.
//!
//! Everything here goes through the port, as a client would. The tests are in `tests/system/`.

mod action;
mod blob;
mod certificates;
pub mod conformance;
pub mod corpus;
mod distance;
mod ended;
mod guest;
mod process;
mod raw;
mod server;

use std::time::Duration;

use bytes::Bytes;
use wardian_proto::{Digest, DigestFunction};

pub use action::{Built, TestAction};
pub use blob::{Blob, Random, random};
pub use certificates::make_certificates;
pub use distance::Distance;
pub use ended::{Ended, Following, Refusal, doing, metadata};
pub use guest::{component_of, guest, reader_of};
pub use process::{Memory, Process, ServerProcess, WorkerProcess, allocated_below, faketime};
pub use raw::Raw;
pub use server::{TestServer, code, get, wardian};

/// How long anything may take before a test gives up on it. Generous: it is for faults, not for timing.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The digest of some bytes.
pub fn digest(data: &[u8]) -> Digest {
    DigestFunction::Sha256.digest(data)
}

/// Bytes of any size, different for each seed.
pub fn bytes_of(size: usize, seed: u8) -> Bytes {
    (0..size).map(|i| (i % 251) as u8 ^ (i >> 12) as u8 ^ seed).collect::<Vec<_>>().into()
}

/// Waits until a condition holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let (what, place) = (what.to_owned(), std::panic::Location::caller());
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            assert!(tokio::time::Instant::now() < deadline, "{place}: waited in vain until {what}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// The same for a condition that takes a call to look at.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let (what, place) = (what.to_owned(), std::panic::Location::caller());
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !holds().await {
            assert!(tokio::time::Instant::now() < deadline, "{place}: waited in vain until {what}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Waits for something that must come within [`PATIENCE`].
#[track_caller]
pub fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let (what, place) = (what.to_owned(), std::panic::Location::caller());
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{place}: {what} did not come"),
        }
    }
}
