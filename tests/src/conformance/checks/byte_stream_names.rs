//! ByteStream: names of resources.

use bytes::Bytes;
use futures::stream;
use tonic::{Code, Request};
use wardian_proto::Compressor;
use wardian_proto::bytestream::ReadRequest;

use super::super::calls::messages;
use super::super::codec::{decode, encode};
use super::super::outcome::{ensure, ensure_eq};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

/// Header in which clients may repeat the resource name.
const HEADER: &str = "build.bazel.remote.execution.v2.resource-name";

pub(super) const CHECKS: &[Check] = &[
    check!(bs_01_blobs_go_by_their_names: "BS-01"),
    check!(bs_02_what_follows_the_size_of_a_written_name_is_ignored: "BS-02"),
    check!(bs_03_one_upload_id_serves_several_blobs: "BS-03"),
    check!(bs_04_functions_that_must_be_named_are_spelled_out: "BS-04"),
    check!(bs_04_functions_told_by_length_are_not_spelled_out: "BS-04"),
    check!(bs_05_compressors_are_spelled_as_announced: "BS-05"),
    check!(bs_06_encoded_names_have_the_digest_of_the_decoded_blob: "BS-06"),
    check!(bs_07_names_that_follow_no_rule_are_refused: "BS-07"),
    check!(bs_08_the_routing_header_may_repeat_the_name: "BS-08"),
    check!(bs_08_the_routing_header_must_agree: "BS-08").own(),
];

async fn bs_01_blobs_go_by_their_names(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let digest = subject.digest(&data);
    let (prefix, id) = (subject.prefix(), subject.upload_id());
    let (hash, size) = (digest.hash_hex(), digest.size());
    let function = if digest.function().must_be_named() {
        format!("{}/", digest.function().name())
    } else {
        String::new()
    };
    let name = format!("{prefix}uploads/{id}/blobs/{function}{hash}/{size}");
    ensure_eq!(subject.write(messages(&name, &data, 300)).await?, 1000, "committed size of {name}");
    ensure!(
        subject.read(&format!("{prefix}blobs/{function}{hash}/{size}"), 0, 0).await? == data,
        "other bytes came back"
    );
    Ok(())
}

async fn bs_02_what_follows_the_size_of_a_written_name_is_ignored(subject: &Subject) -> Verdict {
    for metadata in ["file.c", "src/blobs/uploads/file.c", "12"] {
        let data = subject.fresh(1000);
        let digest = subject.digest(&data);
        let name = format!("{}/{metadata}", subject.write_name(&digest));
        ensure_eq!(subject.write(messages(&name, &data, 300)).await?, 1000, "committed size of {name}");
        ensure!(subject.get(&digest).await? == data, "{name}: other bytes came back");
    }
    Ok(())
}

async fn bs_03_one_upload_id_serves_several_blobs(subject: &Subject) -> Verdict {
    let id = subject.upload_id();
    let blobs: Vec<Bytes> = (0..4).map(|_| subject.fresh(50_000)).collect();
    let uploads = blobs.iter().map(|data| {
        let name = format!("{}uploads/{id}/blobs/{}", subject.prefix(), subject.digest(data));
        subject.write(messages(&name, data, 10_000))
    });
    for outcome in futures::future::join_all(uploads).await {
        ensure_eq!(outcome?, 50_000, "committed size");
    }
    for data in &blobs {
        ensure!(subject.get(&subject.digest(data)).await? == data, "other bytes came back");
    }
    Ok(())
}

async fn bs_04_functions_that_must_be_named_are_spelled_out(subject: &Subject) -> Verdict {
    let named: Vec<_> = subject.functions().into_iter().filter(|f| f.must_be_named()).collect();
    if named.is_empty() {
        return Err(Stop::skipped("no function that must be named is announced"));
    }
    for function in named {
        let data = subject.fresh(1000);
        let digest = function.digest(&data);
        let (prefix, name) = (subject.prefix(), function.name());
        let blob = format!("blobs/{name}/{}/{}", digest.hash_hex(), digest.size());
        let upload = format!("{prefix}uploads/{}/{blob}", subject.upload_id());
        ensure_eq!(subject.write(messages(&upload, &data, 300)).await?, 1000, "committed size of {upload}");
        ensure!(
            subject.read(&format!("{prefix}{blob}"), 0, 0).await? == data,
            "{blob}: other bytes came back"
        );
    }
    Ok(())
}

async fn bs_04_functions_told_by_length_are_not_spelled_out(subject: &Subject) -> Verdict {
    let function = subject.function();
    if function.must_be_named() {
        return Err(Stop::skipped("no function that is told by its length is announced"));
    }
    let data = subject.fresh(1000);
    let digest = function.digest(&data);
    let blob = format!("blobs/{}/{digest}", function.name());
    let upload = format!("{}uploads/{}/{blob}", subject.prefix(), subject.upload_id());
    let written = subject.write(messages(&upload, &data, 300)).await;
    // A lenient server takes it for the blob that it says; ours refuses.
    match (written, subject.is_own()) {
        (Ok(committed), false) => ensure_eq!(committed, 1000, "committed size of {upload}"),
        (outcome, _) => {
            subject.chose(outcome, Code::InvalidArgument, &upload)?;
            ensure!(!subject.has(&digest).await?, "{upload} was refused, and is stored all the same");
        }
    }
    Ok(())
}

