//! Workers in processes of their own, as the server sees them: who there is, and what each is told.
//!
//! A member is a worker by its name. It outlives its connection for as long as the queue waits for it (its lease), so
//! that a short break of the network costs nothing, and its name stays taken while it is connected.

mod enclose;
mod logs;
mod offer;
mod session;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tonic::Status;
use wardian_proto::{InstanceName, wardian};
use wardian_runtime::TrustedModules;
use wardian_scheduler::{LocalQueue, Loss, WorkerId};
use wardian_store::BlobStore;

use self::logs::WorkerLogs;
use crate::logs::LogStreams;

pub(crate) use self::offer::{AHEAD_PER_SLOT_MAX, to_wire as offer_to_wire};
pub(crate) use self::session::{ORDERS_WAITING_MAX, serve};

/// How much later than its lease a worker may be found to be lost.
const LOST_SLACK: Duration = Duration::from_secs(2);

/// Limits on workers in processes of their own.
#[derive(Clone, Copy, Debug)]
pub struct FleetLimits {
    /// How long a worker counts as alive without being heard of.
    pub lease: Duration,
    /// How long after a restart nothing is started, so that workers can report what they run.
    pub takeover: Duration,
    /// Workers with a name, connected or not heard of for less than their lease.
    pub workers_max: usize,
}

impl Default for FleetLimits {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), takeover: Duration::from_secs(5), workers_max: 4096 }
    }
}

/// All workers in processes of their own. Clones share them.
#[derive(Clone)]
pub(crate) struct Fleet {
    shared: Arc<Shared>,
}

struct Shared {
    queue: LocalQueue,
    blobs: Arc<dyn BlobStore>,
    logs: LogStreams,
    trusted: TrustedModules,
    instances: Vec<InstanceName>,
    limits: FleetLimits,
    connections: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    members: HashMap<String, Member>,
    /// Names of workers that get nothing; they stay so when they come back.
    paused: BTreeSet<String>,
}

struct Member {
    worker: WorkerId,
    offer: wardian::WorkerOffer,
    /// The number of its connection, if it has one.
    connection: Option<u64>,
    since: SystemTime,
    address: Option<SocketAddr>,
    /// It was told to end.
    leave: bool,
    logs: WorkerLogs,
}

/// What a connection is known by.
struct Joined {
    worker: WorkerId,
    connection: u64,
    logs: WorkerLogs,
}

/// How a worker stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    /// It takes work.
    Ready,
    /// It has no connection, and is waited for until its lease is over.
    Away,
    Paused,
    Draining,
}

impl Standing {
    /// Each, with its name in metrics.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::Ready, "ready"),
        (Self::Away, "away"),
        (Self::Paused, "paused"),
        (Self::Draining, "draining"),
    ];
}

/// Workers of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KindFigures {
    /// By how they stand.
    pub(crate) workers: [u64; Standing::ALL.len()],
    pub(crate) slots: u64,
    /// Slots that could be given something now.
    pub(crate) slots_free: u64,
    /// Runs beside those that have a slot.
    pub(crate) runs_ahead: u64,
}

