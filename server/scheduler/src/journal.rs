//! What survives the process: every operation that can be asked for, in a sled database of its own.
//!
//! Changes are noted in memory, under the queue's lock and without waiting; a thread writes all that were noted since
//! it last looked in one batch and flushes it. So the more is queued at once, the less an operation costs. Who must
//! know that something survives waits for its batch.

mod record;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use wardian_proto::reapi;

use self::record::{Decoded, Record};
use crate::job::{Job, OperationName, RunId};

/// Memory that the database may use for what it read.
const CACHE_BYTES: u64 = 8 << 20;

/// The database is written anew when it is larger than this and than several times what is in it.
const COMPACT_BYTES_MIN: u64 = 64 << 20;
const COMPACT_FACTOR: u64 = 4;

/// How many batches are written until its size is looked at.
const BATCHES_PER_LOOK: u32 = 4096;

/// How long a database may stay locked that somebody had open before, and how often that is looked at.
const LOCKED_TIME_MAX: Duration = Duration::from_secs(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(5);

/// Bits of a run's number that count within one process. Those above count processes.
const RUN_BITS: u32 = 40;

const EPOCH_KEY: &[u8] = b"epoch";
const STARTS_KEY: &[u8] = b"starts";
/// Stands before the name of an operation.
const OPERATION: u8 = b'o';

/// Why the journal cannot be used, or did not take something.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JournalError {
    /// It is damaged, or the disk does not take it.
    #[error("the journal of operations cannot be written: {0}")]
    Failed(String),
    /// Another process has it open.
    #[error("the journal of operations in {} is open in another process", .0.display())]
    InUse(PathBuf),
}

impl From<sled::Error> for JournalError {
    fn from(error: sled::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<std::io::Error> for JournalError {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// The journal of one queue. It is written to its end when this is dropped.
pub struct Journal {
    shared: Arc<Shared>,
    committed: watch::Receiver<Committed>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    epoch: u64,
    first_run: u64,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub struct Left {
    pub(crate) live: Vec<LeftLive>,
    pub(crate) ended: Vec<LeftEnded>,
}

#[derive(Debug)]
pub(crate) struct LeftLive {
    pub(crate) name: OperationName,
    pub(crate) run: RunId,
    pub(crate) queued_at: SystemTime,
    pub(crate) job: Job,
}

#[derive(Debug)]
pub(crate) struct LeftEnded {
    pub(crate) name: OperationName,
    pub(crate) ended_at: SystemTime,
    pub(crate) job: Job,
    pub(crate) response: reapi::ExecuteResponse,
}

/// Something that is to survive.
#[derive(Debug)]
pub(crate) enum Change {
    Live { name: OperationName, run: RunId, queued_at: SystemTime, job: Arc<Job> },
    Ended { name: OperationName, job: Arc<Job>, response: Arc<reapi::ExecuteResponse> },
    Forgotten(OperationName),
}

/// How far the thread is.
#[derive(Clone, Debug, Default)]
struct Committed {
    /// Changes up to this one were written, or failed.
    up_to: u64,
    /// Changes up to this one may have failed, and why.
    failed_up_to: u64,
    why: Option<JournalError>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    rung: Condvar,
}

#[derive(Default)]
struct Pending {
    changes: Vec<Change>,
    /// How many were noted in all.
    noted: u64,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no code that holds this lock panics")
    }
}

impl Journal {
    /// Opens the journal in a folder, or makes it, and reads what is there. Blocks.
    pub fn open(folder: &Path) -> Result<(Self, Left), JournalError> {
        let mut database = Database::open(folder)?;
        let epoch = match database.number(EPOCH_KEY)? {
            Some(epoch) => epoch,
            None => uuid::Uuid::new_v4().as_u64_pair().0,
        };
        let starts = database.number(STARTS_KEY)?.unwrap_or(0) + 1;
        database.db.insert(EPOCH_KEY, &epoch.to_be_bytes())?;
        database.db.insert(STARTS_KEY, &starts.to_be_bytes())?;
        database.db.flush()?;
        let left = database.read()?;
        database.compact_if_large()?;
        let shared = Arc::<Shared>::default();
        let (sender, committed) = watch::channel(Committed::default());
        let writer = Writer { shared: Arc::clone(&shared), committed: sender, database: Some(database) };
        let folder = folder.to_owned();
        let thread =
            std::thread::Builder::new().name("journal".into()).spawn(move || writer.write(&folder))?;
        let journal = Self {
            shared,
            committed,
            thread: Mutex::new(Some(thread)),
            epoch,
            first_run: starts << RUN_BITS,
        };
        Ok((journal, left))
    }

    /// What tells runs of this journal from those of another.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Behind this the numbers of runs of this process begin.
    pub(crate) fn first_run(&self) -> u64 {
        self.first_run
    }

    /// Notes changes; returns the number by which to wait for them.
    pub(crate) fn note(&self, changes: impl IntoIterator<Item = Change>) -> u64 {
        let mut pending = self.shared.lock();
        let before = pending.changes.len();
        pending.changes.extend(changes);
        pending.noted += (pending.changes.len() - before) as u64;
        let noted = pending.noted;
        drop(pending);
        self.shared.rung.notify_one();
        noted
    }

    /// How much was noted so far.
    pub(crate) fn noted(&self) -> u64 {
        self.shared.lock().noted
    }

    /// Waits until everything up to a change survives.
    pub(crate) async fn kept(&self, number: u64) -> Result<(), JournalError> {
        let mut committed = self.committed.clone();
        let gone = || JournalError::Failed("its thread has ended".into());
        let seen = committed.wait_for(|committed| committed.up_to >= number).await.map_err(|_| gone())?;
        match &seen.why {
            Some(why) if seen.failed_up_to >= number => Err(why.clone()),
            _ => Ok(()),
        }
    }
}

impl Journal {
    /// Writes what was noted and closes the database. What is noted later is lost.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.rung.notify_one();
        let thread = self.thread.lock().expect("no code that holds this lock panics").take();
        if let Some(thread) = thread {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    committed: watch::Sender<Committed>,
    /// None after a failure: sled wants to be opened anew then.
    database: Option<Database>,
}

impl Writer {
    fn write(mut self, folder: &Path) {
        let mut batches = 0u32;
        loop {
            let mut pending = self.shared.lock();
            while pending.changes.is_empty() && !pending.closed {
                pending = self.shared.rung.wait(pending).expect("no code that holds this lock panics");
            }
            if pending.changes.is_empty() {
                return;
            }
            let changes = std::mem::take(&mut pending.changes);
            let noted = pending.noted;
            drop(pending);
            let written = self.apply(folder, &changes, batches.is_multiple_of(BATCHES_PER_LOOK));
            batches = batches.wrapping_add(1);
            self.committed.send_modify(|committed| {
                committed.up_to = noted;
                if let Err(error) = written {
                    tracing::error!(%error, changes = changes.len(), "operations may not survive a restart");
                    committed.failed_up_to = noted;
                    committed.why = Some(error);
                }
            });
        }
    }

    fn apply(&mut self, folder: &Path, changes: &[Change], look: bool) -> Result<(), JournalError> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => Database::open(folder)?,
        };
        let mut batch = sled::Batch::default();
        let now = SystemTime::now();
        for change in changes {
            match change {
                Change::Live { name, run, queued_at, job } => {
                    batch.insert(operation_key(name), Record::live(*run, *queued_at, job).encoded());
                }
                Change::Ended { name, job, response } => {
                    batch.insert(operation_key(name), Record::ended(now, job, response).encoded());
                }
                Change::Forgotten(name) => batch.remove(operation_key(name)),
            }
        }
        database.db.apply_batch(batch)?;
        database.db.flush()?;
        if look {
            database.compact_if_large()?;
        }
        self.database = Some(database);
        Ok(())
    }
}

fn operation_key(name: &OperationName) -> Vec<u8> {
    let mut key = vec![OPERATION];
    key.extend_from_slice(name.as_str().as_bytes());
    key
}

/// The database, in `db`. While it is written anew the new one is `next`.
struct Database {
    folder: PathBuf,
    db: sled::Db,
}

impl Database {
    fn open(folder: &Path) -> Result<Self, JournalError> {
        std::fs::create_dir_all(folder)?;
        let (current, next, old) = (folder.join("db"), folder.join("next"), folder.join("old"));
        if !current.exists() && next.exists() {
            // It was complete before the old one was moved out of the way.
            std::fs::rename(&next, &current)?;
        }
        for leftover in [next, old] {
            remove(&leftover)?;
        }
        Ok(Self { folder: folder.to_owned(), db: open_at(&current)? })
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, JournalError> {
        let bytes = self.db.get(key)?;
        Ok(bytes.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))))
    }

