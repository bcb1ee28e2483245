//! What survives the process: every operation that can be asked for, in a sled database of its own.
//!
//! Changes are noted in memory, under the queue's lock and without waiting. A thread appends all that were noted since it
//! last looked to a log, which is a write to the system's memory: from then on a killed process does not lose them, and
//! who must know that is told. About once a second another thread brings what the log has into the database and flushes
//! it; of an operation that came and ended meanwhile it writes only the end. So a power failure may lose the last moments,
//! and no action waits for the disk.

mod database;
mod log;
mod record;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use tokio::sync::watch;
use wardian_proto::reapi;

use self::database::{Database, EPOCH_KEY, Fold, Folding, STARTS_KEY};
use self::log::{Changes, Log};
use crate::figures::Histogram;
use crate::job::{Job, OperationName, RunId};

/// How long changes stay in the log alone, as long as the database keeps up.
const FOLD_EVERY: Duration = Duration::from_secs(1);

/// A log that is larger than this goes to the database before it is time.
const FOLD_BYTES: u64 = 8 << 20;

/// A log of this size gets nothing more: when the database is so far behind, changes fail.
const LOG_BYTES_MAX: u64 = 256 << 20;

/// Changes that may wait to be written while operations are taken in. What those do that are there is noted in any case.
pub(crate) const PENDING_CHANGES_MAX: usize = 100_000;

/// What these may take in memory, counted by what is large of them: the responses.
pub(crate) const PENDING_BYTES_MAX: usize = 256 << 20;

/// Bits of a run's number that count within one process. Those above count processes.
const RUN_BITS: u32 = 40;

/// Why the journal cannot be used, or did not take something.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum JournalError {
    /// The disk does not give or take it.
    #[error("the journal of operations cannot be read or written: {0}")]
    Failed(String),
    /// What is in it is not what was written.
    #[error("the journal of operations is damaged: {0}")]
    Damaged(String),
    /// The disk does not keep up with what comes in.
    #[error("{0} changes wait to be written to the journal of operations; limit is {PENDING_CHANGES_MAX}")]
    Behind(usize),
    /// The same, counted in bytes.
    #[error(
        "changes of {0} bytes wait to be written to the journal of operations; limit is {PENDING_BYTES_MAX}"
    )]
    BehindBytes(usize),
    /// Another process has it open.
    #[error("the journal of operations in {} is open in another process", .0.display())]
    InUse(PathBuf),
}

impl From<sled::Error> for JournalError {
    fn from(error: sled::Error) -> Self {
        use std::io::ErrorKind;
        let is_damage = match &error {
            sled::Error::Io(error) => {
                matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
            }
            sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) | sled::Error::Unsupported(_) => {
                true
            }
            sled::Error::CollectionNotFound(_) => false,
        };
        if is_damage { Self::Damaged(error.to_string()) } else { Self::Failed(error.to_string()) }
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
    /// With what keeps other processes out of the folder until the thread has ended.
    thread: Mutex<Option<(JoinHandle<()>, File)>>,
    folder: PathBuf,
    epoch: u64,
    first_run: u64,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub struct Left {
    pub(crate) live: Vec<LeftLive>,
    pub(crate) ended: Vec<LeftEnded>,
}

impl Left {
    /// What had not ended, to be held to what is set by now.
    pub fn live_jobs_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.live.iter_mut().map(|live| &mut live.job)
    }
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
    Live { name: OperationName, run: RunId, queued_at: SystemTime, priority: i32, job: Arc<Job> },
    Ended { name: OperationName, job: Arc<Job>, response: Arc<reapi::ExecuteResponse> },
    Forgotten(OperationName),
}

impl Change {
    /// The operation, and its record if it is still to be known.
    fn into_record(self, now: SystemTime) -> (OperationName, Option<Vec<u8>>) {
        match self {
            Self::Live { name, run, queued_at, priority, job } => {
                (name, Some(record::live(run, queued_at, priority, &job)))
            }
            Self::Ended { name, job, response } => (name, Some(record::ended(now, &job, &response))),
            Self::Forgotten(name) => (name, None),
        }
    }

    /// About what it takes in memory. What jobs share with the queue is not counted.
    fn bytes(&self) -> usize {
        let response = match self {
            Self::Ended { response, .. } => response.encoded_len(),
            Self::Live { .. } | Self::Forgotten(_) => 0,
        };
        size_of::<Self>() + response
    }
}

/// What a journal has done and how it stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct JournalStats {
    /// What its folder takes on disk, in bytes.
    pub disk_bytes: u64,
    /// Changes that were noted and are not written yet.
    pub pending: u64,
    /// Changes that were written.
    pub changes: u64,
    /// Changes that could not be written.
    pub failed: u64,
    /// How long it took to add a batch of them to the log.
    pub batches: Histogram,
    /// How long it took to bring the database up to date and flush it.
    pub flushes: Histogram,
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
    stats: Mutex<JournalStats>,
    flushes: Arc<Mutex<Histogram>>,
}

