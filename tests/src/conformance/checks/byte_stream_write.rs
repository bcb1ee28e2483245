//! ByteStream Write and QueryWriteStatus.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tonic::Code;
use wardian_proto::bytestream::WriteRequest;
use wardian_proto::{Compressor, Digest};

use super::super::calls::{messages, size_of};
use super::super::codec::encode;
use super::super::outcome::{ensure, ensure_eq, refused_as, told};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(bs_40_the_name_may_be_repeated_and_not_changed: "BS-40"),
    check!(bs_40_a_write_without_a_name_is_refused: "BS-40"),
    check!(bs_41_an_offset_that_does_not_follow_is_refused: "BS-41"),
    check!(bs_42_offsets_of_encoded_writes_count_the_bytes_sent: "BS-42"),
    check!(bs_43_an_upload_without_its_end_is_not_complete: "BS-43"),
    check!(bs_43_what_follows_the_end_changes_nothing: "BS-43"),
    check!(bs_44_the_committed_size_is_what_was_stored_or_sent: "BS-44"),
    check!(bs_45_early_end_of_write: "BS-45"),
    check!(bs_45_early_end_of_compressed_write: "BS-45"),
    check!(bs_45_a_blob_that_comes_meanwhile_ends_the_others_well: "BS-45"),
    check!(bs_46_other_bytes_are_refused: "BS-46"),
    check!(bs_46_encoded_bytes_that_become_something_else_are_refused: "BS-46"),
    check!(bs_47_an_endless_upload_is_refused_before_its_end: "BS-47"),
    check!(bs_48_a_name_above_the_announced_size_is_refused_before_any_data: "BS-48"),
    check!(bs_50_messages_without_data_keep_an_upload_alive: "BS-50"),
    check!(bs_51_the_empty_blob_is_written_in_one_message: "BS-51"),
    check!(bs_60_an_upload_that_nobody_began_is_not_found: "BS-60", "BS-64"),
    check!(bs_61_the_committed_size_never_shrinks: "BS-61"),
    check!(bs_62_only_a_finished_upload_is_complete: "BS-62"),
    check!(bs_62_a_stored_blob_is_complete_under_any_id: "BS-62").own(),
    check!(bs_63_an_upload_goes_on_at_the_committed_size: "BS-63"),
    check!(bs_64_parts_of_uploads_are_not_kept: "BS-64").own(),
];

/// Sizes on both sides of where servers change from one way of storing to another.
const SIZES: [usize; 2] = [1000, 90_000];

async fn bs_40_the_name_may_be_repeated_and_not_changed(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let name = subject.write_name(&subject.digest(&data));
        let mut repeated = messages(&name, &data, size / 4);
        for message in &mut repeated {
            message.resource_name.clone_from(&name);
        }
        ensure_eq!(subject.write(repeated).await?, size_of(size), "committed size, with the name repeated");
        let data = subject.fresh(size);
        let digest = subject.digest(&data);
        let mut changed = messages(&subject.write_name(&digest), &data, size / 4);
        changed[2].resource_name = subject.write_name(&subject.digest(b"other"));
        subject.chose(subject.write(changed).await, Code::InvalidArgument, "a name that changes")?;
        ensure!(!subject.has(&digest).await?, "the write was refused, and its blob is stored all the same");
    }
    Ok(())
}

async fn bs_40_a_write_without_a_name_is_refused(subject: &Subject) -> Verdict {
    let data = subject.fresh(100);
    let nameless = messages("", &data, 100);
    subject.chose(subject.write(nameless).await, Code::InvalidArgument, "a write without a name")?;
    Ok(())
}

async fn bs_41_an_offset_that_does_not_follow_is_refused(subject: &Subject) -> Verdict {
    for size in SIZES {
        for (message, offset) in [(0, 1), (2, 0), (2, size / 2 + 1), (3, size)] {
            let data = subject.fresh(size);
            let digest = subject.digest(&data);
            let mut wrong = messages(&subject.write_name(&digest), &data, size / 4);
            wrong[message].write_offset = size_of(offset);
            let what = format!("offset {offset} in message {message} of {size} bytes");
            subject.chose(subject.write(wrong).await, Code::InvalidArgument, &what)?;
            ensure!(!subject.has(&digest).await?, "{what}: refused, and stored all the same");
        }
    }
    Ok(())
}

