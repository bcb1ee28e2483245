//! Look-ups and batches.

use bytes::Bytes;
use tonic::Code;
use wardian_proto::reapi::batch_update_blobs_request::Request as Entry;
use wardian_proto::{Compressor, Digest, reapi};

use super::super::calls::{code_of, entry, messages, size_of, wire};
use super::super::codec::{decode, encode};
use super::super::outcome::{ensure, ensure_eq, refused_as};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

/// A compressor that nobody has thought of yet.
const UNKNOWN_COMPRESSOR: i32 = 77;

/// Largest batch that is worth sending to find out about a limit.
const PROBED_BATCH_BYTES_MAX: usize = 8 << 20;

/// The bytes that a client takes in one message unless it is told otherwise.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

pub(super) const CHECKS: &[Check] = &[
    check!(cas_01_the_empty_blob_is_always_there: "CAS-01"),
    check!(cas_01_the_empty_blob_is_an_input_root_and_an_input: "CAS-01"),
    check!(cas_04_blobs_are_served_in_every_announced_encoding: "CAS-04"),
    check!(cas_05_nothing_is_visible_before_it_is_verified: "CAS-05"),
    check!(cas_06_one_blob_is_uploaded_in_many_ways_at_once: "CAS-06"),
    check!(cas_10_a_look_up_names_exactly_what_is_missing: "CAS-10"),
    check!(cas_10_a_look_up_keeps_the_order_and_names_each_once: "CAS-10").own(),
    check!(cas_11_an_empty_look_up_has_an_empty_answer: "CAS-11"),
    check!(cas_12_a_look_up_takes_many_digests: "CAS-12").own(),
    check!(cas_20_an_update_beyond_the_limit_is_refused_whole: "CAS-20"),
    check!(cas_21_entries_of_an_update_succeed_and_fail_apart: "CAS-21", "CAS-22", "CAS-23"),
    check!(cas_24_entries_may_be_encoded_as_announced: "CAS-24"),
    check!(cas_24_encodings_that_are_not_announced_are_refused: "CAS-24"),
    check!(cas_25_entries_above_the_announced_size_are_refused: "CAS-25"),
    check!(cas_26_encoded_entries_count_as_what_they_become: "CAS-26").own(),
    check!(cas_27_entries_that_decode_to_too_much_are_refused: "CAS-27"),
    check!(cas_30_a_read_beyond_the_limit_is_refused_whole: "CAS-30"),
    check!(cas_31_absent_blobs_fail_alone: "CAS-31", "CAS-33"),
    check!(cas_32_entries_come_in_an_accepted_encoding: "CAS-32"),
    check!(cas_34_replies_of_many_blobs_fit_a_message: "CAS-34"),
];

async fn cas_01_the_empty_blob_is_always_there(subject: &Subject) -> Verdict {
    for function in subject.functions() {
        let name = function.wire().as_str_name();
        let empty = Digest::empty(function);
        ensure!(subject.has(&empty).await?, "{name}: FindMissingBlobs lists the empty blob");
        let read = subject.batch_read(function, vec![empty.to_wire()], vec![]).await?;
        ensure_eq!(read.len(), 1, "{name}: responses of BatchReadBlobs");
        ensure_eq!(code_of(read[0].status.as_ref()), Code::Ok, "{name}: BatchReadBlobs");
        ensure!(read[0].data.is_empty(), "{name}: the empty blob has data");
        ensure!(subject.get(&empty).await?.is_empty(), "{name}: the empty blob has data");
        let updated = subject.update_as(function, vec![entry(empty.to_wire(), Bytes::new())]).await?;
        ensure!(updated.iter().all(|r| code_of(r.status.as_ref()) == Code::Ok), "{name}: {updated:?}");
        let committed = subject.write(messages(&subject.write_name(&empty), &Bytes::new(), 1)).await?;
        ensure_eq!(committed, 0, "{name}: committed size of the empty blob");
    }
    Ok(())
}

async fn cas_01_the_empty_blob_is_an_input_root_and_an_input(subject: &Subject) -> Verdict {
    subject.executes()?;
    for action in [subject.script("true"), subject.script("test -f empty").file("empty", "")] {
        let mut built = action.platform(&subject.platform_and(&[])).build();
        // Nobody needs to upload it.
        built.blobs.retain(|(digest, _)| !digest.is_empty_blob());
        subject.put_all(&built.blobs).await?;
        let ended = subject.execute(&built).await?;
        ensure_eq!((ended.refusal(), ended.result().exit_code), (None, 0), "what came of the action");
    }
    Ok(())
}

