//! Opening a store: only what takes a moment. The rest happens in the background, see `catch_up.rs`.

use std::fs::{self, File, TryLockError};
use std::hash::RandomState;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::append::Appender;
use super::catch_up::list;
use super::durable::Durable;
use super::engine::{Counters, Engine};
use super::generation::allocated_below;
use super::index::Index;
use super::keeper::Names;
use super::options::{Sizes, SledOptions, SledTuning};
use crate::StoreError;

impl Engine {
    /// Opens the store in a folder, making it when it is not there. Returns also the segments it has; nothing
    /// is known about them until the [keeper](super::keeper) has started the store.
    pub(super) fn open(
        folder: &Path,
        options: SledOptions,
        tuning: Option<SledTuning>,
    ) -> Result<(Self, Names), StoreError> {
        for part in ["segments", "index"] {
            fs::create_dir_all(folder.join(part)).map_err(StoreError::io("create store folder"))?;
        }
        let lock = lock(folder)?;
        let incoming = folder.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("empty folder of unfinished uploads")(error));
            }
            _ => fs::create_dir_all(&incoming).map_err(StoreError::io("create upload folder"))?,
        }
        let sizes = Sizes::of(options.capacity(folder, || allocated_below(folder))?, tuning)?;
        let segments = folder.join("segments");
        let names = list(&segments)?;
        let engine = Self {
            folder: folder.to_owned(),
            options,
            sizes,
            index: Index::new(folder.join("index")),
            segments: RwLock::default(),
            appender: Mutex::new(Appender::default()),
            used: Arc::new(AtomicU64::new(0)),
            gathered: Arc::default(),
            evicting: Mutex::default(),
            full_until: AtomicU32::new(0),
            hasher: RandomState::new(),
            pins: Mutex::default(),
            counters: Counters::default(),
            durable: Durable::new(&segments)?,
            progress: Mutex::default(),
            started: Instant::now(),
            _lock: lock,
        };
        Ok((engine, names))
    }
}

/// How long to wait for another process to let go of the folder, and how often to look.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(50);

fn lock(folder: &Path) -> Result<File, StoreError> {
    let open = StoreError::io("lock store folder");
    let file =
        File::options().write(true).create(true).truncate(false).open(folder.join("lock")).map_err(&open)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // A process that is just ending lets go in a moment.
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT_MAX => {
                std::thread::sleep(LOCK_RETRY);
            }
            Err(TryLockError::WouldBlock) => {
                let busy = std::io::ErrorKind::ResourceBusy;
                return Err(open(std::io::Error::new(busy, "another process has it open")));
            }
            Err(TryLockError::Error(error)) => return Err(open(error)),
        }
    }
}

/// Removes the index of a store that is not open; opening builds it again.
pub(super) fn remove_index(folder: &Path) -> Result<(), StoreError> {
    let _lock = lock(folder)?;
    match fs::remove_dir_all(folder.join("index")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove index")(error))
        }
        _ => Ok(()),
    }
}
