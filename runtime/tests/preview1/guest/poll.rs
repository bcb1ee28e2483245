//! What `poll_oneoff` is asked and answers.

use super::call::Fd;
use super::types::Errno;

/// Size of a subscription in memory.
pub const SUBSCRIPTION_BYTES: usize = 48;

/// Size of an event in memory.
pub const EVENT_BYTES: usize = 32;

/// Where a subscription to a descriptor names it.
pub const FD_OFFSET: usize = 16;

const CLOCK: u8 = 0;
const FD_READ: u8 = 1;
const FD_WRITE: u8 = 2;
const ABSTIME: u16 = 1;

/// One thing to wait for.
#[derive(Clone, Debug)]
pub struct Subscription {
    userdata: u64,
    about: About,
}

#[derive(Clone, Debug)]
enum About {
    Clock { id: u32, timeout: u64, flags: u16 },
    Descriptor(u8, Fd),
}

/// A time from now.
pub fn after(userdata: u64, id: u32, timeout_ns: u64) -> Subscription {
    Subscription { userdata, about: About::Clock { id, timeout: timeout_ns, flags: 0 } }
}

/// A point in time.
pub fn at(userdata: u64, id: u32, time_ns: u64) -> Subscription {
    Subscription { userdata, about: About::Clock { id, timeout: time_ns, flags: ABSTIME } }
}

/// Something to read.
pub fn readable(userdata: u64, fd: Fd) -> Subscription {
    Subscription { userdata, about: About::Descriptor(FD_READ, fd) }
}

/// Room to write.
pub fn writable(userdata: u64, fd: Fd) -> Subscription {
    Subscription { userdata, about: About::Descriptor(FD_WRITE, fd) }
}

impl Subscription {
    /// With flags that the definition does not have.
    pub fn flags(mut self, bits: u16) -> Self {
        match &mut self.about {
            About::Clock { flags, .. } => *flags = bits,
            About::Descriptor(..) => panic!("only clocks have flags"),
        }
        self
    }

    /// As it is in memory, but for a descriptor that is known only when the guest runs.
    pub fn encode(&self) -> [u8; SUBSCRIPTION_BYTES] {
        let mut bytes = [0; SUBSCRIPTION_BYTES];
        bytes[..8].copy_from_slice(&self.userdata.to_le_bytes());
        match &self.about {
            About::Clock { id, timeout, flags } => {
                bytes[8] = CLOCK;
                bytes[16..20].copy_from_slice(&id.to_le_bytes());
                bytes[24..32].copy_from_slice(&timeout.to_le_bytes());
                bytes[40..42].copy_from_slice(&flags.to_le_bytes());
            }
            About::Descriptor(kind, _) => bytes[8] = *kind,
        }
        bytes
    }

    /// The descriptor, where it has one.
    pub fn fd(&self) -> Option<Fd> {
        match self.about {
            About::Clock { .. } => None,
            About::Descriptor(_, fd) => Some(fd),
        }
    }
}

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub userdata: u64,
    pub errno: Errno,
    kind: u8,
}

impl Event {
    /// Reads one out of memory.
    pub fn decode(bytes: &[u8]) -> Self {
        let userdata = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
        let errno = u16::from_le_bytes([bytes[8], bytes[9]]);
        Self { userdata, errno: super::types::ERRNOS[usize::from(errno)], kind: bytes[10] }
    }
}

fn event(userdata: u64, kind: u8) -> Event {
    Event { userdata, errno: Errno::SUCCESS, kind }
}

/// The time came.
pub fn clock_event(userdata: u64) -> Event {
    event(userdata, CLOCK)
}

/// There is something to read.
pub fn read_event(userdata: u64) -> Event {
    event(userdata, FD_READ)
}

/// There is room to write.
pub fn write_event(userdata: u64) -> Event {
    event(userdata, FD_WRITE)
}

impl Event {
    /// It came to nothing for this reason.
    pub fn failed(mut self, errno: Errno) -> Self {
        self.errno = errno;
        self
    }
}