async fn cas_04_blobs_are_served_in_every_announced_encoding(subject: &Subject) -> Verdict {
    let announced = subject.compressors()?;
    let forms: Vec<_> = [Compressor::Identity].into_iter().chain(announced.iter().copied()).collect();
    for &sent in &forms {
        let data = subject.fresh_text(40_000);
        let digest = subject.digest(&data);
        let encoded = encode(sent, &data);
        let name = match sent {
            Compressor::Identity => subject.write_name(&digest),
            other => subject.encoded_write_name(other, &digest),
        };
        subject.write(messages(&name, &encoded, 5000)).await?;
        ensure!(subject.get(&digest).await? == data, "sent as {sent:?}: other bytes came back");
        for &form in &announced {
            let read = subject.read(&subject.encoded_read_name(form, &digest), 0, 0).await?;
            let decoded = decode(form, &read).map_err(|e| Stop::failed(format!("read as {form:?}: {e}")))?;
            ensure!(decoded == data, "sent as {sent:?}, read as {form:?}: other bytes came back");
        }
    }
    Ok(())
}

async fn cas_05_nothing_is_visible_before_it_is_verified(subject: &Subject) -> Verdict {
    let (data, other) = (subject.fresh(5000), subject.fresh(5000));
    let digest = subject.digest(&data);
    let updated = subject.update(vec![entry(digest.to_wire(), other.clone())]).await?;
    ensure_eq!(updated, [Code::InvalidArgument], "other bytes in a batch");
    let written = subject.write(messages(&subject.write_name(&digest), &other, 1000)).await;
    refused_as(written, Code::InvalidArgument, "other bytes in a write")?;
    for compressor in subject.compressors().unwrap_or_default() {
        let name = subject.encoded_write_name(compressor, &digest);
        let written = subject.write(messages(&name, &encode(compressor, &other), 1000)).await;
        refused_as(written, Code::InvalidArgument, &format!("other bytes as {compressor:?}"))?;
    }
    ensure!(!subject.has(&digest).await?, "the blob is found, and nobody sent it");
    ensure!(subject.get(&digest).await.is_err(), "the blob is read, and nobody sent it");
    Ok(())
}

async fn cas_06_one_blob_is_uploaded_in_many_ways_at_once(subject: &Subject) -> Verdict {
    let data = subject.fresh_text(90_000);
    let digest = subject.digest(&data);
    let plain = (0..4).map(|_| (subject.write_name(&digest), data.clone()));
    let compressors = subject.compressors().unwrap_or_default();
    let encoded = compressors.iter().map(|c| (subject.encoded_write_name(*c, &digest), encode(*c, &data)));
    let uploads = plain
        .chain(encoded)
        .map(|(name, sent)| async move { subject.write(messages(&name, &sent, 7000)).await });
    for outcome in futures::future::join_all(uploads).await {
        outcome?;
    }
    ensure!(subject.get(&digest).await? == data, "other bytes came back");
    Ok(())
}

async fn cas_10_a_look_up_names_exactly_what_is_missing(subject: &Subject) -> Verdict {
    let small = subject.put(&subject.fresh(20)).await?.to_wire();
    let large = subject.put(&subject.fresh(90_000)).await?.to_wire();
    let absent = [subject.fresh(20), subject.fresh(20)].map(|data| subject.digest(&data).to_wire());
    let asked = [absent[0].clone(), small.clone(), absent[1].clone(), large, small];
    let mut missing = subject.missing(&asked).await?;
    missing.sort_by(|a, b| a.hash.cmp(&b.hash));
    missing.dedup();
    let mut expected = absent.to_vec();
    expected.sort_by(|a, b| a.hash.cmp(&b.hash));
    ensure_eq!(missing, expected, "missing blobs");
    Ok(())
}

async fn cas_10_a_look_up_keeps_the_order_and_names_each_once(subject: &Subject) -> Verdict {
    let stored = subject.put(&subject.fresh(20)).await?.to_wire();
    let [a, b] = [subject.fresh(20), subject.fresh(20)].map(|data| subject.digest(&data).to_wire());
    let asked = [b.clone(), stored, a.clone(), b.clone(), a.clone()];
    ensure_eq!(subject.missing(&asked).await?, [b, a], "missing blobs");
    Ok(())
}

async fn cas_11_an_empty_look_up_has_an_empty_answer(subject: &Subject) -> Verdict {
    ensure_eq!(subject.missing(&[]).await?, [], "missing of nothing");
    Ok(())
}

