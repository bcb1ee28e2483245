//! The contract of [`BlobStore`] and [`RecordStore`] as tests that every backend runs.
//!
//! `conformance!(name, expression)` makes a module of tests; the expression is an async block that
//! yields a fresh store together with whatever must live as long as it.

use bytes::Bytes;
use futures::StreamExt;
use wardian_proto::{Digest, DigestFunction};

use crate::{BlobStore, ByteRange, RecordStore, StoreError, Table, Upload, collect};

/// Runs every blob check against a fresh store each.
#[macro_export]
macro_rules! blob_conformance {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;
            $crate::blob_conformance!(@each $open;
                round_trips_of_many_sizes, wrong_hash_is_refused, wrong_size_names_nothing,
                short_and_long_uploads_are_refused, a_failed_source_leaves_nothing,
                the_empty_blob_is_always_there, missing_keeps_order_and_drops_repeats,
                ranges_are_exact, batches_succeed_and_fail_apart, concurrent_uploads_of_one_blob,
                copies_into_files, reads_of_absent_blobs_fail_at_once,
                what_is_pinned_can_be_read, pins_name_what_is_missing);
        }
    };
    (@each $open:expr; $($check:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $check() {
                let (store, _guard) = $open.await;
                $crate::conformance::$check(&store).await;
            }
        )+
    };
}

/// Runs every record check against a fresh store each.
#[macro_export]
macro_rules! record_conformance {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread")]
            async fn records() {
                let (store, _guard) = $open.await;
                $crate::conformance::records(&store).await;
            }
        }
    };
}

/// Sizes around every threshold a backend is likely to have.
const SIZES: &[usize] =
    &[1, 2, 1023, 4096, 16 * 1024, 16 * 1024 + 1, 65_536, 256 * 1024, 256 * 1024 + 1, 3_000_000];

fn blob(size: usize, seed: u8) -> (Digest, Bytes) {
    let data: Vec<u8> = (0..size).map(|i| (i % 251) as u8 ^ seed).collect();
    (DigestFunction::Sha256.digest(&data), data.into())
}

async fn stored(store: &impl BlobStore, size: usize, seed: u8) -> (Digest, Bytes) {
    let (digest, data) = blob(size, seed);
    store.put(Upload::bytes(digest, data.clone())).await.unwrap();
    (digest, data)
}

async fn is_missing(store: &impl BlobStore, digest: Digest) -> bool {
    store.find_missing(&[digest]).await.unwrap() == [digest]
}

