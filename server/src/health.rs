//! Whether the server can serve, for those who send it work: `grpc.health.v1` and `/healthz`.
//!
//! It is looked at every few seconds: a small record is written to the store and read again, and the queue is asked for
//! its load. What fails, or takes too long, is told with its reason until it works again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use wardian_scheduler::LocalQueue;
use wardian_store::{RecordStore, Table};

use crate::services::SERVED;

/// How often the store and the queue are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How long either may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Where the store is written to. One record, again and again.
const PROBE_KEY: &[u8] = b"probe";

/// What is known of the server's health. Clones share it.
#[derive(Clone)]
pub(crate) struct Health {
    reporter: HealthReporter,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Serving,
    Trouble(String),
    /// For good.
    ShuttingDown,
}

impl Health {
    /// A server that can serve.
    pub(crate) async fn new() -> Self {
        let health =
            Self { reporter: HealthReporter::new(), state: Arc::new(watch::Sender::new(State::Serving)) };
        health.report(ServingStatus::Serving).await;
        health
    }

    /// What the gRPC service is made of.
    pub(crate) fn reporter(&self) -> HealthReporter {
        self.reporter.clone()
    }

    /// Why the server cannot serve; `None` when it can.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Serving => None,
            State::Trouble(why) => Some(why.clone()),
            State::ShuttingDown => Some("shutting down".into()),
        }
    }

    /// Tells everybody that the server takes nothing more.
    pub(crate) async fn shut_down(&self) {
        self.state.send_replace(State::ShuttingDown);
        self.report(ServingStatus::NotServing).await;
    }

    /// Looks at the store and the queue again and again.
    pub(crate) async fn keep_looking(
        self,
        store: Arc<dyn RecordStore>,
        queue: LocalQueue,
        ticking: AbortHandle,
    ) {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for count in 0_u64.. {
            looks.tick().await;
            let found = match look_at_queue(&queue, &ticking).await {
                Ok(()) => look_at_store(&*store, count).await,
                trouble => trouble,
            };
            self.note(found.err()).await;
        }
    }

    async fn note(&self, trouble: Option<String>) {
        let state = trouble.map_or(State::Serving, State::Trouble);
        let changed = self.state.send_if_modified(|known| {
            let changes = *known != state && *known != State::ShuttingDown;
            if changes {
                known.clone_from(&state);
            }
            changes
        });
        match &state {
            _ if !changed => {}
            State::Trouble(why) => {
                tracing::error!(why, "the server cannot serve");
                self.report(ServingStatus::NotServing).await;
            }
            _ => {
                tracing::info!("the server can serve again");
                self.report(ServingStatus::Serving).await;
            }
        }
    }

    async fn report(&self, status: ServingStatus) {
        for service in SERVED.iter().chain(&[""]) {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}

async fn look_at_queue(queue: &LocalQueue, ticking: &AbortHandle) -> Result<(), String> {
    if ticking.is_finished() {
        return Err("queue: nobody looks for what is due any more".into());
    }
    let queue = queue.clone();
    // It takes the queue's lock, and a thread must not wait for that where others are to run.
    let asked = tokio::task::spawn_blocking(move || queue.load());
    match tokio::time::timeout(ANSWER_TIME_MAX, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("queue: {error}")),
        Err(_) => Err(format!("queue: no answer within {} s", ANSWER_TIME_MAX.as_secs())),
    }
}

async fn look_at_store(store: &dyn RecordStore, count: u64) -> Result<(), String> {
    let written = Bytes::copy_from_slice(&count.to_le_bytes());
    let look = async {
        store.put(Table::Health, PROBE_KEY, written.clone()).await?;
        store.get(Table::Health, PROBE_KEY).await
    };
    match tokio::time::timeout(ANSWER_TIME_MAX, look).await {
        Ok(Ok(Some(read))) if read == written => Ok(()),
        Ok(Ok(_)) => Err("store: what was written is not what is read".into()),
        Ok(Err(error)) => Err(format!("store: {error}")),
        Err(_) => Err(format!("store: no answer within {} s", ANSWER_TIME_MAX.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use wardian_store::StoreError;
    use wardian_store::backend::MemoryStore;

    use super::*;

    /// A store that takes nothing.
    struct Full;

    #[async_trait]
    impl RecordStore for Full {
        async fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(None)
        }

        async fn put(&self, _: Table, _: &[u8], _: Bytes) -> Result<(), StoreError> {
            Err(StoreError::Source(tonic::Status::resource_exhausted("the disk is full")))
        }

        async fn delete(&self, _: Table, _: &[u8]) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn trouble_is_told_with_its_reason_until_it_is_over() {
        let health = Health::new().await;
        assert_eq!(health.trouble(), None);
        let found = look_at_store(&Full, 1).await.unwrap_err();
        assert!(found.starts_with("store: ") && found.contains("the disk is full"), "{found}");
        health.note(Some(found.clone())).await;
        assert_eq!(health.trouble(), Some(found));
        look_at_store(&MemoryStore::new(1 << 20), 2).await.unwrap();
        health.note(None).await;
        assert_eq!(health.trouble(), None);
        // Once it goes it does not come back.
        health.shut_down().await;
        health.note(None).await;
        assert_eq!(health.trouble().as_deref(), Some("shutting down"));
    }
}
