//! A way to a server as if it were far away: what goes in comes out later, and calls are counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Pieces that are on their way in one direction of a connection, 64 KiB each: more than a window of HTTP/2.
const PIECES_MAX: usize = 4096;

/// What a connection of HTTP/2 begins with, before its frames.
const PREFACE_BYTES: usize = 24;

/// The head of each frame: three bytes of length, one of kind, five more.
const HEAD_BYTES: usize = 9;

/// The kind of frame that a call begins with, and of which its caller sends one.
const HEADERS: u8 = 1;

/// A port that leads to a server over a distance. Connections end with it.
pub struct Distance {
    /// Its address.
    pub address: SocketAddr,
    calls: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Distance {
    /// A way to a server without TLS that takes so much time in each direction.
    pub async fn to(server: SocketAddr, one_way: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let calls = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&calls);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let calls = Arc::clone(&counted);
                connections.spawn(async move {
                    let Ok(far) = TcpStream::connect(server).await else { return };
                    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
                        return;
                    }
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    let mut frames = Frames::default();
                    let count = move |bytes: &[u8]| {
                        calls.fetch_add(frames.calls_in(bytes), Ordering::Relaxed);
                    };
                    tokio::join!(
                        carry(near_read, far_write, one_way, count),
                        carry(far_read, near_write, one_way, |_| {})
                    );
                });
            }
        });
        Self { address, calls, _tasks: tasks }
    }

    /// Calls that have come to this end of it so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    mut look: impl FnMut(&[u8]),
) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Bytes)>(PIECES_MAX);
    let enter = async move {
        loop {
            let mut piece = BytesMut::with_capacity(64 << 10);
            let Ok(1..) = from.read_buf(&mut piece).await else { return };
            look(&piece);
            if sender.send((Instant::now() + delay, piece.freeze())).await.is_err() {
                return;
            }
        }
    };
    let leave = async move {
        while let Some((due, piece)) = on_the_way.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(enter, leave);
}

/// Finds the frames in what a client sends, however it is cut into pieces.
struct Frames {
    skip: usize,
    head: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skip: PREFACE_BYTES, head: Vec::with_capacity(HEAD_BYTES) }
    }
}

impl Frames {
    /// The calls that begin in this piece.
    fn calls_in(&mut self, mut bytes: &[u8]) -> u64 {
        let mut calls = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return calls;
            }
            let taken = (HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == HEAD_BYTES {
                calls += u64::from(self.head[3] == HEADERS);
                self.skip = self.head[..3].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                self.head.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_however_they_are_cut() {
        let mut sent = vec![b'P'; PREFACE_BYTES];
        for (kind, length) in [(4, 6), (HEADERS, 300), (0, 70_000), (HEADERS, 0), (8, 4)] {
            sent.extend_from_slice(&u32::to_be_bytes(length)[1..]);
            sent.extend_from_slice(&[kind, 0, 0, 0, 0, 1]);
            sent.extend(vec![HEADERS; length as usize]);
        }
        for size in [1, 7, 9, 64, 100_000] {
            let mut frames = Frames::default();
            assert_eq!(sent.chunks(size).map(|piece| frames.calls_in(piece)).sum::<u64>(), 2, "{size}");
        }
    }
}
