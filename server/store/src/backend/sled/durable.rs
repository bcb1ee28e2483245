//! What is on the disk, and not only with the operating system.
//!
//! One pass flushes everything that was written before it began; whoever needs that waits for a pass, and all
//! who wait at the same time share one (group commit). After a pass come, in this order, the footers of
//! closed segments and the checkpoint of the index: both say "this is on the disk", so neither is written
//! before it is true.
//!
//! A flush that failed says once that bytes were not written, and the system may have dropped them. So what
//! it was about stays in doubt: before the next pass all of it is compared with its checksums, written once more
//! where it is, and flushed. What turns out to be lost is absent from then on.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::append::Unsealed;
use super::engine::{Counters, Engine};
use super::evict::location;
use super::generation::Checkpoint;
use super::record::{Footer, Kind};
use super::segment::Segment;
use crate::StoreError;

/// Above this many files one call flushes their whole file system instead.
const FILES_FLUSHED_SINGLY_MAX: usize = 8;

/// How long nothing is tried after a flush failed. Tests have no time for that.
const FLUSH_RETRY: Duration = if cfg!(test) { Duration::ZERO } else { Duration::from_secs(5) };

/// What is known about the disk.
pub(super) struct Durable {
    /// The folder of segments, to flush their names.
    folder: File,
    /// Counts writes.
    written: AtomicU64,
    state: Mutex<State>,
    ended: Condvar,
    /// Counts passes.
    passes: AtomicU64,
    /// What tests do to the next flushes.
    #[cfg(test)]
    pub(super) seam: Seam,
}

#[derive(Default)]
struct State {
    /// The writes up to this one are on the disk.
    synced: u64,
    running: bool,
    /// What is in doubt. Until it is not, nothing is acknowledged as flushed.
    doubt: Option<Doubt>,
    position: Option<Checkpoint>,
    unsealed: Vec<Unsealed>,
}

/// Everything that was written and not flushed when a flush failed.
struct Doubt {
    /// The writes up to this one.
    written: u64,
    position: Checkpoint,
    /// The segments, none of which gets any more records.
    unsealed: Vec<Unsealed>,
    retry_at: Instant,
}

impl Durable {
    pub(super) fn new(folder: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            folder: File::open(folder).map_err(StoreError::io("open segments folder"))?,
            written: AtomicU64::new(0),
            state: Mutex::default(),
            ended: Condvar::new(),
            passes: AtomicU64::new(0),
            #[cfg(test)]
            seam: Seam::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something was written that a pass has to flush. Called under the append lock.
    pub(super) fn note_write(&self) {
        self.written.fetch_add(1, Ordering::Release);
    }

    /// How many writes there were.
    #[cfg(test)]
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// How many passes there were.
    pub(super) fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Whether everything written so far is on the disk.
    pub(super) fn is_clean(&self) -> bool {
        self.state().synced >= self.written.load(Ordering::Acquire)
    }

    /// Flushes the names of segments.
    pub(super) fn sync_folder(&self) -> Result<(), StoreError> {
        self.folder.sync_all().map_err(StoreError::io("flush segments folder"))
    }

    /// Notes that the writes up to one are on the disk, and what follows from that.
    fn flushed(&self, written: u64, position: Checkpoint, unsealed: Vec<Unsealed>) {
        // Tests that play a power failure read what one would leave alone.
        tracing::trace!(next = position.next, open = position.open, offset = position.offset, "flushed");
        let mut state = self.state();
        state.synced = written;
        state.position = Some(position);
        state.unsealed.extend(unsealed);
    }

    fn flush(&self, segments: &[Arc<Segment>]) -> Result<(), StoreError> {
        self.passes.fetch_add(1, Ordering::Relaxed);
        #[cfg(test)]
        self.seam.enter()?;
        if segments.len() > FILES_FLUSHED_SINGLY_MAX && flush_file_system(&self.folder)? {
            return Ok(());
        }
        for segment in segments {
            match segment.file().and_then(|file| file.sync_data()) {
                // Dropped or renamed meanwhile; in the latter case it is flushed under its new name.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                outcome => outcome.map_err(StoreError::io("flush segment"))?,
            }
        }
        self.sync_folder()
    }
}

/// Makes flushes wait or fail.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Seam {
    pub(super) fail: std::sync::atomic::AtomicBool,
    pub(super) hold: Mutex<()>,
}

#[cfg(test)]
impl Seam {
    fn enter(&self) -> Result<(), StoreError> {
        drop(self.hold.lock());
        match self.fail.load(Ordering::Relaxed) {
            true => Err(StoreError::io("flush segment")(std::io::Error::other("made to fail"))),
            false => Ok(()),
        }
    }
}

/// Flushes the file system that a file is on; false where that cannot be asked for.
fn flush_file_system(file: impl AsFd) -> Result<bool, StoreError> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::syncfs(file).map_err(|error| StoreError::io("flush file system")(error.into()))?;
        Ok(true)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        Ok(false)
    }
}

