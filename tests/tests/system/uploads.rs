//! ByteStream Write and QueryWriteStatus: every way an upload can go.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::mpsc;
use tonic::Code;
use wardian_proto::bytestream::WriteRequest;
use wardian_tests::{Refusal, TestServer, bytes_of, code, digest, soon, until, wait_until};

use super::byte_stream::{messages, query, read_part, write, write_name};

#[tokio::test(flavor = "multi_thread")]
async fn chunked_uploads_are_stored() {
    let server = TestServer::start().await;
    for (size, piece_bytes) in [(10, 3), (16 * 1024, 1024), (16 * 1024 + 1, 1000), (1_000_000, 99_999)] {
        let data = bytes_of(size, 1);
        let stored = digest(&data);
        let mut messages = messages(&write_name(&stored), &data, piece_bytes);
        // Keep-alives: no data, and once the name again.
        let at = messages[1].write_offset;
        messages.insert(1, WriteRequest { write_offset: at, ..Default::default() });
        messages.insert(1, WriteRequest { resource_name: write_name(&stored), ..Default::default() });
        assert_eq!(write(&server, messages).await.unwrap(), i64::try_from(size).unwrap());
        assert!(read_part(&server, &stored, 0, 0).await.unwrap() == data, "{size}");
    }
}

/// Changes the messages of a good upload of 100 kB, or of 100 bytes, and expects the refusal.
async fn spoilt(spoil: impl Fn(&mut Vec<WriteRequest>), expected: Code) {
    let server = TestServer::start().await;
    for size in [100_000, 100] {
        let data = bytes_of(size, 1);
        let name = write_name(&digest(&data));
        let mut messages = messages(&name, &data, size / 4);
        spoil(&mut messages);
        assert_eq!(code(&write(&server, messages).await), expected, "{size}");
        assert!(!server.has(digest(&data)).await, "{size}");
        assert_eq!(code(&query(&server, &name).await), Code::NotFound, "{size}");
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_offset_is_refused() {
    spoilt(|messages| messages[2].write_offset += 1, Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_offset_other_than_zero_is_refused() {
    spoilt(|messages| messages[0].write_offset = 1, Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_negative_offset_is_refused() {
    spoilt(|messages| messages[1].write_offset = -1, Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_name_is_refused() {
    let other = write_name(&digest(b"other"));
    spoilt(move |messages| messages[2].resource_name = other.clone(), Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused() {
    let wrong = |messages: &mut Vec<WriteRequest>| messages[2].data = vec![0; messages[2].data.len()].into();
    spoilt(wrong, Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_short_is_refused() {
    let cut = |messages: &mut Vec<WriteRequest>| {
        messages.pop();
        messages.last_mut().unwrap().finish_write = true;
    };
    spoilt(cut, Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_too_long_is_refused() {
    let longer = |messages: &mut Vec<WriteRequest>| {
        let last = messages.last_mut().unwrap();
        last.data = [&last.data[..], b"x"].concat().into();
    };
    spoilt(longer, Code::InvalidArgument).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_upload_is_refused_before_its_end() {
    let server = TestServer::start().await;
    let data = bytes_of(1000, 1);
    let resource_name = write_name(&digest(&data));
    let endless = stream::unfold(0_i64, move |write_offset| {
        let (data, resource_name) = (data.clone(), resource_name.clone());
        async move {
            Some((
                WriteRequest { resource_name, write_offset, data, ..Default::default() },
                write_offset + 1000,
            ))
        }
    });
    let refused = soon("the refusal", server.byte_stream().write(endless)).await;
    assert_eq!(code(&refused), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_after_the_end_does_no_harm() {
    // It is refused when it is there by the time the end is seen, which no test can force.
    let server = TestServer::start().await;
    let data = bytes_of(1000, 1);
    let mut messages = messages(&write_name(&digest(&data)), &data, 100);
    messages.push(WriteRequest {
        write_offset: 1000,
        data: Bytes::from_static(b"more"),
        ..Default::default()
    });
    match write(&server, messages).await {
        Ok(committed) => assert!(committed == 1000 && server.has(digest(&data)).await),
        Err(status) => assert!(status.code() == Code::InvalidArgument && !server.has(digest(&data)).await),
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stops_early_commits_nothing_and_can_be_made_again() {
    let server = TestServer::start().await;
    for size in [100, 100_000] {
        let data = bytes_of(size, 1);
        let name = write_name(&digest(&data));
        let whole = messages(&name, &data, size / 4);
        assert_eq!(write(&server, whole[..3].to_vec()).await.unwrap(), 0);
        assert!(!server.has(digest(&data)).await);
        assert_eq!(code(&query(&server, &name).await), Code::NotFound);
        assert_eq!(write(&server, whole).await.unwrap(), i64::try_from(size).unwrap());
        assert_eq!(query(&server, &name).await.unwrap(), (i64::try_from(size).unwrap(), true));
        // Known under any upload's name: it is the blob that counts.
        let elsewhere = format!("main/uploads/another/blobs/{}", digest(&data));
        assert_eq!(query(&server, &elsewhere).await.unwrap(), (i64::try_from(size).unwrap(), true));
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_client_goes_away_leaves_nothing() {
    let server = TestServer::start().await;
    let data = bytes_of(1_000_000, 1);
    let (sender, receiver) = mpsc::channel(1);
    let mut client = server.byte_stream();
    let call = tokio::spawn(async move {
        let requests =
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        client.write(requests).await
    });
    for message in messages(&write_name(&digest(&data)), &data, 100_000).into_iter().take(4) {
        sender.send(message).await.unwrap();
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert!(!server.has(digest(&data)).await);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_what_is_stored_ends_before_it_was_sent() {
    let server = TestServer::start().await;
    let data = bytes_of(300_000, 1);
    server.put(data.clone()).await;
    let first = messages(&write_name(&digest(&data)), &data, 100_000).remove(0);
    // The rest never comes, and the client's side stays open.
    let open = stream::iter([first]).chain(stream::pending());
    let response = soon("the early end", server.byte_stream().write(open)).await.unwrap();
    assert_eq!(response.into_inner().committed_size, 300_000);
    // A client that sends on without looking gets the same answer.
    let whole = messages(&write_name(&digest(&data)), &data, 1000);
    assert_eq!(write(&server, whole).await.unwrap(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_sends_nothing_is_given_up() {
    let idle = std::time::Duration::from_secs(1);
    let server = TestServer::with(|config| config.requests.upload_idle_max = idle).await;
    let data = bytes_of(100_000, 1);
    let begun = messages(&write_name(&digest(&data)), &data, 10_000)[..3].to_vec();
    let stalled = stream::iter(begun).chain(stream::pending());
    let status = soon("the refusal", server.byte_stream().write(stalled)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("upload_idle_seconds_max"), "{status}");
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_over_the_limit_are_refused_by_their_name() {
    let server = TestServer::with(|config| config.requests.blob_bytes_max = 1000).await;
    let data = bytes_of(1001, 1);
    let name = write_name(&digest(&data));
    let first = WriteRequest { resource_name: name.clone(), ..Default::default() };
    let open = stream::iter([first]).chain(stream::pending());
    let status = soon("the refusal", server.byte_stream().write(open)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("max_cas_blob_size_bytes"), "{status}");
    assert_eq!(code(&query(&server, &name).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_blob_may_be_uploaded_by_many_at_once() {
    let server = TestServer::start().await;
    let data = bytes_of(1_000_000, 1);
    let uploads = (0..8).map(|i| {
        let name = format!("uploads/client-{i}/blobs/{}", digest(&data));
        write(&server, messages(&name, &data, 50_000))
    });
    for outcome in futures::future::join_all(uploads).await {
        assert_eq!(outcome.unwrap(), 1_000_000);
    }
    assert!(read_part(&server, &digest(&data), 0, 0).await.unwrap() == data);
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upload_id_may_serve_several_blobs() {
    let server = TestServer::start().await;
    let blobs: Vec<_> = (0..4).map(|seed| bytes_of(50_000, seed)).collect();
    let uploads = blobs.iter().map(|data| write(&server, messages(&write_name(&digest(data)), data, 10_000)));
    for outcome in futures::future::join_all(uploads).await {
        assert_eq!(outcome.unwrap(), 50_000);
    }
    for data in &blobs {
        assert!(read_part(&server, &digest(data), 0, 0).await.unwrap() == data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_makes_the_round_trip() {
    let server = TestServer::start().await;
    let data = bytes_of(64 << 20, 1);
    let stored = digest(&data);
    let committed = write(&server, messages(&write_name(&stored), &data, 1 << 20)).await.unwrap();
    assert_eq!(committed, 64 << 20);
    assert!(read_part(&server, &stored, 0, 0).await.unwrap() == data);
    assert!(
        read_part(&server, &stored, 33 << 20, 1000).await.unwrap() == data.slice(33 << 20..(33 << 20) + 1000)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn more_uploads_than_there_is_room_for_are_told_when_to_come_again() {
    let server = TestServer::with(|config| config.requests.uploads_max = 2).await;
    let upload = |seed: u8| {
        let data = bytes_of(1_000_000, seed);
        let messages = messages(&write_name(&digest(&data)), &data, 500_000);
        let (sender, receiver) = mpsc::channel(messages.len());
        let mut client = server.byte_stream();
        let requests =
            stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        let call = tokio::spawn(async move { client.write(requests).await });
        (sender, messages, call)
    };
    let mut open = Vec::new();
    for seed in 1..=2 {
        let (sender, messages, call) = upload(seed);
        sender.send(messages[0].clone()).await.unwrap();
        open.push((sender, messages, call));
    }
    let incoming = server.folder().join("data/store/incoming");
    until("both are under way", || std::fs::read_dir(&incoming).unwrap().count() == 2).await;
    let data = bytes_of(1000, 3);
    let third = async || write(&server, messages(&write_name(&digest(&data)), &data, 500)).await;
    let refusal = Refusal::of_call(&third().await.unwrap_err());
    assert_eq!((refusal.code, refusal.retry_seconds), (Code::ResourceExhausted, Some(2)), "{refusal:?}");
    assert!(refusal.message.contains("requests.uploads_max"), "{refusal:?}");
    // Log streams and batches are another matter.
    server.put("small").await;
    let (_, _, given_up) = open.remove(0);
    given_up.abort();
    wait_until("the place is free", async || third().await.is_ok()).await;
    // Who was there first is not disturbed.
    let (sender, messages, call) = open.remove(0);
    for message in messages.into_iter().skip(1) {
        sender.send(message).await.unwrap();
    }
    assert_eq!(call.await.unwrap().unwrap().into_inner().committed_size, 1_000_000);
    server.assert_unharmed().await;
}
