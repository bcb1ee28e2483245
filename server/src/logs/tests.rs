//! Streams without a server around them.

use futures::StreamExt as _;
use tonic::Code;

use super::*;

fn limits() -> LogLimits {
    LogLimits { stream_bytes_max: 100, total_bytes_max: 150, streams_max: 3, ..LogLimits::default() }
}

fn create(logs: &LogStreams) -> Result<LogName, Status> {
    logs.create(&instance(), "a client".into())
}

fn instance() -> InstanceName {
    InstanceName::parse("main").unwrap()
}

async fn whole(logs: &LogStreams, name: &LogName, offset: u64) -> Result<Vec<u8>, Status> {
    let mut pieces = logs.read(name, offset, None)?;
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole)
}

#[tokio::test]
async fn readers_follow_from_wherever_they_begin() {
    let logs = LogStreams::new(limits());
    let name = create(&logs).unwrap();
    logs.write(&name, 0, b"one ", false).unwrap();
    let mut first = logs.read(&name, 0, None).unwrap();
    let mut second = logs.read(&name, 2, Some(3)).unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "one ");
    assert_eq!(second.next().await.unwrap().unwrap(), "e ");
    // Nothing has come yet: the reader waits, and is woken.
    let (next, written) = tokio::join!(first.next(), async { logs.write(&name, 4, b"two", false) });
    assert_eq!((next.unwrap().unwrap(), written.unwrap().bytes), (Bytes::from("two"), 7));
    assert_eq!(second.next().await.unwrap().unwrap(), "t");
    assert!(second.next().await.is_none(), "read_limit is reached");
    let (end, _) = tokio::join!(first.next(), async { logs.write(&name, 7, b"", true) });
    assert!(end.is_none());
    assert_eq!(whole(&logs, &name, 4).await.unwrap(), b"two");
    assert_eq!(whole(&logs, &name, 8).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn nothing_is_overwritten_and_nothing_added_after_the_end() {
    let logs = LogStreams::new(limits());
    let name = create(&logs).unwrap();
    logs.write(&name, 0, b"abc", false).unwrap();
    for wrong in [0, 2, 4] {
        assert_eq!(logs.write(&name, wrong, b"x", false).unwrap_err().code(), Code::InvalidArgument);
    }
    assert!(logs.write(&name, 3, b"d", true).unwrap().is_complete);
    assert_eq!(logs.write(&name, 4, b"e", false).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(logs.committed(&name).unwrap(), Committed { bytes: 4, is_complete: true });
    assert_eq!(whole(&logs, &name, 0).await.unwrap(), b"abcd");
}

#[tokio::test]
async fn only_the_right_token_writes() {
    let logs = LogStreams::new(limits());
    let name = create(&logs).unwrap();
    let other = create(&logs).unwrap();
    for (token, code) in [(None, Code::InvalidArgument), (other.token.clone(), Code::PermissionDenied)] {
        let forged = LogName { token, ..name.clone() };
        assert_eq!(logs.write(&forged, 0, b"x", true).unwrap_err().code(), code);
        assert_eq!(logs.committed(&forged).unwrap_err().code(), code);
    }
    let unknown = LogName { id: "nobody".into(), ..name };
    assert_eq!(logs.write(&unknown, 0, b"x", true).unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn streams_are_bounded_and_those_that_ended_go_first() {
    let logs = LogStreams::new(limits());
    let names: Vec<LogName> = (0..3).map(|_| create(&logs).unwrap()).collect();
    assert_eq!(create(&logs).unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(logs.write(&names[0], 0, &[7; 101], false).unwrap_err().code(), Code::ResourceExhausted);
    logs.write(&names[0], 0, &[7; 100], true).unwrap();
    logs.write(&names[1], 0, &[7; 50], false).unwrap();
    // Full: what ended is given up for what is still written. Who reads it is told so, and holds nothing.
    let mut reading = logs.read(&names[0], 0, None).unwrap();
    logs.write(&names[2], 0, &[8; 60], false).unwrap();
    assert_eq!(logs.read(&names[0], 0, None).err().unwrap().code(), Code::NotFound);
    assert_eq!(reading.next().await.unwrap().unwrap_err().code(), Code::Aborted);
    assert_eq!(logs.write(&names[1], 50, &[7; 50], false).unwrap_err().code(), Code::ResourceExhausted);
    assert_eq!(logs.shared.lock().bytes, 110);
    assert!(create(&logs).is_ok(), "there is room for a stream again");
}

#[tokio::test]
async fn what_somebody_reads_is_given_up_last_and_outlives_its_time() {
    let logs = LogStreams::new(LogLimits { streams_max: 2, ..limits() });
    let (read, unread) = (create(&logs).unwrap(), create(&logs).unwrap());
    logs.write(&read, 0, b"read", true).unwrap();
    logs.write(&unread, 0, b"unread", true).unwrap();
    let mut reading = logs.read(&read, 0, None).unwrap();
    // The one that ended later, as nobody reads it.
    create(&logs).unwrap();
    assert_eq!(whole(&logs, &unread, 0).await.unwrap_err().code(), Code::NotFound);
    logs.shared.expire(Instant::now() + limits().kept_for);
    assert_eq!(reading.next().await.unwrap().unwrap(), "read");
    drop(reading);
    logs.shared.expire(Instant::now() + limits().kept_for);
    assert_eq!(whole(&logs, &read, 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(logs.shared.lock().bytes, 0);
}

#[tokio::test]
async fn a_client_has_its_share_and_gives_up_its_own_first() {
    let logs = LogStreams::new(LogLimits {
        client_streams_max: 2,
        client_bytes_max: 60,
        streams_max: 100,
        ..limits()
    });
    let other = logs.create(&instance(), "another".into()).unwrap();
    logs.write(&other, 0, &[1; 10], true).unwrap();
    let names = [create(&logs).unwrap(), create(&logs).unwrap()];
    assert!(create(&logs).unwrap_err().message().contains("client_streams_max"));
    assert!(logs.open(&instance()).is_some(), "actions have room");
    logs.write(&names[0], 0, &[2; 40], false).unwrap();
    let refused = logs.write(&names[1], 0, &[2; 21], false).unwrap_err();
    assert!(refused.message().contains("client_bytes_max"), "{refused:?}");
    logs.write(&names[0], 40, b"", true).unwrap();
    logs.write(&names[1], 0, &[2; 21], false).unwrap();
    assert_eq!(whole(&logs, &names[0], 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(whole(&logs, &other, 0).await.unwrap().len(), 10, "it ended earlier, and is another's");
    create(&logs).unwrap();
    logs.shut_down();
    logs.shared.expire(Instant::now() + limits().kept_for);
    let inner = logs.shared.lock();
    assert_eq!((inner.bytes, inner.clients.len(), inner.streams.len()), (0, 0, 0));
}

#[tokio::test]
async fn writing_nothing_keeps_no_stream_open() {
    let logs = LogStreams::new(limits());
    let name = create(&logs).unwrap();
    let later = Instant::now() + limits().idle_max;
    logs.write(&name, 0, b"", false).unwrap();
    logs.shared.expire(later);
    assert_eq!(whole(&logs, &name, 0).await.unwrap_err().code(), Code::Aborted);
    assert!(logs.write(&name, 0, b"", false).unwrap().is_complete, "the writer is told");
}

#[tokio::test]
async fn what_ended_is_forgotten_and_what_is_left_alone_is_ended() {
    let logs = LogStreams::new(limits());
    let (done, idle) = (create(&logs).unwrap(), create(&logs).unwrap());
    let action = logs.open(&instance()).unwrap();
    logs.write(&done, 0, b"done", true).unwrap();
    let now = Instant::now();
    logs.shared.expire(now + limits().kept_for);
    assert_eq!(whole(&logs, &done, 0).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(logs.shared.lock().bytes, 0);
    logs.shared.expire(now + limits().idle_max + Duration::from_secs(1));
    assert_eq!(whole(&logs, &idle, 0).await.unwrap_err().code(), Code::Aborted);
    // An action may be silent for as long as it runs.
    let name = LogName::parse(&action.name).unwrap();
    action.sink.append(b"late");
    action.sink.finish();
    assert_eq!(whole(&logs, &name, 0).await.unwrap(), b"late");
}

#[tokio::test]
async fn a_stream_of_many_blocks_is_whole() {
    let logs = LogStreams::new(LogLimits::default());
    let name = create(&logs).unwrap();
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i % 253) as u8).collect();
    let mut at = 0;
    for piece in data.chunks(70_001) {
        at = logs.write(&name, at, piece, false).unwrap().bytes;
    }
    logs.write(&name, at, b"", true).unwrap();
    assert!(whole(&logs, &name, 0).await.unwrap() == data);
    assert!(whole(&logs, &name, 65_536).await.unwrap() == data[65_536..]);
}

#[tokio::test]
async fn an_action_that_writes_too_much_has_a_log_that_says_so() {
    let logs = LogStreams::new(limits());
    let action = logs.open(&instance()).unwrap();
    let name = LogName::parse(&action.name).unwrap();
    action.sink.append(&[1; 90]);
    action.sink.append(&[1; 20]);
    action.sink.finish();
    let mut pieces = logs.read(&name, 0, None).unwrap();
    assert_eq!(pieces.next().await.unwrap().unwrap().len(), 90);
    assert_eq!(pieces.next().await.unwrap().unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn nobody_waits_for_a_server_that_goes() {
    let logs = LogStreams::new(limits());
    let name = create(&logs).unwrap();
    let (read, ()) = tokio::join!(whole(&logs, &name, 0), async { logs.shut_down() });
    assert_eq!(read.unwrap_err().code(), Code::Unavailable);
}
