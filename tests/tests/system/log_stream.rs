//! Log streams (LOG): made by clients, and those of running actions.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tonic::{Code, Status, Streaming};
use wardian_proto::bytestream::{ReadRequest, ReadResponse, WriteRequest};
use wardian_proto::logstream::log_stream_service_client::LogStreamServiceClient;
use wardian_proto::logstream::{CreateLogStreamRequest, LogStream};
use wardian_proto::reapi::ExecuteOperationMetadata;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_tests::{Following, TestAction, TestServer, code, soon};

use super::byte_stream::{query, read, write};

async fn create(server: &TestServer, parent: &str) -> Result<LogStream, Status> {
    let request = CreateLogStreamRequest { parent: parent.into() };
    let response = LogStreamServiceClient::new(server.channel()).create_log_stream(request).await?;
    Ok(response.into_inner())
}

fn message(name: &str, write_offset: i64, data: &'static [u8], finish_write: bool) -> WriteRequest {
    let data = Bytes::from_static(data);
    WriteRequest { resource_name: name.into(), write_offset, finish_write, data }
}

fn reading(name: &str, read_offset: i64) -> ReadRequest {
    ReadRequest { resource_name: name.into(), read_offset, read_limit: 0 }
}

async fn follow(server: &TestServer, name: &str) -> Streaming<ReadResponse> {
    server.byte_stream().read(reading(name, 0)).await.expect("the stream is there").into_inner()
}

