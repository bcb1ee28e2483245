//! Counters of a store's operations, cheap enough for every call.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::StoreError;

/// Upper bounds of the buckets that durations are counted in; a last bucket has none.
pub const LATENCY_BOUNDS_SECONDS: [f64; 10] =
    [0.000_025, 0.000_1, 0.000_4, 0.001_6, 0.006_4, 0.025_6, 0.1, 0.4, 1.6, 6.4];

const BUCKETS: usize = LATENCY_BOUNDS_SECONDS.len() + 1;

/// What is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    FindMissing,
    Pin,
    Put,
    PutBatch,
    Read,
    GetBatch,
    GetRecord,
    PutRecord,
    DeleteRecord,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 9] = [
        Self::FindMissing,
        Self::Pin,
        Self::Put,
        Self::PutBatch,
        Self::Read,
        Self::GetBatch,
        Self::GetRecord,
        Self::PutRecord,
        Self::DeleteRecord,
    ];

    /// Whether it is one of a [`BlobStore`](crate::BlobStore).
    pub const fn is_about_blobs(self) -> bool {
        !matches!(self, Self::GetRecord | Self::PutRecord | Self::DeleteRecord)
    }

    /// The operation's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FindMissing => "find_missing",
            Self::Pin => "pin",
            Self::Put => "put",
            Self::PutBatch => "put_batch",
            Self::Read => "read",
            Self::GetBatch => "get_batch",
            Self::GetRecord => "get_record",
            Self::PutRecord => "put_record",
            Self::DeleteRecord => "delete_record",
        }
    }
}

/// The counters of every operation of a store.
#[derive(Debug, Default)]
pub struct Meters {
    meters: [Meter; Operation::ALL.len()],
}

impl Meters {
    /// What was counted so far.
    pub fn read(&self, operation: Operation) -> Reading {
        self.meter(operation).read()
    }

    pub(super) fn meter(&self, operation: Operation) -> &Meter {
        &self.meters[operation as usize]
    }
}

/// What one operation came to. Numbers that are read together may be a moment apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Calls that ended. A call whose caller went away is not among them.
    pub calls: u64,
    /// Of these, or of their items, those that failed other than by not finding something.
    pub failures: u64,
    /// Blobs or records asked for or sent.
    pub items: u64,
    /// Of these, those that were not found.
    pub missing: u64,
    /// Bytes of contents that were stored or handed out.
    pub bytes: u64,
    /// How many calls took at most so long; the last bucket has no bound.
    pub buckets: [u64; BUCKETS],
    /// How long all calls took together. Of a read this is the time to its start.
    pub time: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    failures: AtomicU64,
    items: AtomicU64,
    missing: AtomicU64,
    bytes: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Meter {
    /// Counts the end of a call that began at `start` and was about so many items.
    pub(super) fn ended(&self, start: Instant, items: usize) {
        let time = start.elapsed();
        let seconds = time.as_secs_f64();
        let bucket = LATENCY_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.items.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Counts the outcome of one item.
    pub(super) fn outcome<T>(&self, outcome: &Result<T, StoreError>) {
        match outcome {
            Ok(_) => {}
            Err(StoreError::NotFound(_)) => self.missing(1),
            Err(_) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn missing(&self, count: usize) {
        self.missing.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> Reading {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let buckets = std::array::from_fn(|i| get(&self.buckets[i]));
        Reading {
            calls: buckets.iter().sum(),
            failures: get(&self.failures),
            items: get(&self.items),
            missing: get(&self.missing),
            bytes: get(&self.bytes),
            buckets,
            time: Duration::from_nanos(get(&self.nanos)),
        }
    }
}
