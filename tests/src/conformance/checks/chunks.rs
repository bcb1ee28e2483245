//! SplitBlob and SpliceBlob.

use bytes::Bytes;
use tonic::{Code, Status};
use wardian_proto::{Digest, DigestFunction, reapi};

use super::super::calls::wire;
use super::super::outcome::{ensure, ensure_eq, refused, refused_as, told};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

const FAST_CDC: i32 = reapi::chunking_function::Value::FastCdc2020 as i32;
const REP_MAX_CDC: i32 = reapi::chunking_function::Value::RepMaxCdc as i32;

/// Large enough for several chunks with the recommended parameters.
const BLOB_BYTES: usize = 9_000_000;

pub(super) const CHECKS: &[Check] = &[
    check!(chk_01_what_is_not_announced_is_unimplemented: "CHK-01"),
    check!(chk_02_the_chunks_of_a_split_make_up_the_blob: "CHK-02", "CHK-01", "CHK-08"),
    check!(chk_03_a_blob_that_is_not_there_cannot_be_split: "CHK-03"),
    check!(chk_04_chunks_have_the_function_of_the_blob: "CHK-04"),
    check!(chk_05_the_chunking_is_a_wish: "CHK-05"),
    check!(chk_07_a_changed_byte_moves_few_chunks: "CHK-07"),
    check!(chk_10_a_splice_names_its_blob: "CHK-10").own(),
    check!(chk_11_a_splice_of_something_else_is_refused: "CHK-11"),
    check!(chk_12_a_splice_of_absent_chunks_is_not_found: "CHK-12"),
    check!(chk_13_a_splice_of_what_is_there_is_fine: "CHK-13"),
    check!(chk_13_a_splice_of_what_is_there_from_absent_chunks_says_so: "CHK-13").own(),
    check!(chk_16_how_a_spliced_blob_was_cut_is_not_asked: "CHK-16"),
    check!(chk_17_a_spliced_blob_is_read_like_any_other: "CHK-17", "CHK-14", "CHK-01"),
    check!(chk_20_announced_chunkings_are_used: "CHK-20"),
    check!(chk_21_fast_cdc_cuts_where_its_reference_does: "CHK-21"),
    check!(chk_22_rep_max_cdc_keeps_its_sizes: "CHK-22"),
];

async fn split(subject: &Subject, blob: &Digest, chunking: i32) -> Result<reapi::SplitBlobResponse, Status> {
    let request = reapi::SplitBlobRequest {
        instance_name: subject.instance(),
        blob_digest: Some(blob.to_wire()),
        digest_function: blob.function().wire().into(),
        chunking_function: chunking,
    };
    Ok(subject.cas().split_blob(request).await?.into_inner())
}

fn splice_request(subject: &Subject, blob: &Digest, chunks: &[Digest]) -> reapi::SpliceBlobRequest {
    reapi::SpliceBlobRequest {
        instance_name: subject.instance(),
        blob_digest: Some(blob.to_wire()),
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        digest_function: blob.function().wire().into(),
        ..Default::default()
    }
}

async fn splice(
    subject: &Subject,
    blob: &Digest,
    chunks: &[Digest],
) -> Result<Option<reapi::Digest>, Status> {
    let request = splice_request(subject, blob, chunks);
    Ok(subject.cas().splice_blob(request).await?.into_inner().blob_digest)
}

fn needs_split(subject: &Subject) -> Result<&reapi::CacheCapabilities, Stop> {
    let cache = Some(subject.cache()?).filter(|cache| cache.split_blob_support);
    cache.ok_or_else(|| Stop::skipped("split_blob_support is not announced"))
}

fn needs_splice(subject: &Subject) -> Result<(), Stop> {
    let is_announced = subject.cache()?.splice_blob_support;
    is_announced.then_some(()).ok_or_else(|| Stop::skipped("splice_blob_support is not announced"))
}

/// A blob that is large enough for several chunks, if blobs may be as large.
async fn large(subject: &Subject) -> Result<(Bytes, Digest), Stop> {
    let max = subject.cache()?.max_cas_blob_size_bytes;
    if max > 0 && usize::try_from(max).is_ok_and(|max| max < BLOB_BYTES) {
        return Err(Stop::skipped("blobs of several chunks are larger than max_cas_blob_size_bytes"));
    }
    let data = subject.fresh(BLOB_BYTES);
    let digest = subject.put(&data).await?;
    Ok((data, digest))
}

