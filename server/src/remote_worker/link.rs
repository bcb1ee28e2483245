//! The connection to the server: made again whenever it breaks, and taken for dead when nothing is heard.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use wardian_proto::wardian;
use wardian_proto::wardian::workers_client::WorkersClient;
use wardian_proto::{Digest, DigestFunction};
use wardian_runtime::TrustedModules;
use wardian_store::layers::AtHand;

use super::queue::{News, RemoteQueue};
use crate::client::Access;

/// The lease that is assumed until the server has said it.
const LEASE_AT_FIRST: Duration = Duration::from_secs(15);

/// Shortest and longest lease that a server may ask for.
const LEASE_MIN: Duration = Duration::from_millis(200);
const LEASE_MAX: Duration = Duration::from_secs(3600);

/// How many times within a lease the server hears of the worker.
const REPORTS_PER_LEASE: u32 = 4;

/// How long progress and logs may wait for company.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// Pause before the first attempt to connect again; it doubles with each.
const BACK_OFF_FIRST: Duration = Duration::from_millis(100);

/// Longest pause between two attempts: shorter than what a restarted server waits for its workers.
const BACK_OFF_MAX: Duration = Duration::from_secs(3);

/// How long an attempt to connect may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Reports on their way into the connection.
const REPORTS_WAITING_MAX: usize = 2;

/// Largest message of orders that is taken.
const ORDERS_BYTES_MAX: usize = 16 << 20;

pub(super) struct Link {
    queue: RemoteQueue,
    server: Access,
    trusted: TrustedModules,
    at_hand: AtHand,
    lease: Duration,
    /// Attempts since the server was heard last.
    failures: u32,
    /// The server has taken the worker before.
    served: bool,
}

impl Link {
    pub(super) fn new(queue: RemoteQueue, server: Access, trusted: TrustedModules, at_hand: AtHand) -> Self {
        Self { queue, server, trusted, at_hand, lease: LEASE_AT_FIRST, failures: 0, served: false }
    }

    /// Keeps the worker connected. It ends only when the server refuses the worker as it is from the first: one that has
    /// taken it may have been started anew with a wrong setting, or stands behind a proxy that has, and what runs here
    /// must not be lost for it.
    pub(super) async fn keep(mut self) -> anyhow::Result<()> {
        let mut said = None;
        loop {
            let status = match self.connected().await {
                Ok(()) => Status::unavailable("the server closed the connection"),
                Err(status) => status,
            };
            let text = status.message().to_owned();
            match status.code() {
                Code::InvalidArgument
                | Code::Unimplemented
                | Code::PermissionDenied
                | Code::Unauthenticated
                    if !self.served =>
                {
                    anyhow::bail!("the server at {} refuses this worker: {text}", self.server.url);
                }
                _ if said.as_ref() != Some(&text) => {
                    tracing::warn!(server = %self.server.url, why = text, "not connected; trying again");
                    said = Some(text);
                }
                _ => {}
            }
            tokio::time::sleep(jittered(pause(self.failures))).await;
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// One connection, from its first report to its end.
    async fn connected(&mut self) -> Result<(), Status> {
        // A new one each time: the old one may be half open, with the server gone and nobody to say so.
        let connecting = tokio::time::timeout(CONNECT_TIME_MAX, self.server.connect_as_worker());
        let connection = connecting
            .await
            .map_err(|_| Status::unavailable("the connection could not be made in time"))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = WorkersClient::new(connection)
            .max_decoding_message_size(ORDERS_BYTES_MAX)
            .max_encoding_message_size(crate::services::REPORT_BYTES_MAX);
        let (sender, reports) = mpsc::channel(REPORTS_WAITING_MAX);
        self.queue.begin_stream();
        // There is room: it is the first.
        let _ = sender.try_send(self.queue.report());
        let opened = tokio::time::timeout(self.lease, client.work(ReceiverStream::new(reports))).await;
        let silent = || Status::unavailable("nothing is heard of the server");
        let mut orders = opened.map_err(|_| silent())??.into_inner();
        let (mut heard, mut sent) = (Instant::now(), Instant::now());
        loop {
            let news = self.queue.news();
            let due = match news {
                News::Urgent => sent,
                News::Some => sent + BATCH_TIME,
                News::Nothing => sent + self.lease / REPORTS_PER_LEASE,
            };
            tokio::select! {
                message = orders.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    heard = Instant::now();
                    if self.failures > 0 || message.sequence == 1 {
                        tracing::info!(server = %self.server.url, "connected");
                    }
                    (self.failures, self.served) = (0, true);
                    self.take(message);
                }
                permit = room(&sender, due) => {
                    let permit = permit.map_err(|_| Status::unavailable("the connection broke"))?;
                    sent = Instant::now();
                    permit.send(self.queue.report());
                }
                () = self.queue.rung() => {}
                () = tokio::time::sleep_until(heard + self.lease) => return Err(silent()),
            }
        }
    }

    fn take(&mut self, mut orders: wardian::WorkerOrders) {
        if let Some(lease) = orders.lease.and_then(|lease| Duration::try_from(lease).ok()) {
            self.lease = lease.clamp(LEASE_MIN, LEASE_MAX);
        }
        for module in &orders.trusted_modules {
            if let Ok(module) = Digest::from_wire(DigestFunction::Sha256, Some(module)) {
                self.trusted.add(module);
            }
        }
        for order in &mut orders.runs {
            let blobs = std::mem::take(&mut order.blobs);
            let function = DigestFunction::ALL.iter().find(|f| i32::from(f.wire()) == order.digest_function);
            if let Some(function) = function {
                blobs.into_iter().for_each(|blob| self.at_hand.take(*function, blob));
            }
        }
        self.queue.take(orders);
    }
}

/// Room for a report, not before it is due.
async fn room<T>(
    sender: &mpsc::Sender<T>,
    due: Instant,
) -> Result<mpsc::Permit<'_, T>, mpsc::error::SendError<()>> {
    tokio::time::sleep_until(due).await;
    sender.reserve().await
}

fn pause(failures: u32) -> Duration {
    BACK_OFF_FIRST.saturating_mul(1 << failures.min(16)).min(BACK_OFF_MAX)
}

/// Somewhere between half of the pause and all of it, so that workers do not return in step.
fn jittered(pause: Duration) -> Duration {
    // A random UUID is the source of randomness that is at hand already.
    let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
    let fraction = f64::from(u32::try_from(random >> 32).expect("32 bits are left")) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + fraction / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_vary_and_stop_growing() {
        assert_eq!((pause(0), pause(1)), (BACK_OFF_FIRST, 2 * BACK_OFF_FIRST));
        assert_eq!((pause(5), pause(u32::MAX)), (BACK_OFF_MAX, BACK_OFF_MAX));
        let pauses: Vec<_> = (0..50).map(|_| jittered(BACK_OFF_MAX)).collect();
        assert!(pauses.iter().all(|p| (BACK_OFF_MAX / 2..=BACK_OFF_MAX).contains(p)));
        assert!(pauses.windows(2).any(|two| two[0] != two[1]));
    }
}
