//! Control groups of native actions: limits of an action as a whole, and what is told of them. Where there are none (no
//! hierarchy of version 2 with controllers, or none that the worker may change) it is shown that this is said; with WARDIAN_GROUPS=require in the environment that is a
//! failure.

use prost::Message as _;
use tonic::Code;
use wardian_proto::wardian::NativeUsage;
use wardian_runtime::{ActionGroups, SandboxBackend};
use wardian_server::config::Config;
use wardian_tests::TestAction;

use super::sandbox::{for_each_backend, server_with};

for_each_backend! {
    an_action_that_runs_out_of_memory_is_told_exactly_where_there_are_groups,
}

const LIMIT: u64 = 64 << 20;

fn limits(config: &mut Config) {
    config.worker.sandbox.memory_bytes_max = Some(LIMIT);
    config.worker.sandbox.processes_max = 20;
}

async fn an_action_that_runs_out_of_memory_is_told_exactly_where_there_are_groups(backend: SandboxBackend) {
    let mut program = std::path::PathBuf::new();
    let configure = |config: &mut Config| {
        limits(config);
        program = config.worker.compile.program.clone();
    };
    let Some(server) = server_with(backend, configure).await else { return };
    let grouped = TestAction::new(&["true"]).platform(&[("control-groups", "v2")]);
    let built = server.upload(grouped).await;
    if let Err(refusal) = server.follow(built.request()).await {
        let required = std::env::var("WARDIAN_GROUPS").is_ok_and(|word| word == "require");
        assert!(!required, "control groups are required, and there are none: {refusal}");
        eprintln!("NOT TESTED: there are no control groups here: {refusal}");
        // Whoever must have them is told so at once, and why.
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: folder.path().join("data"),
            ..Config::default()
        };
        config.worker.slots = 1;
        config.worker.sandbox.groups = ActionGroups::Require;
        config.worker.compile.program = program;
        let refusal = wardian_server::app::Server::start(config).await.map(drop).unwrap_err();
        assert!(format!("{refusal:#}").contains("worker.sandbox.groups"), "{refusal:#}");
        return;
    }
    let eats = TestAction::new(&["dd", "if=/dev/zero", "of=/dev/null", "count=1", "bs=256M"]);
    let refusal = server.refused(eats).await;
    assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message.contains(&LIMIT.to_string()), "{refusal:?}");
    // What somebody else ends is not taken for that.
    let ended = server.run(TestAction::sh("kill -KILL $$", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 137));
    assert_eq!(ended.response.message, "the command was ended by signal 9");
    let ended = server.run(TestAction::sh("for i in $(seq 40); do sleep 9 & done; wait", &[])).await;
    assert!(ended.response.message.contains("processes_max"), "{}", ended.response.message);
    let metadata = ended.result().execution_metadata.clone().unwrap();
    let found = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("NativeUsage"));
    let usage = NativeUsage::decode(&*found.unwrap().value).unwrap();
    assert!(
        usage.user_time.is_some() && usage.memory_bytes_peak.is_none_or(|peak| peak <= LIMIT),
        "{usage:?}"
    );
}
