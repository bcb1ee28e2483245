//! LogStream: streams that one party writes and others read while they grow.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status, Streaming};
use wardian_proto::bytestream::{ReadRequest, ReadResponse, WriteRequest};
use wardian_proto::logstream::{CreateLogStreamRequest, LogStream};

use super::super::outcome::{ensure, ensure_eq, refused, refused_as, told};
use super::super::{Stop, Subject, Verdict};
use super::{Check, check};

pub(super) const CHECKS: &[Check] = &[
    check!(log_01_a_stream_has_a_name_to_read_and_one_to_write: "LOG-01"),
    check!(log_01_streams_belong_to_instances: "LOG-01").own(),
    check!(log_02_the_name_to_write_cannot_be_guessed: "LOG-02"),
    check!(log_03_the_two_names_are_not_interchangeable: "LOG-03"),
    check!(log_04_what_is_written_can_be_read_at_once: "LOG-04"),
    check!(log_05_readers_stay_until_the_end: "LOG-05"),
    check!(log_06_nothing_is_overwritten_and_nothing_follows_the_end: "LOG-06"),
    check!(log_07_writing_goes_on_where_it_stopped: "LOG-07"),
    check!(log_08_each_reader_reads_for_himself: "LOG-08"),
    check!(log_09_beyond_what_is_written_is_out_of_range: "LOG-09").own(),
    check!(log_09_a_limit_ends_the_read: "LOG-09"),
    check!(log_10_a_stream_that_nobody_writes_is_finished: "LOG-10").own(),
];

/// How long bytes that were written may take to reach a reader.
const ARRIVAL_MAX: Duration = Duration::from_secs(20);

/// How long a stream that nobody writes is watched. Where it may stay open for longer there is nothing to see.
const WATCH_MAX: Duration = Duration::from_secs(12);

impl Subject {
    /// Makes a log stream; the check is skipped where that is not offered.
    async fn create_log(&self) -> Result<LogStream, Stop> {
        let request = CreateLogStreamRequest { parent: self.instance() };
        match self.log_stream().create_log_stream(request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) if matches!(status.code(), Code::Unimplemented | Code::PermissionDenied) => {
                Err(Stop::skipped(format!("CreateLogStream answers {}", told(&status))))
            }
            Err(status) => Err(status.into()),
        }
    }

    /// Begins to read a stream.
    async fn follow_log(&self, name: &str, read_offset: i64) -> Result<Reader, Status> {
        let request = ReadRequest { resource_name: name.into(), read_offset, read_limit: 0 };
        Ok(Reader(self.byte_stream().read(request).await?.into_inner()))
    }

    /// Adds bytes, and returns the committed size.
    async fn add_to_log(&self, name: &str, at: i64, data: &'static str, finish: bool) -> Result<i64, Status> {
        self.write(vec![message(name, at, data, finish)]).await
    }
}

fn message(name: &str, write_offset: i64, data: &'static str, finish_write: bool) -> WriteRequest {
    let data = Bytes::from_static(data.as_bytes());
    WriteRequest { resource_name: name.into(), write_offset, finish_write, data }
}

struct Reader(Streaming<ReadResponse>);

impl Reader {
    /// Waits for exactly these bytes, in whatever pieces.
    async fn must_get(&mut self, expected: &str) -> Result<(), Stop> {
        let mut got = Vec::new();
        while got.len() < expected.len() {
            match tokio::time::timeout(ARRIVAL_MAX, self.0.message()).await {
                Err(_) => return Err(Stop::failed(format!("{expected:?} did not come, only {got:?}"))),
                Ok(message) => match message? {
                    Some(piece) => got.extend_from_slice(&piece.data),
                    None => return Err(Stop::failed(format!("the read ended before {expected:?} came"))),
                },
            }
        }
        ensure_eq!(String::from_utf8_lossy(&got), expected, "what came");
        Ok(())
    }

    /// Waits for the end.
    async fn must_end(&mut self) -> Result<(), Stop> {
        loop {
            match tokio::time::timeout(ARRIVAL_MAX, self.0.message()).await {
                Err(_) => return Err(Stop::failed("the read of a finished stream does not end")),
                Ok(message) => match message? {
                    None => return Ok(()),
                    Some(piece) => ensure!(piece.data.is_empty(), "more came: {:?}", piece.data),
                },
            }
        }
    }
}

async fn log_01_a_stream_has_a_name_to_read_and_one_to_write(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    let begin = format!("{}logstreams/", subject.prefix());
    let id = stream.name.strip_prefix(&begin).unwrap_or_default();
    ensure!(!id.is_empty() && !id.contains('/'), "name {:?} is not {begin}ID", stream.name);
    let token = stream.write_resource_name.strip_prefix(&format!("{}/", stream.name)).unwrap_or_default();
    let written = &stream.write_resource_name;
    ensure!(!token.is_empty() && !token.contains('/'), "{written:?} is not {:?}/TOKEN", stream.name);
    let other = subject.create_log().await?;
    ensure!(other.name != stream.name, "two streams have the name {:?}", stream.name);
    Ok(())
}

async fn log_01_streams_belong_to_instances(subject: &Subject) -> Verdict {
    for parent in [subject.fresh_name(), "a//b".into(), "blobs".into()] {
        let outcome = subject.log_stream().create_log_stream(CreateLogStreamRequest { parent }).await;
        refused_as(outcome, Code::InvalidArgument, "a parent that is no instance")?;
    }
    Ok(())
}