#[derive(Default)]
struct Pending {
    changes: Vec<Change>,
    /// What they take.
    bytes: usize,
    /// How many were noted in all.
    noted: u64,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("no code that holds this lock panics")
    }

    fn count(&self, changes: u64, start: Instant, written: bool) {
        let mut stats = self.stats.lock().expect("no code that holds this lock panics");
        let counter = if written { &mut stats.changes } else { &mut stats.failed };
        *counter += changes;
        stats.batches.add(start.elapsed());
    }
}

impl Journal {
    /// Opens the journal in a folder, or makes it, and reads what is there. Blocks.
    pub fn open(folder: &Path) -> Result<(Self, Left), JournalError> {
        Self::open_with(folder, FOLD_EVERY)
    }

    fn open_with(folder: &Path, fold_every: Duration) -> Result<(Self, Left), JournalError> {
        std::fs::create_dir_all(folder)?;
        // Before anything is looked at: what seems left over may be what another process writes just now.
        let lock = database::lock(folder)?;
        let mut database = Database::open(folder)?;
        let epoch = match database.number(EPOCH_KEY)? {
            Some(epoch) => epoch,
            None => uuid::Uuid::new_v4().as_u64_pair().0,
        };
        let starts = database.number(STARTS_KEY)?.unwrap_or(0) + 1;
        database.db.insert(EPOCH_KEY, &epoch.to_be_bytes())?;
        database.db.insert(STARTS_KEY, &starts.to_be_bytes())?;
        let last_log = database.take_in_logs()?;
        database.db.flush()?;
        let left = database.read()?;
        let database = match database.compact_if_large() {
            Ok(()) => database,
            Err(error) => {
                tracing::warn!(%error, "the database of operations stays as large as it is");
                drop(database);
                Database::open(folder)?
            }
        };
        let shared = Arc::<Shared>::default();
        let (sender, committed) = watch::channel(Committed::default());
        let closing = Arc::<AtomicBool>::default();
        // A fold is handed over only while the thread waits for one.
        let (folds, receiver) = sync_channel(0);
        let folding = Folding {
            folder: folder.to_owned(),
            database: Some(database),
            folds: receiver,
            closing: Arc::clone(&closing),
            times: Arc::clone(&shared.flushes),
        };
        let folding = std::thread::Builder::new().name("journal-fold".into()).spawn(|| folding.run())?;
        let writer = Writer {
            folder: folder.to_owned(),
            shared: Arc::clone(&shared),
            committed: sender,
            last_log,
            log: None,
            unfolded: Changes::new(),
            since: Instant::now(),
            folds: Some(folds),
            closing,
            fold_every,
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || writer.run(folding))?;
        let journal = Self {
            shared,
            committed,
            thread: Mutex::new(Some((thread, lock))),
            folder: folder.to_owned(),
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

    /// Fails when so much waits to be written that nothing more should be taken in.
    pub(crate) fn has_room(&self) -> Result<(), JournalError> {
        let pending = self.shared.lock();
        if pending.changes.len() >= PENDING_CHANGES_MAX {
            Err(JournalError::Behind(pending.changes.len()))
        } else if pending.bytes >= PENDING_BYTES_MAX {
            Err(JournalError::BehindBytes(pending.bytes))
        } else {
            Ok(())
        }
    }

    /// Notes changes; returns the number by which to wait for them.
    pub(crate) fn note(&self, changes: impl IntoIterator<Item = Change>) -> u64 {
        let mut pending = self.shared.lock();
        let before = pending.changes.len();
        pending.changes.extend(changes);
        pending.noted += (pending.changes.len() - before) as u64;
        pending.bytes += pending.changes[before..].iter().map(Change::bytes).sum::<usize>();
        let noted = pending.noted;
        drop(pending);
        self.shared.rung.notify_one();
        noted
    }

    /// How it stands. Looks at the folder.
    pub(crate) fn stats(&self) -> JournalStats {
        let stats = *self.shared.stats.lock().expect("no code that holds this lock panics");
        let flushes = *self.shared.flushes.lock().expect("no code that holds this lock panics");
        let pending = self.shared.lock().changes.len() as u64;
        JournalStats { disk_bytes: bytes_below(&self.folder), pending, flushes, ..stats }
    }

    /// How much was noted so far.
    pub(crate) fn noted(&self) -> u64 {
        self.shared.lock().noted
    }

    /// Waits until everything up to a change survives the process.
    pub(crate) async fn kept(&self, number: u64) -> Result<(), JournalError> {
        let mut committed = self.committed.clone();
        let gone = || JournalError::Failed("its thread has ended".into());
        let seen = committed.wait_for(|committed| committed.up_to >= number).await.map_err(|_| gone())?;
        match &seen.why {
            Some(why) if seen.failed_up_to >= number => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Writes what was noted and closes the database. What is noted later is lost.
    pub(crate) fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.rung.notify_one();
        let thread = self.thread.lock().expect("no code that holds this lock panics").take();
        if let Some((thread, lock)) = thread {
            // A thread that panicked has said so.
            let _ = thread.join();
            drop(lock);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes the log.
struct Writer {
    folder: PathBuf,
    shared: Arc<Shared>,
    committed: watch::Sender<Committed>,
    /// The number of the last log there was.
    last_log: u64,
    log: Option<Log>,
    /// What the log has, and since when it has something.
    unfolded: Changes,
    since: Instant,
    folds: Option<SyncSender<Fold>>,
    closing: Arc<AtomicBool>,
    fold_every: Duration,
}

impl Writer {
    fn run(mut self, folding: JoinHandle<()>) {
        loop {
            let (changes, noted, closed) = self.wait();
            if !changes.is_empty() {
                self.write(changes, noted);
            }
            if closed {
                break;
            }
            self.fold_if_due();
        }
        self.closing.store(true, Ordering::Relaxed);
        if let (Some(log), Some(folds)) = (self.log.take(), self.folds.take()) {
            let Log { number, path, .. } = log;
            // One that cannot be brought in now is so after the next start.
            let _ = folds.send(Fold { changes: self.unfolded, number, path });
        }
        drop(self.folds);
        // A thread that panicked has said so.
        let _ = folding.join();
    }

    /// Waits for changes, the end, or for it to be time to bring the database up to date.
    fn wait(&self) -> (Vec<Change>, u64, bool) {
        let mut pending = self.shared.lock();
        while pending.changes.is_empty() && !pending.closed {
            let rung = &self.shared.rung;
            if self.unfolded.is_empty() {
                pending = rung.wait(pending).expect("no code that holds this lock panics");
                continue;
            }
            let left = self.fold_every.saturating_sub(self.since.elapsed());
            // The database may be busy when it is time.
            let left = if left.is_zero() { self.fold_every / 10 } else { left };
            let (guard, waited) =
                rung.wait_timeout(pending, left).expect("no code that holds this lock panics");
            pending = guard;
            if waited.timed_out() {
                break;
            }
        }
        pending.bytes = 0;
        (std::mem::take(&mut pending.changes), pending.noted, pending.closed)
    }

    fn write(&mut self, changes: Vec<Change>, noted: u64) {
        let (start, count) = (Instant::now(), changes.len() as u64);
        let written = self.add(changes);
        self.shared.count(count, start, written.is_ok());
        self.committed.send_modify(|committed| {
            committed.up_to = noted;
            if let Err(error) = written {
                tracing::error!(%error, changes = count, "operations may not survive a restart");
                committed.failed_up_to = noted;
                committed.why = Some(error);
            }
        });
    }

    /// Adds changes to the log.
    fn add(&mut self, changes: Vec<Change>) -> Result<(), JournalError> {
        let now = SystemTime::now();
        let mut frames = Vec::new();
        let records: Vec<_> = changes.into_iter().map(|change| change.into_record(now)).collect();
        for (name, record) in &records {
            log::frame(&mut frames, name, record.as_deref());
        }
        let log = match &mut self.log {
            Some(log) => log,
            None => {
                let log = Log::create(&self.folder, self.last_log + 1)?;
                self.last_log = log.number;
                self.since = Instant::now();
                self.log.insert(log)
            }
        };
        // What is noted at once is written at once, however large: all of it is in memory already.
        if log.length() >= LOG_BYTES_MAX {
            let text = format!("the database is behind by a log of {LOG_BYTES_MAX} bytes");
            return Err(JournalError::Failed(text));
        }
        log.add(&frames)?;
        self.unfolded.extend(records);
        Ok(())
    }

    /// Hands the log over to the database when it is time, unless that is busy.
    fn fold_if_due(&mut self) {
        let Some(log) = &self.log else { return };
        let due = self.since.elapsed() >= self.fold_every || log.length() >= FOLD_BYTES || log.is_torn();
        if !due {
            return;
        }
        let changes = std::mem::take(&mut self.unfolded);
        let fold = Fold { changes, number: log.number, path: log.path.clone() };
        let folds = self.folds.as_ref().expect("there until the end");
        match folds.try_send(fold) {
            Ok(()) => self.log = None,
            Err(busy) => {
                use std::sync::mpsc::TrySendError::{Disconnected, Full};
                let (Full(fold) | Disconnected(fold)) = busy;
                self.unfolded = fold.changes;
            }
        }
    }
}

/// What the files below a folder take. What vanishes meanwhile counts as nothing.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { bytes_below(&path) } else { metadata.len() })
        .sum()
}