async fn bs_42_offsets_of_encoded_writes_count_the_bytes_sent(subject: &Subject) -> Verdict {
    for compressor in subject.compressors()? {
        // Bytes that hardly shrink, so that there are several messages.
        let data = subject.fresh(60_000);
        let digest = subject.digest(&data);
        let encoded = encode(compressor, &data);
        let name = subject.encoded_write_name(compressor, &digest);
        let mut wrong = messages(&name, &encoded, 10_000);
        wrong[2].write_offset += 1;
        let refused = subject.write(wrong).await;
        subject.chose(refused, Code::InvalidArgument, &format!("{name}: an offset that does not follow"))?;
        ensure!(!subject.has(&digest).await?, "{name}: refused, and stored all the same");
        subject.write(messages(&name, &encoded, 10_000)).await?;
        ensure!(subject.get(&digest).await? == data, "{name}: other bytes came back");
    }
    Ok(())
}

async fn bs_43_an_upload_without_its_end_is_not_complete(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let digest = subject.digest(&data);
        let mut all = messages(&subject.write_name(&digest), &data, size / 4);
        all.last_mut().expect("there are some").finish_write = false;
        // A server that keeps parts may say how many; none may say that the blob is there.
        for some in [all[..2].to_vec(), all] {
            let committed = subject.write(some).await?;
            ensure!((0..=size_of(size)).contains(&committed), "committed size {committed} of {size}");
            ensure!(!subject.has(&digest).await?, "stored without finish_write");
        }
    }
    Ok(())
}

async fn bs_43_what_follows_the_end_changes_nothing(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let digest = subject.digest(&data);
    let mut more = messages(&subject.write_name(&digest), &data, 100);
    more.push(WriteRequest { write_offset: 1000, data: Bytes::from_static(b"more"), ..Default::default() });
    // A server may have answered before the message came, so both are right.
    match subject.write(more).await {
        Ok(committed) => {
            ensure_eq!(committed, 1000, "committed size");
            ensure!(subject.get(&digest).await? == data, "other bytes came back");
        }
        Err(status) => {
            let is_chosen = !subject.is_own() || status.code() == Code::InvalidArgument;
            ensure!(is_chosen, "refused as {}", told(&status));
        }
    }
    Ok(())
}

async fn bs_44_the_committed_size_is_what_was_stored_or_sent(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let name = subject.write_name(&subject.digest(&data));
        ensure_eq!(subject.write(messages(&name, &data, size / 3)).await?, size_of(size), "as it is");
        for compressor in subject.compressors().unwrap_or_default() {
            let data = subject.fresh_text(size);
            let encoded = encode(compressor, &data);
            let name = subject.encoded_write_name(compressor, &subject.digest(&data));
            let committed = subject.write(messages(&name, &encoded, 500)).await?;
            ensure_eq!(committed, size_of(encoded.len()), "as {compressor:?}");
        }
    }
    Ok(())
}

/// Sends messages, and leaves the client's side open.
async fn write_on(subject: &Subject, sent: Vec<WriteRequest>) -> Result<i64, tonic::Status> {
    let open = stream::iter(sent).chain(stream::pending());
    Ok(subject.byte_stream().write(open).await?.into_inner().committed_size)
}

async fn bs_45_early_end_of_write(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let digest = subject.put(&data).await?;
        let whole = messages(&subject.write_name(&digest), &data, size / 4);
        // The rest never comes.
        let committed = write_on(subject, whole[..1].to_vec()).await?;
        ensure_eq!(committed, size_of(size), "committed size of what is stored, after a quarter of it");
        // A client that sends on without looking gets the same answer.
        ensure_eq!(subject.write(whole).await?, size_of(size), "committed size of what is stored");
        let one = messages(&subject.write_name(&digest), &data, size);
        ensure_eq!(
            subject.write(one).await?,
            size_of(size),
            "committed size of what is stored, in one message"
        );
    }
    Ok(())
}

async fn bs_45_early_end_of_compressed_write(subject: &Subject) -> Verdict {
    for compressor in subject.compressors()? {
        for size in SIZES {
            let data = subject.fresh(size);
            let digest = subject.put(&data).await?;
            let encoded = encode(compressor, &data);
            let name = || subject.encoded_write_name(compressor, &digest);
            let whole = messages(&name(), &encoded, size / 4);
            let what = format!("{} of {size} bytes", compressor.name());
            let committed = write_on(subject, whole[..1].to_vec()).await?;
            ensure_eq!(committed, -1, "{what}, after a quarter of it");
            ensure_eq!(subject.write(whole).await?, -1, "{what}, all of it");
            let one = messages(&name(), &encoded, encoded.len());
            ensure_eq!(subject.write(one).await?, -1, "{what}, in one message");
        }
    }
    Ok(())
}

