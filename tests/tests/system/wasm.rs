//! Actions whose tool is a WebAssembly module or component. Hostile ones are in `hostile.rs`.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_proto::reapi;
use wardian_tests::{TestAction, TestServer, component_of, guest};

async fn stdout(server: &TestServer, action: TestAction) -> String {
    let ended = server.succeed(action).await;
    server.streams(&ended).await.0
}

/// How the same guest is shipped: as the module it is, or wrapped into a component.
fn both_kinds(name: &str) -> [Bytes; 2] {
    [guest(name), component_of(name)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_says_hello() {
    let server = TestServer::start().await;
    for tool in both_kinds("hello") {
        let ended = server.succeed(TestAction::wasm_tool(tool, &[])).await;
        assert_eq!(server.streams(&ended).await, ("hello from a guest".into(), String::new()));
        let worker = ended.result().execution_metadata.unwrap().worker;
        assert!(worker.contains("wasm"), "{worker}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_is_known_by_its_first_bytes() {
    let server = TestServer::start().await;
    // The execute bit does not matter, and neither does the name.
    for path in ["bin/tool", "tool.wasm", "t"] {
        let argument = format!("./{path}");
        let action = TestAction::new(&[&argument]).file(path, guest("hello"));
        assert_eq!(stdout(&server, action.clone()).await, "hello from a guest");
        assert_eq!(stdout(&server, action.platform(&[("ISA", "wasm32")])).await, "hello from a guest");
    }
    // With another OSFamily it is a native tool, which a machine does not run.
    let native = TestAction::wasm("hello", &[]).platform(&[("OSFamily", std::env::consts::OS)]);
    assert_eq!(server.refused(native).await.code, Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_and_environment_arrive_and_nothing_else() {
    let server = TestServer::start().await;
    for tool in both_kinds("echo") {
        let action = TestAction::wasm_tool(tool, &["one", "two words", "", "ünï"]);
        assert_eq!(stdout(&server, action.clone()).await, "bin/tool\none\ntwo words\n\nünï\n");
        let action = action.env("A", "1").env("B", "x=y");
        assert_eq!(stdout(&server, action).await, "bin/tool\none\ntwo words\n\nünï\nA=1\nB=x=y\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_and_written() {
    let server = TestServer::start().await;
    for tool in both_kinds("copy") {
        for size in [0, 10, 500_000] {
            let content: Vec<u8> = (0..size).map(|i| (i % 241) as u8).collect();
            let action = TestAction::wasm_tool(tool.clone(), &["in/from", "out/to"])
                .file("in/from", content.clone())
                .outputs(&["out/to"]);
            let result = server.succeed(action).await.result();
            assert!(server.get(result.output_files[0].digest.as_ref()).await == content, "{size}");
            assert!(!result.output_files[0].is_executable);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_relative_to_the_working_directory() {
    let server = TestServer::start().await;
    for tool in both_kinds("copy") {
        let mut action = TestAction::wasm_tool(tool, &["from", "sub/to"])
            .file("work/from", "content")
            .working_directory("work")
            .outputs(&["sub/to"]);
        action.command.arguments[0] = "../bin/tool".into();
        let result = server.succeed(action.clone()).await.result();
        assert_eq!(result.output_files[0].path, "sub/to");
        assert_eq!(server.get(result.output_files[0].digest.as_ref()).await, "content");
        let refusal = server.refused(action.working_directory("absent")).await;
        assert_eq!(refusal.code, Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_inside_the_input_root_are_followed() {
    let server = TestServer::start().await;
    let action = TestAction::wasm("cat", &["a/link"])
        .file("b/target", "behind the link")
        .directory("a")
        .symlink("a/link", "../b/target");
    assert_eq!(stdout(&server, action).await, "behind the link");
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_found_inside_the_input_root() {
    let server = TestServer::start().await;
    let with_tool = |argument: &str| {
        let mut action = TestAction::wasm("hello", &[])
            .symlink("links/tool", "../bin/tool")
            .symlink("folder", "bin")
            .directory("work");
        action.command.arguments[0] = argument.into();
        action
    };
    for argument in ["bin/tool", "./bin/../bin/tool", "/bin/tool", "links/tool", "folder/tool"] {
        assert_eq!(stdout(&server, with_tool(argument)).await, "hello from a guest", "{argument}");
    }
    // A bare name: on the PATH, and in the working directory.
    assert_eq!(stdout(&server, with_tool("tool").env("PATH", "/none:/bin")).await, "hello from a guest");
    assert_eq!(stdout(&server, with_tool("tool").env("PATH", "links")).await, "hello from a guest");
    assert_eq!(stdout(&server, with_tool("tool").working_directory("bin")).await, "hello from a guest");
    for absent in ["bin/none", "tool", "sh", "/bin/sh", "../bin/tool", "../../../bin/sh", "work"] {
        let refusal = server.refused(with_tool(absent)).await;
        assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");
        assert!(refusal.message.contains(absent), "{refusal:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_come_back() {
    let server = TestServer::start().await;
    let ended = server.run(TestAction::wasm("exit-7", &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 7));
    // Preview 2 knows success and failure only.
    let ended = server.run(TestAction::wasm_tool(component_of("exit-7"), &[])).await;
    assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_written_components_succeed_and_fail() {
    let server = TestServer::start().await;
    for (name, expected) in [("component-ok", 0), ("component-err", 1)] {
        let ended = server.run(TestAction::wasm(name, &[])).await;
        assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, expected), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_is_exit_134_with_a_backtrace() {
    let server = TestServer::start().await;
    for tool in both_kinds("trap") {
        let built = server.upload(TestAction::wasm_tool(tool, &[])).await;
        for _ in 0..2 {
            let ended = server.execute(&built).await;
            assert_eq!((ended.code(), ended.result().exit_code), (Code::Ok, 134));
            assert!(!ended.response.cached_result);
            let stderr = server.streams(&ended).await.1;
            for text in ["unreachable", "at_the_bottom", "in_the_middle"] {
                assert!(stderr.contains(text), "{text:?} in {stderr}");
            }
            // Nothing of the worker's own paths.
            assert!(!stderr.contains(server.folder().to_str().unwrap()), "{stderr}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_refused_with_the_reason() {
    let server = TestServer::start().await;
    let mut invalid = guest("hello").to_vec();
    let last = invalid.len() - 1;
    invalid.truncate(last);
    for (tool, reason) in [
        (Bytes::from_static(b"#!/bin/sh\necho hi\n"), "no WebAssembly"),
        (Bytes::new(), "no WebAssembly"),
        (invalid.into(), "not valid"),
        (Bytes::from_static(b"\0asm\x01\0\0\0 garbage"), "not valid"),
        (Bytes::from_static(b"\0asm\x0d\0\x01\0 garbage"), ""),
        (guest("library"), "_start"),
        (guest("component-library"), "wasi:cli/run"),
        (guest("foreign-import"), "env::open_the_door"),
        (guest("unknown-wasi-import"), "fd_frobnicate"),
    ] {
        let refusal = server.refused(TestAction::wasm_tool(tool, &[])).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
        assert!(refusal.message.contains(reason), "{reason:?}: {refusal:?}");
    }
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_over_the_limit_is_refused() {
    let server = TestServer::with(|config| config.worker.limits.wasm_module_bytes_max = 50).await;
    let refusal = server.refused(TestAction::wasm("hello", &[])).await;
    assert_eq!(refusal.code, Code::InvalidArgument);
    assert!(refusal.message.contains("wasm_module_bytes_max"), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_tool_blob_is_named() {
    let server = TestServer::start().await;
    let built = TestAction::wasm("hello", &[]).build();
    let tool = wardian_tests::digest(&guest("hello"));
    let uploads: Vec<_> = built.blobs.iter().filter(|(d, _)| *d != tool).cloned().collect();
    server.put_all(&uploads).await;
    assert_eq!(server.refusal_of(&built).await.missing, [format!("blobs/{tool}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn compiled_modules_are_kept_and_reloaded() {
    let server = TestServer::with(|config| config.worker.limits.wasm_modules_loaded_max = 1).await;
    let compiled = server.folder().join("data/worker/compiled");
    let count = || std::fs::read_dir(&compiled).unwrap().count();
    for _ in 0..2 {
        for name in ["hello", "echo", "preopens"] {
            server.succeed(TestAction::wasm(name, &[]).do_not_cache()).await;
        }
        assert_eq!(count(), 3);
    }
    // What is damaged on disk is compiled again, never run.
    let folder = server.shutdown().await;
    for entry in std::fs::read_dir(folder.path().join("data/worker/compiled")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"\x7fELF not what it was").unwrap();
    }
    let server = TestServer::on(folder, |_| {}).await;
    assert_eq!(stdout(&server, TestAction::wasm("hello", &[]).do_not_cache()).await, "hello from a guest");
}

#[tokio::test(flavor = "multi_thread")]
async fn wasm_results_are_cached_and_inlined_like_others() {
    let server = TestServer::start().await;
    let built = server.upload(TestAction::wasm("hello", &[])).await;
    assert!(!server.execute(&built).await.response.cached_result);
    let request = reapi::ExecuteRequest { inline_stdout: true, ..built.request() };
    let second = server.follow(request).await.unwrap().ended().await.unwrap();
    assert!(second.response.cached_result);
    assert_eq!(&second.result().stdout_raw[..], b"hello from a guest");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guests_run_through_few_slots() {
    let server = TestServer::start().await;
    let runs = (0..40).map(|i| {
        let action = TestAction::wasm("echo", &[&i.to_string()]).timeout(Duration::from_secs(60));
        stdout(&server, action)
    });
    let texts = futures::future::join_all(runs).await;
    assert_eq!(texts, (0..40).map(|i| format!("bin/tool\n{i}\n")).collect::<Vec<_>>());
    server.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_of_bazel_runs_without_its_shell_script() {
    let server = TestServer::start().await;
    let test = |tool: &str| {
        TestAction::new(&["tools/test-setup.sh", "pkg/t", "pkg/data"])
            .file("tools/test-setup.sh", "#!/bin/bash\nexit 1\n")
            .file("out/t.runfiles/garden/pkg/t", guest(tool))
            .file("out/t.runfiles/garden/pkg/data", "a runfile")
            .env("TEST_SRCDIR", "out/t.runfiles")
            .env("TEST_TMPDIR", "tmp/7")
            .env("TEST_WORKSPACE", "garden")
    };
    let bazel = [("OSFamily", "wasi"), ("wasi-test", "bazel")];
    assert_eq!(stdout(&server, test("cat").platform(&bazel)).await, "a runfile");
    // What the variables name is there, also for those who look for absolute paths in the working directory.
    let names = stdout(&server, test("preopens").platform(&bazel)).await;
    assert_eq!(names, "/\n.\n/out/t.runfiles\n/tmp/7\n");
    let plain = test("cat").platform(&bazel[..1]);
    let refusal = server.refused(plain).await;
    assert!(refusal.message.contains("WebAssembly"), "{}", refusal.message);
}
