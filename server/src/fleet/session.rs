//! One connection of a worker: what it reports is brought into the queue, and what it should have is told.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use wardian_proto::{DigestFunction, reapi, wardian};
use wardian_scheduler::state::Holding;
use wardian_scheduler::{Assignment, LocalQueue, Loss, RunId, WorkQueue as _};

use super::{Fleet, Joined};

/// Orders that wait for the connection.
pub(crate) const ORDERS_WAITING_MAX: usize = 4;

/// How long a new connection may take to say who it is.
const FIRST_REPORT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long what is acknowledged may wait for other orders to go along with. Nobody waits for it.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_millis(10);

/// Modules that are named in one message, at the most: far below the largest message.
const TRUSTED_MODULES_MAX: usize = 10_000;

type Orders = mpsc::Sender<Result<wardian::WorkerOrders, Status>>;

/// Serves a connection until it breaks or the worker is lost.
pub(crate) async fn serve(
    fleet: Fleet,
    mut reports: Streaming<wardian::WorkerReport>,
    orders: Orders,
    address: Option<SocketAddr>,
) {
    let first = tokio::time::timeout(FIRST_REPORT_TIME_MAX, reports.message()).await;
    let first = match first {
        Ok(Ok(Some(first))) => first,
        // It went away before it said who it is.
        Ok(Ok(None) | Err(_)) => return,
        Err(_) => return refuse(&orders, Status::deadline_exceeded("no report came")).await,
    };
    let Some(offer) = first.offer.clone() else {
        return refuse(&orders, Status::invalid_argument("the first report has no offer")).await;
    };
    let joined = match fleet.join(&offer, address) {
        Ok(joined) => joined,
        Err(status) => return refuse(&orders, status).await,
    };
    tracing::info!(worker = offer.name, slots = offer.slots, "a worker is connected");
    let (acknowledge, acknowledged) = mpsc::unbounded_channel();
    let mut session = Session {
        fleet,
        name: offer.name,
        joined,
        sequence: 0,
        given: HashMap::new(),
        trusted: 0,
        leave: false,
        acknowledge,
    };
    let ended = session.work(first, reports, &orders, acknowledged).await;
    let why = ended.as_ref().map_or_else(|status| status.message().to_owned(), |()| "it closed".to_owned());
    tracing::info!(worker = session.name, why, "the connection to a worker has ended");
    session.fleet.part(&session.name, session.joined);
    if let Err(status) = ended {
        // Not waited for: it may be refused because it does not read.
        let _ = orders.try_send(Err(status));
    }
}

async fn refuse(orders: &Orders, status: Status) {
    // Whoever is gone need not be told.
    let _ = orders.send(Err(status)).await;
}

/// A run that the worker has, as far as this connection knows.
struct GivenRun {
    /// The orders that named it; 0 when the worker had it already.
    sequence: u64,
    cancelled: watch::Receiver<bool>,
    /// It was told that nobody wants the run.
    told: bool,
    /// The orders that asked for it, unless the worker has begun it.
    asked: Option<u64>,
}

struct Session {
    fleet: Fleet,
    name: String,
    joined: Joined,
    sequence: u64,
    given: HashMap<RunId, GivenRun>,
    /// How many trusted modules the worker was told of.
    trusted: usize,
    leave: bool,
    /// Names of runs whose result is taken.
    acknowledge: mpsc::UnboundedSender<String>,
}

