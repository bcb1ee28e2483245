//! Time and chance: by default the same on every machine and in every run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::Rng as _;
use wardian_proto::Digest;
use wasmtime_wasi::p1::types::{Clockid, Timestamp};

use super::stop::{Deadline, Stopped};
use crate::workspace::FIXED_TIME;

/// What each look at the fixed monotonic clock adds to it, in nanoseconds.
pub const MONOTONIC_STEP: u64 = 1_000;

/// Where the fixed monotonic clock starts, in nanoseconds. Some runtimes take 0 for a broken clock.
pub const MONOTONIC_START: u64 = 1_000_000_000;

/// Which clocks a guest sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockPolicy {
    /// The wall clock stands at 2000-01-01T00:00:00Z, the monotonic clock takes a fixed step at each look,
    /// and sleeping moves both at once, without waiting.
    #[default]
    Fixed,
    /// The machine's clocks.
    Real,
}

/// Where a guest's random bytes are from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RandomPolicy {
    /// ChaCha20, seeded with the action's digest.
    #[default]
    Action,
    /// The machine's.
    System,
}

/// The clocks of one guest.
pub(crate) struct Clocks {
    policy: ClockPolicy,
    deadline: Deadline,
    looks: u64,
    slept: u64,
}

impl Clocks {
    pub(crate) fn new(policy: ClockPolicy, deadline: Deadline) -> Self {
        Self { policy, deadline, looks: 0, slept: 0 }
    }

    pub(crate) fn resolution(&self) -> Timestamp {
        match self.policy {
            ClockPolicy::Fixed => MONOTONIC_STEP,
            ClockPolicy::Real => 1,
        }
    }

    /// Returns the time in nanoseconds. The clocks of processor time are the monotonic clock.
    pub(super) fn now(&mut self, clock: Clockid) -> Timestamp {
        match clock {
            Clockid::Realtime => self.wall(),
            Clockid::Monotonic | Clockid::ProcessCputimeId | Clockid::ThreadCputimeId => self.monotonic(),
        }
    }

    pub(crate) fn wall(&self) -> u64 {
        match self.policy {
            ClockPolicy::Fixed => FIXED_TIME.saturating_add(self.slept),
            ClockPolicy::Real => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
            }
        }
    }

    /// Looks at the monotonic clock.
    pub(crate) fn monotonic(&mut self) -> u64 {
        self.looks += 1;
        self.moment()
    }

    /// The time of the monotonic clock, without looking at it.
    pub(crate) fn moment(&self) -> u64 {
        match self.policy {
            ClockPolicy::Fixed => (MONOTONIC_START + self.looks * MONOTONIC_STEP).saturating_add(self.slept),
            ClockPolicy::Real => {
                MONOTONIC_START + u64::try_from(self.deadline.elapsed().as_nanos()).unwrap_or(u64::MAX / 2)
            }
        }
    }

    /// Sleeps. On the fixed clock that takes no time, but who slept longer than the action may run has
    /// timed out all the same.
    pub(crate) fn sleep(&mut self, nanos: u64) -> Result<(), Stopped> {
        match self.policy {
            ClockPolicy::Fixed => {
                self.slept = self.slept.saturating_add(nanos);
                let timeout = self.deadline.timeout();
                if Duration::from_nanos(self.slept) >= timeout {
                    return Err(self.deadline.timed_out());
                }
                self.deadline.check()
            }
            ClockPolicy::Real => self.deadline.sleep(Duration::from_nanos(nanos)),
        }
    }
}

/// What an action's random bytes begin with. Each purpose has bytes of its own.
pub(crate) mod seed {
    use chacha20::ChaCha20Rng;
    use chacha20::rand_core::SeedableRng as _;
    use sha2::Digest as _;

    /// Random bytes.
    pub(crate) const BYTES: &[u8] = b"wardian: random bytes of an action\0";

    /// Random bytes of the kind that components may call insecure, and the number that these begin with.
    pub(crate) const INSECURE_BYTES: &[u8] = b"wardian: insecure random bytes of an action\0";
    const NUMBER: &[u8] = b"wardian: insecure seed of an action\0";

    fn of(purpose: &[u8], action: &str) -> [u8; 32] {
        sha2::Sha256::new().chain_update(purpose).chain_update(action).finalize().into()
    }

    /// Generates the random bytes of the action of this digest.
    pub(crate) fn generator(purpose: &[u8], action: &str) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(of(purpose, action))
    }

    /// The number of the action of this digest.
    pub(crate) fn number(action: &str) -> u128 {
        let [low, _] = *of(NUMBER, action).as_chunks::<16>().0 else { unreachable!("twice sixteen bytes") };
        u128::from_le_bytes(low)
    }
}

/// The random bytes of one guest.
pub(super) enum Random {
    Action(Box<ChaCha20Rng>),
    System,
}

impl Random {
    pub(super) fn new(policy: RandomPolicy, action: &Digest) -> Self {
        match policy {
            RandomPolicy::Action => Self::Action(Box::new(seed::generator(seed::BYTES, &action.to_string()))),
            RandomPolicy::System => Self::System,
        }
    }

    pub(super) fn fill(&mut self, buf: &mut [u8]) -> Result<(), getrandom::Error> {
        match self {
            Self::Action(generator) => {
                generator.fill_bytes(buf);
                Ok(())
            }
            Self::System => getrandom::fill(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use wardian_proto::DigestFunction;

    use super::*;

    fn clocks(policy: ClockPolicy, timeout: Duration) -> Clocks {
        Clocks::new(policy, Deadline::start(timeout, watch::channel(false).1))
    }

    #[test]
    fn fixed_clocks_move_by_looking_and_by_sleeping() {
        let mut clocks = clocks(ClockPolicy::Fixed, Duration::from_secs(60));
        assert_eq!(clocks.now(Clockid::Realtime), 946_684_800_000_000_000);
        assert_eq!(clocks.now(Clockid::Monotonic), 1_000_001_000);
        assert_eq!(clocks.now(Clockid::Monotonic), 1_000_002_000);
        clocks.sleep(5).unwrap();
        assert_eq!(clocks.now(Clockid::ProcessCputimeId), 1_000_003_005);
        assert_eq!(clocks.now(Clockid::Realtime), 946_684_800_000_000_005);
        assert!(matches!(clocks.sleep(60_000_000_000), Err(Stopped::TimedOut(_))));
    }

    #[test]
    fn random_bytes_are_those_of_the_action() {
        let bytes = |text: &[u8], pieces: &[usize]| {
            let mut random = Random::new(RandomPolicy::Action, &DigestFunction::Sha256.digest(text));
            let mut all = Vec::new();
            for piece in pieces {
                let mut buf = vec![0; *piece];
                random.fill(&mut buf).unwrap();
                all.extend(buf);
            }
            all
        };
        assert_eq!(bytes(b"a", &[16]), bytes(b"a", &[16]));
        assert_ne!(bytes(b"a", &[16]), bytes(b"b", &[16]));
        // Pinned: what it is today it has to be on every machine and in every version.
        assert_eq!(hex::encode(bytes(b"a", &[16])), "0414989014a7a55e3a9d5aedbdf98ce2");
    }
}