/// The chunks of a split, each with its bytes as the server has them.
async fn chunks(
    subject: &Subject,
    function: DigestFunction,
    response: &reapi::SplitBlobResponse,
) -> Result<Vec<(Digest, Bytes)>, Stop> {
    let mut found = Vec::new();
    for chunk in &response.chunk_digests {
        let digest = Digest::from_wire(function, Some(chunk));
        let digest = digest.map_err(|error| Stop::failed(format!("a chunk's digest: {error}")))?;
        found.push((digest, subject.get(&digest).await?));
    }
    Ok(found)
}

fn joined(chunks: &[(Digest, Bytes)]) -> Vec<u8> {
    chunks.iter().flat_map(|(_, data)| data).copied().collect()
}

async fn chk_01_what_is_not_announced_is_unimplemented(subject: &Subject) -> Verdict {
    let cache = subject.cache()?;
    let stored = subject.put(&subject.fresh(100)).await?;
    if !cache.split_blob_support {
        refused(split(subject, &stored, 0).await, "SplitBlob, which is not announced")?;
    }
    if !cache.splice_blob_support {
        let other = subject.digest(&subject.fresh(100));
        refused(splice(subject, &other, &[stored]).await, "SpliceBlob, which is not announced")?;
    }
    // What is announced is offered: the code of a method that is not there never comes.
    let absent = subject.digest(&subject.fresh(100));
    if cache.split_blob_support {
        let status = refused(split(subject, &absent, 0).await, "SplitBlob of an absent blob")?;
        ensure!(status.code() != Code::Unimplemented, "SplitBlob is announced: {}", told(&status));
    }
    if cache.splice_blob_support {
        let status = refused(splice(subject, &absent, &[absent]).await, "SpliceBlob of absent chunks")?;
        ensure!(status.code() != Code::Unimplemented, "SpliceBlob is announced: {}", told(&status));
    }
    Ok(())
}

async fn chk_02_the_chunks_of_a_split_make_up_the_blob(subject: &Subject) -> Verdict {
    needs_split(subject)?;
    let (data, blob) = large(subject).await?;
    let response = split(subject, &blob, 0).await?;
    let chunks = chunks(subject, blob.function(), &response).await?;
    ensure!(joined(&chunks) == data, "{} chunks do not make up the blob", chunks.len());
    let small = subject.fresh(10);
    let blob = subject.put(&small).await?;
    let response = split(subject, &blob, 0).await?;
    ensure_eq!(response.chunk_digests, [blob.to_wire()], "chunks of a blob of ten bytes");
    Ok(())
}

async fn chk_03_a_blob_that_is_not_there_cannot_be_split(subject: &Subject) -> Verdict {
    needs_split(subject)?;
    let absent = subject.digest(&subject.fresh(1000));
    refused_as(split(subject, &absent, 0).await, Code::NotFound, "an absent blob")?;
    Ok(())
}

async fn chk_04_chunks_have_the_function_of_the_blob(subject: &Subject) -> Verdict {
    needs_split(subject)?;
    let (data, _) = large(subject).await?;
    for function in subject.functions() {
        let blob = subject.put_as(function, data.clone()).await?;
        let response = split(subject, &blob, 0).await?;
        let mut at = 0;
        for chunk in response.chunk_digests {
            let end = usize::try_from(chunk.size_bytes).ok().map(|size| at + size);
            let piece = end.and_then(|end| data.get(at..end));
            let piece =
                piece.ok_or_else(|| Stop::failed(format!("a chunk ends at {end:?} of {}", data.len())))?;
            ensure_eq!(chunk, function.digest(piece).to_wire(), "a chunk at {at}");
            at += piece.len();
        }
        ensure_eq!(at, data.len(), "size of all chunks together");
    }
    Ok(())
}

async fn chk_05_the_chunking_is_a_wish(subject: &Subject) -> Verdict {
    needs_split(subject)?;
    let (data, blob) = large(subject).await?;
    // What nobody knows is a wish that cannot be met; whether a server minds is its affair.
    let unknown = if subject.is_own() { 77 } else { 0 };
    for asked in [0, FAST_CDC, REP_MAX_CDC, unknown] {
        let response = split(subject, &blob, asked).await?;
        if subject.is_own() {
            ensure!(response.chunking_function != 0, "asked for {asked}, it does not say what it used");
        }
        let chunks = chunks(subject, blob.function(), &response).await?;
        ensure!(joined(&chunks) == data, "asked for {asked}, {} chunks are not the blob", chunks.len());
    }
    Ok(())
}

