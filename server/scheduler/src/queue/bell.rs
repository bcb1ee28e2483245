//! How workers hear that there is something for them: each has a bell of its own.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::{Inner, LocalQueue};
use crate::WorkerId;

/// What a worker listens to. Clones are the same bell.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Notify>);

impl Bell {
    /// Rung when there may be something to begin or to stop.
    pub fn rung(&self) -> Notified<'_> {
        self.0.notified()
    }

    /// Lets everybody look who listens.
    pub fn ring(&self) {
        self.0.notify_waiters();
    }
}

impl LocalQueue {
    /// The bell of a worker. That of one that nobody knows is silent.
    pub fn bell(&self, worker: WorkerId) -> Bell {
        let mut inner = self.lock();
        if !inner.state.has_worker(worker) {
            return Bell::default();
        }
        inner.bells.entry(worker).or_default().clone()
    }
}

impl Inner {
    /// Rings for a worker. That of one that is gone is rung once more, and forgotten.
    pub(super) fn ring(&mut self, worker: WorkerId) {
        if let Some(bell) = self.bells.get(&worker) {
            bell.ring();
        }
        if !self.state.has_worker(worker) {
            self.bells.remove(&worker);
        }
    }

    pub(super) fn ring_all(&self) {
        self.bells.values().for_each(Bell::ring);
    }
}
