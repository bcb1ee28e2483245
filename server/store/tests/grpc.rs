//! `GrpcStore` against a CAS server in this process that is stricter than servers are, and a bad one.

mod fake_cas;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use fake_cas::{LIMITS, Manner, Running, channel, instance, serve};
use futures::StreamExt;
use tonic::{Code, Status};
use wardian_proto::{Digest, DigestFunction};
use wardian_store::backend::{GrpcStore, GrpcStoreLimits, MemoryStore};
use wardian_store::layers::{Existence, Tiered};
use wardian_store::{BlobStore, ByteRange, StoreError, Upload, collect};

/// A lease that no test outlives.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Limits under which almost every blob goes through ByteStream.
const STREAMED: GrpcStoreLimits = GrpcStoreLimits { batch_bytes_max: 2, ..LIMITS };

wardian_store::blob_conformance!(in_batches, serve(Manner::Strict, LIMITS));
wardian_store::blob_conformance!(in_streams, serve(Manner::Strict, STREAMED));

/// What a server keeps that uses another one as its store.
async fn near_and_far() -> (Tiered<MemoryStore, Existence<GrpcStore>>, Running) {
    let (store, running) = serve(Manner::Strict, GrpcStoreLimits { lease: A_WEEK, ..LIMITS }).await;
    (Tiered::new(MemoryStore::new(64 << 20), Existence::new(store)), running)
}

wardian_store::blob_conformance!(near_and_far, near_and_far());

fn blob(size: usize) -> (Digest, Bytes) {
    let data: Vec<u8> = (0..size).map(|i| (i % 241) as u8).collect();
    (DigestFunction::Sha256.digest(&data), data.into())
}

/// One that goes by batch, one by ByteStream.
const BOTH_WAYS: [usize; 2] = [1000, 400_000];

/// A server that has a blob of each way, put there behind its back.
async fn serve_blobs(manner: Manner) -> (GrpcStore, Running) {
    let (store, running) = serve(manner, LIMITS).await;
    for size in BOTH_WAYS {
        let (digest, data) = blob(size);
        running.1.blobs.put(Upload::bytes(digest, data)).await.unwrap();
    }
    (store, running)
}

async fn whole(store: &GrpcStore, digest: Digest) -> Result<Bytes, StoreError> {
    collect(store.read(&digest, ByteRange::default()).await?).await
}

#[tokio::test]
async fn changed_bytes_are_found_out() {
    let (store, _running) = serve_blobs(Manner::Lying).await;
    for (digest, _) in BOTH_WAYS.map(blob) {
        let error = whole(&store, digest).await.unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { expected, .. } if expected == digest), "{error}");
        for error in store.get_batch(&[digest, digest]).await.into_iter().map(Result::unwrap_err) {
            assert!(matches!(error, StoreError::Mismatch { expected, .. } if expected == digest), "{error}");
        }
    }
}

#[tokio::test]
async fn changed_bytes_are_never_handed_on_whole() {
    let (store, _running) = serve_blobs(Manner::Lying).await;
    let (digest, _) = blob(400_000);
    let pieces: Vec<_> = store.read(&digest, ByteRange::default()).await.unwrap().collect().await;
    let handed_on: usize = pieces.iter().flatten().map(Bytes::len).sum();
    assert!(handed_on < 400_000 && pieces.last().unwrap().is_err());
}

#[tokio::test]
async fn lengths_are_checked_for_whole_blobs_and_parts() {
    for manner in [Manner::Short, Manner::Long] {
        let (store, _running) = serve_blobs(manner).await;
        for (digest, _) in BOTH_WAYS.map(blob) {
            assert!(whole(&store, digest).await.is_err(), "{manner:?}");
            assert!(store.get_batch(&[digest]).await[0].is_err(), "{manner:?}");
            let range = ByteRange { offset: 10, limit: Some(100) };
            let part = collect(store.read(&digest, range).await.unwrap()).await;
            assert!(matches!(part, Err(StoreError::Damaged(_))), "{manner:?}");
        }
    }
}