async fn cas_12_a_look_up_takes_many_digests(subject: &Subject) -> Verdict {
    let stored = subject.put(&subject.fresh(20)).await?.to_wire();
    let unique = subject.fresh_name();
    let mut asked: Vec<_> =
        (0..20_000).map(|i| subject.digest(format!("{unique} {i}").as_bytes()).to_wire()).collect();
    asked.push(stored);
    ensure_eq!(subject.missing(&asked).await?.len(), 20_000, "number of missing blobs");
    Ok(())
}

/// The announced limit of a batch, when there is one and reaching it is no burden.
fn batch_limit(subject: &Subject) -> Result<usize, Stop> {
    let limit = usize::try_from(subject.cache()?.max_batch_total_size_bytes).unwrap_or(0);
    let limit = Some(limit).filter(|limit| (1..=PROBED_BATCH_BYTES_MAX).contains(limit));
    limit.ok_or_else(|| Stop::skipped("max_batch_total_size_bytes is 0 or very large"))
}

async fn cas_20_an_update_beyond_the_limit_is_refused_whole(subject: &Subject) -> Verdict {
    let limit = batch_limit(subject)?;
    // A server need not take messages larger than this, whatever it announces.
    if limit + 1024 > MESSAGE_BYTES_MAX {
        return Err(Stop::skipped("a batch beyond the announced limit does not fit a message"));
    }
    let halves = [subject.fresh(limit / 2), subject.fresh(limit - limit / 2)];
    let mut entries: Vec<_> =
        halves.iter().map(|data| entry(subject.digest(data).to_wire(), data.clone())).collect();
    let one_more = subject.fresh(1);
    let over = [&entries[..], &[entry(subject.digest(&one_more).to_wire(), one_more)]].concat();
    refused_as(subject.update(over).await, Code::InvalidArgument, "a batch of a byte too many")?;
    ensure_eq!(subject.update(std::mem::take(&mut entries)).await?, [Code::Ok; 2], "a batch up to the limit");
    Ok(())
}

async fn cas_21_entries_of_an_update_succeed_and_fail_apart(subject: &Subject) -> Verdict {
    let (good, twin) = (subject.fresh(1000), subject.fresh(1000));
    let digest = subject.digest(&good);
    let longer = reapi::Digest { size_bytes: 1001, ..digest.to_wire() };
    let requests = vec![
        entry(subject.digest(&twin).to_wire(), good.clone()),
        entry(digest.to_wire(), good.clone()),
        entry(longer, good.clone()),
        entry(digest.to_wire(), good.clone()),
    ];
    let responses = subject.update_as(subject.function(), requests.clone()).await?;
    ensure_eq!(responses.len(), requests.len(), "number of responses");
    for request in &requests {
        let is_same = |digest: &Option<reapi::Digest>| *digest == request.digest;
        let answers = responses.iter().filter(|response| is_same(&response.digest)).count();
        let asked = requests.iter().filter(|request| is_same(&request.digest)).count();
        ensure_eq!(answers, asked, "responses with the digest {:?}", request.digest);
    }
    let code = |wanted: &reapi::Digest| {
        let found = responses.iter().find(|response| response.digest.as_ref() == Some(wanted));
        found.map(|response| code_of(response.status.as_ref()))
    };
    ensure_eq!(code(&digest.to_wire()), Some(Code::Ok), "the good entry");
    let refused = requests[0].digest.as_ref().and_then(code);
    ensure_eq!(refused, Some(Code::InvalidArgument), "an entry with other data");
    let refused = requests[2].digest.as_ref().and_then(code);
    ensure_eq!(refused, Some(Code::InvalidArgument), "an entry with another size");
    let in_order = responses.iter().zip(&requests).all(|(a, b)| a.digest == b.digest);
    ensure!(in_order || !subject.is_own(), "responses are in another order than requests");
    let again = subject.update(vec![entry(digest.to_wire(), good)]).await?;
    ensure_eq!(again, [Code::Ok], "an entry that is stored already");
    ensure!(subject.has(&digest).await?, "the good entry is not stored");
    ensure!(!subject.has(&subject.digest(&twin)).await?, "the blob of the bad entry is stored");
    Ok(())
}

fn encoded_entry(subject: &Subject, compressor: Compressor, data: &Bytes) -> Entry {
    let encoded = encode(compressor, data);
    Entry { compressor: wire(compressor), ..entry(subject.digest(data).to_wire(), encoded) }
}