/// Reads until the text so far ends with `end`.
async fn until_text(stream: &mut Streaming<ReadResponse>, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let piece = soon("more of the log", stream.message()).await.unwrap();
        text += std::str::from_utf8(&piece.expect("the log goes on").data).unwrap();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn log_01_to_08_one_writes_in_two_calls_and_several_read() {
    let server = TestServer::start().await;
    let stream = create(&server, "main").await.unwrap();
    assert!(stream.name.starts_with("main/logstreams/"), "{}", stream.name);
    let token = stream.write_resource_name.strip_prefix(&format!("{}/", stream.name)).unwrap();
    assert!(token.len() >= 32);
    let (mut first, mut second) = (follow(&server, &stream.name).await, follow(&server, &stream.name).await);
    let name = &stream.write_resource_name;
    assert_eq!(write(&server, vec![message(name, 0, b"one\n", false)]).await.unwrap(), 4);
    assert_eq!(until_text(&mut first, "\n").await, "one\n");
    assert_eq!(query(&server, name).await.unwrap(), (4, false));
    // The writer comes back, and goes on where it was.
    let more = vec![message(name, 4, b"two\n", false), message("", 8, b"", true)];
    assert_eq!(write(&server, more).await.unwrap(), 8);
    assert_eq!(until_text(&mut first, "\n").await, "two\n");
    assert_eq!(until_text(&mut second, "two\n").await, "one\ntwo\n");
    for reader in [&mut first, &mut second] {
        assert!(soon("the end", reader.message()).await.unwrap().is_none());
    }
    assert_eq!(query(&server, name).await.unwrap(), (8, true));
    assert_eq!(read(&server, reading(&stream.name, 5)).await.unwrap(), "wo\n");
    assert_eq!(read(&server, reading(&stream.name, 8)).await.unwrap(), "");
    let part = ReadRequest { read_limit: 2, ..reading(&stream.name, 1) };
    assert_eq!(read(&server, part).await.unwrap(), "ne");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_07_a_writer_who_comes_again_takes_the_place_of_his_former_self() {
    let server = TestServer::start().await;
    let stream = create(&server, "").await.unwrap();
    let name = stream.write_resource_name.clone();
    let mut reader = follow(&server, &stream.name).await;
    let begin = futures::stream::iter([message(&name, 0, b"one\n", false)]).chain(futures::stream::pending());
    let mut client = server.byte_stream();
    let former = tokio::spawn(async move { client.write(begin).await });
    assert_eq!(until_text(&mut reader, "\n").await, "one\n");
    assert_eq!(write(&server, vec![message(&name, 4, b"two\n", true)]).await.unwrap(), 8);
    let former = soon("word to the former", former).await.unwrap();
    assert_eq!(code(&former), Code::Aborted);
    assert_eq!(until_text(&mut reader, "\n").await, "two\n");
    assert!(soon("the end", reader.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_03_and_06_what_is_not_allowed_is_refused() {
    let server = TestServer::start().await;
    for parent in ["nowhere", "a//b", "blobs"] {
        assert_eq!(code(&create(&server, parent).await), Code::InvalidArgument, "{parent}");
    }
    let stream = create(&server, "").await.unwrap();
    let (name, secret) = (&stream.name, &stream.write_resource_name);
    let outcome = async |messages| code(&write(&server, messages).await);
    assert_eq!(outcome(vec![message(name, 0, b"x", true)]).await, Code::InvalidArgument);
    assert_eq!(outcome(vec![message(&format!("{name}/guess"), 0, b"x", true)]).await, Code::PermissionDenied);
    assert_eq!(outcome(vec![message("logstreams/none/x", 0, b"x", true)]).await, Code::NotFound);
    assert_eq!(outcome(vec![message("other/logstreams/none/x", 0, b"x", true)]).await, Code::InvalidArgument);
    assert_eq!(outcome(vec![message(secret, 1, b"x", true)]).await, Code::InvalidArgument);
    assert_eq!(code(&read(&server, reading(secret, 0)).await), Code::InvalidArgument);
    assert_eq!(code(&read(&server, reading(name, -1)).await), Code::OutOfRange);
    assert_eq!(code(&read(&server, reading(name, 1)).await), Code::OutOfRange);
    assert_eq!(code(&read(&server, reading("logstreams/none", 0)).await), Code::NotFound);
    assert_eq!(outcome(vec![message(secret, 0, b"done", true)]).await, Code::Ok);
    assert_eq!(outcome(vec![message(secret, 4, b"x", false)]).await, Code::FailedPrecondition);
    assert_eq!(outcome(vec![message(secret, 0, b"DONE", true)]).await, Code::InvalidArgument);
    assert_eq!(read(&server, reading(name, 0)).await.unwrap(), "done");
}

/// Waits until an action's streams have names.
async fn named(following: &mut Following) -> ExecuteOperationMetadata {
    loop {
        let operation = following.next().await.unwrap().expect("the action has not ended");
        let metadata = wardian_tests::metadata(&operation);
        if !metadata.stdout_stream_name.is_empty() {
            assert_eq!(metadata.stage(), Stage::Executing);
            assert_ne!(metadata.stdout_stream_name, metadata.stderr_stream_name);
            return metadata;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_process_is_read_while_it_runs() {
    let server = TestServer::start().await;
    let go = server.folder().join("go");
    let script = "echo first; echo problem >&2; until test -e \"$1\"; do sleep 0.01; done; echo last";
    let mut following = server.begin(TestAction::sh(script, &[&go])).await;
    let names = named(&mut following).await;
    let (mut out, mut err) =
        (follow(&server, &names.stdout_stream_name).await, follow(&server, &names.stderr_stream_name).await);
    assert_eq!(until_text(&mut out, "\n").await, "first\n");
    assert_eq!(until_text(&mut err, "\n").await, "problem\n");
    std::fs::write(&go, "").unwrap();
    assert_eq!(until_text(&mut out, "\n").await, "last\n");
    for reader in [&mut out, &mut err] {
        assert!(soon("the end", reader.message()).await.unwrap().is_none());
    }
    let ended = following.ended().await.unwrap();
    assert_eq!(server.streams(&ended).await.0, "first\nlast\n");
    // They are still there.
    assert_eq!(read(&server, reading(&names.stdout_stream_name, 0)).await.unwrap(), "first\nlast\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_stay_after_a_timeout_a_cancellation_and_a_trap() {
    let server = TestServer::start().await;
    let logs_of = async |mut following: Following, cancel: bool| {
        let names = named(&mut following).await;
        let mut out = follow(&server, &names.stdout_stream_name).await;
        if cancel {
            assert_eq!(until_text(&mut out, "\n").await, "begun\n");
            let request = wardian_proto::longrunning::CancelOperationRequest { name: following.name() };
            server.operations().cancel_operation(request).await.unwrap();
        }
        following.ended().await.unwrap();
        // Readers come to the end, whatever the end was.
        while soon("the end of the log", out.message()).await.unwrap().is_some() {}
        let text = async |name: &str| {
            String::from_utf8(soon("a log", read(&server, reading(name, 0))).await.unwrap().to_vec()).unwrap()
        };
        (text(&names.stdout_stream_name).await, text(&names.stderr_stream_name).await)
    };
    let slow = || TestAction::sh("echo begun; sleep 600", &[]).do_not_cache();
    // Long enough for a shell to begin on a machine that has much else to do.
    let timed_out = server.begin(slow().timeout(Duration::from_secs(3))).await;
    assert_eq!(logs_of(timed_out, false).await.0, "begun\n");
    assert_eq!(logs_of(server.begin(slow()).await, true).await.0, "begun\n");
    let trapped = logs_of(server.begin(TestAction::wasm("trap", &[])).await, false).await;
    assert!(trapped.1.contains("the guest trapped"), "{trapped:?}");
    let said = logs_of(server.begin(TestAction::wasm("hello", &[])).await, false).await;
    assert!(!said.0.is_empty());
    server.assert_unharmed().await;
}
