//! The clocks of a component: those of preview-1 modules, with the same rules.
//!
//! On the fixed clock a component that waits for nothing but time finds that it has passed, and that costs none.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock};

use crate::wasi::{Clocks, Stopped};

/// The clocks of one component, and the moment that it waits for. Clones are the same.
#[derive(Clone)]
pub(super) struct SharedClocks(Arc<Mutex<Shared>>);

struct Shared {
    clocks: Clocks,
    /// The first moment that was asked for since the component was last let go on.
    awaited: Option<u64>,
}

impl SharedClocks {
    pub(super) fn new(clocks: Clocks) -> Self {
        Self(Arc::new(Mutex::new(Shared { clocks, awaited: None })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().expect("no code that holds this lock panics")
    }

    /// Runs a component to its end, and lets time pass whenever it waits for that alone.
    ///
    /// The runtime must have but one thread for blocking work, so that what was begun there is done in order.
    pub(super) async fn drive<T>(&self, component: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut component = pin!(component);
        loop {
            let waits = poll_fn(|context| {
                self.lock().awaited = None;
                match component.as_mut().poll(context) {
                    Poll::Ready(ended) => Poll::Ready(Some(ended)),
                    Poll::Pending if self.lock().awaited.is_some() => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            });
            if let Some(ended) = waits.await {
                return Ok(ended);
            }
            // Files come before clocks: whatever was begun with one is done when this is.
            let _ = tokio::task::spawn_blocking(|| ()).await;
            let again = poll_fn(|context| {
                self.lock().awaited = None;
                Poll::Ready(component.as_mut().poll(context))
            });
            if let Poll::Ready(ended) = again.await {
                return Ok(ended);
            }
            let mut shared = self.lock();
            if let Some(moment) = shared.awaited.take() {
                let left = moment.saturating_sub(shared.clocks.moment());
                shared.clocks.sleep(left)?;
            }
        }
    }

    /// Puts these clocks in the place of the host's.
    pub(super) fn add_to_linker<T: Send + 'static>(
        linker: &mut Linker<T>,
        host: fn(&mut T) -> Monotonic<'_>,
    ) -> wasmtime::Result<()> {
        linker.allow_shadowing(true);
        monotonic_clock::add_to_linker::<T, MonotonicData>(linker, host)?;
        linker.allow_shadowing(false);
        Ok(())
    }
}

impl HostWallClock for SharedClocks {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(self.lock().clocks.resolution())
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.lock().clocks.wall())
    }
}

impl HostMonotonicClock for SharedClocks {
    fn resolution(&self) -> u64 {
        self.lock().clocks.resolution()
    }

    fn now(&self) -> u64 {
        self.lock().clocks.monotonic()
    }
}

/// What the functions of the monotonic clock are given.
pub(super) struct Monotonic<'a> {
    pub(super) clocks: &'a SharedClocks,
    pub(super) table: &'a mut ResourceTable,
}

struct MonotonicData;

impl HasData for MonotonicData {
    type Data<'a> = Monotonic<'a>;
}

impl Monotonic<'_> {
    fn at(&mut self, moment: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(Timer { clocks: self.clocks.clone(), moment })?;
        subscribe(self.table, timer)
    }
}

impl monotonic_clock::Host for Monotonic<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::now(self.clocks))
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(HostMonotonicClock::resolution(self.clocks))
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.at(when)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let now = self.clocks.lock().clocks.moment();
        self.at(now.saturating_add(duration))
    }
}

/// A moment to wait for.
struct Timer {
    clocks: SharedClocks,
    moment: u64,
}

#[async_trait::async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        poll_fn(|_| {
            let mut shared = self.clocks.lock();
            if shared.clocks.moment() >= self.moment {
                return Poll::Ready(());
            }
            // Whoever drives the component looks at this, and wakes it.
            shared.awaited = Some(shared.awaited.map_or(self.moment, |first| first.min(self.moment)));
            Poll::Pending
        })
        .await;
    }
}
