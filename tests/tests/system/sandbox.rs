//! Native actions in sandboxes: what they see, how they end, what they can ask for.
//!
//! Each test is there for every program that can make sandboxes.
//!
//! A machine that allows no sandboxes cannot show any of this; then the tests say so on standard error. With
//! WARDIAN_SANDBOX=require in the environment that is a failure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use tonic::Code;
use wardian_proto::wardian::NativeUsage;
use wardian_proto::{InstanceName, reapi};
use wardian_runtime::{ActionGroups, SandboxBackend, SandboxMode, SandboxSettings};
use wardian_server::config::Config;
use wardian_server::instance::{Instance, NativeActions};
use wardian_tests::{TestAction, TestServer, code, metadata, until};

/// A server whose native actions run in sandboxes; `None` where there can be none.
pub(crate) async fn server_with(
    backend: SandboxBackend,
    configure: impl FnOnce(&mut Config),
) -> Option<TestServer> {
    let server = TestServer::with(|config| {
        configure(config);
        config.worker.sandbox.mode = SandboxMode::Auto;
        config.worker.sandbox.backend = backend;
    })
    .await;
    let probe = TestAction::new(&["true"]).platform(&[("sandbox", "namespaces")]);
    let built = server.upload(probe).await;
    match server.follow(built.request()).await {
        Ok(_) => Some(server),
        Err(refusal) => {
            let required = std::env::var("WARDIAN_SANDBOX").is_ok_and(|word| word == "require");
            assert!(!required, "sandboxes are required, and there are none: {refusal}");
            eprintln!("NOT TESTED: this machine allows no sandboxes by {backend:?}: {refusal}");
            None
        }
    }
}

pub(crate) async fn server(backend: SandboxBackend) -> Option<TestServer> {
    server_with(backend, |_| {}).await
}

/// Makes a test of each function for each program that makes sandboxes.
macro_rules! for_each_backend {
    ($($test:ident),* $(,)?) => {
        mod own {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(wardian_runtime::SandboxBackend::Own).await;
            })*
        }
        mod bubblewrap {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(wardian_runtime::SandboxBackend::Bubblewrap).await;
            })*
        }
    };
}
pub(crate) use for_each_backend;

for_each_backend! {
    a_command_sees_its_inputs_and_the_machines_programs_only,
    a_sandbox_has_no_network_but_its_own,
    a_signal_is_told_apart_from_an_exit_with_its_code,
    nothing_outlives_a_command_not_even_in_a_session_of_its_own,
    processes_memory_and_processor_time_are_bounded,
    a_result_says_what_made_its_sandbox,
    what_the_worker_was_left_open_is_closed_to_a_command,
    no_action_can_choose_to_go_without_a_sandbox,
}

/// What a script of the shell writes to its standard output.
async fn says(server: &TestServer, script: &str, arguments: &[&Path]) -> String {
    let ended = server.succeed(TestAction::sh(script, arguments).do_not_cache()).await;
    server.streams(&ended).await.0
}

async fn a_command_sees_its_inputs_and_the_machines_programs_only(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    let action = TestAction::sh("pwd; cat ../in; echo made > out; ls -A /tmp | wc -l", &[])
        .file("in", "input\n")
        .directory("work")
        .working_directory("work")
        .outputs(&["out"]);
    let ended = server.succeed(action).await;
    assert_eq!(server.streams(&ended).await.0, "/action/work\ninput\n0\n");
    assert_eq!(server.get(ended.result().output_files[0].digest.as_ref()).await, "made\n");
    let secret = server.folder().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let data = server.folder().join("data");
    for hidden in [&*secret, &*data, Path::new("/root"), Path::new("/home"), Path::new("/etc/shadow")] {
        assert_eq!(says(&server, "test -e \"$1\" && echo seen; true", &[hidden]).await, "", "{hidden:?}");
    }
    let refused = "for f in /usr/x /bin/x /etc/x /x /proc/sys/kernel/core_pattern; do echo 1 2>/dev/null > $f && echo $f; done; true";
    assert_eq!(says(&server, refused, &[]).await, "");
    assert_eq!(says(&server, "grep CapEff /proc/self/status", &[]).await, "CapEff:\t0000000000000000\n");
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let expected = format!("{}\n", (own + 500).min(1000));
    assert_eq!(says(&server, "cat /proc/self/oom_score_adj", &[]).await, expected);
    // Nobody but the command and the process that waits for it.
    assert_eq!(says(&server, "set -- /proc/[0-9]*; echo $#", &[]).await, "2\n");
    server.assert_unharmed().await;
}

