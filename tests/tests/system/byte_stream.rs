//! ByteStream: names and ranges, and what the upload tests are made of. Uploads are in `uploads.rs`.

use bytes::Bytes;
use futures::stream;
use tonic::{Code, Request, Status};
use wardian_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use wardian_proto::{Digest, DigestFunction};
use wardian_tests::{TestServer, bytes_of, code, digest};

const HEADER: &str = "build.bazel.remote.execution.v2.resource-name";

fn read_name(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

pub(crate) fn write_name(digest: &Digest) -> String {
    format!("uploads/6b8b1a54-3a3c-4f4c-9f0e-3a8f2a0d7c11/blobs/{digest}")
}

pub(crate) async fn read(server: &TestServer, request: ReadRequest) -> Result<Bytes, Status> {
    let mut pieces = server.byte_stream().read(request).await?.into_inner();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.message().await? {
        whole.extend_from_slice(&piece.data);
    }
    Ok(whole.into())
}

pub(crate) async fn read_part(
    server: &TestServer,
    digest: &Digest,
    offset: i64,
    limit: i64,
) -> Result<Bytes, Status> {
    let resource_name = read_name(digest);
    read(server, ReadRequest { resource_name, read_offset: offset, read_limit: limit }).await
}

/// Sends messages and half-closes. Returns the committed size.
pub(crate) async fn write(server: &TestServer, messages: Vec<WriteRequest>) -> Result<i64, Status> {
    let response = server.byte_stream().write(stream::iter(messages)).await?;
    Ok(response.into_inner().committed_size)
}

/// The messages of a well-behaved upload.
pub(crate) fn messages(name: &str, data: &Bytes, piece_bytes: usize) -> Vec<WriteRequest> {
    let mut messages = vec![WriteRequest { resource_name: name.into(), ..Default::default() }];
    for (i, piece) in data.chunks(piece_bytes).enumerate() {
        let write_offset = i64::try_from(i * piece_bytes).unwrap();
        messages.push(WriteRequest { write_offset, data: data.slice_ref(piece), ..Default::default() });
    }
    messages.last_mut().unwrap().finish_write = true;
    messages
}

pub(crate) async fn query(server: &TestServer, name: &str) -> Result<(i64, bool), Status> {
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
        format!("blobs/gitsha1/{hash}/{size}"),
        format!("actions/{hash}/{size}"),
        format!("compressed-blobs/identity/{hash}/{size}"),
        format!("compressed-blobs/gzip/{hash}/{size}"),
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
        format!("uploads/u/compressed-blobs/gzip/{hash}/{size}"),
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