async fn bs_45_a_blob_that_comes_meanwhile_ends_the_others_well(subject: &Subject) -> Verdict {
    let forms = subject.compressors().unwrap_or_default();
    for form in [Compressor::Identity].into_iter().chain(forms) {
        let data = subject.fresh(90_000);
        let digest = subject.digest(&data);
        let sent = encode(form, &data);
        let name = match form {
            Compressor::Identity => subject.write_name(&digest),
            other => subject.encoded_write_name(other, &digest),
        };
        let mut slow = messages(&name, &sent, 20_000);
        let rest = slow.split_off(2);
        // The second half of the slow upload comes only once another one is through.
        let (stored, wait) = tokio::sync::oneshot::channel::<()>();
        let late = stream::once(async move { _ = wait.await }).flat_map(move |()| stream::iter(rest.clone()));
        let mut client = subject.byte_stream();
        let upload = client.write(stream::iter(slow).chain(late));
        let other = async {
            let outcome = subject.put(&data).await;
            _ = stored.send(());
            outcome
        };
        let (committed, outcome) = futures::future::join(upload, other).await;
        outcome?;
        let committed = committed?.into_inner().committed_size;
        let expected: &[i64] = match form {
            Compressor::Identity => &[size_of(data.len())],
            _ => &[-1, size_of(sent.len())],
        };
        ensure!(expected.contains(&committed), "{form:?}: committed size {committed}, none of {expected:?}");
        ensure!(subject.get(&digest).await? == data, "{form:?}: other bytes came back");
    }
    Ok(())
}

async fn bs_46_other_bytes_are_refused(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let digest = subject.digest(&data);
        let name = || subject.write_name(&digest);
        let mut changed = data.to_vec();
        changed[size - 1] ^= 1;
        let longer = [&data[..], b"x"].concat();
        for (what, bytes) in [
            ("other bytes", Bytes::from(changed)),
            ("a byte short", data.slice(1..)),
            ("a byte more", Bytes::from(longer)),
            ("no bytes", Bytes::new()),
        ] {
            let outcome = subject.write(messages(&name(), &bytes, size / 4)).await;
            refused_as(outcome, Code::InvalidArgument, &format!("{what} of {size}"))?;
            ensure!(!subject.has(&digest).await?, "{what} of {size}: refused, and stored all the same");
        }
    }
    Ok(())
}

async fn bs_46_encoded_bytes_that_become_something_else_are_refused(subject: &Subject) -> Verdict {
    for compressor in subject.compressors()? {
        let data = subject.fresh(50_000);
        let digest = subject.digest(&data);
        let whole = encode(compressor, &data);
        for (what, bytes) in [
            ("cut", whole.slice(..whole.len() / 2)),
            ("not encoded", data.clone()),
            ("another blob", encode(compressor, &subject.fresh(50_000))),
            ("a byte short", encode(compressor, &data[1..])),
            ("a bomb", encode(compressor, &[&data[..], &vec![0; 20_000_000]].concat())),
            ("nothing", Bytes::new()),
        ] {
            let name = subject.encoded_write_name(compressor, &digest);
            let outcome = subject.write(messages(&name, &bytes, 10_000)).await;
            refused_as(outcome, Code::InvalidArgument, &format!("{}: {what}", compressor.name()))?;
            ensure!(!subject.has(&digest).await?, "{}: {what}: stored all the same", compressor.name());
        }
    }
    Ok(())
}

async fn bs_47_an_endless_upload_is_refused_before_its_end(subject: &Subject) -> Verdict {
    let data = subject.fresh(1000);
    let resource_name = subject.write_name(&subject.digest(&data));
    let endless = stream::unfold(0, move |write_offset| {
        let message = WriteRequest {
            resource_name: resource_name.clone(),
            write_offset,
            data: data.clone(),
            ..Default::default()
        };
        async move { Some((message, write_offset + 1000)) }
    });
    subject.chose(subject.byte_stream().write(endless).await, Code::InvalidArgument, "an endless upload")?;
    Ok(())
}

async fn bs_48_a_name_above_the_announced_size_is_refused_before_any_data(subject: &Subject) -> Verdict {
    let max = u64::try_from(subject.cache()?.max_cas_blob_size_bytes).unwrap_or(0);
    if max == 0 {
        return Err(Stop::skipped("max_cas_blob_size_bytes is 0"));
    }
    let stored = subject.digest(&subject.fresh(100));
    let larger = Digest::from_parts(stored.function(), stored.hash(), max + 1);
    let larger = larger.ok_or_else(|| Stop::skipped("no size is larger than max_cas_blob_size_bytes"))?;
    let first = WriteRequest { resource_name: subject.write_name(&larger), ..Default::default() };
    refused_as(
        write_on(subject, vec![first]).await,
        Code::InvalidArgument,
        "max_cas_blob_size_bytes and one more",
    )?;
    Ok(())
}

async fn bs_50_messages_without_data_keep_an_upload_alive(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let digest = subject.digest(&data);
        let mut all = messages(&subject.write_name(&digest), &data, size / 4);
        let empty =
            |after: &WriteRequest| WriteRequest { write_offset: after.write_offset, ..Default::default() };
        for at in [3, 2, 1] {
            all.insert(at, empty(&all[at]));
        }
        ensure_eq!(subject.write(all).await?, size_of(size), "committed size");
        ensure!(subject.get(&digest).await? == data, "other bytes came back");
    }
    Ok(())
}

