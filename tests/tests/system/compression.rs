//! Compressed transfers, each checked with the format's own library in one go instead of in a stream.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use tonic::Code;
use wardian_proto::bytestream::ReadRequest;
use wardian_proto::{Compressor, Digest, reapi};
use wardian_tests::{TestServer, bytes_of, code, digest};

use super::byte_stream::{messages, query, read, read_part, write};

const COMPRESSORS: [Compressor; 3] = [Compressor::Zstd, Compressor::Deflate, Compressor::Brotli];

fn encode(compressor: Compressor, data: &[u8]) -> Bytes {
    let encoded = match compressor {
        Compressor::Identity => data.to_vec(),
        Compressor::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compressor::Deflate => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compressor::Brotli => {
            let mut encoded = Vec::new();
            brotli::CompressorWriter::new(&mut encoded, 4096, 3, 20).write_all(data).unwrap();
            encoded
        }
    };
    encoded.into()
}

fn decode(compressor: Compressor, data: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    match compressor {
        Compressor::Identity => decoded.extend_from_slice(data),
        Compressor::Zstd => decoded = zstd::decode_all(data).unwrap(),
        Compressor::Deflate => {
            flate2::read::DeflateDecoder::new(data).read_to_end(&mut decoded).unwrap();
        }
        Compressor::Brotli => {
            brotli::Decompressor::new(data, 4096).read_to_end(&mut decoded).unwrap();
        }
    }
    decoded
}

fn upload_name(compressor: Compressor, digest: &Digest) -> String {
    format!("uploads/u/compressed-blobs/{}/{digest}", compressor.name())
}

