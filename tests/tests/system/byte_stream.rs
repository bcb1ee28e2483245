//! ByteStream: names, ranges, and every way an upload can go.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status};
use wardian_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use wardian_proto::{Digest, DigestFunction};
use wardian_tests::{TestServer, bytes_of, code, digest, soon};

const HEADER: &str = "build.bazel.remote.execution.v2.resource-name";

fn read_name(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

fn write_name(digest: &Digest) -> String {
    format!("uploads/6b8b1a54-3a3c-4f4c-9f0e-3a8f2a0d7c11/blobs/{digest}")
}

async fn read(server: &TestServer, request: ReadRequest) -> Result<Bytes, Status> {
    let mut pieces = server.byte_stream().read(request).await?.into_inner();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.message().await? {
        whole.extend_from_slice(&piece.data);
    }
    Ok(whole.into())
}

async fn read_part(server: &TestServer, digest: &Digest, offset: i64, limit: i64) -> Result<Bytes, Status> {
    let resource_name = read_name(digest);
    read(server, ReadRequest { resource_name, read_offset: offset, read_limit: limit }).await
}

/// Sends messages and half-closes. Returns the committed size.
async fn write(server: &TestServer, messages: Vec<WriteRequest>) -> Result<i64, Status> {
    let response = server.byte_stream().write(stream::iter(messages)).await?;
    Ok(response.into_inner().committed_size)
}

/// The messages of a well-behaved upload.
fn messages(name: &str, data: &Bytes, piece_bytes: usize) -> Vec<WriteRequest> {
    let mut messages = vec![WriteRequest { resource_name: name.into(), ..Default::default() }];
    for (i, piece) in data.chunks(piece_bytes).enumerate() {
        let write_offset = i64::try_from(i * piece_bytes).unwrap();
        messages.push(WriteRequest { write_offset, data: data.slice_ref(piece), ..Default::default() });
    }
    messages.last_mut().unwrap().finish_write = true;
    messages
}

async fn query(server: &TestServer, name: &str) -> Result<(i64, bool), Status> {
    let request = QueryWriteStatusRequest { resource_name: name.into() };
    let response = server.byte_stream().query_write_status(request).await?.into_inner();
    Ok((response.committed_size, response.complete))
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_read_nothing_are_refused() {
    let server = TestServer::start().await;
    let stored = server.put("stored").await;
    let (hash, size) = (stored.hash_hex(), stored.size());
    for name in [
        String::new(),
        "blobs".into(),
        format!("blobs/{hash}"),
        format!("/blobs/{hash}/{size}"),
        format!("blobs/{hash}/{size}/tail"),
        format!("blobs/{hash}/+{size}"),
        format!("blobs/{hash}/0{size}x"),
        format!("blobs/sha256/{hash}/{size}"),
        format!("blobs/blake3/{hash}/{size}"),
        format!("actions/{hash}/{size}"),
        format!("compressed-blobs/identity/{hash}/{size}"),
        format!("compressed-blobs/zstd/{hash}/{size}"),
        write_name(&stored),
    ] {
        let request = ReadRequest { resource_name: name.clone(), ..Default::default() };
        assert_eq!(code(&read(&server, request).await), Code::InvalidArgument, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_write_nothing_are_refused() {
    let server = TestServer::start().await;
    let data = Bytes::from_static(b"data");
    let (hash, size) = (digest(&data).hash_hex(), 4);
    for name in [
        String::new(),
        format!("blobs/{hash}/{size}"),
        format!("uploads/u/{hash}/{size}"),
        format!("uploads//blobs/{hash}/{size}"),
        format!("uploads/blobs/{hash}/{size}"),
        format!("uploads/u/blobs/{hash}"),
        format!("uploads/u/compressed-blobs/zstd/{hash}/{size}"),
        format!("uploads/u/compressed-blobs/deflate/{hash}/{size}"),
        format!("uploads/u/compressed-blobs/identity/{hash}/{size}"),
    ] {
        let refused = write(&server, messages(&name, &data, 100)).await;
        assert_eq!(code(&refused), Code::InvalidArgument, "{name}");
        assert_eq!(code(&query(&server, &name).await), Code::InvalidArgument, "{name}");
    }
    assert!(!server.has(digest(&data)).await);
    assert_eq!(code(&write(&server, vec![]).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_behind_a_written_name_is_ignored() {
    let server = TestServer::start().await;
    let data = bytes_of(1000, 1);
    let name = format!("{}/src/blobs/file.c", write_name(&digest(&data)));
    assert_eq!(write(&server, messages(&name, &data, 300)).await.unwrap(), 1000);
    assert!(server.has(digest(&data)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routing_header_must_agree() {
    let server = TestServer::start().await;
    let stored = server.put("stored").await;
    let with_header = |header: &str| {
        let resource_name = read_name(&stored);
        let mut request = Request::new(ReadRequest { resource_name, ..Default::default() });
        request.metadata_mut().insert(HEADER, header.parse().unwrap());
        request
    };
    server.byte_stream().read(with_header(&read_name(&stored))).await.unwrap();
    let refused = server.byte_stream().read(with_header("blobs/other")).await;
    assert_eq!(code(&refused), Code::InvalidArgument);

    let data = Bytes::from_static(b"new");
    let name = write_name(&digest(&data));
    let mut request = Request::new(stream::iter(messages(&name, &data, 100)));
    request.metadata_mut().insert(HEADER, "uploads/other".parse().unwrap());
    assert_eq!(code(&server.byte_stream().write(request).await), Code::InvalidArgument);
    assert!(!server.has(digest(&data)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_exact_and_checked() {
    let server = TestServer::start().await;
    for size in [10_usize, 600_000] {
        let data = bytes_of(size, 1);
        let stored = server.put(data.clone()).await;
        let end = i64::try_from(size).unwrap();
        for (offset, limit) in
            [(0, 0), (1, 0), (end, 0), (end, 5), (3, 4), (end - 1, 5), (0, end), (0, end + 9)]
        {
            let start = usize::try_from(offset).unwrap();
            let stop = if limit == 0 { size } else { size.min(start + usize::try_from(limit).unwrap()) };
            let part = read_part(&server, &stored, offset, limit).await.unwrap();
            assert!(part == data.slice(start..stop), "{size}: {offset}, {limit}");
        }
        for (offset, limit, expected) in [
            (-1, 0, Code::OutOfRange),
            (end + 1, 0, Code::OutOfRange),
            (i64::MAX, 0, Code::OutOfRange),
            (0, -1, Code::InvalidArgument),
        ] {
            let refused = read_part(&server, &stored, offset, limit).await;
            assert_eq!(code(&refused), expected, "{size}: {offset}, {limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_blobs_and_wrong_sizes_are_not_found() {
    let server = TestServer::start().await;
    for size in [10_u64, 600_000] {
        let stored = server.put(bytes_of(usize::try_from(size).unwrap(), 1)).await;
        for wrong in [size - 1, size + 1, 0] {
            let other = Digest::from_parts(DigestFunction::Sha256, stored.hash(), wrong).unwrap();
            assert_eq!(code(&read_part(&server, &other, 0, 0).await), Code::NotFound, "{other}");
        }
        let absent = digest(&bytes_of(usize::try_from(size).unwrap(), 2));
        assert_eq!(code(&read_part(&server, &absent, 0, 0).await), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_blob_is_read_and_written() {
    let server = TestServer::start().await;
    let empty = digest(b"");
    assert_eq!(read_part(&server, &empty, 0, 0).await.unwrap(), Bytes::new());
    assert_eq!(code(&read_part(&server, &empty, 1, 0).await), Code::OutOfRange);
    let name = write_name(&empty);
    assert_eq!(write(&server, messages(&name, &Bytes::new(), 1)).await.unwrap(), 0);
    assert_eq!(query(&server, &name).await.unwrap(), (0, true));
}

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