async fn log_02_the_name_to_write_cannot_be_guessed(subject: &Subject) -> Verdict {
    const TOKEN_CHARS_MIN: usize = 16;
    let (stream, other) = (subject.create_log().await?, subject.create_log().await?);
    let token = |stream: &LogStream| stream.write_resource_name.rsplit('/').next().unwrap_or("").to_owned();
    let tokens = [token(&stream), token(&other)];
    ensure!(tokens[0] != tokens[1], "two streams have one token");
    ensure!(tokens.iter().all(|t| t.len() >= TOKEN_CHARS_MIN), "a token of {} characters", tokens[0].len());
    for guess in [&tokens[1], &subject.fresh_name()] {
        let name = format!("{}/{guess}", stream.name);
        let status = refused(subject.add_to_log(&name, 0, "x", true).await, "a write with another token")?;
        ensure!(!status.message().contains(&tokens[0]), "the refusal tells the token");
    }
    subject.add_to_log(&stream.write_resource_name, 0, "done", true).await?;
    ensure!(subject.read(&stream.name, 0, 0).await? == "done", "the guess did not write");
    Ok(())
}

async fn log_03_the_two_names_are_not_interchangeable(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    let outcome = subject.add_to_log(&stream.name, 0, "x", true).await;
    subject.chose(outcome, Code::InvalidArgument, "a write to the name for readers")?;
    let outcome = subject.read(&stream.write_resource_name, 0, 0).await;
    refused_as(outcome, Code::InvalidArgument, "a read of the name for the writer")?;
    Ok(())
}

async fn log_04_what_is_written_can_be_read_at_once(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    // Committed without being finished.
    let committed = subject.add_to_log(&stream.write_resource_name, 0, "first", false).await?;
    ensure_eq!(committed, 5, "committed_size");
    subject.follow_log(&stream.name, 0).await?.must_get("first").await
}

async fn log_05_readers_stay_until_the_end(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    let name = &stream.write_resource_name;
    subject.add_to_log(name, 0, "one ", false).await?;
    let mut reader = subject.follow_log(&stream.name, 0).await?;
    reader.must_get("one ").await?;
    // Written after the reader has had everything there was.
    subject.add_to_log(name, 4, "two ", false).await?;
    reader.must_get("two ").await?;
    subject.write(vec![message(name, 8, "three", false), message("", 13, "", true)]).await?;
    reader.must_get("three").await?;
    reader.must_end().await?;
    let mut late = subject.follow_log(&stream.name, 4).await?;
    late.must_get("two three").await?;
    late.must_end().await
}

async fn log_06_nothing_is_overwritten_and_nothing_follows_the_end(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    let name = &stream.write_resource_name;
    subject.add_to_log(name, 0, "as it was", false).await?;
    refused(subject.add_to_log(name, 0, "otherwise", false).await, "a write over what is there")?;
    refused(subject.add_to_log(name, 3, "x", false).await, "a write in the middle")?;
    refused(subject.add_to_log(name, 99, "x", false).await, "a write that leaves a gap")?;
    subject.write(vec![message(name, 9, "", true)]).await?;
    refused(subject.add_to_log(name, 9, "more", true).await, "a write after the end")?;
    ensure!(subject.read(&stream.name, 0, 0).await? == "as it was", "what was written has changed");
    Ok(())
}

async fn log_07_writing_goes_on_where_it_stopped(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    let name = &stream.write_resource_name;
    subject.add_to_log(name, 0, "half", false).await?;
    ensure_eq!(subject.query(name).await?, (4, false), "QueryWriteStatus between two writes");
    ensure_eq!(subject.add_to_log(name, 4, " and half", true).await?, 13, "committed_size");
    ensure_eq!(subject.query(name).await?, (13, true), "QueryWriteStatus at the end");
    ensure!(subject.read(&stream.name, 0, 0).await? == "half and half", "something else is read");
    Ok(())
}

async fn log_08_each_reader_reads_for_himself(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    let name = &stream.write_resource_name;
    subject.add_to_log(name, 0, "0123", false).await?;
    let mut from_start = subject.follow_log(&stream.name, 0).await?;
    let mut from_two = subject.follow_log(&stream.name, 2).await?;
    from_two.must_get("23").await?;
    subject.add_to_log(name, 4, "45", true).await?;
    // The first has not read at all meanwhile.
    from_two.must_get("45").await?;
    from_two.must_end().await?;
    from_start.must_get("012345").await?;
    from_start.must_end().await
}

async fn log_09_beyond_what_is_written_is_out_of_range(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    subject.add_to_log(&stream.write_resource_name, 0, "four", false).await?;
    for offset in [5, -1] {
        let outcome = subject.read(&stream.name, offset, 0).await;
        refused_as(outcome, Code::OutOfRange, &format!("a read from {offset} of 4 bytes"))?;
    }
    Ok(())
}

async fn log_09_a_limit_ends_the_read(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    subject.add_to_log(&stream.write_resource_name, 0, "012345", false).await?;
    // Though the stream is open and has more.
    ensure!(subject.read(&stream.name, 1, 3).await? == "123", "from 1 on 3 bytes");
    Ok(())
}

async fn log_10_a_stream_that_nobody_writes_is_finished(subject: &Subject) -> Verdict {
    let stream = subject.create_log().await?;
    subject.add_to_log(&stream.write_resource_name, 0, "begun", false).await?;
    let mut reader = subject.follow_log(&stream.name, 0).await?;
    reader.must_get("begun").await?;
    match tokio::time::timeout(WATCH_MAX, reader.0.message()).await {
        Err(_) => {
            let waited = WATCH_MAX.as_secs();
            return Err(Stop::skipped(format!("streams may be left alone for longer than {waited} s")));
        }
        Ok(outcome) => refused_as(outcome, Code::Aborted, "the read of a stream that was left alone")?,
    };
    let outcome = subject.add_to_log(&stream.write_resource_name, 5, "late", true).await;
    refused_as(outcome, Code::FailedPrecondition, "a write after that")?;
    Ok(())
}
