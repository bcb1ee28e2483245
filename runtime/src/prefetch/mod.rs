//! Fetches what an action is going to read before it does, so that a worker far from its server does not pay a round
//! trip for each file.
//!
//! It only makes reads find what they look for near: it never fails an action, and what it does not fetch is fetched by
//! whoever reads it. What it fetches, and in which order, is in `choice.rs`; README.md has the rule in words.

mod choice;
pub(crate) mod known;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use wardian_proto::Digest;
use wardian_store::{BlobStore, ByteRange, Recent};

use crate::action::{self, ActionSpec};
use crate::executor::wasm::candidates;
use crate::workspace::{InputTree, Inputs};
use crate::{Failure, Limits};

use choice::{Choice, Room};
use known::KnownPaths;

/// Runs whose inputs are fetched ahead at the same time; those of more are read when they are needed.
const RUNS_MAX: usize = 1024;

/// Files that are fetched ahead for one action.
const FILES_PER_ACTION_MAX: usize = 8192;

/// Largest file that is fetched ahead. A tool may be as large as a module may be.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Files up to this size travel together.
const SMALL_FILE_BYTES_MAX: u64 = 128 << 10;

/// Small files in one batch, and their bytes: little enough that who waits for one of them does not wait for long.
const BATCH_FILES_MAX: usize = 500;
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// Batches, and large files, that are under way at once for all actions of a worker together.
const BATCHES_IN_FLIGHT_MAX: usize = 6;
const LARGE_IN_FLIGHT_MAX: usize = 2;

/// Digests in one look into the near store.
const LOOKUP_DIGESTS_MAX: usize = 10_000;

/// Files that were fetched ahead and not used yet, as far as they are remembered.
const UNUSED_FILES_MAX: u64 = 200_000;

/// Part of the near store that may be fetched ahead for actions that have not ended: one of so many.
const SHARE_OF_NEAR: u64 = 4;

/// What can be set of it.
#[derive(Clone, Copy, Debug)]
pub struct PrefetchSettings {
    /// Whether inputs are fetched ahead at all.
    pub enabled: bool,
    /// Bytes of files that are fetched ahead for one action, its tool not counted.
    pub bytes_per_action_max: u64,
}

impl Default for PrefetchSettings {
    fn default() -> Self {
        Self { enabled: true, bytes_per_action_max: 64 << 20 }
    }
}

/// What came of it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefetchCounts {
    /// Files that were fetched ahead, and their bytes.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Of the files, those that an action has read since.
    pub files_used: u64,
    /// Bytes of these.
    pub bytes_used: u64,
}

/// What a prefetcher reads through.
pub(crate) struct Source {
    /// The store that actions read from. It brings a large blob near as a whole before it hands out the first byte.
    pub(crate) store: Arc<dyn BlobStore>,
    /// The part of it that is here.
    pub(crate) near: Arc<dyn BlobStore>,
    /// Bytes that the near part may hold.
    pub(crate) near_bytes_max: u64,
    /// Directories in memory.
    pub(crate) inputs: Arc<Inputs>,
    /// Whether there is machine code of a module, so that nobody reads the module.
    pub(crate) has_code: Box<dyn Fn(&Digest) -> bool + Send + Sync>,
}

/// Fetches inputs ahead. Clones share everything.
#[derive(Clone)]
pub struct Prefetcher {
    shared: Arc<Shared>,
}

struct Shared {
    source: Source,
    limits: Limits,
    settings: PrefetchSettings,
    runs: Mutex<Runs>,
    batches: Semaphore,
    large: Semaphore,
    /// Bytes that were fetched ahead for actions that have not ended.
    charged: AtomicU64,
    /// When everything below a Directory was last looked through.
    walked: Recent<Digest, Instant>,
    known: KnownPaths,
    unused: Recent<Digest, ()>,
    counts: Mutex<PrefetchCounts>,
}

#[derive(Default)]
struct Runs {
    last_id: u64,
    by_action: HashMap<Digest, (u64, AbortHandle)>,
}

/// Takes a run off the list when nothing is fetched for it any more.
struct Listed {
    shared: Arc<Shared>,
    action: Digest,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut runs = self.shared.runs();
        if runs.by_action.get(&self.action).is_some_and(|(id, _)| *id == self.id) {
            runs.by_action.remove(&self.action);
        }
    }
}