async fn read_encoded(
    server: &TestServer,
    compressor: Compressor,
    digest: &Digest,
    read_offset: i64,
) -> Result<Bytes, tonic::Status> {
    let resource_name = format!("compressed-blobs/{}/{digest}", compressor.name());
    read(server, ReadRequest { resource_name, read_offset, read_limit: 0 }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_come_and_go_in_every_encoding() {
    let server = TestServer::start().await;
    for (seed, compressor) in (0..).zip(COMPRESSORS) {
        for size in [1, 1000, 3_000_000] {
            let data = bytes_of(size, seed);
            let stored = digest(&data);
            let encoded = encode(compressor, &data);
            let name = upload_name(compressor, &stored);
            let sent = i64::try_from(encoded.len()).unwrap();
            assert_eq!(write(&server, messages(&name, &encoded, 5000)).await.unwrap(), sent, "{name}");
            // Again: it is there, and the number of bytes sent means nothing.
            assert_eq!(write(&server, messages(&name, &encoded, 5000)).await.unwrap(), -1, "{name}");
            assert!(query(&server, &name).await.unwrap().1);
            assert!(read_part(&server, &stored, 0, 0).await.unwrap() == data, "{name}");
            for reading in COMPRESSORS {
                for offset in [0, size / 2, size] {
                    let at = i64::try_from(offset).unwrap();
                    let read = read_encoded(&server, reading, &stored, at).await.unwrap();
                    assert!(decode(reading, &read) == data[offset..], "{name} as {reading:?} from {offset}");
                }
                let beyond = read_encoded(&server, reading, &stored, i64::try_from(size).unwrap() + 1).await;
                assert_eq!(code(&beyond), Code::OutOfRange);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_blob_is_a_stream_of_nothing() {
    let server = TestServer::start().await;
    for compressor in COMPRESSORS {
        let read = read_encoded(&server, compressor, &digest(b""), 0).await.unwrap();
        assert!(!read.is_empty() && decode(compressor, &read).is_empty(), "{compressor:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_reads_have_no_limit() {
    let server = TestServer::start().await;
    let stored = server.put(bytes_of(1000, 1)).await;
    let resource_name = format!("compressed-blobs/zstd/{stored}");
    let request = ReadRequest { resource_name, read_offset: 0, read_limit: 10 };
    assert_eq!(code(&read(&server, request).await), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_become_the_blob_are_refused() {
    let server = TestServer::start().await;
    let data = bytes_of(200_000, 1);
    let stored = digest(&data);
    for compressor in COMPRESSORS {
        let whole = encode(compressor, &data);
        // Nothing is cut, foreign, followed by more, another blob, or a bomb, and becomes this blob all the same.
        let bomb = encode(compressor, &vec![0; 50_000_000]);
        let wrong = [
            whole.slice(..whole.len() / 2),
            data.clone(),
            [&whole[..], b"tail"].concat().into(),
            encode(compressor, &bytes_of(200_000, 2)),
            encode(compressor, &data[1..]),
            bomb,
            Bytes::new(),
        ];
        for (case, bytes) in wrong.iter().enumerate() {
            let name = upload_name(compressor, &stored);
            let refused = write(&server, messages(&name, bytes, 30_000)).await;
            assert_eq!(code(&refused), Code::InvalidArgument, "{compressor:?}, case {case}");
            let entry = reapi::batch_update_blobs_request::Request {
                digest: Some(stored.to_wire()),
                data: bytes.clone(),
                compressor: wire(compressor),
            };
            assert_eq!(
                update(&server, vec![entry]).await,
                [Code::InvalidArgument],
                "{compressor:?}, case {case}"
            );
        }
        assert!(!server.has(stored).await);
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_without_its_end_keeps_nothing() {
    let server = TestServer::start().await;
    let data = bytes_of(200_000, 1);
    let name = upload_name(Compressor::Zstd, &digest(&data));
    let mut messages = messages(&name, &encode(Compressor::Zstd, &data), 1000);
    messages.last_mut().unwrap().finish_write = false;
    assert_eq!(write(&server, messages).await.unwrap(), 0);
    assert!(!server.has(digest(&data)).await);
}

fn wire(compressor: Compressor) -> i32 {
    match compressor {
        Compressor::Identity => 0,
        Compressor::Zstd => 1,
        Compressor::Deflate => 2,
        Compressor::Brotli => 3,
    }
}

async fn update(server: &TestServer, requests: Vec<reapi::batch_update_blobs_request::Request>) -> Vec<Code> {
    let request = reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let responses = server.cas().batch_update_blobs(request).await.unwrap().into_inner().responses;
    responses.into_iter().map(|r| Code::from(r.status.unwrap().code)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_mix_encodings() {
    let server = TestServer::start().await;
    let blobs: Vec<Bytes> = (0..4).map(|seed| bytes_of(10_000, seed)).collect();
    let all = [Compressor::Identity, Compressor::Zstd, Compressor::Deflate, Compressor::Brotli];
    let requests =
        blobs.iter().zip(all).map(|(data, compressor)| reapi::batch_update_blobs_request::Request {
            digest: Some(digest(data).to_wire()),
            data: encode(compressor, data),
            compressor: wire(compressor),
        });
    assert_eq!(update(&server, requests.collect()).await, [Code::Ok; 4]);
    let digests: Vec<_> = blobs.iter().map(|data| digest(data).to_wire()).collect();
    for compressor in all {
        let request = reapi::BatchReadBlobsRequest {
            digests: digests.clone(),
            acceptable_compressors: vec![wire(compressor), 77],
            ..Default::default()
        };
        let responses = server.cas().batch_read_blobs(request).await.unwrap().into_inner().responses;
        for (response, data) in responses.iter().zip(&blobs) {
            assert_eq!(response.compressor, wire(compressor));
            assert!(decode(compressor, &response.data) == *data, "{compressor:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_would_become_too_large_is_refused_whole() {
    let server = TestServer::start().await;
    let data = bytes_of(5_000_000, 1);
    let entry = reapi::batch_update_blobs_request::Request {
        digest: Some(digest(&data).to_wire()),
        data: encode(Compressor::Zstd, &data),
        compressor: wire(Compressor::Zstd),
    };
    let request = reapi::BatchUpdateBlobsRequest { requests: vec![entry], ..Default::default() };
    let refused = server.cas().batch_update_blobs(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}
