//! Log streams: what one party writes and others read while it grows.
//!
//! They are held in memory, each up to a limit, those of one client up to a second and all together up to a third; those
//! that ended stay for a while and go first when there is no room, whoever reads them. Nothing of them survives the server.

mod stream;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::BoxStream;
use tonic::Status;
use uuid::Uuid;
use wardian_proto::{InstanceName, LogName};
use wardian_runtime::logs::{LogSink, Logs, NamedSink};

use stream::Stream;

/// How often streams that ended or idle too long are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Limits on log streams.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// Bytes of one stream.
    pub stream_bytes_max: u64,
    /// Bytes of all streams.
    pub total_bytes_max: u64,
    /// Streams, those that ended included.
    pub streams_max: usize,
    /// Bytes of the streams that one client made.
    pub client_bytes_max: u64,
    /// Streams that one client made, those that ended included. The rest is for what actions write.
    pub client_streams_max: usize,
    /// How long a stream that ended can still be read.
    pub kept_for: Duration,
    /// How long a client that made a stream may write nothing before the stream is ended.
    pub idle_max: Duration,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            stream_bytes_max: 16 << 20,
            total_bytes_max: 256 << 20,
            streams_max: 20_000,
            client_bytes_max: 64 << 20,
            client_streams_max: 5_000,
            kept_for: Duration::from_secs(15 * 60),
            idle_max: Duration::from_secs(60 * 60),
        }
    }
}

/// The streams of a server. Clones share them.
#[derive(Clone)]
pub struct LogStreams {
    shared: Arc<Shared>,
}

struct Shared {
    limits: LogLimits,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    streams: HashMap<String, Arc<Stream>>,
    /// Those that ended, in the order in which they did.
    ended: VecDeque<(Instant, Arc<Stream>)>,
    /// What all streams hold.
    bytes: u64,
    /// What those hold that clients made.
    clients: HashMap<Arc<str>, Share>,
}

/// What the streams of one client take.
#[derive(Debug, Default, PartialEq, Eq)]
struct Share {
    streams: usize,
    bytes: u64,
}

/// What a writer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) bytes: u64,
    pub(crate) is_complete: bool,
}

