//! Compilation: children, tiers, and what is kept. Modules made to hurt a compiler are in `compile_hostile.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_proto::longrunning::CancelOperationRequest;
use wardian_runtime::Baseline;
use wardian_server::config::Config;
use wardian_tests::{TestAction, TestServer, component_of, digest, doing, guest, soon, until, wardian};

/// A compiler that tells which tiers it was asked for, and waits for leave before it begins.
struct Gate {
    folder: tempfile::TempDir,
}

impl Gate {
    fn new() -> Self {
        let gate = Self { folder: tempfile::tempdir().unwrap() };
        let folder = gate.folder.path().display();
        gate.program(&format!(
            "echo $2 >> {folder}/begun\nuntil [ -e {folder}/open-$2 ]; do sleep 0.02; done\nexec {} \"$@\"",
            wardian().display()
        ));
        gate
    }

    /// A compiler that does something else.
    fn doing(script: &str) -> Self {
        let gate = Self { folder: tempfile::tempdir().unwrap() };
        gate.program(script);
        gate
    }

    fn program(&self, script: &str) {
        let path = self.path("compiler");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lets compilations for a tier begin.
    fn open(&self, tier: &str) -> &Self {
        fs::write(self.path(&format!("open-{tier}")), "").unwrap();
        self
    }

    /// The tiers of all compilations so far.
    fn begun(&self) -> Vec<String> {
        let lines = fs::read_to_string(self.path("begun")).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }

    async fn server(&self, configure: impl FnOnce(&mut Config)) -> TestServer {
        let program = self.path("compiler");
        TestServer::with(|config| {
            config.worker.compile.program = program;
            configure(config);
        })
        .await
    }
}

/// The names of the compiled modules, without what was not finished.
fn compiled(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".cwasm")).collect()
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().next().is_none()
}

