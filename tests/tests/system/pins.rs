//! Inputs of waiting and running actions stay, whatever is uploaded meanwhile.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_proto::Digest;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_store::backend::CAPACITY_BYTES_MIN;
use wardian_tests::{TestAction, TestServer, soon};

/// A server with one slot and the smallest store, which promises nothing but what it pins.
async fn small_server() -> TestServer {
    TestServer::with(|config| {
        config.worker.slots = 1;
        config.store.capacity_bytes = Some(CAPACITY_BYTES_MIN);
        config.store.lease = Duration::ZERO;
    })
    .await
}

/// Uploads more than the store holds.
async fn overflow(server: &TestServer, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let data: Vec<u8> =
            (0..25_000_u64).flat_map(|i| (i.wrapping_mul(seed * 2 + 1) ^ seed).to_le_bytes()).collect();
        server.put(Bytes::from(data)).await;
    }
}

async fn missing(server: &TestServer, digests: &[Digest]) -> usize {
    let mut missing = 0;
    for digest in digests {
        missing += usize::from(!server.has(*digest).await);
    }
    missing
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_actions_keep_their_inputs_through_any_traffic() {
    let server = small_server().await;
    let go = server.folder().join("go");
    let blocker = TestAction::sh("until [ -e \"$1\" ]; do sleep 0.02; done", &[&go]);
    let mut running = server.begin(blocker).await;
    running.until_stage(Stage::Executing).await;

    let (mut queued, mut inputs) = (Vec::new(), Vec::new());
    for i in 0..5 {
        let action = TestAction::new(&["cat", "own", "shared/tool"])
            .file("own", format!("own {i}\n"))
            .file("shared/tool", "shared\n")
            .file("shared/large", vec![7; 400_000]);
        let built = server.upload(action).await;
        let following = server.follow(built.request()).await.unwrap();
        inputs.extend(built.blobs.iter().map(|(digest, _)| *digest));
        queued.push(following);
    }
    overflow(&server, 0..400).await;
    assert_eq!(missing(&server, &inputs).await, 0);

    std::fs::write(&go, "").unwrap();
    assert_eq!(running.ended().await.unwrap().code(), Code::Ok);
    for (i, following) in queued.into_iter().enumerate() {
        let ended = soon("the end of a queued action", following.ended()).await.unwrap();
        assert_eq!(ended.refusal(), None);
        assert_eq!(server.streams(&ended).await.0, format!("own {i}\nshared\n"));
    }
    overflow(&server, 400..1000).await;
    assert_eq!(missing(&server, &inputs[..3]).await, 3, "nobody needs them any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_inputs_are_named_before_anything_is_queued() {
    let server = small_server().await;
    let go = server.folder().join("go");
    let blocker = TestAction::sh("until [ -e \"$1\" ]; do sleep 0.02; done", &[&go]);
    let mut running = server.begin(blocker).await;
    running.until_stage(Stage::Executing).await;

    // The only slot is taken, so the answer cannot come from the worker.
    let built = TestAction::new(&["cat", "a"]).file("a", "content").build();
    let messages: Vec<_> = built.blobs.iter().filter(|(d, _)| *d == built.action).cloned().collect();
    server.put_all(&messages).await;
    let refusal = soon("the refusal", server.refusal_of(&built)).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    let mut expected = vec![format!("blobs/{}", built.command), format!("blobs/{}", built.input_root)];
    expected.sort();
    assert_eq!(refusal.missing, expected);
    std::fs::write(&go, "").unwrap();
    assert_eq!(running.ended().await.unwrap().code(), Code::Ok);
    server.put_all(&built.blobs).await;
    assert_eq!(server.execute(&built).await.code(), Code::Ok);
}