async fn chk_07_a_changed_byte_moves_few_chunks(subject: &Subject) -> Verdict {
    needs_split(subject)?;
    let (data, blob) = large(subject).await?;
    let before = split(subject, &blob, 0).await?.chunk_digests;
    // Put in front, it would move every chunk of a fixed size.
    let longer = subject.put(&[b"x", &data[..]].concat().into()).await?;
    let after = split(subject, &longer, 0).await?.chunk_digests;
    let kept = before.iter().filter(|chunk| after.contains(chunk)).count();
    ensure!(kept + 3 >= before.len(), "of {} chunks only {kept} are the same", before.len());
    Ok(())
}

/// Two chunks that are stored, and what they make up, which is not.
async fn two(subject: &Subject) -> Result<([Digest; 2], Bytes, Digest), Stop> {
    let (a, b) = (subject.fresh(1000), subject.fresh(2000));
    let whole = Bytes::from([&a[..], &b[..]].concat());
    let digest = subject.digest(&whole);
    Ok(([subject.put(&a).await?, subject.put(&b).await?], whole, digest))
}

async fn chk_10_a_splice_names_its_blob(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let (chunks, _, blob) = two(subject).await?;
    let request = reapi::SpliceBlobRequest { blob_digest: None, ..splice_request(subject, &blob, &chunks) };
    refused_as(subject.cas().splice_blob(request).await, Code::InvalidArgument, "without a digest")?;
    Ok(())
}

async fn chk_11_a_splice_of_something_else_is_refused(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let ([a, b], _, blob) = two(subject).await?;
    for (what, chunks) in
        [("in another order", vec![b, a]), ("one of two", vec![a]), ("one twice", vec![a, b, b])]
    {
        let outcome = splice(subject, &blob, &chunks).await;
        refused_as(outcome, Code::InvalidArgument, what)?;
        ensure!(!subject.has(&blob).await?, "{what}: refused, and stored all the same");
    }
    Ok(())
}

async fn chk_12_a_splice_of_absent_chunks_is_not_found(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let a = subject.fresh(1000);
    let absent = subject.fresh(2000);
    let blob = subject.digest(&[&a[..], &absent[..]].concat());
    let chunks = [subject.put(&a).await?, subject.digest(&absent)];
    refused_as(splice(subject, &blob, &chunks).await, Code::NotFound, "an absent chunk")?;
    ensure!(!subject.has(&blob).await?, "refused, and stored all the same");
    Ok(())
}

async fn chk_13_a_splice_of_what_is_there_is_fine(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let (chunks, whole, blob) = two(subject).await?;
    subject.put(&whole).await?;
    match splice(subject, &blob, &chunks).await {
        Ok(digest) => ensure_eq!(digest, Some(blob.to_wire()), "blob_digest"),
        Err(status) if status.code() == Code::AlreadyExists && !subject.is_own() => {}
        Err(status) => return Err(status.into()),
    }
    ensure!(subject.get(&blob).await? == whole, "other bytes came back");
    Ok(())
}

async fn chk_13_a_splice_of_what_is_there_from_absent_chunks_says_so(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let (_, whole, blob) = two(subject).await?;
    subject.put(&whole).await?;
    let elsewhere = [subject.digest(&whole[..1500]), subject.digest(&whole[1500..])];
    refused_as(splice(subject, &blob, &elsewhere).await, Code::AlreadyExists, "of absent chunks")?;
    Ok(())
}

async fn chk_16_how_a_spliced_blob_was_cut_is_not_asked(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let (chunks, whole, blob) = two(subject).await?;
    // An announced function that would never cut here.
    let cache = subject.cache()?;
    let named =
        [(cache.fast_cdc_2020_params.is_some(), FAST_CDC), (cache.rep_max_cdc_params.is_some(), REP_MAX_CDC)];
    let chunking_function = named.iter().find(|(is_offered, _)| *is_offered).map_or(0, |(_, number)| *number);
    let request = reapi::SpliceBlobRequest { chunking_function, ..splice_request(subject, &blob, &chunks) };
    // A server may check it, though it need not; ours does not.
    match subject.cas().splice_blob(request).await {
        Err(status) if !subject.is_own() => {
            ensure_eq!(status.code(), Code::InvalidArgument, "chunks that are cut otherwise");
            splice(subject, &blob, &chunks).await?;
        }
        outcome => _ = outcome?,
    }
    ensure!(subject.get(&blob).await? == whole, "other bytes came back");
    Ok(())
}