impl Engine {
    /// Returns once everything that was written before the call is on the disk.
    pub(super) fn make_durable(&self) -> Result<(), StoreError> {
        let durable = &self.durable;
        let mine = durable.written.load(Ordering::Acquire);
        let mut state = durable.state();
        loop {
            if state.synced >= mine {
                return Ok(());
            }
            if !state.running {
                break;
            }
            state = durable.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.doubt.as_ref().is_some_and(|doubt| Instant::now() < doubt.retry_at) {
            let lost = std::io::Error::other("a flush failed a moment ago and will be tried again");
            return Err(StoreError::Io { operation: "flush segment", source: lost });
        }
        state.running = true;
        let doubt = state.doubt.take();
        drop(state);
        let outcome = doubt.map_or(Ok(()), |doubt| self.resolve(doubt)).and_then(|()| self.pass());
        durable.state().running = false;
        durable.ended.notify_all();
        outcome
    }

    /// Flushes everything written so far. One thread at a time does this.
    fn pass(&self) -> Result<(), StoreError> {
        let durable = &self.durable;
        let (written, unsynced) = {
            let mut appender = self.appender();
            (durable.written.load(Ordering::Acquire), appender.take_unsynced())
        };
        let closed = unsynced.unsealed.iter().filter_map(|unsealed| unsealed.segment.upgrade());
        let outcome = durable.flush(&closed.chain(unsynced.open).collect::<Vec<_>>());
        if let Err(error) = outcome {
            tracing::error!(%error, "what was written cannot be flushed to the disk");
            self.doubt(unsynced.unsealed);
            return Err(error);
        }
        durable.flushed(written, unsynced.position, unsynced.unsealed);
        Ok(())
    }

    /// Puts these segments and all that were written since in doubt.
    fn doubt(&self, mut unsealed: Vec<Unsealed>) {
        let (written, since) = {
            let mut appender = self.appender();
            appender.close_segment();
            (self.durable.written.load(Ordering::Acquire), appender.take_unsynced())
        };
        unsealed.extend(since.unsealed);
        for segment in unsealed.iter().filter_map(|unsealed| unsealed.segment.upgrade()) {
            segment.set_doubtful(true);
        }
        let retry_at = Instant::now() + FLUSH_RETRY;
        let doubt = Doubt { written, position: since.position, unsealed, retry_at };
        self.durable.state().doubt = Some(doubt);
    }

    /// Writes what is in doubt once more and flushes it. What is lost is absent afterwards.
    fn resolve(&self, mut doubt: Doubt) -> Result<(), StoreError> {
        let outcome = doubt.unsealed.iter_mut().try_for_each(|unsealed| self.write_again(unsealed));
        let segments: Vec<_> = doubt.unsealed.iter().filter_map(|u| u.segment.upgrade()).collect();
        match outcome.and_then(|()| self.durable.flush(&segments)) {
            Ok(()) => {
                tracing::warn!(segments = segments.len(), "what could not be flushed is on the disk now");
                segments.iter().for_each(|segment| segment.set_doubtful(false));
                self.durable.flushed(doubt.written, doubt.position, doubt.unsealed);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "what was written still cannot be flushed to the disk");
                doubt.retry_at = Instant::now() + FLUSH_RETRY;
                self.durable.state().doubt = Some(doubt);
                Err(error)
            }
        }
    }

    /// Writes a segment's records once more. The footer then says of those that are lost that they are.
    fn write_again(&self, Unsealed { segment, footer }: &mut Unsealed) -> Result<(), StoreError> {
        let Some(segment) = segment.upgrade() else { return Ok(()) };
        let file = match segment.writable() {
            // Dropped meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(StoreError::io("open segment"))?,
        };
        Segment::write_header(&file)?;
        let mut entries = footer.entries();
        for (ordinal, entry) in (0..).zip(&mut entries) {
            if entry.kind == Kind::Deleted && entry.payload_len > 0 || Segment::write_again(&file, entry)? {
                continue;
            }
            tracing::error!(segment = segment.id, offset = entry.offset, "a record was never written");
            Counters::add(&self.counters.records_damaged, 1);
            let lost = location(&segment, ordinal, entry);
            entry.kind = Kind::Deleted;
            let _appender = self.appender();
            if self.index.known(&entry.key)? == Some(lost) {
                self.index.insert(&entry.key, &location(&segment, ordinal, entry))?;
            }
        }
        *footer = Footer::of(&entries);
        Ok(())
    }

    /// Flushes everything, then writes footers and checkpoint.
    pub(super) fn seal_durable(&self) -> Result<(), StoreError> {
        self.make_durable()?;
        let (position, unsealed) = {
            let mut state = self.durable.state();
            // While records may be missing from the index, the position is kept for later.
            let position = if self.index.unindexed() == 0 { state.position.take() } else { None };
            (position, std::mem::take(&mut state.unsealed))
        };
        for unsealed in unsealed {
            self.seal(unsealed)?;
        }
        position.map_or(Ok(()), |position| self.index.set_checkpoint(&position))
    }

    fn seal(&self, Unsealed { segment, footer }: Unsealed) -> Result<(), StoreError> {
        let Some(segment) = segment.upgrade() else { return Ok(()) };
        match segment.seal(footer) {
            // Dropped or renamed meanwhile; in the latter case it is sealed under its new name.
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Ok(()) => self.charge_exactly(&segment),
            // Without a footer the segment is read when the store opens: slower, and nothing is lost.
            Err(error) => {
                tracing::warn!(%error, segment = segment.id, "a segment stays without a footer");
                Ok(())
            }
        }
    }

    /// Charges what the disk has allocated for a segment that will not change any more.
    pub(super) fn charge_exactly(&self, segment: &Segment) -> Result<(), StoreError> {
        let state = segment.state();
        if state.dead {
            return Ok(());
        }
        let allocated = match segment.allocated() {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(());
            }
            other => other?,
        };
        let charged = segment.charged.swap(allocated, Ordering::Relaxed);
        self.used.fetch_add(allocated, Ordering::Relaxed);
        self.used.fetch_sub(charged, Ordering::Relaxed);
        Ok(())
    }
}
