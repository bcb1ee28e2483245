//! ByteStream Read.

use std::io::Read as _;

use tonic::Code;
use wardian_proto::{Compressor, Digest};

use super::super::calls::size_of;
use super::super::codec::decode;
use super::super::outcome::{ensure, ensure_eq, refused_as, told};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(bs_20_an_absent_blob_is_not_found: "BS-20"),
    check!(bs_21_offsets_beyond_the_blob_are_out_of_range: "BS-21"),
    check!(bs_22_limits_cap_the_whole_read: "BS-22"),
    check!(bs_22_a_negative_limit_is_refused: "BS-22"),
    check!(bs_23_an_encoded_read_has_no_limit: "BS-23"),
    check!(bs_24_offsets_of_encoded_reads_count_decoded_bytes: "BS-24"),
    check!(bs_27_an_encoded_read_of_nothing_is_a_stream: "BS-27").own(),
    check!(bs_28_deflate_has_no_frame: "BS-28"),
];

async fn bs_20_an_absent_blob_is_not_found(subject: &Subject) -> Verdict {
    for size in [10, 90_000] {
        let absent = subject.digest(&subject.fresh(size));
        refused_as(subject.get(&absent).await, Code::NotFound, &format!("{absent}"))?;
        for compressor in subject.compressors().unwrap_or_default() {
            let name = subject.encoded_read_name(compressor, &absent);
            refused_as(subject.read(&name, 0, 0).await, Code::NotFound, &name)?;
        }
    }
    Ok(())
}

async fn bs_21_offsets_beyond_the_blob_are_out_of_range(subject: &Subject) -> Verdict {
    for size in [100, 90_000] {
        let data = subject.fresh(size);
        let name = subject.read_name(&subject.put(&data).await?);
        let end = size_of(size);
        for offset in [-1, end + 1, i64::MAX, i64::MIN] {
            let outcome = subject.read(&name, offset, 0).await;
            refused_as(outcome, Code::OutOfRange, &format!("offset {offset} of {size} bytes"))?;
        }
        ensure!(subject.read(&name, end, 0).await?.is_empty(), "bytes come from behind the end");
        for offset in [1, size / 2, size - 1] {
            let read = subject.read(&name, size_of(offset), 0).await?;
            ensure!(read == data.slice(offset..), "offset {offset} of {size} bytes: other bytes came");
        }
    }
    Ok(())
}

async fn bs_22_limits_cap_the_whole_read(subject: &Subject) -> Verdict {
    let size = 90_000;
    let data = subject.fresh(size);
    let name = subject.read_name(&subject.put(&data).await?);
    for (offset, limit) in [(0, 1), (0, size), (10, 80_000), (size - 1, 5), (0, size + 9), (size, 5)] {
        let what = format!("offset {offset}, limit {limit} of {size} bytes");
        let read = subject.read(&name, size_of(offset), size_of(limit)).await;
        let read = read.map_err(|status| Stop::failed(format!("{what}: {}", told(&status))))?;
        let expected = data.slice(offset..size.min(offset + limit));
        ensure!(read == expected, "{what}: {} bytes came", read.len());
    }
    Ok(())
}

async fn bs_22_a_negative_limit_is_refused(subject: &Subject) -> Verdict {
    let name = subject.read_name(&subject.put(&subject.fresh(100)).await?);
    subject.chose(subject.read(&name, 0, -1).await, Code::InvalidArgument, "limit -1")?;
    Ok(())
}

async fn bs_23_an_encoded_read_has_no_limit(subject: &Subject) -> Verdict {
    let stored = subject.put(&subject.fresh_text(1000)).await?;
    for compressor in subject.compressors()? {
        let name = subject.encoded_read_name(compressor, &stored);
        refused_as(subject.read(&name, 0, 10).await, Code::InvalidArgument, &name)?;
    }
    Ok(())
}

async fn bs_24_offsets_of_encoded_reads_count_decoded_bytes(subject: &Subject) -> Verdict {
    let size = 80_000;
    let data = subject.fresh_text(size);
    let stored = subject.put(&data).await?;
    for compressor in subject.compressors()? {
        let name = subject.encoded_read_name(compressor, &stored);
        for offset in [0, 1, 50_000, size - 1] {
            let read = subject.read(&name, size_of(offset), 0).await?;
            let decoded = decode(compressor, &read)
                .map_err(|error| Stop::failed(format!("{name} from {offset}: {error}")))?;
            ensure!(decoded == data.slice(offset..), "{name} from {offset}: other bytes came");
        }
        for offset in [-1, size_of(size) + 1] {
            refused_as(
                subject.read(&name, offset, 0).await,
                Code::OutOfRange,
                &format!("{name} from {offset}"),
            )?;
        }
    }
    Ok(())
}

async fn bs_27_an_encoded_read_of_nothing_is_a_stream(subject: &Subject) -> Verdict {
    let stored = subject.put(&subject.fresh(1000)).await?;
    for compressor in subject.compressors()? {
        for (digest, offset) in [(Digest::empty(subject.function()), 0), (stored, 1000)] {
            let name = subject.encoded_read_name(compressor, &digest);
            let read = subject.read(&name, offset, 0).await?;
            ensure!(!read.is_empty(), "{name} from {offset}: no byte came, which is no stream");
            let decoded =
                decode(compressor, &read).map_err(|error| Stop::failed(format!("{name}: {error}")))?;
            ensure_eq!(decoded.len(), 0, "{name} from {offset}: bytes");
        }
    }
    Ok(())
}

async fn bs_28_deflate_has_no_frame(subject: &Subject) -> Verdict {
    if !subject.compressors()?.contains(&Compressor::Deflate) {
        return Err(Stop::skipped("DEFLATE is not announced"));
    }
    let data = subject.fresh_text(5000);
    let stored = subject.put(&data).await?;
    let read = subject.read(&subject.encoded_read_name(Compressor::Deflate, &stored), 0, 0).await?;
    let mut decoded = Vec::new();
    let outcome = flate2::read::DeflateDecoder::new(&read[..]).read_to_end(&mut decoded);
    ensure!(outcome.is_ok() && decoded == data, "the bare format does not decode it: {outcome:?}");
    ensure!(!read.starts_with(b"\x1f\x8b"), "it begins like gzip");
    Ok(())
}