#[tokio::test]
async fn reading_nothing_still_asks_whether_the_blob_is_there() {
    let (store, _running) = serve_blobs(Manner::Strict).await;
    for (digest, known) in [(blob(1000).0, true), (blob(1001).0, false)] {
        for range in [ByteRange { offset: 5, limit: Some(0) }, ByteRange { offset: 1000, limit: Some(0) }] {
            let read = store.read(&digest, range).await;
            assert_eq!(read.is_ok(), known);
            if let Ok(pieces) = read {
                assert!(collect(pieces).await.unwrap().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn an_upload_that_the_server_knows_already_succeeds_early() {
    let (store, running) = serve(Manner::KnowsAll, LIMITS).await;
    let (digest, data) = blob(8_000_000);
    store.put(Upload::bytes(digest, data.clone())).await.unwrap();
    assert_eq!(running.1.written.load(Ordering::SeqCst), 0);
    // The connection is still good for more.
    store.put(Upload::bytes(digest, data)).await.unwrap();
}

#[tokio::test]
async fn refusals_and_half_commits_fail_the_upload() {
    for (manner, code) in [(Manner::Full, Code::ResourceExhausted), (Manner::Forgetful, Code::DataLoss)] {
        let (store, _running) = serve(manner, LIMITS).await;
        let (digest, data) = blob(8_000_000);
        let error = store.put(Upload::bytes(digest, data)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Remote(status) if status.code() == code), "{error}");
    }
}

#[tokio::test]
async fn a_failing_source_comes_out_as_its_own_error() {
    // The second server never answers: the error must not wait for it.
    for manner in [Manner::Strict, Manner::Patient] {
        let (store, running) = serve(manner, LIMITS).await;
        let (digest, data) = blob(400_000);
        let lost = Err(StoreError::Source(Status::aborted("cable")));
        let pieces = futures::stream::iter([Ok(data.slice(..200_000)), lost]);
        let error = store.put(Upload::stream(digest, pieces)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Source(s) if s.message() == "cable"), "{error}");
        let wrong = data.iter().rev().copied().collect::<Vec<_>>();
        let error = store.put(Upload::bytes(digest, wrong)).await.unwrap_err();
        assert!(matches!(error, StoreError::Mismatch { .. }), "{error}");
        assert_eq!(running.1.blobs.find_missing(&[digest]).await.unwrap(), [digest]);
        store.put(Upload::bytes(digest, data)).await.unwrap();
    }
}

#[tokio::test]
async fn short_unavailability_is_waited_out_and_long_is_not() {
    let (store, running) = serve_blobs(Manner::Strict).await;
    let (small, data) = blob(1000);
    let refuse = |calls| running.1.unavailable.store(calls, Ordering::SeqCst);
    refuse(2);
    assert!(store.find_missing(&[small]).await.unwrap().is_empty());
    refuse(2);
    store.put(Upload::bytes(small, data)).await.unwrap();
    refuse(2);
    assert!(store.get_batch(&[small]).await[0].is_ok());
    refuse(2);
    assert!(whole(&store, blob(400_000).0).await.is_ok());
    refuse(3);
    let error = whole(&store, small).await.unwrap_err();
    assert!(matches!(&error, StoreError::Remote(status) if status.code() == Code::Unavailable), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_made_again() {
    for (size, ways) in BOTH_WAYS.into_iter().zip([3, 1]) {
        let (digest, data) = blob(size);
        for way in 0..=ways {
            // A new one, which has no connection yet.
            let (store, running) = serve_blobs(Manner::Strict).await;
            running.1.broken.store(2, Ordering::SeqCst);
            match way {
                0 => assert_eq!(whole(&store, digest).await.unwrap(), data),
                1 => assert!(store.find_missing(&[digest]).await.unwrap().is_empty()),
                2 => store.put(Upload::bytes(digest, data.clone())).await.unwrap(),
                _ => assert!(store.get_batch(&[digest]).await[0].is_ok()),
            }
            assert_eq!(running.1.broken.load(Ordering::SeqCst), 0);
        }
    }
}

#[tokio::test]
async fn a_connection_that_always_breaks_is_no_servers_answer() {
    let (store, running) = serve_blobs(Manner::Strict).await;
    running.1.broken.store(u32::MAX, Ordering::SeqCst);
    for (digest, data) in BOTH_WAYS.map(blob) {
        for error in [
            whole(&store, digest).await.unwrap_err(),
            store.put(Upload::bytes(digest, data)).await.unwrap_err(),
        ] {
            assert!(error.is_unavailable(), "{error:?}");
            assert_eq!(Status::from(error).code(), Code::Unavailable);
        }
    }
}

#[tokio::test]
async fn an_absent_server_is_an_error_not_a_missing_blob() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = channel(&listener).await;
    drop(listener);
    let store = GrpcStore::new(channel, instance(), LIMITS);
    let (digest, data) = blob(400_000);
    let remote = |error: StoreError| assert!(matches!(error, StoreError::Remote(_)), "{error}");
    remote(store.find_missing(&[digest]).await.unwrap_err());
    remote(whole(&store, digest).await.unwrap_err());
    remote(store.put(Upload::bytes(digest, data)).await.unwrap_err());
}

#[tokio::test]
async fn blobs_left_out_of_an_answer_have_failed() {
    let (store, _running) = serve_blobs(Manner::Silent).await;
    let (digest, data) = blob(1000);
    let put = store.put_batch(vec![Upload::bytes(digest, data)]).await.remove(0);
    assert!(matches!(put, Err(StoreError::Remote(status)) if status.code() == Code::Internal));
    let read = store.get_batch(&[digest]).await.remove(0);
    assert!(matches!(read, Err(StoreError::Remote(status)) if status.code() == Code::Internal));
}

#[tokio::test]
async fn batches_are_split_to_fit_and_keep_their_order() {
    let (store, running) = serve(Manner::Strict, LIMITS).await;
    let sizes = [10, 290_000, 11, 20_000, 400_000, 12, 10, 0, 13, 14, 15];
    let blobs = sizes.map(blob);
    let uploads = blobs.iter().map(|(digest, data)| Upload::bytes(*digest, data.clone())).collect();
    let outcomes = store.put_batch(uploads).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(running.1.written.load(Ordering::SeqCst), 400_000);

    let mut asked: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    asked.insert(3, blob(77).0);
    let read = store.get_batch(&asked).await;
    for (digest, outcome) in asked.iter().zip(&read) {
        match outcome {
            Ok(data) => assert_eq!(DigestFunction::Sha256.digest(data), *digest),
            Err(error) => assert!(matches!(error, StoreError::NotFound(d) if *d == blob(77).0)),
        }
    }
    assert_eq!(read.iter().filter(|r| r.is_err()).count(), 1);

    let before = running.1.calls.load(Ordering::SeqCst);
    assert_eq!(store.find_missing(&asked).await.unwrap(), [blob(77).0]);
    assert_eq!(running.1.calls.load(Ordering::SeqCst) - before, 4, "10 distinct digests in threes");
}

#[tokio::test]
async fn what_is_pinned_is_asked_for_again() {
    let leased = GrpcStoreLimits { lease: Duration::from_millis(30), ..LIMITS };
    let (store, running) = serve(Manner::Strict, leased).await;
    let (digest, data) = blob(1000);
    store.put(Upload::bytes(digest, data)).await.unwrap();
    let (pin, missing) = store.pin(&[digest, blob(1001).0]).await.unwrap();
    let (again, _) = store.pin(&[digest]).await.unwrap();
    assert_eq!(missing, [blob(1001).0]);
    drop(pin);
    let before = running.1.calls.load(Ordering::SeqCst);
    while running.1.calls.load(Ordering::SeqCst) < before + 10 {
        tokio::task::yield_now().await;
    }
    drop(again);
}
