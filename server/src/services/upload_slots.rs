//! How many uploads there may be at once.
//!
//! Those that the server has waited for give way when there is no room for another, so that clients that stop in the
//! middle hold up nobody; and a client that has more than others gives way to those. None is ended before somebody
//! needs its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tonic::Status;

use super::retry_later;

/// How long the server must have waited for an upload before it gives way.
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
    uploads: HashMap<u64, Place>,
    /// How many each client has.
    clients: HashMap<Arc<str>, usize>,
}

struct Place {
    client: Arc<str>,
    /// Since when the server waits for the client; `None` while the client waits for the server.
    waits_since: Option<Instant>,
    notice: Arc<Notice>,
}

/// What an upload is told that has to give way.
#[derive(Default)]
struct Notice {
    why: OnceLock<String>,
    given: Notify,
}

/// One upload's place, for as long as it lasts.
pub(super) struct Slot {
    id: u64,
    notice: Arc<Notice>,
    shared: Arc<Shared>,
}

impl UploadSlots {
    /// Room for so many at once.
    pub(crate) fn new(max: usize) -> Self {
        Self(Arc::new(Shared { max, open: Mutex::default() }))
    }

    /// Takes a place for a client, whose first message is waited for.
    pub(super) fn begin(&self, now: Instant, client: Arc<str>) -> Result<Slot, Status> {
        let max = self.0.max;
        let mut open = self.0.open();
        if open.uploads.len() >= max && !open.end_one_that_waits(now) && !open.end_one_of_the_most(&client) {
            let text = format!("{max} uploads are under way (limit requests.uploads_max)");
            return Err(retry_later(text, RETRY_SECONDS));
        }
        let id = open.next;
        open.next += 1;
        let notice = Arc::<Notice>::default();
        *open.clients.entry(Arc::clone(&client)).or_default() += 1;
        open.uploads.insert(id, Place { client, waits_since: Some(now), notice: Arc::clone(&notice) });
        Ok(Slot { id, notice, shared: Arc::clone(&self.0) })
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no code that holds this lock panics")
    }
}

impl Open {
    /// Ends the upload that was waited for longest, if that is long enough.
    fn end_one_that_waits(&mut self, now: Instant) -> bool {
        let waiting = self.uploads.iter().filter_map(|(id, place)| Some((place.waits_since?, *id)));
        let Some((since, id)) = waiting.min() else { return false };
        if now.saturating_duration_since(since) < GIVES_WAY_AFTER {
            return false;
        }
        let seconds = GIVES_WAY_AFTER.as_secs();
        self.end(id, format!("the upload sent nothing for {seconds} s while others waited for its place"));
        true
    }

    /// Ends an upload of the client that has most, if it will still have no fewer than the one that asks.
    fn end_one_of_the_most(&mut self, asks: &Arc<str>) -> bool {
        let own = self.clients.get(asks).copied().unwrap_or_default();
        let Some((most, count)) = self.clients.iter().max_by_key(|(_, count)| **count) else { return false };
        if *count <= own + 1 {
            return false;
        }
        let (most, count) = (Arc::clone(most), *count);
        let of_most = self.uploads.iter().filter(|(_, place)| place.client == most);
        // One that waits before those that are at work, and of those the oldest.
        let first = of_most.min_by_key(|(id, place)| (place.waits_since.is_none(), place.waits_since, **id));
        let Some(id) = first.map(|(id, _)| *id) else { return false };
        self.end(id, format!("{most} has {count} uploads under way, and others have fewer"));
        true
    }

    fn end(&mut self, id: u64, why: String) {
        if let Some(place) = self.remove(id) {
            let _ = place.notice.why.set(why);
            place.notice.given.notify_one();
        }
    }

    fn remove(&mut self, id: u64) -> Option<Place> {
        let place = self.uploads.remove(&id)?;
        if let Some(count) = self.clients.get_mut(&place.client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&place.client);
            }
        }
        Some(place)
    }
}

impl Slot {
    /// Notes that the server waits for the client from now on, unless it does already.
    pub(super) fn waits(&self, now: Instant) {
        if let Some(place) = self.shared.open().uploads.get_mut(&self.id) {
            place.waits_since.get_or_insert(now);
        }
    }

