//! The database, and the thread that brings it up to date.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::log::{self, Changes};
use super::record::{Decoded, Record};
use super::{JournalError, Left};
use crate::figures::Histogram;
use crate::job::OperationName;

/// Memory that the database may use for what it read.
const CACHE_BYTES: u64 = 8 << 20;

/// The database is written anew when it is larger than this and than several times what is in it.
pub(super) const COMPACT_BYTES_MIN: u64 = 64 << 20;
const COMPACT_FACTOR: u64 = 4;

/// How many times it is brought up to date until its size is looked at.
const FOLDS_PER_LOOK: u32 = 64;

/// How long a database may stay locked that somebody had open before, and how often that is looked at.
const LOCKED_TIME_MAX: Duration = Duration::from_secs(5);
const LOCKED_PAUSE: Duration = Duration::from_millis(5);

/// Pause after the database did not take something, before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub(super) const EPOCH_KEY: &[u8] = b"epoch";
pub(super) const STARTS_KEY: &[u8] = b"starts";
/// The number of the last log that the database has.
const FOLDED_KEY: &[u8] = b"folded";
/// Stands before the name of an operation.
pub(super) const OPERATION: u8 = b'o';

/// Changes that one log has, to be brought into the database.
pub(super) struct Fold {
    pub(super) changes: Changes,
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

/// The thread's side.
pub(super) struct Folding {
    pub(super) folder: PathBuf,
    /// None after a failure: sled wants to be opened anew then.
    pub(super) database: Option<Database>,
    pub(super) folds: Receiver<Fold>,
    /// The journal is being closed: what cannot be brought in now is so after the next start.
    pub(super) closing: Arc<AtomicBool>,
    pub(super) times: Arc<Mutex<Histogram>>,
}

impl Folding {
    /// Brings in what comes, until nothing more can come.
    pub(super) fn run(mut self) {
        let mut count = 0u32;
        while let Ok(fold) = self.folds.recv() {
            let start = Instant::now();
            while let Err(error) = self.fold(&fold, count.is_multiple_of(FOLDS_PER_LOOK)) {
                tracing::error!(%error, changes = fold.changes.len(), "operations stay in the log");
                if self.closing.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(RETRY_PAUSE);
            }
            count = count.wrapping_add(1);
            self.times.lock().expect("no code that holds this lock panics").add(start.elapsed());
        }
    }

    fn fold(&mut self, fold: &Fold, look: bool) -> Result<(), JournalError> {
        let mut database = match self.database.take() {
            Some(database) => database,
            None => Database::open(&self.folder)?,
        };
        database.fold(&fold.changes, fold.number)?;
        remove_file(&fold.path)?;
        match if look { database.compact_if_large() } else { Ok(()) } {
            Ok(()) => self.database = Some(database),
            // It is opened anew for the next log.
            Err(error) => tracing::warn!(%error, "the database of operations stays as large as it is"),
        }
        Ok(())
    }
}

/// The database, in `db`. While it is written anew the new one is `next`.
pub(super) struct Database {
    folder: PathBuf,
    pub(super) db: sled::Db,
}

impl Database {
    /// Opens it. The caller has locked the folder.
    pub(super) fn open(folder: &Path) -> Result<Self, JournalError> {
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

    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, JournalError> {
        let bytes = self.db.get(key)?;
        Ok(bytes.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))))
    }

    /// Brings in every log that an earlier process left, and returns the number of the last one there was.
    pub(super) fn take_in_logs(&mut self) -> Result<u64, JournalError> {
        let mut last = self.number(FOLDED_KEY)?.unwrap_or(0);
        for (number, path) in log::files(&self.folder)? {
            // One that was brought in before may be back after a power failure.
            if number > last {
                let mut changes = Changes::new();
                let torn = log::read(&std::fs::read(&path)?, &mut changes);
                if torn > 0 {
                    tracing::warn!(bytes = torn, "the end of a log of operations is torn and is left out");
                }
                self.fold(&changes, number)?;
                last = number;
            }
            remove_file(&path)?;
        }
        Ok(last)
    }

    /// Brings in what a log has. The same twice is the same as once.
    fn fold(&self, changes: &Changes, number: u64) -> Result<(), JournalError> {
        // No batch: all databases of the process, those of the store too, wait for one. What is there of a log that was not
        // brought in to its end is brought in again.
        for (name, record) in changes {
            match record {
                Some(record) => self.db.insert(operation_key(name), record.as_slice())?,
                None => self.db.remove(operation_key(name))?,
            };
        }
        self.db.insert(FOLDED_KEY, &number.to_be_bytes())?;
        self.db.flush()?;
        Ok(())
    }

    pub(super) fn read(&self) -> Result<Left, JournalError> {
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
    pub(super) fn compact_if_large(&mut self) -> Result<(), JournalError> {
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
        // Opened under its new name while the old one is still held, and idle.
        let old = std::mem::replace(&mut self.db, open_at(&path("db"))?);
        drop(old);
        remove(&path("old"))
    }
}

/// Keeps other processes out of a folder for as long as the file is open.
pub(super) fn lock(folder: &Path) -> Result<File, JournalError> {
    let file = File::options().create(true).append(true).open(folder.join("lock"))?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(error.into()),
            // An earlier process may be about to end.
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOCKED_TIME_MAX => {
                return Err(JournalError::InUse(folder.to_owned()));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCKED_PAUSE),
        }
    }
}

fn operation_key(name: &OperationName) -> Vec<u8> {
    let mut key = vec![OPERATION];
    key.extend_from_slice(name.as_str().as_bytes());
    key
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

fn remove_file(path: &Path) -> Result<(), JournalError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