/// Bytes fetched for a run, given back at its end.
struct Charge<'a> {
    charged: &'a AtomicU64,
    bytes: u64,
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.charged.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Prefetcher {
    pub(crate) fn new(source: Source, limits: Limits, settings: PrefetchSettings) -> Self {
        let shared = Shared {
            source,
            limits,
            settings,
            runs: Mutex::default(),
            batches: Semaphore::new(BATCHES_IN_FLIGHT_MAX),
            large: Semaphore::new(LARGE_IN_FLIGHT_MAX),
            charged: AtomicU64::new(0),
            walked: Recent::new(walk::WALKED_DIRECTORIES_MAX),
            known: KnownPaths::default(),
            unused: Recent::new(UNUSED_FILES_MAX),
            counts: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins to fetch what an action is going to read, if nothing is fetched for the same action yet. It ends with
    /// the run: when `cancelled` turns true, or its sender is gone, or [`ended`](Self::ended) is called. Must be called
    /// inside of a tokio runtime, and returns at once.
    pub fn begin(&self, action: Digest, mut cancelled: watch::Receiver<bool>) {
        let mut runs = self.shared.runs();
        if !self.shared.settings.enabled
            || runs.by_action.len() >= RUNS_MAX
            || runs.by_action.contains_key(&action)
        {
            return;
        }
        runs.last_id += 1;
        let listed = Listed { shared: Arc::clone(&self.shared), action, id: runs.last_id };
        let id = listed.id;
        let fetching = async move {
            let fetched = async {
                let outcome = listed.shared.fetch(action).await;
                if let Err(failure) = &outcome {
                    tracing::debug!(%action, %failure, "inputs were not fetched ahead");
                }
                // What was fetched for a run counts until its end.
                std::future::pending::<()>().await;
                drop(outcome);
            };
            tokio::select! {
                () = fetched => {}
                _ = cancelled.wait_for(|stop| *stop) => {}
            }
        };
        runs.by_action.insert(action, (id, tokio::spawn(fetching).abort_handle()));
    }

    /// Ends what is fetched for an action.
    pub fn ended(&self, action: Digest) {
        let listed = self.shared.runs().by_action.remove(&action);
        if let Some((_, fetching)) = listed {
            fetching.abort();
        }
    }

    /// What came of it so far.
    pub fn counts(&self) -> PrefetchCounts {
        *self.shared.counts()
    }

    /// Notes that an action reads files, whoever has fetched them.
    pub(crate) fn used(&self, files: impl Iterator<Item = Digest>) {
        for file in files {
            if self.shared.unused.get(&file).is_some() {
                self.shared.unused.remove(&file);
                let mut counts = self.shared.counts();
                counts.files_used += 1;
                counts.bytes_used += file.size();
            }
        }
    }

    /// Notes what files a tool has read: the next one with the same tool will likely read them too.
    pub(crate) fn learn(&self, spec: &ActionSpec, looked_at: Vec<(String, Digest)>) {
        self.used(looked_at.iter().map(|(_, digest)| *digest));
        self.shared.known.add(&spec.arguments[0], looked_at.into_iter().map(|(path, _)| path));
    }
}

impl Shared {
    fn runs(&self) -> MutexGuard<'_, Runs> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, PrefetchCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, action: Digest) -> Result<Charge<'_>, Failure> {
        let spec = action::read(&*self.source.store, action, &self.limits).await?;
        let tool = self.tool(&spec).await;
        let (fetched, ()) = tokio::join!(self.fetch_files(&spec, tool), async {
            if let Some(tool) = tool.filter(|tool| !(self.source.has_code)(tool)) {
                self.fetch_large(tool).await;
            }
        });
        fetched
    }

    /// What argv[0] names in the input root. Who runs it says what is wrong with it.
    async fn tool(&self, spec: &ActionSpec) -> Option<Digest> {
        let tree = InputTree::new(Arc::clone(&self.source.inputs), spec.input_root);
        for path in candidates(&spec.working_directory, &spec.arguments[0], &spec.environment) {
            if let Some(file) = tree.file(&path).await.ok()? {
                return Some(file).filter(|file| file.size() <= self.limits.wasm_module_bytes_max);
            }
        }
        None
    }

    async fn fetch_files(&self, spec: &ActionSpec, tool: Option<Digest>) -> Result<Charge<'_>, Failure> {
        let found = self.walk(spec.input_root).await?;
        let mut files = found.files;
        files.retain(|file| Some(file.digest) != tool && file.digest.size() <= FILE_BYTES_MAX);
        let digests: Vec<Digest> = files.iter().map(|file| file.digest).collect();
        let mut absent = std::collections::HashSet::new();
        for asked in digests.chunks(LOOKUP_DIGESTS_MAX) {
            absent.extend(self.source.near.find_missing(asked).await?);
        }
        files.retain(|file| absent.contains(&file.digest));
        let mut charge = self.charge();
        let room = Room { bytes: charge.bytes, files: FILES_PER_ACTION_MAX };
        let known = self.known.of(&spec.arguments[0]);
        let Choice { chosen, bytes } = choice::choose(files, known.as_deref(), room);
        // With all the room that there ever is, what was left out will not be fetched the next time either.
        let is_all = chosen.len() == absent.len() || charge.bytes == self.settings.bytes_per_action_max;
        charge.charged.fetch_sub(charge.bytes - bytes, Ordering::Relaxed);
        charge.bytes = bytes;
        let is_fetched = self.fetch_chosen(chosen).await;
        // Not before, and only then: what was broken off or failed is done again.
        if found.is_whole && is_all && is_fetched {
            let now = Instant::now();
            for directory in found.directories {
                self.walked.insert(directory, now, 1);
            }
        }
        Ok(charge)
    }

    /// Takes as much as one action may have, as far as it is there; what is not needed is given back.
    fn charge(&self) -> Charge<'_> {
        let all = self.source.near_bytes_max / SHARE_OF_NEAR;
        let mut bytes = 0;
        let take = |charged: u64| {
            bytes = self.settings.bytes_per_action_max.min(all.saturating_sub(charged));
            Some(charged + bytes)
        };
        // It always succeeds.
        let _ = self.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        Charge { charged: &self.charged, bytes }
    }

    /// Fetches files; false when one of them could not be.
    async fn fetch_chosen(&self, chosen: Vec<Digest>) -> bool {
        let (small, large): (Vec<_>, Vec<_>) =
            chosen.into_iter().partition(|file| file.size() <= SMALL_FILE_BYTES_MAX);
        let batches = batches(small).into_iter().map(|batch| self.fetch_batch(batch).boxed()).collect();
        let large = large.into_iter().map(|file| self.fetch_large(file).boxed()).collect();
        let (batches, large) = (all_of(batches, BATCHES_IN_FLIGHT_MAX), all_of(large, LARGE_IN_FLIGHT_MAX));
        let (batches, large) = tokio::join!(batches, large);
        batches && large
    }

    async fn fetch_batch(&self, batch: Vec<Digest>) -> bool {
        let Ok(_permit) = self.batches.acquire().await else { return false };
        // Before it is there: who waits for it may be done with it before this is.
        batch.iter().for_each(|file| self.unused.insert(*file, (), 1));
        let outcomes = self.source.store.get_batch(&batch).await;
        for (file, outcome) in batch.iter().zip(&outcomes) {
            self.note(file, outcome.is_ok());
        }
        outcomes.iter().all(Result::is_ok)
    }

    /// Fetches one file as a whole, if it is not near: for the store, which brings it near, it is enough to be asked.
    async fn fetch_large(&self, file: Digest) -> bool {
        let Ok(_permit) = self.large.acquire().await else { return false };
        if self.source.near.find_missing(&[file]).await.is_ok_and(|missing| !missing.is_empty()) {
            self.unused.insert(file, (), 1);
            let outcome = self.source.store.read(&file, ByteRange::default()).await;
            self.note(&file, outcome.is_ok());
            return outcome.is_ok();
        }
        true
    }

    /// Notes what came of fetching a file.
    fn note(&self, file: &Digest, is_fetched: bool) {
        if !is_fetched {
            return self.unused.remove(file);
        }
        let mut counts = self.counts();
        counts.files += 1;
        counts.bytes += file.size();
    }
}

/// Does so many of the things to do at once; false when one of them could not be done.
async fn all_of(tasks: Vec<BoxFuture<'_, bool>>, at_once_max: usize) -> bool {
    let done = futures::stream::iter(tasks).buffer_unordered(at_once_max);
    done.fold(true, |all, done| std::future::ready(all && done)).await
}

/// Puts files together, in their order.
fn batches(files: Vec<Digest>) -> Vec<Vec<Digest>> {
    let mut batches: Vec<Vec<Digest>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        bytes += file.size();
        match batches.last_mut() {
            Some(last) if last.len() < BATCH_FILES_MAX && bytes <= BATCH_BYTES_MAX => last.push(file),
            _ => {
                bytes = file.size();
                batches.push(vec![file]);
            }
        }
    }
    batches
}
