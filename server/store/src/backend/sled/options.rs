//! What can be set about a store, and the sizes that follow from its capacity.

use std::path::Path;
use std::time::Duration;

use crate::StoreError;

/// Smallest capacity that a store can be opened with: below it sled's own floor is most of the folder.
pub const CAPACITY_BYTES_MIN: u64 = 32 << 20;

/// Capacity when none is set, unless the disk has less to give.
const CAPACITY_BYTES_DEFAULT: u64 = 50 << 30;

/// Share of the space that is free at opening (the store's own included) used when no capacity is set.
const FREE_SPACE_PERCENT: u64 = 90;

/// Largest shared segment.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;

/// Largest blob in a shared segment.
const SHARED_BLOB_BYTES_MAX: u64 = 256 << 10;

/// Least room for the index: a few sled databases, each of which starts with about 1 MiB.
const INDEX_BYTES_MIN: u64 = 12 << 20;

/// Settings of a [`SledStore`](super::SledStore).
#[derive(Clone, Copy, Debug)]
pub struct SledOptions {
    /// Bytes that the store's folder may take on disk, everything included. `None`: 50 GiB, or 90 % of what
    /// is free when the store opens (counting what it already holds) if that is less.
    pub capacity_bytes: Option<u64>,
    /// How long a blob that was reported present, or whose upload found it stored, is kept whatever comes.
    /// When nothing else can be dropped, new uploads are refused with NoSpace instead.
    pub lease: Duration,
    /// Whether uploads are on the disk, not only with the operating system, before they are acknowledged.
    /// Without it a power cut may cost the uploads of the last seconds; a killed process costs nothing.
    pub sync: bool,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { capacity_bytes: None, lease: Duration::from_secs(300), sync: false }
    }
}

/// Thresholds that were chosen by measurement; others are for measuring them again.
#[derive(Clone, Copy, Debug)]
pub struct SledTuning {
    /// A shared segment is closed at this size.
    pub segment_bytes: u64,
    /// Blobs above this size have a segment of their own; smaller ones are held in memory while they arrive.
    pub shared_blob_bytes: u64,
}

impl SledTuning {
    /// What a store of this capacity uses.
    pub fn of(capacity_bytes: u64) -> Self {
        let segment_bytes = (capacity_bytes / 32).min(SEGMENT_BYTES_MAX);
        Self { segment_bytes, shared_blob_bytes: SHARED_BLOB_BYTES_MAX.min(segment_bytes / 4) }
    }
}

/// Sizes that follow from the capacity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// The hard bound.
    pub(super) capacity: u64,
    /// What uploads may fill; the rest is room in which eviction copies blobs forward.
    pub(super) fill: u64,
    /// A shared segment is sealed at this size.
    pub(super) segment: u64,
    /// Largest blob in a shared segment.
    pub(super) shared_blob: u64,
    /// All generations of the index together.
    pub(super) index: u64,
    /// One generation of the index is closed at this size of its own ...
    pub(super) generation_index: u64,
    /// ... or when its segments have this size together.
    pub(super) generation_segments: u64,
}

impl Sizes {
    pub(super) fn of(capacity: u64, tuning: Option<SledTuning>) -> Result<Self, StoreError> {
        if capacity < CAPACITY_BYTES_MIN {
            return Err(StoreError::NoSpace("capacity_bytes is below 32 MiB"));
        }
        let tuning = tuning.unwrap_or_else(|| SledTuning::of(capacity));
        let segment = tuning.segment_bytes;
        let index = (capacity / 4).max(INDEX_BYTES_MIN);
        Ok(Self {
            capacity,
            fill: capacity.saturating_sub(2 * segment),
            segment,
            shared_blob: tuning.shared_blob_bytes,
            index,
            generation_index: index / 6,
            generation_segments: capacity / 4,
        })
    }
}

impl SledOptions {
    /// The capacity to use for `folder`, which holds `held` bytes already.
    pub(super) fn capacity(&self, folder: &Path, held: impl FnOnce() -> u64) -> Result<u64, StoreError> {
        if let Some(capacity) = self.capacity_bytes {
            return Ok(capacity);
        }
        Ok(CAPACITY_BYTES_DEFAULT.min((free_bytes(folder)? + held()) / 100 * FREE_SPACE_PERCENT))
    }
}

/// Bytes that the disk of a folder has left for this process.
pub(super) fn free_bytes(folder: &Path) -> Result<u64, StoreError> {
    let disk = rustix::fs::statvfs(folder)
        .map_err(|error| StoreError::io("ask for free disk space")(error.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
