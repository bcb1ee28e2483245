//! Reading everything, to say what is damaged.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::engine::Engine;
use super::record::{Entry, Kind, SEGMENT_HEADER_BYTES, key_digest};
use super::segment::Segment;
use crate::StoreError;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Segments looked into.
    pub segments: u64,
    /// Whole records found.
    pub records: u64,
    /// Bytes of those records' values.
    pub bytes: u64,
    /// What is wrong, one line each; empty when nothing is.
    pub damage: Vec<String>,
}

/// Lines of damage in a report at the most; the last one says that there is more.
const DAMAGE_LINES_MAX: usize = 1000;

impl Engine {
    /// Reads every record of every segment and compares blobs with their digests. What cannot be read is
    /// damage, and the check goes on. `progress` is told the bytes read and the bytes to read.
    pub(super) fn check(&self, progress: &dyn Fn(u64, u64)) -> CheckReport {
        let mut report = CheckReport::default();
        let segments: Vec<_> =
            self.segments.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let size = |segment: &Segment| segment.charged.load(Ordering::Relaxed);
        let total = segments.iter().map(|segment| size(segment)).sum();
        let mut done = 0;
        for segment in segments {
            progress(done, total);
            done += size(&segment);
            if let Err(error) = check_segment(&segment, &mut report)
                && !segment.state().dead
            {
                report.add_damage(format!("segment {:x} cannot be read: {error}", segment.id));
            }
        }
        progress(total, total);
        report
    }
}

impl CheckReport {
    fn add_damage(&mut self, line: String) {
        match self.damage.len() {
            0..DAMAGE_LINES_MAX => self.damage.push(line),
            DAMAGE_LINES_MAX => self.damage.push("and more".to_owned()),
            _ => {}
        }
    }
}

fn check_segment(segment: &Segment, report: &mut CheckReport) -> Result<(), StoreError> {
    let end = segment.records_end();
    let listed = segment.read_footer()?.map(|entries| entries.len());
    let entries = segment.scan(0)?;
    report.segments += 1;
    let reached = entries.last().map_or(SEGMENT_HEADER_BYTES, Entry::end);
    let torn = match listed {
        Some(listed) => entries.len() < listed,
        None => reached < end,
    };
    if torn {
        report.add_damage(format!("segment {:x} is torn at byte {reached}", segment.id));
    }
    for entry in entries {
        report.records += 1;
        report.bytes += entry.payload_len;
        if entry.kind == Kind::Blob && !blob_is_right(segment, &entry)? {
            let offset = entry.offset;
            report.add_damage(format!("segment {:x} has a wrong blob at byte {offset}", segment.id));
        }
    }
    Ok(())
}

fn blob_is_right(segment: &Segment, entry: &Entry) -> Result<bool, StoreError> {
    let Some(digest) = key_digest(&entry.key) else { return Ok(false) };
    let file = segment.file().map_err(StoreError::io("open segment"))?;
    let mut hasher = digest.function().hasher();
    let mut at = entry.payload_at();
    let mut buffer = vec![0; crate::READ_CHUNK_BYTES];
    while at < entry.end() {
        let size = buffer.len().min(usize::try_from(entry.end() - at).unwrap_or(usize::MAX));
        std::os::unix::fs::FileExt::read_exact_at(&*file, &mut buffer[..size], at)
            .map_err(StoreError::io("read record"))?;
        hasher.update(&buffer[..size]);
        at += size as u64;
    }
    Ok(hasher.finish() == digest)
}