    /// Notes that the client sent something, which the server is at work on now.
    pub(super) fn heard(&self) {
        if let Some(place) = self.shared.open().uploads.get_mut(&self.id) {
            place.waits_since = None;
        }
    }

    /// Comes when the upload has to give way.
    pub(super) async fn given_up(&self) -> Status {
        loop {
            if let Some(why) = self.notice.why.get() {
                return retry_later(format!("{why} (limit requests.uploads_max)"), RETRY_SECONDS);
            }
            self.notice.given.notified().await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.open().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tonic::Code;

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    fn begin(slots: &UploadSlots, now: Instant, client: &str) -> Result<Slot, Status> {
        slots.begin(now, client.into())
    }

    fn why(slot: &Slot) -> Option<Status> {
        slot.given_up().now_or_never()
    }

    #[test]
    fn a_place_is_free_again_when_its_upload_ends() {
        let (slots, now) = (UploadSlots::new(2), Instant::now());
        let first = begin(&slots, now, "a").unwrap();
        let second = begin(&slots, now, "a").unwrap();
        let refused = begin(&slots, now + MOMENT, "a").err().unwrap();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("2 uploads") && !refused.details().is_empty(), "{refused:?}");
        drop(second);
        let third = begin(&slots, now + MOMENT, "a").unwrap();
        assert!(why(&first).is_none() && why(&third).is_none());
    }

    #[test]
    fn the_one_that_was_waited_for_longest_gives_way_and_only_for_another() {
        let (slots, now) = (UploadSlots::new(2), Instant::now());
        let silent = begin(&slots, now, "a").unwrap();
        let busy = begin(&slots, now, "a").unwrap();
        busy.heard();
        busy.waits(now + GIVES_WAY_AFTER - MOMENT);
        assert!(begin(&slots, now + GIVES_WAY_AFTER - MOMENT, "a").is_err());
        assert!(why(&silent).is_none());
        let next = begin(&slots, now + GIVES_WAY_AFTER, "a").unwrap();
        assert_eq!(why(&silent).unwrap().code(), Code::ResourceExhausted);
        assert!(why(&busy).is_none());
        // What it does after that takes nobody's place and frees none.
        silent.heard();
        silent.waits(now);
        drop(silent);
        assert!(begin(&slots, now + GIVES_WAY_AFTER, "a").is_err());
        drop((busy, next));
        let open = slots.0.open();
        assert_eq!((open.uploads.len(), open.clients.len()), (0, 0));
    }

    #[test]
    fn who_waits_for_the_server_is_not_silent() {
        let (slots, now) = (UploadSlots::new(1), Instant::now());
        let upload = begin(&slots, now, "a").unwrap();
        upload.heard();
        assert!(begin(&slots, now + 10 * GIVES_WAY_AFTER, "a").is_err(), "it waits for a slow store");
        // A message without bytes is no word: the server waits on.
        upload.waits(now + 10 * GIVES_WAY_AFTER);
        upload.waits(now + 11 * GIVES_WAY_AFTER - MOMENT);
        assert!(begin(&slots, now + 11 * GIVES_WAY_AFTER, "a").is_ok());
        assert!(why(&upload).unwrap().message().contains("sent nothing"));
    }

    #[test]
    fn who_has_most_gives_way_to_who_has_fewer() {
        let (slots, now) = (UploadSlots::new(4), Instant::now());
        let greedy: Vec<_> = (0..4).map(|_| begin(&slots, now, "greedy").unwrap()).collect();
        greedy.iter().for_each(Slot::heard);
        greedy[2].waits(now);
        assert!(begin(&slots, now, "greedy").is_err(), "it has nobody to take a place from");
        let first = begin(&slots, now, "another").unwrap();
        assert!(why(&greedy[2]).unwrap().message().contains("greedy has 4 uploads"));
        let second = begin(&slots, now, "another").unwrap();
        assert!(why(&greedy[0]).is_some(), "none waits any more: the oldest");
        assert!(begin(&slots, now, "another").is_err(), "both have as many");
        let third = begin(&slots, now, "a third");
        assert!(
            third.is_ok() && [&first, &second, &greedy[1], &greedy[3]].iter().any(|slot| why(slot).is_some())
        );
    }
}
