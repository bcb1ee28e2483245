//! One log stream: bytes that are only ever added, and those who wait for more.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::Status;

use super::{Committed, Shared, full};

/// Bytes are held in blocks of this size, so that a stream that grows is never copied.
const BLOCK_BYTES: usize = 64 * 1024;

pub(super) struct Stream {
    name: String,
    /// What a client needs to write; `None` when no client may.
    token: Option<String>,
    /// Who made it, if a client did.
    client: Option<Arc<str>>,
    state: Mutex<State>,
    /// Changes with every byte and at the end.
    progress: watch::Sender<u64>,
}

struct State {
    /// All full but the last.
    blocks: Vec<Vec<u8>>,
    length: u64,
    ended: bool,
    /// Why it ended before its writer said so.
    why: Option<Status>,
    /// Whether its bytes were given up for others.
    is_given_up: bool,
    /// When bytes came last.
    written_at: Instant,
}

impl Stream {
    pub(super) fn new(name: String, token: Option<String>, client: Option<Arc<str>>) -> Self {
        let state = State {
            blocks: Vec::new(),
            length: 0,
            ended: false,
            why: None,
            is_given_up: false,
            written_at: Instant::now(),
        };
        Self { name, token, client, state: Mutex::new(state), progress: watch::Sender::new(0) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Who made it, if a client did.
    pub(super) fn client(&self) -> Option<&Arc<str>> {
        self.client.as_ref()
    }

    /// Whether somebody reads it.
    pub(super) fn has_readers(&self) -> bool {
        self.progress.receiver_count() > 0
    }

    /// Whether a token is this stream's. Takes equally long whatever is wrong with it.
    pub(super) fn allows(&self, token: &str) -> bool {
        self.token.as_ref().is_some_and(|own| {
            own.len() == token.len()
                && own.bytes().zip(token.bytes()).fold(0, |different, (a, b)| different | (a ^ b)) == 0
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code that holds this lock panics")
    }

    pub(super) fn committed(&self) -> Committed {
        let state = self.lock();
        Committed { bytes: state.length, is_complete: state.ended }
    }

    /// Adds bytes wherever the end is.
    pub(super) fn append(&self, bytes: &[u8], shared: &Shared) -> Result<(), Status> {
        let offset = self.committed().bytes;
        self.append_at(offset, bytes, shared).map(drop)
    }

    /// Adds bytes at the end, which must be at `offset`.
    pub(super) fn append_at(&self, offset: u64, bytes: &[u8], shared: &Shared) -> Result<Committed, Status> {
        let length = bytes.len() as u64;
        // Nobody's log goes for bytes that are refused anyway.
        self.lock().check(offset, length, shared.limits.stream_bytes_max)?;
        // Room may have to be taken from other streams, which must not happen under this one's lock.
        if length > 0 {
            shared.charge(self.client(), length)?;
        }
        let added = self.add(offset, bytes, shared.limits.stream_bytes_max);
        if added.is_err() {
            shared.release(self.client(), length);
        }
        let committed = added?;
        self.progress.send_replace(committed.bytes);
        Ok(committed)
    }

    fn add(&self, offset: u64, mut bytes: &[u8], bytes_max: u64) -> Result<Committed, Status> {
        let mut state = self.lock();
        state.check(offset, bytes.len() as u64, bytes_max)?;
        state.length += bytes.len() as u64;
        if !bytes.is_empty() {
            state.written_at = Instant::now();
        }
        while !bytes.is_empty() {
            if state.blocks.last().is_none_or(|block| block.len() == BLOCK_BYTES) {
                state.blocks.push(Vec::new());
            }
            let block = state.blocks.last_mut().expect("pushed above");
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - block.len()));
            block.extend_from_slice(now);
            bytes = later;
        }
        Ok(Committed { bytes: state.length, is_complete: state.ended })
    }

    /// Ends the stream; false when it had ended already.
    pub(super) fn end(&self, why: Option<Status>) -> bool {
        let mut state = self.lock();
        if std::mem::replace(&mut state.ended, true) {
            return false;
        }
        state.why = why;
        if let Some(last) = state.blocks.last_mut() {
            last.shrink_to_fit();
        }
        let length = state.length;
        drop(state);
        self.progress.send_replace(length);
        true
    }

    /// Gives up the bytes, and says how many. Readers that are not at the end are told so.
    pub(super) fn give_up(&self) -> u64 {
        let mut state = self.lock();
        state.is_given_up = true;
        state.blocks = Vec::new();
        state.length
    }

    /// Whether a client that may write has not done so for too long.
    pub(super) fn is_idle(&self, now: Instant, idle_max: Duration) -> bool {
        let state = self.lock();
        self.token.is_some() && !state.ended && now.saturating_duration_since(state.written_at) >= idle_max
    }

    /// The bytes from `offset` on, those that are still to come included.
    pub(super) fn read(
        self: Arc<Self>,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, Status>>, Status> {
        let length = self.committed().bytes;
        if offset > length {
            return Err(Status::out_of_range(format!(
                "offset {offset} is beyond the {length} bytes of this log stream"
            )));
        }
        let progress = self.progress.subscribe();
        let reader = Reader { stream: self, at: offset, left: limit.unwrap_or(u64::MAX), progress };
        let pieces = futures::stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(pieces.boxed())
    }

    /// What there is at an offset: bytes, the end, or nothing yet.
    fn look(&self, at: u64, most: u64) -> Result<Look, Status> {
        let state = self.lock();
        let block = usize::try_from(at).expect("streams fit into memory") / BLOCK_BYTES;
        if at < state.length {
            if state.is_given_up {
                return Err(Status::aborted(
                    "this log stream has ended, and was given up for others before it was read to its end",
                ));
            }
            let block = &state.blocks[block];
            let start = usize::try_from(at).expect("streams fit into memory") % BLOCK_BYTES;
            let end = block.len().min(start.saturating_add(usize::try_from(most).unwrap_or(usize::MAX)));
            return Ok(Look::Bytes(Bytes::copy_from_slice(&block[start..end])));
        }
        match &state.why {
            _ if !state.ended => Ok(Look::Nothing),
            Some(why) => Err(why.clone()),
            None => Ok(Look::End),
        }
    }
}

impl State {
    /// Whether bytes may be added.
    fn check(&self, offset: u64, length: u64, bytes_max: u64) -> Result<(), Status> {
        if offset != self.length {
            return Err(Status::invalid_argument(format!(
                "write_offset is {offset}; the next byte of this log stream is {}",
                self.length
            )));
        }
        if self.ended && length > 0 {
            return Err(Status::failed_precondition("this log stream has ended; nothing can be added to it"));
        }
        if length > bytes_max - self.length {
            return Err(full(format!("a log stream has at most {bytes_max} bytes (limit stream_bytes_max)")));
        }
        Ok(())
    }
}

enum Look {
    Bytes(Bytes),
    End,
    Nothing,
}

struct Reader {
    stream: Arc<Stream>,
    at: u64,
    left: u64,
    progress: watch::Receiver<u64>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.left == 0 {
            return Ok(None);
        }
        loop {
            // Listen before looking, so that what comes in between is not slept through.
            self.progress.borrow_and_update();
            match self.stream.look(self.at, self.left)? {
                Look::Bytes(bytes) => {
                    self.at += bytes.len() as u64;
                    self.left -= bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Look::End => return Ok(None),
                // The sender is part of the stream that this reader holds: it is never gone.
                Look::Nothing => drop(self.progress.changed().await),
            }
        }
    }
}