async fn cas_24_entries_may_be_encoded_as_announced(subject: &Subject) -> Verdict {
    for compressor in subject.batch_compressors()? {
        let data = subject.fresh_text(5000);
        let updated = subject.update(vec![encoded_entry(subject, compressor, &data)]).await?;
        ensure_eq!(updated, [Code::Ok], "an entry as {compressor:?}");
        ensure!(subject.get(&subject.digest(&data)).await? == data, "{compressor:?}: other bytes came back");
        // Named by what is sent instead of by what it becomes.
        let encoded = encode(compressor, &subject.fresh_text(5000));
        let wrong = Entry {
            compressor: wire(compressor),
            ..entry(subject.digest(&encoded).to_wire(), encoded.clone())
        };
        let updated = subject.update(vec![wrong]).await?;
        ensure_eq!(updated, [Code::InvalidArgument], "{compressor:?}, named by the encoded bytes");
        ensure!(
            !subject.has(&subject.digest(&encoded)).await?,
            "{compressor:?}: the encoded bytes are stored"
        );
    }
    Ok(())
}

async fn cas_24_encodings_that_are_not_announced_are_refused(subject: &Subject) -> Verdict {
    let announced = subject.batch_compressors().unwrap_or_default();
    let known = [Compressor::Zstd, Compressor::Deflate, Compressor::Brotli];
    let mut entries: Vec<_> = known
        .into_iter()
        .filter(|compressor| !announced.contains(compressor))
        .map(|compressor| encoded_entry(subject, compressor, &subject.fresh_text(500)))
        .collect();
    let data = subject.fresh(100);
    entries.push(Entry { compressor: UNKNOWN_COMPRESSOR, ..entry(subject.digest(&data).to_wire(), data) });
    for entry in entries {
        let (what, digest) = (format!("an entry of compressor {}", entry.compressor), entry.digest.clone());
        match subject.update(vec![entry]).await {
            Ok(codes) if subject.is_own() => ensure_eq!(codes, [Code::InvalidArgument], "{what}"),
            Ok(codes) => ensure!(codes.iter().all(|code| *code != Code::Ok), "{what}: was taken in"),
            outcome => _ = subject.chose(outcome, Code::InvalidArgument, &what)?,
        }
        ensure_eq!(subject.missing(digest.as_slice()).await?.len(), 1, "{what}: number of missing blobs");
    }
    Ok(())
}

async fn cas_25_entries_above_the_announced_size_are_refused(subject: &Subject) -> Verdict {
    let max = subject.cache()?.max_cas_blob_size_bytes;
    if max <= 0 {
        return Err(Stop::skipped("max_cas_blob_size_bytes is 0"));
    }
    let data = subject.fresh(100);
    let larger = reapi::Digest { size_bytes: max.saturating_add(1), ..subject.digest(&data).to_wire() };
    // It may be too large for any batch as well, which fails the whole call in the same way.
    let code = match subject.update(vec![entry(larger, data)]).await {
        Ok(codes) => codes.first().copied().unwrap_or(Code::Ok),
        Err(status) => status.code(),
    };
    ensure_eq!(code, Code::InvalidArgument, "an entry of max_cas_blob_size_bytes and one more");
    Ok(())
}

async fn cas_26_encoded_entries_count_as_what_they_become(subject: &Subject) -> Verdict {
    let limit = batch_limit(subject)?;
    let compressor = subject.batch_compressors()?[0];
    let data = subject.fresh_text(limit + 1);
    let refused = subject.update(vec![encoded_entry(subject, compressor, &data)]).await;
    refused_as(refused, Code::InvalidArgument, "an entry that becomes larger than a batch may be")?;
    Ok(())
}

async fn cas_27_entries_that_decode_to_too_much_are_refused(subject: &Subject) -> Verdict {
    for compressor in subject.batch_compressors()? {
        let data = subject.fresh(1000);
        let digest = subject.digest(&data);
        let bomb = [&data[..], &vec![0; 20_000_000]].concat();
        let bomb =
            Entry { compressor: wire(compressor), ..entry(digest.to_wire(), encode(compressor, &bomb)) };
        let code = match subject.update(vec![bomb]).await {
            Ok(codes) => codes.first().copied().unwrap_or(Code::Ok),
            Err(status) => status.code(),
        };
        ensure!(code != Code::Ok, "{compressor:?}: a bomb is taken in");
        ensure!(!subject.is_own() || code == Code::InvalidArgument, "{compressor:?}: refused as {code:?}");
        ensure!(!subject.has(&digest).await?, "{compressor:?}: the blob before the bomb is stored");
    }
    Ok(())
}