async fn a_sandbox_has_no_network_but_its_own(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    let interfaces = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";
    assert_eq!(says(&server, interfaces, &[]).await, "lo\n");
    let asked = TestAction::sh(interfaces, &[]).platform(&[("network", "on")]);
    let refusal = server.refused(asked.clone()).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message.contains("network"), "{refusal:?}");
    let open = server_with(backend, |config| config.worker.sandbox.network = true).await.unwrap();
    let machine = std::fs::read_to_string("/proc/net/dev").unwrap().lines().count() - 2;
    let ended = open.succeed(asked).await;
    assert_eq!(open.streams(&ended).await.0.lines().count(), machine);
    assert_eq!(says(&open, interfaces, &[]).await, "lo\n");
}

async fn a_signal_is_told_apart_from_an_exit_with_its_code(backend: SandboxBackend) {
    let without_groups = |config: &mut Config| config.worker.sandbox.groups = ActionGroups::None;
    let Some(server) = server_with(backend, without_groups).await else { return };
    let ended = server.run(TestAction::sh("kill -KILL $$", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 137));
    assert_eq!(ended.response.message, "the command was ended by signal 9, perhaps for lack of memory");
    let ended = server.run(TestAction::sh("exit 137", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 137));
    assert_eq!(ended.response.message, "");
    let refusal = server.refused(TestAction::new(&["no-such-tool"])).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(refusal.message.contains("no-such-tool") && refusal.message.contains("PATH"), "{refusal:?}");
}

/// Processes of the machine whose command line holds a text.
fn running(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(text)).count()
}

async fn nothing_outlives_a_command_not_even_in_a_session_of_its_own(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    // The other backend is tried in the same process, at the same time.
    let mark = format!("31{}{}", backend as u8, std::process::id());
    let script = format!("setsid sleep {mark} & echo over");
    let ended = server.succeed(TestAction::sh(&script, &[])).await;
    assert_eq!(server.streams(&ended).await.0, "over\n");
    assert_eq!(running(&format!("sleep\0{mark}")), 0);
    let script = format!("echo kept > out; setsid sleep {mark} & sleep {mark}");
    let action = TestAction::sh(&script, &[]).outputs(&["out"]).timeout(Duration::from_secs(1));
    let ended = server.run(action).await;
    assert_eq!(ended.code(), Code::DeadlineExceeded);
    assert_eq!(server.get(ended.result().output_files[0].digest.as_ref()).await, "kept\n");
    assert_eq!(running(&format!("sleep\0{mark}")), 0);
    let following = server.begin(TestAction::sh(&script, &[])).await;
    until("the command runs", || running(&format!("sleep\0{mark}")) == 2).await;
    drop(server);
    until("the command is gone with its worker", || running(&format!("sleep\0{mark}")) == 0).await;
    drop(following);
}

async fn processes_memory_and_processor_time_are_bounded(backend: SandboxBackend) {
    let limits = |config: &mut Config| {
        config.worker.sandbox = SandboxSettings {
            memory_bytes_max: Some(64 << 20),
            processes_max: 20,
            cpu_max: Some(Duration::from_secs(1)),
            ..SandboxSettings::default()
        };
    };
    let Some(server) = server_with(backend, limits).await else { return };
    let ended = server.run(TestAction::sh("for i in $(seq 40); do sleep 9 & done; echo all", &[])).await;
    assert_ne!(ended.result().exit_code, 0, "{:?}", server.streams(&ended).await);
    // `dd` holds one block in memory.
    let block = |size: &str| TestAction::new(&["dd", "if=/dev/zero", "of=/dev/null", "count=1", size]);
    server.succeed(block("bs=16M")).await;
    assert_ne!(server.run(block("bs=128M")).await.result().exit_code, 0);
    let refusal = server.refused(TestAction::sh("while :; do :; done", &[])).await;
    assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message.contains("cpu_seconds_max"), "{refusal:?}");
}

