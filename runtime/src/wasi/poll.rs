//! poll_oneoff: files and streams are always ready, so only clocks are ever waited for.

use wasmtime_wasi::p1::types::{self, Clockid, Errno, Eventrwflags, Eventtype, Fd, Rights, Subclockflags};
use wiggle::{GuestMemory, GuestPtr};

use super::fds::Object;
use super::{Host, trap};

/// Subscriptions of one call.
const SUBSCRIPTIONS_MAX: types::Size = 4096;

type Result<T, E = types::Error> = std::result::Result<T, E>;

/// What a subscription comes to.
enum Answer {
    /// An event at once.
    Now(types::Event),
    /// An event after so many nanoseconds.
    After(u64, types::Userdata),
}

impl Host {
    pub(super) fn poll(
        &mut self,
        memory: &mut GuestMemory<'_>,
        subscriptions: GuestPtr<types::Subscription>,
        events: GuestPtr<types::Event>,
        count: types::Size,
    ) -> Result<types::Size> {
        // Nobody would ever wake who waits for nothing.
        if count == 0 || count > SUBSCRIPTIONS_MAX {
            return Err(Errno::Inval.into());
        }
        self.check_deadline()?;
        let mut ready = Vec::new();
        let mut waiting = Vec::new();
        for subscription in subscriptions.as_array(count).iter() {
            let subscription = memory.read(subscription?)?;
            match self.answer(subscription)? {
                Answer::Now(event) => ready.push(event),
                Answer::After(0, userdata) => ready.push(clock_event(userdata)),
                Answer::After(nanos, userdata) => waiting.push((nanos, userdata)),
            }
        }
        if ready.is_empty() {
            let first = waiting.iter().map(|(nanos, _)| *nanos).min().expect("there was a subscription");
            self.clocks.sleep(first).map_err(trap)?;
            let due = waiting.iter().filter(|(nanos, _)| *nanos == first);
            ready.extend(due.map(|(_, userdata)| clock_event(*userdata)));
        }
        let mut place = events;
        for event in &ready {
            memory.write(place, event.clone())?;
            place = place.add(1)?;
        }
        Ok(types::Size::try_from(ready.len()).expect("no more than subscriptions"))
    }

    fn answer(&mut self, subscription: types::Subscription) -> Result<Answer> {
        let userdata = subscription.userdata;
        let (type_, fd) = match subscription.u {
            types::SubscriptionU::Clock(clock) => return Ok(Answer::After(self.wait(&clock), userdata)),
            types::SubscriptionU::FdRead(read) => (Eventtype::FdRead, read.file_descriptor),
            types::SubscriptionU::FdWrite(write) => (Eventtype::FdWrite, write.file_descriptor),
        };
        let mut event = clock_event(userdata);
        event.type_ = type_;
        match self.readiness(type_, fd) {
            Ok(readiness) => event.fd_readwrite = readiness,
            Err(errno) => event.error = errno,
        }
        Ok(Answer::Now(event))
    }

    /// Nanoseconds until a clock gets there.
    fn wait(&mut self, clock: &types::SubscriptionClock) -> u64 {
        if !clock.flags.contains(Subclockflags::SUBSCRIPTION_CLOCK_ABSTIME) {
            return clock.timeout;
        }
        let id = match clock.id {
            Clockid::Realtime => Clockid::Realtime,
            _ => Clockid::Monotonic,
        };
        clock.timeout.saturating_sub(self.clocks.now(id))
    }

    fn readiness(&mut self, type_: Eventtype, fd: Fd) -> Result<types::EventFdReadwrite, Errno> {
        let descriptor = self.fds.get(fd)?;
        let needed = if type_ == Eventtype::FdRead { Rights::FD_READ } else { Rights::FD_WRITE };
        descriptor.check(needed)?;
        let mut ready = types::EventFdReadwrite { nbytes: 1, flags: Eventrwflags::empty() };
        match &descriptor.object {
            // It is at its end.
            Object::Stdin => {
                ready.nbytes = 0;
                ready.flags = Eventrwflags::FD_READWRITE_HANGUP;
            }
            Object::Stdout | Object::Stderr => {}
            Object::File(file) if type_ == Eventtype::FdRead => {
                let (node, offset) = (file.node, file.offset);
                let size = self.workspace.stat(node).map_or(0, |stat| stat.size);
                ready.nbytes = size.saturating_sub(offset);
                if ready.nbytes == 0 {
                    ready.flags = Eventrwflags::FD_READWRITE_HANGUP;
                }
            }
            Object::File(_) => {}
            Object::Directory(_) => return Err(Errno::Badf),
        }
        Ok(ready)
    }
}

fn clock_event(userdata: types::Userdata) -> types::Event {
    types::Event {
        userdata,
        error: Errno::Success,
        type_: Eventtype::Clock,
        fd_readwrite: types::EventFdReadwrite { nbytes: 0, flags: Eventrwflags::empty() },
    }
}