async fn cas_30_a_read_beyond_the_limit_is_refused_whole(subject: &Subject) -> Verdict {
    let limit = batch_limit(subject)?;
    let halves = [subject.fresh(limit / 2), subject.fresh(limit - limit / 2)];
    let mut digests = Vec::new();
    for data in &halves {
        digests.push(subject.put(data).await?.to_wire());
    }
    let one_more = subject.put(&subject.fresh(100)).await?.to_wire();
    let over = [&digests[..], &[one_more]].concat();
    let refused = subject.batch_read(subject.function(), over, vec![]).await;
    refused_as(refused, Code::InvalidArgument, "a read of more than the limit")?;
    if limit + 1024 > MESSAGE_BYTES_MAX {
        return Ok(());
    }
    let read = subject.batch_read(subject.function(), digests, vec![]).await?;
    for (response, data) in read.iter().zip(&halves) {
        ensure_eq!(code_of(response.status.as_ref()), Code::Ok, "a read up to the limit");
        ensure!(response.data == data, "other bytes came back");
    }
    Ok(())
}

async fn cas_31_absent_blobs_fail_alone(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let stored = subject.put(&data).await?.to_wire();
    let absent = subject.digest(&subject.fresh(1000)).to_wire();
    let asked = vec![absent.clone(), stored.clone()];
    let responses = subject.batch_read(subject.function(), asked, vec![]).await?;
    ensure_eq!(responses.len(), 2, "number of responses");
    let of = |digest: &reapi::Digest| {
        let found = responses.iter().find(|response| response.digest.as_ref() == Some(digest));
        found.ok_or_else(|| Stop::failed("a digest has no response"))
    };
    let (missing, found) = (of(&absent)?, of(&stored)?);
    ensure_eq!(code_of(found.status.as_ref()), Code::Ok, "the blob that is stored");
    ensure!(found.data == data, "other bytes came back");
    let code = code_of(missing.status.as_ref());
    ensure!(code != Code::Ok && missing.data.is_empty(), "an absent blob is served");
    ensure!(!subject.is_own() || code == Code::NotFound, "an absent blob is {code:?}");
    Ok(())
}

async fn cas_32_entries_come_in_an_accepted_encoding(subject: &Subject) -> Verdict {
    let data = subject.fresh_text(9000);
    let digest = subject.put(&data).await?.to_wire();
    let all = [Compressor::Zstd, Compressor::Deflate, Compressor::Brotli];
    let accepted = all.iter().map(|compressor| vec![*compressor]).chain([vec![], all.to_vec()]);
    for compressors in accepted {
        let mut numbers: Vec<i32> = compressors.iter().copied().map(wire).collect();
        if subject.is_own() {
            numbers.push(UNKNOWN_COMPRESSOR);
        }
        let read = subject.batch_read(subject.function(), vec![digest.clone()], numbers.clone()).await?;
        ensure_eq!(read.len(), 1, "number of responses");
        ensure_eq!(code_of(read[0].status.as_ref()), Code::Ok, "accepting {numbers:?}");
        let used =
            compressors.iter().chain(&[Compressor::Identity]).find(|c| wire(**c) == read[0].compressor);
        let used = used.ok_or_else(|| {
            Stop::failed(format!("accepting {numbers:?}, it came as {}", read[0].compressor))
        })?;
        let decoded =
            decode(*used, &read[0].data).map_err(|error| Stop::failed(format!("{used:?}: {error}")))?;
        ensure!(decoded == data, "{used:?}: other bytes came back");
    }
    Ok(())
}

async fn cas_34_replies_of_many_blobs_fit_a_message(subject: &Subject) -> Verdict {
    // Within the limit by their sizes, and possibly beyond a message with what each entry costs.
    const BLOB_BYTES: usize = 200;
    let count = (subject.batch_bytes_max().min(MESSAGE_BYTES_MAX) / (BLOB_BYTES + 1)).min(9000);
    let blobs: Vec<_> =
        (0..count).map(|_| subject.fresh(BLOB_BYTES)).map(|data| (subject.digest(&data), data)).collect();
    // Requests have overhead too, so they go in smaller batches.
    for some in blobs.chunks(1000) {
        subject.put_all(some).await?;
    }
    let asked = blobs.iter().map(|(digest, _)| digest.to_wire()).collect();
    // The client takes 4 MiB; a larger reply would fail here.
    let responses = subject.batch_read(subject.function(), asked, vec![]).await?;
    ensure_eq!(responses.len(), count, "number of responses");
    let served = responses.iter().filter(|response| code_of(response.status.as_ref()) == Code::Ok).count();
    ensure!(served > 0, "none of {count} blobs is served");
    ensure_eq!(size_of(responses[0].data.len()), size_of(BLOB_BYTES), "size of the first blob");
    Ok(())
}