async fn bs_05_compressors_are_spelled_as_announced(subject: &Subject) -> Verdict {
    let announced = subject.compressors().unwrap_or_default();
    for compressor in [Compressor::Zstd, Compressor::Deflate, Compressor::Brotli] {
        let data = subject.fresh_text(5000);
        let digest = subject.digest(&data);
        let encoded = encode(compressor, &data);
        let name = subject.encoded_write_name(compressor, &digest);
        let written = subject.write(messages(&name, &encoded, 1000)).await;
        if announced.contains(&compressor) {
            written?;
            ensure!(subject.get(&digest).await? == data, "{name}: other bytes came back");
        } else {
            subject.chose(written, Code::InvalidArgument, &name)?;
        }
    }
    let stored = subject.put(&subject.fresh(100)).await?;
    for name in ["identity", "ZSTD", "gzip", ""] {
        let name = format!("{}compressed-blobs/{name}/{stored}", subject.prefix());
        subject.chose(subject.read(&name, 0, 0).await, Code::InvalidArgument, &name)?;
    }
    Ok(())
}

async fn bs_06_encoded_names_have_the_digest_of_the_decoded_blob(subject: &Subject) -> Verdict {
    for compressor in subject.compressors()? {
        let data = subject.fresh_text(10_000);
        let digest = subject.digest(&data);
        let encoded = encode(compressor, &data);
        // Named by what is sent, it is not what its name says.
        let wrong = subject.encoded_write_name(compressor, &subject.digest(&encoded));
        let outcome = subject.write(messages(&wrong, &encoded, 1000)).await;
        super::super::outcome::refused_as(outcome, Code::InvalidArgument, &wrong)?;
        let name = subject.encoded_write_name(compressor, &digest);
        subject.write(messages(&name, &encoded, 1000)).await?;
        let read = subject.read(&subject.encoded_read_name(compressor, &digest), 0, 0).await?;
        let decoded = decode(compressor, &read).map_err(|error| Stop::failed(format!("{name}: {error}")))?;
        ensure!(decoded == data, "{name}: other bytes came back");
    }
    Ok(())
}

async fn bs_07_names_that_follow_no_rule_are_refused(subject: &Subject) -> Verdict {
    let data = subject.fresh(100);
    let stored = subject.put(&data).await?;
    let (prefix, hash) = (subject.prefix(), stored.hash_hex());
    for name in [
        String::new(),
        format!("{prefix}blobs"),
        format!("{prefix}blobs/{hash}"),
        format!("{prefix}blobs/{hash}/"),
        format!("{prefix}blobs/{hash}/100/tail"),
        format!("{prefix}blobs/{hash}/ten"),
        format!("{prefix}blobs/{hash}/-100"),
        format!("{prefix}actions/{hash}/100"),
        subject.write_name(&stored),
    ] {
        subject.chose(
            subject.read(&name, 0, 0).await,
            Code::InvalidArgument,
            &format!("read of {name:?}"),
        )?;
    }
    let data = subject.fresh(100);
    let absent = subject.digest(&data);
    let hash = absent.hash_hex();
    for name in [
        String::new(),
        format!("{prefix}blobs/{absent}"),
        format!("{prefix}uploads/u/{hash}/100"),
        format!("{prefix}uploads/u/blobs/{hash}"),
        format!("{prefix}uploads/u/blobs/{hash}/-100"),
    ] {
        let written = subject.write(messages(&name, &data, 100)).await;
        subject.chose(written, Code::InvalidArgument, &format!("write of {name:?}"))?;
    }
    subject.chose(subject.write(Vec::new()).await, Code::InvalidArgument, "a write without a message")?;
    ensure!(!subject.has(&absent).await?, "none of these names stores anything");
    Ok(())
}

async fn bs_08_the_routing_header_may_repeat_the_name(subject: &Subject) -> Verdict {
    let data = subject.fresh(100);
    let digest = subject.digest(&data);
    let name = subject.write_name(&digest);
    let mut request = Request::new(stream::iter(messages(&name, &data, 100)));
    request.metadata_mut().insert(HEADER, name.parse().expect("names are ASCII"));
    ensure_eq!(
        subject.byte_stream().write(request).await?.into_inner().committed_size,
        100,
        "committed size"
    );
    let name = subject.read_name(&digest);
    let mut request = Request::new(ReadRequest { resource_name: name.clone(), ..Default::default() });
    request.metadata_mut().insert(HEADER, name.parse().expect("names are ASCII"));
    let mut stream = subject.byte_stream().read(request).await?.into_inner();
    ensure!(stream.message().await?.is_some(), "nothing came");
    Ok(())
}

async fn bs_08_the_routing_header_must_agree(subject: &Subject) -> Verdict {
    let data = subject.fresh(100);
    let stored = subject.put(&data).await?;
    let mut request =
        Request::new(ReadRequest { resource_name: subject.read_name(&stored), ..Default::default() });
    request.metadata_mut().insert(HEADER, "blobs/other".parse().expect("ASCII"));
    subject.chose(subject.byte_stream().read(request).await, Code::InvalidArgument, "read")?;
    let data = subject.fresh(100);
    let digest = subject.digest(&data);
    let mut request = Request::new(stream::iter(messages(&subject.write_name(&digest), &data, 100)));
    request.metadata_mut().insert(HEADER, "uploads/other".parse().expect("ASCII"));
    subject.chose(subject.byte_stream().write(request).await, Code::InvalidArgument, "write")?;
    ensure!(!subject.has(&digest).await?, "the write was refused, and its blob is stored all the same");
    Ok(())
}
