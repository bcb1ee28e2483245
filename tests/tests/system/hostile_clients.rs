//! Clients that mean harm, or are broken. The server is a process of its own, so that its memory can be looked at:
//! it stays bounded, nothing is left over, and others are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;
use wardian_proto::bytestream::byte_stream_client::ByteStreamClient;
use wardian_proto::bytestream::{ReadRequest, WriteRequest, WriteResponse};
use wardian_proto::reapi;
use wardian_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use wardian_store::{BlobStore as _, Upload};
use wardian_tests::{ServerProcess, TestAction, bytes_of, code, digest, soon, until, wardian};

use super::byte_stream::messages;

const MIB: u64 = 1 << 20;

/// Connections of a hostile client, and streams on each of them.
const CONNECTIONS: usize = 10;
const STREAMS: usize = 1000;

/// What a stream may cost the server beside the bytes that were sent on it.
const STREAM_BYTES_MAX: u64 = 64 << 10;

/// What may stay with the server of what a burst of them made it hold.
const KEPT_BYTES_MAX: u64 = 64 * MIB;

struct Victim {
    server: ServerProcess,
    folder: TempDir,
}

impl Victim {
    fn start() -> Self {
        Self::with("")
    }

    fn with(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let server = ServerProcess::start(&wardian(), folder.path(), settings).expect("the server starts");
        Self { server, folder }
    }

    /// Bytes in memory that belong to no file.
    fn memory(&self) -> u64 {
        self.server.process.memory().expect("the server runs").anonymous
    }

    /// Open files and connections.
    fn open_files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.server.process.id());
        std::fs::read_dir(folder).expect("the server runs").count()
    }

    async fn channels(&self, count: usize) -> Vec<Channel> {
        join_all((0..count).map(|_| self.server.channel())).await
    }

    /// Somebody else is served: a blob comes and goes, and an action runs.
    async fn serves_others(&self) {
        let store = self.server.store(u64::MAX).await;
        let unique = format!("{} {:?}", self.memory(), std::time::Instant::now());
        let data = Bytes::from(unique.clone().into_bytes());
        store.put(Upload::bytes(digest(&data), data.clone())).await.expect("an upload succeeds");
        assert!(store.get(&digest(&data), u64::MAX).await.expect("a read succeeds") == data);
        let ended = self.server.execute(&TestAction::new(&["echo", &unique]).build()).await;
        assert_eq!((ended.refusal(), ended.result().exit_code), (None, 0));
    }

    /// Nothing is left of what was cut off.
    async fn is_clean(&self, open_files_before: usize) {
        let incoming = self.folder.path().join("data/store/incoming");
        let is_empty = || std::fs::read_dir(&incoming).expect("the folder exists").next().is_none();
        until("no part of an upload is left", is_empty).await;
        // A few more are those of the store, which opens files as it grows.
        until("connections and files are closed", || self.open_files() <= open_files_before + 16).await;
        soon("a sign of life", self.serves_others()).await;
    }
}