impl LogStreams {
    /// No streams yet. Must be called inside the runtime.
    pub fn new(limits: LogLimits) -> Self {
        let shared = Arc::new(Shared { limits, inner: Mutex::new(Inner::default()) });
        tokio::spawn(sweep(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// How long a client may write nothing.
    pub(crate) fn idle_max(&self) -> Duration {
        self.shared.limits.idle_max
    }

    /// Makes a stream that this client writes. The name comes with the writer's token.
    pub(crate) fn create(&self, instance: &InstanceName, client: Arc<str>) -> Result<LogName, Status> {
        // 244 random bits.
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let name = LogName { instance: instance.clone(), id: Uuid::new_v4().to_string(), token: Some(token) };
        self.shared.add(&name, Some(client))?;
        Ok(name)
    }

    /// The stream of a command that runs in another process, under the name that its worker gave it.
    pub(crate) fn open_for_worker(&self, name: &LogName) -> Result<WorkerLog, Status> {
        let stream = self.shared.add_new(name)?;
        Ok(WorkerLog(ActionLog { stream, shared: Arc::clone(&self.shared) }))
    }

    /// Reads a stream from an offset, for as long as it grows.
    pub(crate) fn read(
        &self,
        name: &LogName,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Status>>, Status> {
        self.shared.find(name)?.read(offset, limit)
    }

    /// Adds bytes at the end, which must be at `offset`.
    pub(crate) fn write(
        &self,
        name: &LogName,
        offset: u64,
        bytes: &[u8],
        finish: bool,
    ) -> Result<Committed, Status> {
        let stream = self.shared.find_to_write(name)?;
        let committed = stream.append_at(offset, bytes, &self.shared)?;
        if finish {
            self.shared.end(&stream, None);
        }
        Ok(Committed { is_complete: committed.is_complete || finish, ..committed })
    }

    /// How far a writer has come.
    pub(crate) fn committed(&self, name: &LogName) -> Result<Committed, Status> {
        Ok(self.shared.find_to_write(name)?.committed())
    }

    /// Ends every stream that is still written, so that nobody waits for more.
    pub fn shut_down(&self) {
        let open: Vec<_> = self.shared.lock().streams.values().cloned().collect();
        for stream in open {
            self.shared.end(&stream, Some(Status::unavailable("the server is shutting down")));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code that holds this lock panics")
    }

    fn add(&self, name: &LogName, client: Option<Arc<str>>) -> Result<Arc<Stream>, Status> {
        let mut inner = self.lock();
        if let Some(client) = &client {
            let max = self.limits.client_streams_max;
            while inner.share(client).streams >= max {
                if !inner.drop_oldest(Some(client)) {
                    return Err(Status::resource_exhausted(format!(
                        "{client} has {max} log streams open (limit client_streams_max)"
                    )));
                }
            }
        }
        let max = self.limits.streams_max;
        while inner.streams.len() >= max {
            if !inner.drop_oldest(None) {
                return Err(Status::resource_exhausted(format!(
                    "{max} log streams are open (limit streams_max)"
                )));
            }
        }
        let stream = Arc::new(Stream::new(name.for_readers(), name.token.clone(), client));
        inner.streams.insert(name.for_readers(), Arc::clone(&stream));
        if let Some(client) = stream.client() {
            inner.share(client).streams += 1;
        }
        Ok(stream)
    }

    /// The same for a name that somebody else chose.
    fn add_new(&self, name: &LogName) -> Result<Arc<Stream>, Status> {
        let key = name.for_readers();
        if self.lock().streams.contains_key(&key) {
            return Err(Status::already_exists(format!("log stream {key:?} exists")));
        }
        self.add(name, None)
    }

    fn find(&self, name: &LogName) -> Result<Arc<Stream>, Status> {
        let name = name.for_readers();
        self.lock().streams.get(&name).cloned().ok_or_else(|| {
            Status::not_found(format!("no log stream {name:?}: unknown, or ended some time ago"))
        })
    }

    fn find_to_write(&self, name: &LogName) -> Result<Arc<Stream>, Status> {
        let Some(token) = &name.token else {
            return Err(Status::invalid_argument(format!(
                "{name:?} is a name to read; writers need the write_resource_name"
            )));
        };
        let stream = self.find(name)?;
        if stream.allows(token) {
            return Ok(stream);
        }
        Err(Status::permission_denied(format!("that is not the write_resource_name of {name:?}")))
    }

    /// Takes room for bytes, from streams that ended if need be: a client's from its own first.
    fn charge(&self, client: Option<&Arc<str>>, bytes: u64) -> Result<(), Status> {
        let LogLimits { client_bytes_max, total_bytes_max, .. } = self.limits;
        let mut inner = self.lock();
        if let Some(client) = client {
            while bytes > client_bytes_max - inner.share(client).bytes {
                if bytes > client_bytes_max || !inner.drop_oldest(Some(client)) {
                    return Err(full(format!(
                        "the log streams of {client} hold {client_bytes_max} bytes (limit client_bytes_max)"
                    )));
                }
            }
        }
        while bytes > total_bytes_max - inner.bytes {
            if bytes > total_bytes_max || !inner.drop_oldest(None) {
                return Err(full(format!(
                    "all log streams together hold {total_bytes_max} bytes (limit total_bytes_max)"
                )));
            }
        }
        inner.bytes += bytes;
        if let Some(client) = client {
            inner.share(client).bytes += bytes;
        }
        Ok(())
    }

    fn release(&self, client: Option<&Arc<str>>, bytes: u64) {
        self.lock().release(client, bytes);
    }

    fn end(&self, stream: &Arc<Stream>, why: Option<Status>) {
        if stream.end(why) {
            self.lock().ended.push_back((Instant::now(), Arc::clone(stream)));
        }
    }

    fn expire(&self, now: Instant) {
        let mut inner = self.lock();
        let mut at = 0;
        while let Some((ended_at, stream)) = inner.ended.get(at) {
            if now.saturating_duration_since(*ended_at) < self.limits.kept_for {
                break;
            }
            // Who reads it may read to its end, while nobody needs the room.
            if stream.has_readers() {
                at += 1;
            } else {
                inner.forget(at);
            }
        }
        let idle_max = self.limits.idle_max;
        let idle: Vec<_> =
            inner.streams.values().filter(|stream| stream.is_idle(now, idle_max)).cloned().collect();
        drop(inner);
        for stream in idle {
            self.end(&stream, Some(Status::aborted("the writer of this log stream went away")));
        }
    }
}

impl Inner {
    fn share(&mut self, client: &Arc<str>) -> &mut Share {
        if !self.clients.contains_key(client) {
            self.clients.insert(Arc::clone(client), Share::default());
        }
        self.clients.get_mut(client).expect("inserted above")
    }

    fn release(&mut self, client: Option<&Arc<str>>, bytes: u64) {
        self.bytes -= bytes;
        if let Some(client) = client {
            self.share(client).bytes -= bytes;
        }
    }

    /// Forgets the stream that ended first, of a client's if one is named: one that nobody reads, if there is one.
    fn drop_oldest(&mut self, client: Option<&Arc<str>>) -> bool {
        let is_meant = |stream: &Stream| client.is_none() || stream.client() == client;
        let find = |fits: &dyn Fn(&Stream) -> bool| self.ended.iter().position(|(_, stream)| fits(stream));
        let at = find(&|stream| is_meant(stream) && !stream.has_readers()).or_else(|| find(&is_meant));
        let Some(at) = at else { return false };
        self.forget(at);
        true
    }

    /// Forgets a stream that ended. Its bytes are gone at once, also for whoever reads it.
    fn forget(&mut self, at: usize) {
        let Some((_, stream)) = self.ended.remove(at) else { return };
        self.streams.remove(stream.name());
        self.release(stream.client(), stream.give_up());
        if let Some(client) = stream.client() {
            let share = self.share(client);
            share.streams -= 1;
            if *share == Share::default() {
                self.clients.remove(client);
            }
        }
    }
}

fn full(text: String) -> Status {
    Status::resource_exhausted(text)
}

async fn sweep(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.expire(Instant::now());
    }
}

impl Logs for LogStreams {
    fn open(&self, instance: &InstanceName) -> Option<NamedSink> {
        let name = LogName { instance: instance.clone(), id: Uuid::new_v4().to_string(), token: None };
        let stream = self.shared.add(&name, None).ok()?;
        let sink = ActionLog { stream, shared: Arc::clone(&self.shared) };
        Some(NamedSink { name: name.for_readers(), sink: Box::new(sink) })
    }
}

/// The stream of a running action. No client can write it: it has no token.
struct ActionLog {
    stream: Arc<Stream>,
    shared: Arc<Shared>,
}

/// The stream of a command that runs in another process. It ends with this, however that comes about.
pub(crate) struct WorkerLog(ActionLog);

impl WorkerLog {
    /// How much it has.
    pub(crate) fn length(&self) -> u64 {
        self.0.stream.committed().bytes
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        self.0.append(bytes);
    }

    /// Ends the stream, with why it is not complete if it is not.
    pub(crate) fn end(&self, why: Option<Status>) {
        self.0.shared.end(&self.0.stream, why);
    }
}

impl Drop for WorkerLog {
    fn drop(&mut self) {
        self.end(Some(Status::aborted("the worker that wrote this log was lost")));
    }
}

impl LogSink for ActionLog {
    fn append(&self, bytes: &[u8]) {
        // What does not fit ends the stream with the reason; the action's result is another matter.
        if let Err(full) = self.stream.append(bytes, &self.shared) {
            self.shared.end(&self.stream, Some(full));
        }
    }

    fn finish(&self) {
        self.shared.end(&self.stream, None);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
