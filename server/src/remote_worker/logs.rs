//! What running commands write, on its way to the server.
//!
//! A command never waits for it: what finds no room ends its log, and is in the result all the same.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use tokio::sync::Notify;
use uuid::Uuid;
use wardian_proto::{InstanceName, LogName, wardian};
use wardian_runtime::logs::{LogSink, Logs, NamedSink};

/// Bytes of all logs that wait for the connection.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// Bytes of logs in one report.
const BYTES_PER_REPORT: usize = 256 << 10;

/// Pieces that wait, those without bytes included.
const PIECES_MAX: usize = 100_000;

/// The logs of a worker. Clones share them.
#[derive(Clone, Default)]
pub(super) struct RemoteLogs {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    news: OnceLock<Arc<Notify>>,
}

#[derive(Default)]
struct Waiting {
    pieces: VecDeque<wardian::LogPiece>,
    bytes: usize,
    /// Names of the logs whose last piece was not taken.
    open: BTreeSet<String>,
}

impl RemoteLogs {
    /// Sets what is rung when something was written.
    pub(super) fn ring(&self, news: Arc<Notify>) {
        // It is set once, before anything is written.
        let _ = self.shared.news.set(news);
    }

    /// Whether something waits.
    pub(super) fn has_some(&self) -> bool {
        !self.shared.lock().pieces.is_empty()
    }

    /// Names of all logs that have more to come. Asked for before pieces are taken.
    pub(super) fn unfinished(&self) -> Vec<String> {
        self.shared.lock().open.iter().cloned().collect()
    }

    /// What goes into the next report.
    pub(super) fn take(&self) -> Vec<wardian::LogPiece> {
        let mut waiting = self.shared.lock();
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES_PER_REPORT
            && let Some(piece) = waiting.pieces.pop_front()
        {
            bytes += piece.data.len();
            if is_last(&piece) {
                waiting.open.remove(&piece.name);
            }
            pieces.push(piece);
        }
        waiting.bytes -= bytes;
        pieces
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no code that holds this lock panics")
    }

    /// Lets a piece wait; false when there is no room. There always is for the last of a log, which has no bytes.
    fn push(&self, piece: wardian::LogPiece) -> bool {
        let mut waiting = self.lock();
        let bytes = waiting.bytes + piece.data.len();
        let is_full = bytes > WAITING_BYTES_MAX || waiting.pieces.len() >= PIECES_MAX;
        if is_full && !is_last(&piece) {
            return false;
        }
        if !is_last(&piece) && !waiting.open.contains(&piece.name) {
            waiting.open.insert(piece.name.clone());
        }
        waiting.bytes = bytes;
        waiting.pieces.push_back(piece);
        drop(waiting);
        if let Some(news) = self.news.get() {
            news.notify_one();
        }
        true
    }
}

/// Whether nothing more comes of a log.
fn is_last(piece: &wardian::LogPiece) -> bool {
    piece.finish || !piece.broken.is_empty()
}

impl Logs for RemoteLogs {
    fn open(&self, instance: &InstanceName) -> Option<NamedSink> {
        let name = LogName { instance: instance.clone(), id: Uuid::new_v4().to_string(), token: None };
        let name = name.for_readers();
        // The first piece makes the stream, before anybody is told its name.
        if !self.shared.push(wardian::LogPiece { name: name.clone(), ..Default::default() }) {
            return None;
        }
        let sink = Sink {
            name: name.clone(),
            shared: Arc::clone(&self.shared),
            written: Mutex::new(Written { offset: 0, ended: false }),
        };
        Some(NamedSink { name, sink: Box::new(sink) })
    }
}

struct Sink {
    name: String,
    shared: Arc<Shared>,
    written: Mutex<Written>,
}

struct Written {
    offset: u64,
    ended: bool,
}

impl LogSink for Sink {
    fn append(&self, bytes: &[u8]) {
        let mut written = self.written.lock().expect("no code that holds this lock panics");
        for bytes in bytes.chunks(BYTES_PER_REPORT) {
            if written.ended {
                return;
            }
            let piece = wardian::LogPiece {
                name: self.name.clone(),
                offset: written.offset,
                data: bytes.to_vec().into(),
                ..Default::default()
            };
            if self.shared.push(piece) {
                written.offset += bytes.len() as u64;
            } else {
                written.ended = true;
                let broken = "more was written than could be sent in time".into();
                let (name, offset) = (self.name.clone(), written.offset);
                self.shared.push(wardian::LogPiece { name, offset, broken, ..Default::default() });
            }
        }
    }

    fn finish(&self) {
        let mut written = self.written.lock().expect("no code that holds this lock panics");
        if !std::mem::replace(&mut written.ended, true) {
            let (name, offset) = (self.name.clone(), written.offset);
            self.shared.push(wardian::LogPiece { name, offset, finish: true, ..Default::default() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_say_where_they_belong() {
        let logs = RemoteLogs::default();
        let sink = logs.open(&InstanceName::default()).unwrap();
        sink.sink.append(b"one ");
        sink.sink.append(b"two");
        sink.sink.finish();
        sink.sink.finish();
        let pieces = logs.take();
        let seen: Vec<_> = pieces.iter().map(|p| (p.offset, &p.data[..], p.finish)).collect();
        assert_eq!(seen, [(0, &b""[..], false), (0, b"one ", false), (4, b"two", false), (7, b"", true)]);
        assert!(pieces.iter().all(|piece| piece.name == sink.name) && !logs.has_some());
    }

    #[test]
    fn a_command_that_writes_too_much_loses_its_log_and_no_other() {
        let logs = RemoteLogs::default();
        let loud = logs.open(&InstanceName::default()).unwrap();
        let quiet = logs.open(&InstanceName::default()).unwrap();
        loud.sink.append(&vec![b'x'; WAITING_BYTES_MAX + 1]);
        loud.sink.append(b"more");
        while logs.shared.lock().bytes > 0 {
            logs.take();
        }
        quiet.sink.append(b"hello");
        let rest = logs.take();
        assert_eq!(rest.last().map(|piece| &piece.data[..]), Some(&b"hello"[..]));
        assert_eq!(logs.unfinished(), std::slice::from_ref(&quiet.name));
    }

    #[test]
    fn there_is_room_for_the_end_of_a_log_and_until_it_is_taken_the_log_is_open() {
        let logs = RemoteLogs::default();
        let sink = logs.open(&InstanceName::default()).unwrap();
        for _ in 0..2 * PIECES_MAX {
            sink.sink.append(b"x");
        }
        let mut last = None;
        while logs.has_some() {
            assert_eq!(logs.unfinished(), std::slice::from_ref(&sink.name));
            last = logs.take().pop();
        }
        assert!(!last.unwrap().broken.is_empty());
        assert!(logs.unfinished().is_empty());
    }
}