impl Session {
    async fn work(
        &mut self,
        first: wardian::WorkerReport,
        mut reports: Streaming<wardian::WorkerReport>,
        orders: &Orders,
        mut acknowledged: mpsc::UnboundedReceiver<String>,
    ) -> Result<(), Status> {
        let lease = self.fleet.shared.limits.lease;
        let queue = self.fleet.shared.queue.clone();
        let bell = queue.bell(self.joined.worker);
        self.joined.logs.end_others(&first.logs_open);
        let mut next = self.begin(&first)?;
        self.take(first, &mut next)?;
        let mut answer = true;
        let mut acknowledge_by = None;
        loop {
            // Listen before looking, so that what comes in between is not slept through.
            let mut rung = std::pin::pin!(bell.rung());
            rung.as_mut().enable();
            if let Err(status) = self.collect(&mut next) {
                if !next.acknowledged.is_empty() {
                    // So that it is not kept for the next connection; where there is no room, it is.
                    self.stamp(&mut next, lease);
                    let _ = orders.try_send(Ok(next));
                }
                return Err(status);
            }
            let is_late = acknowledge_by.is_some_and(|by: Instant| by <= Instant::now());
            if answer || is_late || !is_empty(&next) {
                super::enclose::enclose(&*self.fleet.shared.blobs, &mut next.runs).await;
                self.stamp(&mut next, lease);
                let sent = tokio::time::timeout(lease, orders.send(Ok(std::mem::take(&mut next)))).await;
                match sent {
                    Ok(Ok(())) => (answer, acknowledge_by) = (false, None),
                    // The stream of orders is gone.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => return Err(Status::deadline_exceeded("the worker does not read its orders")),
                }
            }
            if !next.acknowledged.is_empty() {
                acknowledge_by.get_or_insert_with(|| Instant::now() + ACKNOWLEDGED_WITHIN);
            }
            // Not while orders are read and sent: others would wait for it.
            queue.sleep(self.joined.worker);
            tokio::select! {
                report = reports.message() => match report {
                    Ok(Some(report)) => {
                        // What says nothing is a question whether somebody is there.
                        answer = report.results.is_empty() && report.progress.is_empty();
                        self.take(report, &mut next)?;
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                },
                Some(run) = acknowledged.recv() => {
                    next.acknowledged.push(run);
                    while let Ok(run) = acknowledged.try_recv() {
                        next.acknowledged.push(run);
                    }
                    self.forget_ended();
                }
                () = rung => {}
                () = at(acknowledge_by) => {}
                // Nobody may ring when the worker is lost.
                () = tokio::time::sleep(lease) => {}
            }
        }
    }

    /// Compares what the worker has with what it should have, at the start of a connection: what was on its way on an
    /// earlier one is lost by now.
    fn begin(&mut self, first: &wardian::WorkerReport) -> Result<wardian::WorkerOrders, Status> {
        let worker = self.joined.worker;
        let mut orders = wardian::WorkerOrders::default();
        let given = &mut self.given;
        let ended: HashSet<&String> = first.results.iter().map(|result| &result.run).collect();
        let waiting: HashSet<&String> = first.waiting.iter().collect();
        let holding = |name: &String| match name {
            name if ended.contains(name) => Holding::Ended,
            name if waiting.contains(name) => Holding::Waiting,
            _ => Holding::Begun,
        };
        let compare = |queue: &LocalQueue| {
            // What has begun has its place before what has not.
            let first_begun = first.held.iter().filter(|name| holding(name) != Holding::Waiting);
            for name in first_begun.chain(&first.waiting) {
                let run = queue.parse_run_name(name);
                match run.and_then(|run| Some((run, queue.keeps(worker, run, holding(name))?))) {
                    Some((run, cancelled)) => {
                        let known = GivenRun { sequence: 0, cancelled, told: false, asked: None };
                        given.insert(run, known);
                    }
                    None => orders.cancelled.push(name.clone()),
                }
            }
            for run in queue.runs_of(worker) {
                if !given.contains_key(&run) {
                    queue.give_back(worker, run, &Loss::NotReceived);
                }
            }
            // After that, or what it has given back would seem to have begun.
            queue.forget_questions(worker);
        };
        self.fleet.on_behalf_of(&self.name, self.joined.connection, compare).ok_or_else(replaced)?;
        Ok(orders)
    }

    /// Brings a report into the queue.
    fn take(
        &mut self,
        report: wardian::WorkerReport,
        orders: &mut wardian::WorkerOrders,
    ) -> Result<(), Status> {
        let shared = &self.fleet.shared;
        let (queue, worker) = (&shared.queue, self.joined.worker);
        if !queue.renew(worker, shared.limits.lease) {
            return Err(lost());
        }
        if let Some(offer) = &report.offer {
            self.fleet.offers(&self.name, offer);
        }
        for piece in report.logs {
            self.joined.logs.add(piece, &shared.logs, &shared.instances);
        }
        for wardian::RunProgress { run, metadata } in report.progress {
            if let (Some(run), Some(metadata)) = (queue.parse_run_name(&run), metadata) {
                queue.progress_at(worker, run, metadata);
            }
        }
        for wardian::RunResult { run: name, response } in report.results {
            let run = queue.parse_run_name(&name).filter(|run| queue.job_of(worker, *run).is_some());
            match (run, response) {
                (Some(run), Some(response)) => self.complete(name, run, response),
                // Somebody else has brought it to its end, or nobody here knows it: it may be forgotten.
                _ => orders.acknowledged.push(name),
            }
        }
        // A late report on a connection that was replaced speaks of what the worker had then: what it has been given since
        // on the other one would seem lost.
        let given = &mut self.given;
        let compare = |queue: &LocalQueue| {
            let parse = |name: &String| queue.parse_run_name(name);
            for run in report.returned.iter().filter_map(parse) {
                queue.give_back(worker, run, &Loss::Returned);
                given.remove(&run);
            }
            let held: HashSet<RunId> = report.held.iter().filter_map(parse).collect();
            for run in queue.runs_of(worker) {
                let named = given.get(&run).is_some_and(|given| given.sequence <= report.orders_seen);
                if named && !held.contains(&run) {
                    queue.give_back(worker, run, &Loss::Dropped);
                    given.remove(&run);
                }
            }
            // What it has still, although it knows that it was asked for it, it has begun.
            for (run, given) in given.iter_mut() {
                if given.asked.is_some_and(|asked| asked <= report.orders_seen) {
                    given.asked = None;
                    queue.has_begun(worker, *run);
                }
            }
        };
        self.fleet.on_behalf_of(&self.name, self.joined.connection, compare).ok_or_else(replaced)
    }

    /// Ends a run, and acknowledges its result once that survives a restart.
    fn complete(&self, name: String, run: RunId, response: reapi::ExecuteResponse) {
        let (queue, worker) = (self.fleet.shared.queue.clone(), self.joined.worker);
        let acknowledge = self.acknowledge.clone();
        tokio::spawn(async move {
            queue.complete(worker, run, response).await;
            if let Err(error) = queue.settled().await {
                tracing::warn!(%error, run = name, "a result may not survive a restart");
            }
            // The connection may be gone: the worker reports the result again on the next one.
            let _ = acknowledge.send(name);
        });
    }

    fn forget_ended(&mut self) {
        let (queue, worker) = (&self.fleet.shared.queue, self.joined.worker);
        self.given.retain(|run, _| queue.job_of(worker, *run).is_some());
    }

    fn stamp(&mut self, orders: &mut wardian::WorkerOrders, lease: Duration) {
        self.sequence += 1;
        orders.sequence = self.sequence;
        orders.lease = lease.try_into().ok();
    }

    /// The next run for the worker. A connection that was replaced gets none, as nobody would ever hear of it: the other
    /// one has compared what the worker has with what it should have already.
    fn assign(&self) -> Option<Assignment> {
        let assign = |queue: &LocalQueue| queue.assign(self.joined.worker);
        self.fleet.on_behalf_of(&self.name, self.joined.connection, assign)?
    }

    /// Adds what the worker should know to the orders.
    fn collect(&mut self, orders: &mut wardian::WorkerOrders) -> Result<(), Status> {
        let queue = self.fleet.shared.queue.clone();
        let worker = self.joined.worker;
        if !queue.knows(worker) {
            return Err(lost());
        }
        if queue.is_shutting_down() && (queue.has_journal() || queue.runs_of(worker).is_empty()) {
            // It goes on with what it has, and reports it to the next process.
            return Err(Status::unavailable("the server is shutting down"));
        }
        let leave = self.fleet.current(&self.name, self.joined.connection).ok_or_else(replaced)?;
        if leave && !self.leave {
            self.leave = true;
            orders.leave = true;
        }
        for (run, given) in &mut self.given {
            if !given.told && *given.cancelled.borrow() {
                given.told = true;
                orders.cancelled.push(queue.run_name(*run));
            }
        }
        let questions = |queue: &LocalQueue| queue.take_questions(worker);
        let questions = self.fleet.on_behalf_of(&self.name, self.joined.connection, questions);
        for run in questions.ok_or_else(replaced)? {
            if let Some(given) = self.given.get_mut(&run) {
                given.asked = Some(self.sequence + 1);
                orders.give_back.push(queue.run_name(run));
            }
        }
        if self.trusted != self.fleet.shared.trusted.count() {
            let all = self.fleet.shared.trusted.all();
            self.trusted = all.len();
            let known = all.into_iter().filter(|module| module.function() == DigestFunction::Sha256);
            orders.trusted_modules = known.take(TRUSTED_MODULES_MAX).map(|module| module.to_wire()).collect();
        }
        while let Some(assignment) = self.assign() {
            let Assignment { run, job, queued_at, cancelled } = assignment;
            orders.runs.push(wardian::RunOrder {
                run: queue.run_name(run),
                instance_name: job.instance.to_string(),
                action_digest: Some(job.action.to_wire()),
                digest_function: job.action.function().wire().into(),
                queued: Some(queued_at.into()),
                blobs: Vec::new(),
            });
            let given = GivenRun { sequence: self.sequence + 1, cancelled, told: false, asked: None };
            self.given.insert(run, given);
        }
        Ok(())
    }
}

/// Whether nobody waits for these orders.
fn is_empty(orders: &wardian::WorkerOrders) -> bool {
    orders.runs.is_empty()
        && orders.cancelled.is_empty()
        && orders.give_back.is_empty()
        && orders.trusted_modules.is_empty()
        && !orders.leave
}

/// Waits until then; for ever when there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn replaced() -> Status {
    Status::aborted("the worker has another connection")
}

fn lost() -> Status {
    Status::aborted("nothing was heard of the worker for longer than its lease; it is to connect anew")
}

#[cfg(test)]
mod tests;