    fn read(&self) -> Result<Left, JournalError> {
        let mut left = Left::default();
        for entry in self.db.scan_prefix([OPERATION]) {
            let (key, value) = entry?;
            let name = std::str::from_utf8(&key[1..]).ok().map(OperationName::from_client);
            match name.and_then(|name| Record::decode(name, &value)) {
                Some(Decoded::Live(live)) => left.live.push(live),
                Some(Decoded::Ended(ended)) => left.ended.push(ended),
                None => tracing::warn!("an operation in the journal cannot be read and is left out"),
            }
        }
        // The state machine takes them in the order in which they came and ended.
        left.live.sort_by_key(|live| live.run);
        left.ended.sort_by_key(|ended| ended.ended_at);
        Ok(left)
    }

    /// sled gives no space back, so that what was removed goes with the whole database.
    fn compact_if_large(&mut self) -> Result<(), JournalError> {
        let size = self.db.size_on_disk()?;
        if size < COMPACT_BYTES_MIN {
            return Ok(());
        }
        let mut used = 0u64;
        for entry in self.db.iter() {
            let (key, value) = entry?;
            used += (key.len() + value.len()) as u64;
        }
        if size < used.saturating_mul(COMPACT_FACTOR) {
            return Ok(());
        }
        let path = |name: &str| self.folder.join(name);
        let next = open_at(&path("next"))?;
        for entry in self.db.iter() {
            let (key, value) = entry?;
            next.insert(key, value)?;
        }
        next.flush()?;
        drop(next);
        std::fs::rename(path("db"), path("old"))?;
        std::fs::rename(path("next"), path("db"))?;
        // Opened under its new name while the old one is still held: sled never looks at names again.
        let old = std::mem::replace(&mut self.db, open_at(&path("db"))?);
        drop(old);
        remove(&path("old"))
    }
}

fn open_at(path: &Path) -> Result<sled::Db, JournalError> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let begun = Instant::now();
    loop {
        // sled panics about some kinds of damage instead of reporting them.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
        match opened.unwrap_or_else(|_| Err(sled::Error::ReportableBug("sled panicked".to_owned()))) {
            // Its threads let go of a database a moment after it was dropped.
            Err(sled::Error::Io(error)) if is_locked(&error) => {
                if begun.elapsed() > LOCKED_TIME_MAX {
                    return Err(JournalError::InUse(path.to_owned()));
                }
                std::thread::sleep(LOCKED_PAUSE);
            }
            opened => return Ok(opened?),
        }
    }
}

/// sled has no kind of error for it.
fn is_locked(error: &std::io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

fn remove(folder: &Path) -> Result<(), JournalError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