async fn chk_17_a_spliced_blob_is_read_like_any_other(subject: &Subject) -> Verdict {
    needs_splice(subject)?;
    let (chunks, whole, blob) = two(subject).await?;
    ensure_eq!(splice(subject, &blob, &chunks).await?, Some(blob.to_wire()), "blob_digest");
    ensure!(subject.has(&blob).await?, "the blob is not found");
    ensure!(subject.get(&blob).await? == whole, "other bytes came back");
    let part = subject.read(&subject.read_name(&blob), 900, 200).await?;
    ensure!(part == whole.slice(900..1100), "other bytes came back from across a cut");
    let read = subject
        .batch_read(blob.function(), vec![blob.to_wire()], vec![wire(wardian_proto::Compressor::Identity)])
        .await?;
    ensure!(read.len() == 1 && read[0].data == whole, "other bytes came back in a batch");
    Ok(())
}

async fn chk_20_announced_chunkings_are_used(subject: &Subject) -> Verdict {
    let cache = needs_split(subject)?;
    let (fast, rep_max) = (cache.fast_cdc_2020_params.is_some(), cache.rep_max_cdc_params.is_some());
    let (_, blob) = large(subject).await?;
    for (number, is_offered) in [(FAST_CDC, fast), (REP_MAX_CDC, rep_max)] {
        let used = split(subject, &blob, number).await?.chunking_function;
        ensure!(used != number || is_offered, "chunking {number} is used, and not announced");
        // A wish that can be met need not be; ours is.
        ensure!(
            used == number || !is_offered || !subject.is_own(),
            "chunking {number} is announced: {used} was used"
        );
    }
    Ok(())
}

async fn chk_21_fast_cdc_cuts_where_its_reference_does(subject: &Subject) -> Verdict {
    use fastcdc::v2020::{FastCDC, Normalization};
    let params = needs_split(subject)?.fast_cdc_2020_params;
    let params = params.ok_or_else(|| Stop::skipped("fast_cdc_2020_params are not announced"))?;
    let average = u32::try_from(params.avg_chunk_size_bytes).unwrap_or(u32::MAX);
    ensure!((1024..=1 << 20).contains(&average), "avg_chunk_size_bytes is {average}");
    let (data, blob) = large(subject).await?;
    let response = split(subject, &blob, FAST_CDC).await?;
    if response.chunking_function != FAST_CDC {
        return Err(Stop::skipped("the server chose another chunking"));
    }
    let level = Normalization::Level2;
    let seed = u64::from(params.seed);
    let reference = FastCDC::with_level_and_seed(&data, average / 4, average, average * 4, level, seed);
    let expected: Vec<i64> = reference.map(|chunk| super::super::calls::size_of(chunk.length)).collect();
    let sizes: Vec<i64> = response.chunk_digests.iter().map(|chunk| chunk.size_bytes).collect();
    ensure_eq!(sizes, expected, "sizes of the chunks");
    Ok(())
}

async fn chk_22_rep_max_cdc_keeps_its_sizes(subject: &Subject) -> Verdict {
    let params = needs_split(subject)?.rep_max_cdc_params;
    let params = params.ok_or_else(|| Stop::skipped("rep_max_cdc_params are not announced"))?;
    let min = i64::try_from(params.min_chunk_size_bytes).unwrap_or(i64::MAX);
    ensure!(min >= 64, "min_chunk_size_bytes is {min}");
    let (data, blob) = large(subject).await?;
    let response = split(subject, &blob, REP_MAX_CDC).await?;
    if response.chunking_function != REP_MAX_CDC {
        return Err(Stop::skipped("the server chose another chunking"));
    }
    let sizes: Vec<i64> = response.chunk_digests.iter().map(|chunk| chunk.size_bytes).collect();
    ensure!(sizes.iter().all(|size| (min..2 * min).contains(size)), "min {min}, sizes {sizes:?}");
    ensure_eq!(sizes.iter().sum::<i64>(), super::super::calls::size_of(data.len()), "size of all chunks");
    Ok(())
}