#[allow(missing_docs)]
pub async fn round_trips_of_many_sizes(store: &impl BlobStore) {
    for &size in SIZES {
        let (digest, data) = blob(size, 3);
        assert!(is_missing(store, digest).await, "{size}");
        let pieces: Vec<_> = data.chunks(100_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        store.put(Upload::stream(digest, futures::stream::iter(pieces))).await.unwrap();
        assert!(!is_missing(store, digest).await, "{size}");
        let read = collect(store.read(&digest, ByteRange::default()).await.unwrap()).await.unwrap();
        assert!(read == data, "{size}");
        store.put(Upload::bytes(digest, data)).await.unwrap();
    }
}

#[allow(missing_docs)]
pub async fn wrong_hash_is_refused(store: &impl BlobStore) {
    for size in [10, 100_000] {
        let (digest, _) = blob(size, 1);
        let (_, other) = blob(size, 2);
        let error = store.put(Upload::bytes(digest, other)).await.unwrap_err();
        assert_eq!(tonic::Status::from(error).code(), tonic::Code::InvalidArgument);
        assert!(is_missing(store, digest).await);
    }
}

#[allow(missing_docs)]
pub async fn wrong_size_names_nothing(store: &impl BlobStore) {
    for size in [10, 100_000] {
        let (digest, data) = stored(store, size, 1).await;
        for wrong in [size as u64 - 1, size as u64 + 1, 0] {
            let liar = Digest::from_parts(digest.function(), digest.hash(), wrong).unwrap();
            assert!(is_missing(store, liar).await);
            assert!(store.get_batch(&[liar]).await[0].is_err());
            assert!(store.put(Upload::bytes(liar, data.clone())).await.is_err());
        }
    }
}

#[allow(missing_docs)]
pub async fn short_and_long_uploads_are_refused(store: &impl BlobStore) {
    for size in [10, 100_000] {
        let (digest, data) = blob(size, 1);
        let short = store.put(Upload::bytes(digest, data.slice(1..))).await;
        assert!(short.is_err());
        let endless = futures::stream::repeat_with(move || Ok(data.clone()));
        assert!(matches!(store.put(Upload::stream(digest, endless)).await, Err(e) if is_invalid(&e)));
        assert!(is_missing(store, digest).await);
    }
}

fn is_invalid(error: &StoreError) -> bool {
    match error {
        StoreError::Overrun(_) | StoreError::Mismatch { .. } => true,
        StoreError::Remote(status) => status.code() == tonic::Code::InvalidArgument,
        _ => false,
    }
}

#[allow(missing_docs)]
pub async fn a_failed_source_leaves_nothing(store: &impl BlobStore) {
    let (digest, data) = blob(200_000, 1);
    let pieces = vec![Ok(data.slice(..1000)), Err(StoreError::Source(tonic::Status::cancelled("gone")))];
    assert!(store.put(Upload::stream(digest, futures::stream::iter(pieces))).await.is_err());
    assert!(is_missing(store, digest).await);
    stored(store, 200_000, 1).await;
    assert!(!is_missing(store, digest).await);
}

#[allow(missing_docs)]
pub async fn the_empty_blob_is_always_there(store: &impl BlobStore) {
    let empty = Digest::empty(DigestFunction::Sha256);
    assert!(!is_missing(store, empty).await);
    assert_eq!(collect(store.read(&empty, ByteRange::default()).await.unwrap()).await.unwrap(), Bytes::new());
    assert_eq!(store.get_batch(&[empty]).await[0].as_ref().unwrap().len(), 0);
    store.put(Upload::bytes(empty, Bytes::new())).await.unwrap();
}

#[allow(missing_docs)]
pub async fn missing_keeps_order_and_drops_repeats(store: &impl BlobStore) {
    let (there, _) = stored(store, 5, 9).await;
    let absent: Vec<Digest> = (0..4).map(|i| blob(6 + i, 9).0).collect();
    let asked = [absent[2], there, absent[0], absent[2], absent[3], absent[1], absent[0]];
    let expected = [absent[2], absent[0], absent[3], absent[1]];
    assert_eq!(store.find_missing(&asked).await.unwrap(), expected);
    assert_eq!(store.find_missing(&[]).await.unwrap(), []);
}

#[allow(missing_docs)]
pub async fn ranges_are_exact(store: &impl BlobStore) {
    for size in [10_usize, 600_000] {
        let (digest, data) = stored(store, size, 4).await;
        for (offset, limit) in [
            (0, None),
            (1, None),
            (size, None),
            (size / 2, Some(3)),
            (3, Some(size)),
            (0, Some(1)),
            (size - 1, Some(9)),
        ] {
            let range = ByteRange { offset: offset as u64, limit: limit.map(|l: usize| l as u64) };
            let read = collect(store.read(&digest, range).await.unwrap()).await.unwrap();
            let end = limit.map_or(size, |l| size.min(offset + l));
            assert!(read == data.slice(offset..end), "{size} {offset} {limit:?}");
        }
        let beyond = ByteRange { offset: size as u64 + 1, limit: None };
        assert!(matches!(store.read(&digest, beyond).await, Err(StoreError::OutOfRange { .. })));
    }
}

#[allow(missing_docs)]
pub async fn batches_succeed_and_fail_apart(store: &impl BlobStore) {
    let (good, data) = blob(30, 5);
    let (bad, _) = blob(31, 5);
    let uploads = vec![Upload::bytes(bad, data.clone()), Upload::bytes(good, data.clone())];
    let outcomes = store.put_batch(uploads).await;
    assert!(outcomes[0].is_err() && outcomes[1].is_ok());
    let read = store.get_batch(&[bad, good]).await;
    assert!(matches!(read[0], Err(StoreError::NotFound(d)) if d == bad));
    assert_eq!(read[1].as_ref().unwrap(), &data);
}

#[allow(missing_docs)]
pub async fn concurrent_uploads_of_one_blob(store: &impl BlobStore) {
    let (digest, data) = blob(500_000, 6);
    let puts = (0..8).map(|_| {
        let pieces: Vec<_> = data.chunks(50_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        store.put(Upload::stream(digest, futures::stream::iter(pieces)))
    });
    for outcome in futures::future::join_all(puts).await {
        outcome.unwrap();
    }
    assert!(store.get(&digest, 1_000_000).await.unwrap() == data);
}

#[allow(missing_docs)]
pub async fn copies_into_files(store: &impl BlobStore) {
    for size in [10, 300_000] {
        let (digest, data) = stored(store, size, 8).await;
        let file = tempfile::NamedTempFile::new().unwrap();
        store.copy_to(&digest, file.reopen().unwrap()).await.unwrap();
        assert!(std::fs::read(file.path()).unwrap() == data, "{size}");
    }
}

#[allow(missing_docs)]
pub async fn reads_of_absent_blobs_fail_at_once(store: &impl BlobStore) {
    for size in [10, 300_000] {
        let (digest, _) = blob(size, 7);
        let outcome = match store.read(&digest, ByteRange::default()).await {
            Ok(mut pieces) => pieces.next().await.expect("an absent blob has no end").map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(matches!(outcome, Err(StoreError::NotFound(d)) if d == digest));
        assert!(matches!(store.get(&digest, 5).await, Err(StoreError::TooLarge { .. })));
    }
}

#[allow(missing_docs)]
pub async fn what_is_pinned_can_be_read(store: &impl BlobStore) {
    let (mut digests, mut contents) = (Vec::new(), Vec::new());
    for size in [0, 10, 300_000] {
        let (digest, data) = stored(store, size, 11).await;
        digests.push(digest);
        contents.push(data);
    }
    let twice = [&digests[..], &digests].concat();
    let (first, missing) = store.pin(&twice).await.unwrap();
    assert_eq!(missing, []);
    let (second, missing) = store.pin(&digests[1..]).await.unwrap();
    assert_eq!(missing, []);
    for pin in [first, second] {
        for (digest, data) in digests.iter().zip(&contents) {
            assert!(store.get(digest, u64::MAX).await.unwrap() == *data);
        }
        drop(pin);
    }
}

#[allow(missing_docs)]
pub async fn pins_name_what_is_missing(store: &impl BlobStore) {
    let (there, _) = stored(store, 20, 12).await;
    let (absent, late) = (blob(21, 12).0, blob(22, 12));
    let (pin, missing) = store.pin(&[late.0, there, absent, late.0]).await.unwrap();
    assert_eq!(missing, [late.0, absent]);
    store.put(Upload::bytes(late.0, late.1)).await.unwrap();
    drop(pin);
    let (_pin, missing) = store.pin(&[absent, late.0, there]).await.unwrap();
    assert_eq!(missing, [absent]);
    assert_eq!(store.pin(&[]).await.unwrap().1, []);
}

#[allow(missing_docs)]
pub async fn records(store: &impl RecordStore) {
    let table = Table::ActionCache;
    assert_eq!(store.get(table, b"a").await.unwrap(), None);
    store.put(table, b"a", Bytes::from_static(b"1")).await.unwrap();
    store.put(table, b"ab", Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(store.get(table, b"a").await.unwrap().as_deref(), Some(&b"1"[..]));
    store.put(table, b"a", Bytes::from_static(b"3")).await.unwrap();
    assert_eq!(store.get(table, b"a").await.unwrap().as_deref(), Some(&b"3"[..]));
    store.delete(table, b"a").await.unwrap();
    store.delete(table, b"a").await.unwrap();
    assert_eq!(store.get(table, b"a").await.unwrap(), None);
    assert_eq!(store.get(table, b"ab").await.unwrap().as_deref(), Some(&b"2"[..]));
}
