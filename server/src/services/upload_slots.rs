//! How many uploads there may be at once.
//!
//! An upload that has sent nothing for a while gives way when there is no room for another, so that clients that stop in
//! the middle hold up nobody. It is not ended before somebody needs its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tonic::Status;

use super::retry_later;

/// How long an upload must have sent nothing before it gives way.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(10);

/// When a client that found no room may try again.
const RETRY_SECONDS: i64 = 2;

/// The uploads under way. Clones share them.
#[derive(Clone)]
pub(crate) struct UploadSlots(Arc<Shared>);

struct Shared {
    max: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    uploads: HashMap<u64, Heard>,
}

struct Heard {
    at: Instant,
    gives_way: Arc<Notify>,
}

/// One upload's place, for as long as it lasts.
pub(super) struct Slot {
    id: u64,
    gives_way: Arc<Notify>,
    shared: Arc<Shared>,
}

impl UploadSlots {
    /// Room for so many at once.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max, open: Mutex::default() }))
    }

    /// Takes a place.
    pub(super) fn begin(&self, now: Instant) -> Result<Slot, Status> {
        let mut open = self.0.open();
        if open.uploads.len() >= self.0.max && !open.end_one_that_says_nothing(now) {
            let max = self.0.max;
            let text = format!("{max} uploads are under way (limit requests.uploads_max)");
            return Err(retry_later(text, RETRY_SECONDS));
        }
        let id = open.next;
        open.next += 1;
        let gives_way = Arc::new(Notify::new());
        open.uploads.insert(id, Heard { at: now, gives_way: Arc::clone(&gives_way) });
        Ok(Slot { id, gives_way, shared: Arc::clone(&self.0) })
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no code that holds this lock panics")
    }
}

impl Open {
    /// Ends the upload that has said nothing for the longest time, if that is long enough.
    fn end_one_that_says_nothing(&mut self, now: Instant) -> bool {
        let Some((id, heard)) = self.uploads.iter().min_by_key(|(_, heard)| heard.at) else { return false };
        if now.saturating_duration_since(heard.at) < GIVES_WAY_AFTER {
            return false;
        }
        let id = *id;
        heard.gives_way.notify_one();
        self.uploads.remove(&id);
        true
    }
}

impl Slot {
    /// Notes that the client sent something.
    pub(super) fn heard(&self, now: Instant) {
        if let Some(heard) = self.shared.open().uploads.get_mut(&self.id) {
            heard.at = now;
        }
    }

    /// Comes when the upload has to give way.
    pub(super) async fn given_up(&self) -> Status {
        self.gives_way.notified().await;
        let seconds = GIVES_WAY_AFTER.as_secs();
        let text = format!(
            "the upload sent nothing for {seconds} s while others waited for its place (limit requests.uploads_max)"
        );
        retry_later(text, RETRY_SECONDS)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.open().uploads.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tonic::Code;

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    #[test]
    fn a_place_is_free_again_when_its_upload_ends() {
        let (slots, now) = (UploadSlots::new(2), Instant::now());
        let first = slots.begin(now).unwrap();
        let second = slots.begin(now).unwrap();
        let refused = slots.begin(now + MOMENT).err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("2 uploads") && !refused.details().is_empty(), "{refused:?}");
        drop(second);
        let third = slots.begin(now + MOMENT).unwrap();
        assert!(first.given_up().now_or_never().is_none() && third.given_up().now_or_never().is_none());
    }

    #[test]
    fn the_one_that_was_silent_longest_gives_way_and_only_for_another() {
        let (slots, now) = (UploadSlots::new(2), Instant::now());
        let silent = slots.begin(now).unwrap();
        let busy = slots.begin(now).unwrap();
        busy.heard(now + GIVES_WAY_AFTER - MOMENT);
        assert!(slots.begin(now + GIVES_WAY_AFTER - MOMENT).is_err());
        assert!(silent.given_up().now_or_never().is_none());
        let next = slots.begin(now + GIVES_WAY_AFTER).unwrap();
        assert_eq!(silent.given_up().now_or_never().unwrap().code(), Code::ResourceExhausted);
        assert!(busy.given_up().now_or_never().is_none());
        // What it does after that takes nobody's place and frees none.
        silent.heard(now + GIVES_WAY_AFTER);
        drop(silent);
        assert!(slots.begin(now + GIVES_WAY_AFTER).is_err());
        drop((busy, next));
        assert_eq!(slots.0.open().uploads.len(), 0);
    }
}
