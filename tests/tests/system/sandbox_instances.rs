//! Instances whose native actions run in sandboxes only, when that is set after actions were sent.

use std::time::Duration;

use tonic::Code;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_server::config::Config;
use wardian_server::instance::NativeActions;
use wardian_tests::{TestAction, TestServer};

fn demand(config: &mut Config) {
    for instance in &mut config.instances {
        instance.native = NativeActions::Sandboxed;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_before_does_not_run_without_one() {
    for is_demanded in [false, true] {
        let server = TestServer::with(|config| {
            config.worker.slots = 0;
            config.scheduler.worker_grace = Duration::from_secs(60);
        })
        .await;
        let mark = server.folder().join("ran");
        let mut following = server.begin(TestAction::sh("echo > \"$1\"", &[&mark])).await;
        following.until_stage(Stage::Queued).await;
        let name = following.name();
        // The worker of this one has no sandboxes.
        let server = TestServer::on(server.shutdown().await, |config| {
            config.scheduler.unserved_max = Duration::from_secs(1);
            if is_demanded {
                demand(config);
            }
        })
        .await;
        let ended = server.wait_execution(&name).await.unwrap().ended().await.unwrap();
        let code = if is_demanded { Code::FailedPrecondition } else { Code::Ok };
        assert_eq!(ended.code(), code, "{:?}", ended.response);
        assert_eq!(mark.exists(), !is_demanded);
        if let Some(refusal) = ended.refusal() {
            assert!(refusal.message.contains("sandbox"), "{refusal:?}");
        }
    }
}

/// A result says nothing of how it was made that the cache would look at: whoever set this wants to say so by the name of
/// the instance, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cached_before_is_served() {
    let action = TestAction::new(&["echo", "made before"]);
    let server = TestServer::start().await;
    let before = server.succeed(action.clone()).await;
    let server = TestServer::on(server.shutdown().await, demand).await;
    let after = server.succeed(action.clone()).await;
    assert!(after.response.cached_result);
    assert_eq!(after.result(), before.result());
    assert_eq!(server.refused(action.do_not_cache()).await.code, Code::FailedPrecondition);
}