fn hello() -> TestAction {
    TestAction::wasm("hello", &[]).do_not_cache()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_needs_a_module_waits_for_its_one_compilation_and_is_told_so() {
    let gate = Gate::new();
    let server = gate.server(|_| {}).await;
    let mut first = server.begin(hello()).await;
    let waits = format!("waiting until module {} is compiled", digest(&guest("hello")));
    loop {
        let operation = first.next().await.unwrap().expect("the stream goes on");
        if doing(&operation).iter().any(|text| text.starts_with(&waits)) {
            break;
        }
    }
    let second = server.begin(hello()).await;
    until("the compiler has begun", || !gate.begun().is_empty()).await;
    gate.open("optimized");
    for following in [first, second] {
        let ended = following.ended().await.unwrap();
        assert_eq!(server.streams(&ended).await.0, "hello from a guest");
        assert!(ended.remarks().iter().any(|text| text.starts_with("waited ")), "{:?}", ended.remarks());
    }
    let third = server.succeed(hello()).await;
    assert_eq!((third.remarks(), gate.begun()), (vec![], vec!["optimized".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compilation_goes_on_when_those_who_wait_leave() {
    let gate = Gate::new();
    let server = gate.server(|_| {}).await;
    let mut leaving = server.begin(hello()).await;
    leaving.next().await.unwrap();
    until("the compiler has begun", || !gate.begun().is_empty()).await;
    let name = leaving.name();
    server.operations().cancel_operation(CancelOperationRequest { name }).await.unwrap();
    assert_eq!(leaving.ended().await.unwrap().code(), Code::Cancelled);
    gate.open("optimized");
    until("the module is compiled all the same", || compiled(&server.compiled()).len() == 1).await;
    server.succeed(hello()).await;
    assert_eq!(gate.begun().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_compilations_and_leaves_nothing() {
    let gate = Gate::doing("");
    gate.program(&format!("echo $$ > {0}; exec sleep 1000", gate.path("pid").display()));
    let server = gate.server(|_| {}).await;
    let mut waiting = server.begin(hello()).await;
    waiting.next().await.unwrap();
    let pid = gate.path("pid");
    until("the compiler has begun", || fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n'))).await;
    let pid = fs::read_to_string(&pid).unwrap();
    let name = waiting.name();
    server.operations().cancel_operation(CancelOperationRequest { name }).await.unwrap();
    waiting.ended().await.unwrap();
    let folder = server.shutdown().await;
    until("the compiler is gone", || !Path::new("/proc").join(pid.trim()).exists()).await;
    until("its file is gone", || is_empty(&folder.path().join("data/worker/compiled"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_that_fails_is_a_clear_failure() {
    for (script, code, text) in [
        ("echo oh no >&2; exit 3", Code::Internal, "exit status: 3: oh no"),
        ("kill -SEGV $$", Code::InvalidArgument, "makes the compiler fail (signal: 11 (SIGSEGV))"),
        ("kill -KILL $$", Code::Internal, "signal: 9 (SIGKILL)"),
        ("kill -XCPU $$", Code::ResourceExhausted, "worker.compile.cpu_seconds_max"),
        ("exec sleep 1000", Code::ResourceExhausted, "worker.compile.wall_seconds_max"),
        ("exit 0", Code::Internal, "could not be loaded"),
        ("echo surprise", Code::Internal, "could not be loaded"),
    ] {
        let gate = Gate::doing(script);
        let server = gate.server(|config| config.worker.compile.wall_max = Duration::from_secs(2)).await;
        let refusal = soon("a verdict", server.refused(hello())).await;
        assert_eq!(refusal.code, code, "{script}: {refusal:?}");
        assert!(refusal.message.contains(text), "{script}: {refusal:?}");
        until("no file is left", || is_empty(&server.compiled())).await;
        server.assert_unharmed().await;
    }
    let server = TestServer::with(|config| config.worker.compile.program = "/nowhere/wardian".into()).await;
    let refusal = server.refused(hello()).await;
    assert!(refusal.message.contains("/nowhere/wardian could not be started"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_was_refused_is_not_compiled_again_soon() {
    for (script, attempts) in [("kill -XCPU $$", 1), ("kill -KILL $$", 2)] {
        let gate = Gate::doing("");
        gate.program(&format!("echo $2 >> {}\n{script}", gate.path("begun").display()));
        let server = gate.server(|_| {}).await;
        let first = server.refused(hello().do_not_cache()).await;
        let second = server.refused(hello().do_not_cache()).await;
        assert_eq!(first, second);
        assert_eq!(gate.begun().len(), attempts, "{script}: {first:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_registered_toolchains_run_before_they_are_optimized() {
    let tool = digest(&guest("hello"));
    for (baseline, trusted, first) in [
        (Baseline::Toolchains, vec![], "optimized"),
        (Baseline::Toolchains, vec![tool], "baseline"),
        (Baseline::All, vec![], "baseline"),
        (Baseline::Off, vec![tool], "optimized"),
    ] {
        let gate = Gate::new();
        let server = gate
            .server(|config| {
                config.worker.compile.baseline = baseline;
                config.worker.compile.trusted = trusted;
            })
            .await;
        gate.open(first);
        let ended = server.succeed(hello()).await;
        assert_eq!(server.streams(&ended).await.0, "hello from a guest");
        gate.open("optimized");
        until(
            "only the optimized tier is left",
            || matches!(&compiled(&server.compiled())[..], [name] if name.contains("-optimized-")),
        )
        .await;
        server.succeed(hello()).await;
        let both = ["baseline".to_owned(), "optimized".to_owned()];
        assert_eq!(gate.begun(), both[usize::from(first == "optimized")..], "{baseline:?}");
    }
}

/// A server on which everything runs at the baseline tier, and stays there.
async fn baseline_server(gate: &Gate) -> TestServer {
    gate.open("baseline");
    gate.server(|config| config.worker.compile.baseline = Baseline::All).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_baseline_tier_lacks_is_compiled_by_the_other_at_once() {
    for module in [
        r#"(module (memory (export "memory") 1) (tag $t)
            (func (export "_start") (block $h (try_table (catch $t $h) (throw $t)))))"#,
        r#"(module (memory (export "memory") 1)
            (func $f) (func (export "_start") (return_call $f)))"#,
        r#"(module (memory (export "memory") 1) (func (export "_start")
            (drop (i8x16.relaxed_swizzle (v128.const i64x2 1 2) (v128.const i64x2 3 4)))))"#,
    ] {
        let gate = Gate::new();
        let server = baseline_server(&gate).await;
        gate.open("optimized");
        let module = Bytes::from(wat::parse_str(module).unwrap());
        server.succeed(TestAction::wasm_tool(module, &[])).await;
        assert_eq!(gate.begun(), ["baseline", "optimized"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_of_the_baseline_tier_is_stopped_traps_and_is_bounded_like_others() {
    let gate = Gate::new();
    let server = baseline_server(&gate).await;
    for tool in [guest("loop"), component_of("loop")] {
        let action = TestAction::wasm_tool(tool, &[]).timeout(Duration::from_secs(1));
        assert_eq!(soon("the end", server.run(action)).await.code(), Code::DeadlineExceeded);
    }
    let ended = server.run(TestAction::wasm("trap", &[])).await;
    assert_eq!(ended.result().exit_code, 134);
    let stderr = server.streams(&ended).await.1;
    assert!(stderr.contains("in_the_middle"), "{stderr}");
    let ended = server.run(TestAction::wasm("recursion", &[])).await;
    assert_eq!(ended.result().exit_code, 134);
    let refusal = server.refused(TestAction::wasm("table", &[])).await;
    assert!(refusal.message.contains("wasm_table_elements_max"), "{refusal:?}");
    assert!(gate.begun().iter().filter(|tier| *tier == "baseline").count() >= 5, "{:?}", gate.begun());
    assert!(compiled(&server.compiled()).iter().all(|name| name.contains("-baseline-")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_can_ask_for_a_tier() {
    let tool = digest(&guest("hello"));
    let server = TestServer::with(|config| config.worker.compile.trusted = vec![tool]).await;
    for tier in ["metered", "optimized", "baseline"] {
        let at = [("OSFamily", "wasi"), ("wasm-tier", tier)];
        let ended = server.succeed(hello().platform(&at)).await;
        assert_eq!(server.streams(&ended).await.0, "hello from a guest");
        let made = format!("-{tier}-");
        assert!(compiled(&server.compiled()).iter().any(|name| name.contains(&made)), "{tier}");
        let looped = TestAction::wasm("loop", &[]).platform(&at).timeout(Duration::from_secs(1));
        let code = if tier == "baseline" { Code::FailedPrecondition } else { Code::DeadlineExceeded };
        assert_eq!(soon("the end", server.refused(looped)).await.code, code, "{tier}");
    }
    let unknown = hello().platform(&[("OSFamily", "wasi"), ("wasm-tier", "interpreted")]);
    assert_eq!(server.refused(unknown).await.code, Code::InvalidArgument);
}

/// Computes with NaNs of odd payloads, and writes the bits of what came out.
const NANS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\40\00\00\00")
    (func $odd (result f32) (f32.reinterpret_i32 (i32.const 0xffa12345)))
    (func $odd64 (result f64) (f64.reinterpret_i64 (i64.const 0xfff4123456789abc)))
    (func (export "_start")
        (f32.store (i32.const 16) (f32.add (call $odd) (f32.const 1)))
        (f32.store (i32.const 20) (f32.div (f32.const 0) (f32.const 0)))
        (f32.store (i32.const 24) (f32.sqrt (f32.const -1)))
        (f32.store (i32.const 28) (f32.min (f32.const 1) (call $odd)))
        (f64.store (i32.const 32) (f64.mul (call $odd64) (f64.const 2)))
        (f64.store (i32.const 40) (f64.promote_f32 (call $odd)))
        (f32.store (i32.const 48) (f32.demote_f64 (call $odd64)))
        (f64.store (i32.const 56) (f64.nearest (call $odd64)))
        (f64.store (i32.const 64) (f64.sub (f64.const inf) (f64.const inf)))
        (f32.store (i32.const 72) (f32.neg (call $odd)))
        (f64.store (i32.const 76) (f64.max (call $odd64) (f64.const 0)))
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn both_tiers_compute_the_same_bits() {
    let module = Bytes::from(wat::parse_str(NANS).unwrap());
    let gate = Gate::new();
    let (baseline, optimized) = (baseline_server(&gate).await, TestServer::start().await);
    let mut outputs = Vec::new();
    for server in [&baseline, &optimized] {
        let ended = server.succeed(TestAction::wasm_tool(module.clone(), &[])).await;
        outputs.push(server.get(ended.result().stdout_digest.as_ref()).await);
    }
    assert_eq!(outputs[0].len(), 64);
    assert_eq!(outputs[0], outputs[1]);
    assert!(compiled(&baseline.compiled())[0].contains("-baseline-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_modules_are_compiled_at_the_start() {
    let folder = TestServer::start().await;
    let tool = folder.put(guest("hello")).await;
    let folder = folder.shutdown().await;
    let absent = digest(b"never uploaded");
    let server = TestServer::on(folder, |config| config.worker.compile.warm = vec![absent, tool]).await;
    until("the module is compiled", || compiled(&server.compiled()).len() == 1).await;
    let ended = server.succeed(hello()).await;
    assert_eq!(ended.remarks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_module_is_run_without_its_blob_being_read() {
    let server = TestServer::with(|config| config.worker.limits.wasm_module_bytes_max = 1 << 20).await;
    // No OSFamily: the worker has to find out that this is a module.
    let action = TestAction::new(&["./t"]).file("t", guest("hello")).do_not_cache();
    server.succeed(action.clone()).await;
    let folder = server.shutdown().await;
    // Were it read now, it would be refused.
    let server = TestServer::on(folder, |config| config.worker.limits.wasm_module_bytes_max = 1).await;
    let ended = server.succeed(action).await;
    assert_eq!(server.streams(&ended).await.0, "hello from a guest");
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_modules_are_bounded_on_the_disk() {
    let server = TestServer::with(|config| {
        config.worker.limits.wasm_modules_loaded_max = 1;
        config.worker.compile.kept_bytes_max = 60_000;
    })
    .await;
    for name in ["hello", "echo", "cat", "copy", "preopens", "hello"] {
        server.succeed(TestAction::wasm(name, &["from", "to"]).file("from", "x").do_not_cache()).await;
        let files = fs::read_dir(server.compiled()).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        let bytes: u64 = files.map(|data| data.len()).sum();
        assert!(bytes > 0 && bytes <= 60_000, "{bytes}");
    }
    assert!(compiled(&server.compiled()).len() < 5);
}