async fn bs_51_the_empty_blob_is_written_in_one_message(subject: &Subject) -> Verdict {
    for function in subject.functions() {
        let resource_name = subject.write_name(&Digest::empty(function));
        let message = WriteRequest { resource_name, finish_write: true, ..Default::default() };
        let committed = subject.write(vec![message]).await?;
        ensure_eq!(committed, 0, "committed size by {}", function.wire().as_str_name());
    }
    Ok(())
}

/// The state of an upload; a server that knows nothing of it may say so instead.
async fn state(subject: &Subject, name: &str) -> Result<(i64, bool), Stop> {
    match subject.query(name).await {
        Ok(state) => Ok(state),
        Err(status) if status.code() == Code::NotFound => Ok((0, false)),
        Err(status) if status.code() == Code::Unimplemented => {
            Err(Stop::skipped("QueryWriteStatus is not offered"))
        }
        Err(status) => Err(status.into()),
    }
}

/// Sends part of an upload and ends the client's side. What the server answers is for BS-43 to judge.
async fn send_part(subject: &Subject, part: &[WriteRequest]) {
    let _ = subject.write(part.to_vec()).await;
}

async fn bs_60_an_upload_that_nobody_began_is_not_found(subject: &Subject) -> Verdict {
    let name = subject.write_name(&subject.digest(&subject.fresh(5000)));
    match state(subject, &name).await? {
        // NOT_FOUND, or what a server without a memory of uploads may say instead.
        (0, false) => {}
        other => return Err(Stop::failed(format!("an upload that nobody began is at {other:?}"))),
    }
    if subject.is_own() {
        refused_as(subject.query(&name).await, Code::NotFound, "an upload that nobody began")?;
    }
    Ok(())
}

async fn bs_61_the_committed_size_never_shrinks(subject: &Subject) -> Verdict {
    let data = subject.fresh(90_000);
    let name = subject.write_name(&subject.digest(&data));
    let whole = messages(&name, &data, 30_000);
    let mut last = state(subject, &name).await?.0;
    send_part(subject, &whole[..1]).await;
    for _ in 0..3 {
        let committed = state(subject, &name).await?.0;
        ensure!(committed >= last, "the committed size shrank from {last} to {committed}");
        last = committed;
    }
    if last == 0 {
        subject.write(whole).await?;
    }
    let (committed, _) = state(subject, &name).await?;
    ensure!(committed >= last, "the committed size shrank from {last} to {committed}");
    Ok(())
}

async fn bs_62_only_a_finished_upload_is_complete(subject: &Subject) -> Verdict {
    let data = subject.fresh(90_000);
    let name = subject.write_name(&subject.digest(&data));
    send_part(subject, &messages(&name, &data, 30_000)[..2]).await;
    let (committed, complete) = state(subject, &name).await?;
    ensure!(!complete, "complete with {committed} of 90000 bytes");
    Ok(())
}

async fn bs_62_a_stored_blob_is_complete_under_any_id(subject: &Subject) -> Verdict {
    let digest = subject.put(&subject.fresh(5000)).await?;
    ensure_eq!(subject.query(&subject.write_name(&digest)).await?, (5000, true), "state");
    Ok(())
}

async fn bs_63_an_upload_goes_on_at_the_committed_size(subject: &Subject) -> Verdict {
    let data = subject.fresh(90_000);
    let digest = subject.digest(&data);
    let name = subject.write_name(&digest);
    send_part(subject, &messages(&name, &data, 30_000)[..2]).await;
    let (committed, _) = state(subject, &name).await?;
    let start = usize::try_from(committed).ok().filter(|start| *start <= 60_000);
    let start = start.ok_or_else(|| Stop::failed(format!("committed size {committed} of 60000 sent")))?;
    let mut rest = messages(&name, &data.slice(start..), 30_000);
    for message in &mut rest {
        message.write_offset += committed;
    }
    ensure_eq!(subject.write(rest).await?, 90_000, "committed size, gone on at {committed}");
    ensure!(subject.get(&digest).await? == data, "other bytes came back");
    Ok(())
}

async fn bs_64_parts_of_uploads_are_not_kept(subject: &Subject) -> Verdict {
    for size in SIZES {
        let data = subject.fresh(size);
        let name = subject.write_name(&subject.digest(&data));
        let part = messages(&name, &data, size / 4)[..2].to_vec();
        ensure_eq!(subject.write(part).await?, 0, "committed size");
        refused_as(subject.query(&name).await, Code::NotFound, "the state of a part")?;
    }
    Ok(())
}