async fn what_the_worker_was_left_open_is_closed_to_a_command(backend: SandboxBackend) {
    let (reader, _writer) = std::io::pipe().unwrap();
    // As a program that knows nothing of the worker leaves it open.
    rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty()).unwrap();
    let Some(server) = server(backend).await else { return };
    let pipe = rustix::fs::fstat(&reader).unwrap().st_ino;
    let script = format!("ls -l /proc/$$/fd > list; cat list; grep -c 'pipe:.{pipe}.' list || true");
    let said = says(&server, &script, &[]).await;
    assert!(said.contains("/dev/null") && said.ends_with("\n0\n"), "{said}");
}

async fn a_result_says_what_made_its_sandbox(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    let word = SandboxBackend::WORDS.iter().find(|(_, known)| *known == backend).unwrap().0;
    let ended = server.succeed(TestAction::new(&["true"]).platform(&[("sandbox-backend", word)])).await;
    let metadata = ended.result().execution_metadata.clone().unwrap();
    let found = metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("NativeUsage"));
    assert_eq!(NativeUsage::decode(&*found.unwrap().value).unwrap().sandbox, word);
}

#[tokio::test(flavor = "multi_thread")]
async fn bubblewrap_does_not_make_the_input_root_the_whole_system_and_says_so() {
    let Some(server) = server(SandboxBackend::Bubblewrap).await else { return };
    let action = TestAction::new(&["true"]).platform(&[("chroot-input-root", "true")]);
    let refusal = server.refused(action).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message.contains("chroot-input-root"), "{refusal:?}");
}

/// The libraries that programs of the machine need, and the loader, by their paths.
fn libraries(programs: &[PathBuf]) -> BTreeSet<String> {
    let told = std::process::Command::new("ldd").args(programs).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    let paths = told.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    paths.map(str::to_owned).collect()
}

/// A script of a shell that the input root brings along with all that it needs.
fn in_a_whole_system(script: &str) -> TestAction {
    let [shell, cat] = ["/bin/sh", "/bin/cat"].map(|path| std::fs::canonicalize(path).unwrap());
    let mut action = TestAction::new(&["sh", "-c", script])
        .env("PATH", "/tools")
        .executable("tools/sh", std::fs::read(&shell).unwrap())
        .executable("tools/cat", std::fs::read(&cat).unwrap())
        .file("etc/name", "inside\n");
    for library in libraries(&[shell, cat]) {
        action = action.executable(library.trim_start_matches('/'), std::fs::read(&library).unwrap());
    }
    action
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_root_may_be_the_whole_system() {
    let Some(server) = server(SandboxBackend::Own).await else { return };
    let script = "cat /etc/name; if test -e /usr/bin/env; then echo leaked; fi; echo $PWD > /out";
    let action = in_a_whole_system(script).outputs(&["out"]).platform(&[("chroot-input-root", "true")]);
    let ended = server.succeed(action.clone()).await;
    assert_eq!(server.streams(&ended).await.0, "inside\n");
    assert_eq!(server.get(ended.result().output_files[0].digest.as_ref()).await, "/\n");
    // Without a sandbox it cannot be had, and that is said.
    let open = TestServer::start().await;
    let refusal = open.refused(action).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message.contains("chroot-input-root"), "{refusal:?}");
}