/// Opens uploads that send a few pieces and then nothing, and returns once the client has sent all of it.
async fn half_open(
    channels: &[Channel],
    count: usize,
    round: usize,
    size: u64,
    pieces: &[Bytes],
) -> JoinSet<()> {
    let sent = Arc::new(AtomicUsize::new(0));
    let mut uploads = JoinSet::new();
    for (i, channel) in channels.iter().cycle().take(count).enumerate() {
        let name = digest(format!("{round} {i}").as_bytes());
        let resource_name = format!("uploads/u/blobs/{}/{size}", name.hash_hex());
        let mut begin = Vec::new();
        let mut write_offset = 0;
        for data in pieces {
            let resource_name = resource_name.clone();
            begin.push(WriteRequest { resource_name, write_offset, data: data.clone(), finish_write: false });
            write_offset += i64::try_from(data.len()).expect("a small piece");
        }
        let mut client = ByteStreamClient::new(channel.clone());
        let sent = Arc::clone(&sent);
        // Asked for what comes after the pieces, so they are on their way.
        let rest = stream::poll_fn(move |_| {
            sent.fetch_add(1, Ordering::Relaxed);
            std::task::Poll::Pending
        });
        uploads.spawn(async move {
            let _ = client.write(stream::iter(begin).chain(rest)).await;
        });
    }
    until("all uploads are under way", || sent.load(Ordering::Relaxed) >= count).await;
    uploads
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_half_open_uploads_cost_what_was_sent() {
    // More than there may be by default: what each costs is what is asked here.
    let victim = Victim::with("[requests]\nuploads_max = 20000\n");
    victim.serves_others().await;
    let (memory, files) = (victim.memory(), victim.open_files());
    let piece = bytes_of(4096, 1);
    let bound = (CONNECTIONS * STREAMS) as u64 * (piece.len() as u64 + STREAM_BYTES_MAX);
    for round in 0..3 {
        let channels = victim.channels(CONNECTIONS).await;
        let uploads =
            half_open(&channels, CONNECTIONS * STREAMS, round, 100_000, std::slice::from_ref(&piece)).await;
        soon("service for others", victim.serves_others()).await;
        let held = victim.memory().saturating_sub(memory);
        assert!(held <= bound, "the server holds {} MiB more", held / MIB);
        drop(uploads);
        drop(channels);
        victim.is_clean(files).await;
        until("memory is given back", || victim.memory() <= memory + KEPT_BYTES_MAX).await;
        let kept = victim.memory().saturating_sub(memory);
        eprintln!("round {round}: {} MiB held, {} MiB afterwards", held / MIB, kept / MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_uploads_of_large_blobs_hold_disk_and_little_memory() {
    const UPLOADS: usize = 400;
    /// What the store gathers of all uploads.
    const GATHERED_BYTES_MAX: u64 = 64 * MIB;
    /// What is on its way beside that: a message, the buffer it came in, its copy, and what the allocator makes of them.
    const UPLOAD_BYTES_MAX: u64 = 640 << 10;
    let victim = Victim::start();
    victim.serves_others().await;
    let (memory, files) = (victim.memory(), victim.open_files());
    let channels = victim.channels(CONNECTIONS).await;
    // Less than what is written at once, so that all of it would be gathered.
    let pieces = vec![bytes_of(64 << 10, 1); 15];
    let uploads = half_open(&channels, UPLOADS, 0, 1 << 30, &pieces).await;
    soon("service for others", victim.serves_others()).await;
    let written = || -> u64 {
        let entries = std::fs::read_dir(victim.folder.path().join("data/store/incoming")).expect("a folder");
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
    };
    let sent = UPLOADS as u64 * pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
    until("the server has written what it does not gather", || written() + GATHERED_BYTES_MAX >= sent).await;
    let bound = GATHERED_BYTES_MAX + UPLOADS as u64 * UPLOAD_BYTES_MAX;
    let held = || victim.memory().saturating_sub(memory);
    until("it holds no more", || held() <= bound).await;
    eprintln!("{} MiB sent, {} MiB held", sent / MIB, held() / MIB);
    drop(uploads);
    drop(channels);
    victim.is_clean(files).await;
}

/// A WriteRequest with a field that servers do not know, and skip.
#[derive(Clone, PartialEq, prost::Message)]
struct Padded {
    #[prost(string, tag = "1")]
    resource_name: String,
    #[prost(int64, tag = "2")]
    write_offset: i64,
    #[prost(bytes = "bytes", tag = "10")]
    data: Bytes,
    #[prost(bytes = "bytes", tag = "100")]
    padding: Bytes,
}

#[tokio::test(flavor = "multi_thread")]
async fn small_pieces_in_large_messages_hold_little_memory() {
    const UPLOADS: usize = 50;
    const MESSAGES: usize = 20;
    const PADDING_BYTES: usize = 512 << 10;
    let victim = Victim::start();
    victim.serves_others().await;
    let memory = victim.memory();
    let padding = bytes_of(PADDING_BYTES, 1);
    let sent = Arc::new(AtomicUsize::new(0));
    let mut uploads = JoinSet::new();
    for (i, channel) in victim.channels(UPLOADS).await.into_iter().enumerate() {
        // Half of them are small enough to be gathered whole, the others are written to a file.
        let size = if i % 2 == 0 { 1000 } else { 1 << 30 };
        let name = format!("uploads/u/blobs/{}/{size}", digest(format!("{i}").as_bytes()).hash_hex());
        let (padding, counted) = (padding.clone(), Arc::clone(&sent));
        let begin = stream::iter(0..MESSAGES).map(move |at| Padded {
            resource_name: name.clone(),
            write_offset: i64::try_from(at).expect("a small number"),
            data: Bytes::from_static(b"x"),
            padding: padding.clone(),
        });
        let rest = stream::poll_fn(move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            std::task::Poll::Pending
        });
        uploads.spawn(async move {
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.expect("the server is there");
            let path =
                tonic::codegen::http::uri::PathAndQuery::from_static("/google.bytestream.ByteStream/Write");
            let codec = tonic_prost::ProstCodec::<Padded, WriteResponse>::default();
            let request = tonic::Request::new(begin.chain(rest));
            let _ = client.client_streaming(request, path, codec).await;
        });
    }
    until("all messages are on their way", || sent.load(Ordering::Relaxed) >= UPLOADS).await;
    soon("service for others", victim.serves_others()).await;
    // A message on its way in and the buffer that it comes in, for each; not what was sent.
    let bound = (UPLOADS * 4 * PADDING_BYTES) as u64;
    let held = || victim.memory().saturating_sub(memory);
    until("it holds little", || held() <= bound).await;
    eprintln!("{} MiB sent, {} MiB held", (UPLOADS * MESSAGES * PADDING_BYTES) as u64 / MIB, held() / MIB);
    drop(uploads);
    soon("service for others", victim.serves_others()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_blob_do_not_spoil_it_for_each_other() {
    let victim = Victim::start();
    let (good, bad) = (bytes_of(1_000_000, 1), bytes_of(1_000_000, 2));
    let blob = digest(&good);
    let channels = victim.channels(4).await;
    let uploads = (0..40).map(|i| {
        let mut client = ByteStreamClient::new(channels[i % channels.len()].clone());
        let data = if i % 4 == 0 { &bad } else { &good };
        let mut sent = messages(&format!("uploads/{i}/blobs/{blob}"), data, 30_000 + i);
        if i % 8 == 1 {
            // This one skips a byte in the middle.
            sent[10].write_offset += 1;
        }
        async move { (i, client.write(stream::iter(sent)).await) }
    });
    for (i, outcome) in join_all(uploads).await {
        // Whoever comes when it is stored already is not looked at any more.
        let is_fine = outcome.as_ref().is_ok_and(|response| response.get_ref().committed_size == 1_000_000);
        let is_wrong = i % 4 == 0 || i % 8 == 1;
        assert!(is_fine || (is_wrong && code(&outcome) == Code::InvalidArgument), "{i}: {outcome:?}");
    }
    let store = victim.server.store(0).await;
    assert!(store.get(&blob, u64::MAX).await.expect("it is stored") == good);
}

#[tokio::test(flavor = "multi_thread")]
async fn giant_messages_are_refused_before_they_are_held() {
    const BATCHES: usize = 20;
    let victim = Victim::start();
    victim.serves_others().await;
    let memory = victim.memory();
    let data = bytes_of(64 << 20, 1);
    let channels = victim.channels(BATCHES).await;
    let calls = channels.into_iter().map(|channel| {
        let entry = reapi::batch_update_blobs_request::Request {
            digest: Some(digest(b"x").to_wire()),
            data: data.clone(),
            ..Default::default()
        };
        let request = reapi::BatchUpdateBlobsRequest { requests: vec![entry], ..Default::default() };
        async move { ContentAddressableStorageClient::new(channel).batch_update_blobs(request).await }
    });
    for outcome in join_all(calls).await {
        assert_ne!(code(&outcome), Code::Ok);
    }
    let held = victim.memory().saturating_sub(memory);
    eprintln!("{} MiB held after {BATCHES} messages of 64 MiB", held / MIB);
    // A flow-control window of each, and no more.
    assert!(held <= BATCHES as u64 * 16 * MIB, "the server holds {} MiB more", held / MIB);
    soon("service for others", victim.serves_others()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_cost_little() {
    // Each on a connection of its own: those that stop reading would stop the others on it.
    const READERS: usize = 200;
    /// Pieces that are read ahead for each.
    const READER_BYTES_MAX: u64 = MIB;
    let victim = Victim::start();
    let store = victim.server.store(0).await;
    let data = bytes_of(64 << 20, 1);
    store.put(Upload::bytes(digest(&data), data.clone())).await.expect("an upload succeeds");
    victim.serves_others().await;
    let (memory, files) = (victim.memory(), victim.open_files());
    let channels = victim.channels(READERS).await;
    let mut readers = Vec::new();
    for (i, channel) in channels.iter().enumerate() {
        let encoding = if i % 2 == 0 { "blobs" } else { "compressed-blobs/zstd" };
        let request =
            ReadRequest { resource_name: format!("{encoding}/{}", digest(&data)), ..Default::default() };
        let mut client = ByteStreamClient::new(channel.clone());
        let mut reader = client.read(request).await.expect("a read begins").into_inner();
        assert!(reader.message().await.expect("a piece comes").is_some());
        readers.push(reader);
    }
    soon("service for others", victim.serves_others()).await;
    let held = victim.memory().saturating_sub(memory);
    eprintln!("{} MiB held for {READERS} readers", held / MIB);
    assert!(held <= READERS as u64 * READER_BYTES_MAX * 2, "the server holds {} MiB more", held / MIB);
    // Given up all at once.
    drop(readers);
    drop(channels);
    victim.is_clean(files).await;
}