impl Fleet {
    pub(crate) fn new(
        queue: LocalQueue,
        blobs: Arc<dyn BlobStore>,
        logs: LogStreams,
        trusted: TrustedModules,
        instances: Vec<InstanceName>,
        limits: FleetLimits,
    ) -> Self {
        let (connections, inner) = (AtomicU64::new(0), Mutex::default());
        Self {
            shared: Arc::new(Shared { queue, blobs, logs, trusted, instances, limits, connections, inner }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().expect("no code that holds this lock panics")
    }

    /// Takes a worker in, or the worker's new connection.
    fn join(&self, offer: &wardian::WorkerOffer, address: Option<SocketAddr>) -> Result<Joined, Status> {
        let parsed = offer::parse(offer)?;
        let queue = &self.shared.queue;
        let mut inner = self.lock();
        self.forget_lost(&mut inner);
        let (mut logs, mut kept, mut leave) = (WorkerLogs::default(), None, false);
        if let Some(member) = inner.members.get_mut(&offer.name) {
            let known = queue.knows(member.worker);
            if member.offer.incarnation == offer.incarnation {
                kept = known.then_some(member.worker);
                logs = std::mem::take(&mut member.logs);
                leave = member.leave;
            } else if known && member.connection.is_some() {
                return Err(taken(&offer.name));
            } else {
                queue.remove_worker(member.worker, &Loss::StartedAnew);
            }
        } else if queue.has_worker_named(&offer.name) {
            return Err(taken(&offer.name));
        } else if inner.members.len() >= self.shared.limits.workers_max {
            let text = format!("{} workers have joined; limit is workers_max", inner.members.len());
            return Err(Status::resource_exhausted(text));
        }
        let worker = kept.unwrap_or_else(|| queue.join(parsed, self.shared.limits.lease));
        queue.renew(worker, self.shared.limits.lease);
        if offer.leaving || leave {
            queue.drain(worker, true);
        }
        queue.pause_worker(worker, inner.paused.contains(&offer.name));
        // So that an older connection looks, and finds that it is one.
        queue.bell(worker).ring();
        let connection = self.shared.connections.fetch_add(1, Ordering::Relaxed);
        let member = Member {
            worker,
            offer: offer.clone(),
            connection: Some(connection),
            since: SystemTime::now(),
            address,
            leave,
            logs: WorkerLogs::default(),
        };
        inner.members.insert(offer.name.clone(), member);
        Ok(Joined { worker, connection, logs })
    }

    /// Forgets those that the queue waits for no longer. Their logs end with them.
    fn forget_lost(&self, inner: &mut Inner) {
        let queue = &self.shared.queue;
        inner.members.retain(|_, member| member.connection.is_some() || queue.knows(member.worker));
    }

    /// Notes that a connection is gone. A worker that said it leaves, and has nothing any more, is gone with it.
    fn part(&self, name: &str, joined: Joined) {
        let mut inner = self.lock();
        let Some(member) = inner.members.get_mut(name) else { return };
        if member.connection != Some(joined.connection) {
            return;
        }
        member.connection = None;
        member.since = SystemTime::now();
        member.logs = joined.logs;
        let (leaving, worker) = (member.offer.leaving, member.worker);
        let queue = &self.shared.queue;
        queue.absent(worker);
        if !queue.knows(worker) {
            inner.members.remove(name);
        } else if leaving && queue.runs_of(worker).is_empty() {
            inner.members.remove(name);
            drop(inner);
            queue.remove_worker(worker, &Loss::Left);
        } else {
            let (fleet, lease) = (self.clone(), self.shared.limits.lease);
            tokio::spawn(async move {
                tokio::time::sleep(lease + LOST_SLACK).await;
                fleet.forget_lost(&mut fleet.lock());
            });
        }
    }

    /// Whether a connection is still its worker's, and whether the worker is to leave.
    fn current(&self, name: &str, connection: u64) -> Option<bool> {
        let inner = self.lock();
        let member = inner.members.get(name)?;
        (member.connection == Some(connection)).then_some(member.leave)
    }

    /// Changes the queue on behalf of a connection, unless its worker has another one by now: what two connections of a
    /// worker do never comes in between. `None` when it has.
    fn on_behalf_of<T>(
        &self,
        name: &str,
        connection: u64,
        change: impl FnOnce(&LocalQueue) -> T,
    ) -> Option<T> {
        let inner = self.lock();
        let member = inner.members.get(name).filter(|member| member.connection == Some(connection));
        member.map(|_| change(&self.shared.queue))
    }

    /// Notes that a worker offers something else. Only that it leaves is of interest.
    fn offers(&self, name: &str, offer: &wardian::WorkerOffer) {
        let mut inner = self.lock();
        let Some(member) = inner.members.get_mut(name) else { return };
        if offer.leaving && !member.offer.leaving {
            member.offer.leaving = true;
            let worker = member.worker;
            drop(inner);
            self.shared.queue.drain(worker, true);
        }
    }

    /// Every worker, by name.
    pub(crate) fn list(&self) -> Vec<wardian::WorkerState> {
        let inner = self.lock();
        let members: HashMap<WorkerId, &Member> =
            inner.members.values().map(|member| (member.worker, member)).collect();
        let mut states: Vec<_> = self
            .shared
            .queue
            .workers()
            .into_iter()
            .map(|view| {
                let member = members.get(&view.id);
                let offer = member.map_or_else(|| offer::to_wire(&view.offer), |m| m.offer.clone());
                wardian::WorkerState {
                    running: u32::try_from(view.running).unwrap_or(u32::MAX),
                    ahead: u32::try_from(view.ahead).unwrap_or(u32::MAX),
                    memory_used_bytes: view.memory_used,
                    paused: view.draining || view.paused,
                    inside: member.is_none(),
                    connected: member.is_none_or(|member| member.connection.is_some()),
                    since: member.map(|member| member.since.into()),
                    address: member
                        .and_then(|member| member.address)
                        .map_or_else(String::new, |a| a.to_string()),
                    offer: Some(offer),
                }
            })
            .collect();
        states.sort_by(|a, b| name_of(a).cmp(name_of(b)));
        states
    }

    /// All workers in numbers: those inside the server, then those elsewhere.
    pub(crate) fn figures(&self) -> [KindFigures; 2] {
        let inner = self.lock();
        let members: HashMap<WorkerId, &Member> =
            inner.members.values().map(|member| (member.worker, member)).collect();
        let mut kinds = [KindFigures::default(); 2];
        for view in self.shared.queue.workers() {
            let member = members.get(&view.id);
            let kind = &mut kinds[usize::from(member.is_some())];
            kind.slots += view.offer.slots as u64;
            kind.runs_ahead += view.ahead as u64;
            if !view.draining && !view.paused {
                kind.slots_free += view.offer.slots.saturating_sub(view.running) as u64;
            }
            let state = match member {
                Some(member) if member.leave || member.offer.leaving => Standing::Draining,
                _ if inner.paused.contains(&view.offer.name) => Standing::Paused,
                Some(member) if member.connection.is_none() => Standing::Away,
                _ => Standing::Ready,
            };
            kind.workers[state as usize] += 1;
        }
        kinds
    }

    /// Gives a worker nothing more, or something again, or lets it end.
    pub(crate) fn set(&self, name: &str, change: wardian::set_worker_request::Change) -> Result<(), Status> {
        use wardian::set_worker_request::Change;
        let queue = &self.shared.queue;
        let mut inner = self.lock();
        let found = queue.workers().into_iter().find(|worker| worker.offer.name == name);
        let worker = found.ok_or_else(|| Status::not_found(format!("no worker {name:?}")))?.id;
        match change {
            Change::Unspecified => return Err(Status::invalid_argument("change is missing")),
            Change::Pause => {
                inner.paused.insert(name.to_owned());
            }
            Change::Resume => {
                inner.paused.remove(name);
                if inner.members.get(name).is_some_and(|member| member.leave || member.offer.leaving) {
                    let text = format!("worker {name:?} is ending and cannot be resumed");
                    return Err(Status::failed_precondition(text));
                }
            }
            Change::Drain => {
                let member = inner.members.get_mut(name).ok_or_else(|| {
                    Status::failed_precondition(format!(
                        "worker {name:?} is part of the server and ends with it; `pause` gives it nothing more"
                    ))
                })?;
                member.leave = true;
            }
        }
        drop(inner);
        // Either rings, so that the session looks.
        match change {
            Change::Drain => queue.drain(worker, true),
            _ => queue.pause_worker(worker, change == Change::Pause),
        };
        Ok(())
    }
}

fn taken(name: &str) -> Status {
    Status::already_exists(format!(
        "a worker {name:?} is connected already; give this one another name (--name)"
    ))
}

fn name_of(state: &wardian::WorkerState) -> &str {
    state.offer.as_ref().map_or("", |offer| &offer.name)
}

#[cfg(test)]
mod test_setup;

#[cfg(test)]
mod tests {
    use super::test_setup::{fleet, offer};
    use super::*;

    #[tokio::test]
    async fn a_worker_that_was_told_to_end_while_it_was_away_hears_of_it() {
        let fleet = fleet();
        let joined = fleet.join(&offer(), None).unwrap();
        fleet.part("w", joined);
        fleet.set("w", wardian::set_worker_request::Change::Drain).unwrap();
        let joined = fleet.join(&offer(), None).unwrap();
        assert_eq!(fleet.current("w", joined.connection), Some(true));
        // The next process of that name is another one.
        fleet.part("w", joined);
        let anew = wardian::WorkerOffer { incarnation: "b".into(), ..offer() };
        let joined = fleet.join(&anew, None).unwrap();
        assert_eq!(fleet.current("w", joined.connection), Some(false));
    }

    #[tokio::test]
    async fn a_worker_that_leaves_with_nothing_is_gone_at_once() {
        let fleet = fleet();
        let joined = fleet.join(&offer(), None).unwrap();
        fleet.offers("w", &wardian::WorkerOffer { leaving: true, ..offer() });
        fleet.part("w", joined);
        assert!(fleet.list().is_empty() && fleet.lock().members.is_empty());
    }
}