/// What BuildStream does: it cannot name the property, so the operator gives it to an instance; the output is the whole
/// root, named from a working directory, and as a Directory; systems are full of absolute links.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_may_give_properties_to_actions_that_do_not_name_them() {
    let system = |config: &mut Config| {
        let functions = config.instances[0].digest_functions.clone();
        let mut system = Instance::new(InstanceName::parse("system").unwrap(), functions);
        system.properties = vec![("chroot-input-root".into(), "true".into())];
        config.instances.push(system);
    };
    let Some(server) = server_with(SandboxBackend::Own, system).await else { return };
    let script = "cat /name; ! test -e /usr/bin/env; echo $PWD > /made/there; cat < /made/there > /made/copy";
    let mut action = in_a_whole_system(script)
        .symlink("name", "/etc/name")
        .directory("made")
        .directory("build/here")
        .working_directory("build/here")
        .outputs(&["../../made", "../.."])
        .platform(&[("OSFamily", "linux")]);
    action.command.output_directory_format = reapi::command::OutputDirectoryFormat::DirectoryOnly.into();
    let built = server.upload(action).await;
    let on = |instance: &str| reapi::ExecuteRequest { instance_name: instance.into(), ..built.request() };
    let ended = server.follow(on("system")).await.unwrap().ended().await.unwrap();
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0), "{:?}", ended.response);
    assert_eq!(server.streams(&ended).await.0, "inside\n");
    // The client hears of the action that it sent.
    let metadata = metadata(ended.operations.last().unwrap());
    assert_eq!(metadata.action_digest, built.request().action_digest);
    let directory = |at: usize| ended.result().output_directories[at].root_directory_digest.clone();
    let made = reapi::Directory::decode(server.get(directory(0).as_ref()).await).unwrap();
    assert_eq!(server.get(made.files[0].digest.as_ref()).await, "/build/here\n");
    let root = reapi::Directory::decode(server.get(directory(1).as_ref()).await).unwrap();
    assert_eq!(root.symlinks[0].target, "/etc/name");
    // Its result is found by it, there and nowhere else.
    let cached = async |instance: &str| {
        let request = reapi::GetActionResultRequest {
            instance_name: instance.into(),
            action_digest: built.request().action_digest,
            ..Default::default()
        };
        server.action_cache().get_action_result(request).await.map(tonic::Response::into_inner)
    };
    assert_eq!(cached("system").await.unwrap().output_directories.len(), 2);
    assert_eq!(code(&cached("main").await), Code::NotFound);
    let again = server.follow(on("system")).await.unwrap().ended().await.unwrap();
    assert!(again.response.cached_result);
    // Elsewhere, and where the action says otherwise, nothing is added: the machine's programs are seen.
    let plain = TestAction::sh("test -e /usr/bin/env", &[]).platform(&[("chroot-input-root", "false")]);
    let built = server.upload(plain).await;
    let request = reapi::ExecuteRequest { instance_name: "system".into(), ..built.request() };
    let ended = server.follow(request).await.unwrap().ended().await.unwrap();
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 0));
}

async fn no_action_can_choose_to_go_without_a_sandbox(backend: SandboxBackend) {
    let Some(server) = server(backend).await else { return };
    let refusal = server.refused(TestAction::new(&["true"]).platform(&[("sandbox", "none")])).await;
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    assert!(refusal.message.contains("sandbox=none"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_may_demand_sandboxes_for_all_its_native_actions() {
    let demand = |config: &mut Config| {
        for instance in &mut config.instances {
            instance.native = NativeActions::Sandboxed;
        }
    };
    let open = TestServer::with(demand).await;
    for platform in [&[][..], &[("OSFamily", std::env::consts::OS)], &[("sandbox", "none")]] {
        let refusal = open.refused(TestAction::new(&["true"]).platform(platform)).await;
        assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
        assert!(refusal.message.contains("sandbox=n") && refusal.message.contains("instance"), "{refusal:?}");
    }
    let module = b"\0asm\x01\0\0\0".to_vec();
    let wasm = TestAction::new(&["./tool"]).executable("tool", module);
    // It has no entry, which only the executor of WebAssembly minds.
    let refusal = open.refused(wasm.platform(&[("OSFamily", "wasi")])).await;
    assert_ne!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
    let Some(server) = server_with(SandboxBackend::Own, demand).await else { return };
    assert_eq!(says(&server, "pwd", &[]).await, "/action\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_demanded_and_cannot_be_made_is_refused() {
    let server = TestServer::start().await;
    let refusal = server.refused(TestAction::new(&["true"]).platform(&[("sandbox", "namespaces")])).await;
    assert_eq!(refusal.code, Code::FailedPrecondition);
    assert!(refusal.message.contains("sandbox"), "{refusal:?}");
    server.succeed(TestAction::new(&["true"]).platform(&[("sandbox", "none")])).await;
    // A worker that must have one does not start without.
    let folder = tempfile::tempdir().unwrap();
    let mut config =
        Config { listen: ([127, 0, 0, 1], 0).into(), data: folder.path().join("data"), ..Config::default() };
    config.worker.sandbox.mode = SandboxMode::Require;
    config.worker.compile.program = "/bin/false".into();
    let refusal = wardian_server::app::Server::start(config).await.map(drop).unwrap_err();
    assert!(format!("{refusal:#}").contains("worker.sandbox.mode"), "{refusal:#}");
}
