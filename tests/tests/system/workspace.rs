//! Preview-1 actions over a virtual workspace: laziness, limits by property, and what is told of a guest.

use std::time::Duration;

use prost::Message as _;
use tonic::Code;
use wardian_proto::reapi::execution_stage::Value as Stage;
use wardian_proto::wardian::{ObservedInput, WasmObservations, WasmUsage};
use wardian_tests::{Ended, TestAction, TestServer, digest, guest};

fn usage(ended: &Ended) -> WasmUsage {
    let metadata = ended.result().execution_metadata.unwrap();
    let found =
        metadata.auxiliary_metadata.iter().find(|any| any.type_url.ends_with("/wardian.v1.WasmUsage"));
    WasmUsage::decode(&*found.expect("a guest's usage").value).unwrap()
}

fn child<'a>(observed: &'a ObservedInput, name: &str) -> &'a ObservedInput {
    observed
        .children
        .iter()
        .find(|child| child.name == name)
        .unwrap_or_else(|| panic!("{name}: {observed:?}"))
}

/// The copy guest with properties beside those that make it a WASI action.
fn copy_with(properties: &[(&str, &str)]) -> TestAction {
    let properties = [&[("OSFamily", "wasi")], properties].concat();
    TestAction::wasm("copy", &["in/from", "out/to"])
        .file("in/from", vec![7; 3000])
        .platform(&properties)
        .outputs(&["out/to"])
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_inputs_are_named_all_of_them_met_or_not() {
    let server = TestServer::start().await;
    let built = copy_with(&[]).file("in/unread", "never read").build();
    let withheld = [digest(&[7; 3000]), digest(b"never read")];
    let uploads: Vec<_> = built.blobs.iter().filter(|(d, _)| !withheld.contains(d)).cloned().collect();
    server.put_all(&uploads).await;
    let refusal = server.refusal_of(&built).await;
    assert_eq!((refusal.code, refusal.missing.len()), (Code::FailedPrecondition, 2), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_say_what_was_used_and_looked_at() {
    let server = TestServer::start().await;
    let ended = server.succeed(copy_with(&[]).file("in/untouched", "x").file("apart/f", "y")).await;
    let usage = usage(&ended);
    assert_eq!((usage.files_read, usage.bytes_read), (1, 3000));
    assert_eq!((usage.files_written, usage.bytes_written, usage.workspace_bytes_peak), (1, 3000, 3000));
    assert_eq!((usage.fuel_used, usage.limit_hit.as_ref()), (None, None));
    assert_eq!(usage.memory_bytes_peak, 2 * 65_536);
    assert_eq!(usage.module_digest, Some(digest(&guest("copy")).to_wire()));
    let [root] = &usage.observed[..] else { panic!("{:?}", usage.observed) };
    let from = child(child(root, "in"), "from");
    assert_eq!((from.size_bytes, &from.ranges[..]), (3000, &[0, 3000][..]));
    assert_eq!(child(root, "in").children.len(), 1);
    assert!(root.children.iter().all(|child| child.name != "apart"), "{root:?}");
    assert_eq!(root.absent, ["out"]);
}

/// Looks in vain for 5,000 names of more than twenty bytes.
const LOOKS_FOR_MANY: &str = r#"(module
    (import "wasi_snapshot_preview1" "path_filestat_get"
      (func $stat (param i32 i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "a-name-that-is-not-there-0000")
    (func (export "_start")
      (local $n i32)
      (loop $next
        (i32.store (i32.const 25)
          (i32.add (i32.const 0x30303030)
            (i32.or
              (i32.or (i32.and (local.get $n) (i32.const 15))
                      (i32.shl (i32.and (i32.shr_u (local.get $n) (i32.const 4)) (i32.const 15)) (i32.const 8)))
              (i32.or (i32.shl (i32.and (i32.shr_u (local.get $n) (i32.const 8)) (i32.const 15)) (i32.const 16))
                      (i32.shl (i32.shr_u (local.get $n) (i32.const 12)) (i32.const 24))))))
        (drop (call $stat (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 29) (i32.const 128)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $n) (i32.const 5000))))))"#;

#[tokio::test(flavor = "multi_thread")]
async fn observations_that_are_too_large_for_a_result_are_a_blob() {
    let server = TestServer::start().await;
    let module = wat::parse_str(LOOKS_FOR_MANY).unwrap();
    let usage = usage(&server.succeed(TestAction::wasm_tool(module.into(), &[])).await);
    assert!(usage.observed.is_empty());
    assert!(usage.observed_count > 5_000, "{}", usage.observed_count);
    let blob = server.get(usage.observed_digest.as_ref()).await;
    let observations = WasmObservations::decode(blob).unwrap();
    let [root] = &observations.observed[..] else { panic!("{} roots", observations.observed.len()) };
    assert_eq!(root.absent.len(), 5_000);
    assert_eq!(root.absent[0], "a-name-that-is-not-there-0000");
}

#[tokio::test(flavor = "multi_thread")]
async fn fuel_is_counted_and_ends_a_guest_at_the_same_place() {
    let server = TestServer::start().await;
    let looping = TestAction::wasm("loop", &[]).platform(&[("OSFamily", "wasi"), ("wasm-fuel", "100000")]);
    let ended = server.run(looping).await;
    let refusal = ended.refusal().unwrap();
    assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
    assert!(refusal.message.contains("wasm-fuel") && refusal.message.contains("100000"), "{refusal:?}");
    let mut used = Vec::new();
    for _ in 0..2 {
        let ended = server.succeed(copy_with(&[("wasm-fuel", "1000000")]).do_not_cache()).await;
        used.push(usage(&ended).fuel_used.unwrap());
    }
    assert!(used[0] == used[1] && used[0] > 100, "{used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_tighten_limits_and_the_verdict_says_what_was_used() {
    let server = TestServer::start().await;
    for (name, value, limit, used) in [
        ("wasm-workspace-bytes", "2000", "wasm_workspace_bytes_max", "0"),
        ("wasm-workspace-files", "1", "wasm_workspace_files_max", "1"),
        ("wasm-open-files", "5", "wasm_handles_max", "5"),
    ] {
        let ended = server.run(copy_with(&[(name, value)])).await;
        let refusal = ended.refusal().unwrap_or_else(|| panic!("{name} was not obeyed"));
        assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
        assert!(refusal.message.contains(limit), "{refusal:?}");
        let hit = usage(&ended).limit_hit.unwrap();
        assert_eq!(
            (hit.name.as_str(), hit.used.to_string().as_str(), hit.allowed.to_string().as_str()),
            (limit, used, value)
        );
    }
    let loud =
        TestAction::wasm("echo", &["hello"]).platform(&[("OSFamily", "wasi"), ("wasm-stdout-bytes", "3")]);
    let ended = server.run(loud).await;
    assert_eq!(ended.code(), Code::ResourceExhausted);
    assert_eq!(server.streams(&ended).await.0, "bin", "what fitted is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_was_refused_memory_or_a_table_and_goes_on_has_hit_a_limit() {
    let server = TestServer::start().await;
    for (grow, property, limit, used) in [
        ("memory.grow (i32.const 100)", "wasm-memory", "wasm_memory_bytes_max", 65_536),
        (
            "table.grow (ref.null func) (i32.const 100000)",
            "wasm-table-elements",
            "wasm_table_elements_max",
            7,
        ),
    ] {
        for exit_code in [0, 3] {
            let module = format!(
                r#"(module
                     (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                     (memory (export "memory") 1) (table 7 funcref)
                     (func (export "_start")
                       (if (i32.ne ({grow}) (i32.const -1)) (then unreachable))
                       (call $exit (i32.const {exit_code}))))"#
            );
            let action = TestAction::wasm_tool(wat::parse_str(module).unwrap().into(), &[])
                .platform(&[("OSFamily", "wasi"), (property, "99999")]);
            let ended = server.run(action).await;
            // Who succeeds all the same has got along without it.
            let code = if exit_code == 0 { Code::Ok } else { Code::ResourceExhausted };
            assert_eq!((ended.code(), ended.result().exit_code), (code, exit_code), "{:?}", ended.refusal());
            assert!(ended.refusal().is_none_or(|refusal| refusal.message.contains(limit)));
            let hit = usage(&ended).limit_hit.expect("it is told");
            assert_eq!((hit.name.as_str(), hit.used, hit.allowed), (limit, used, 99_999));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_cannot_be_obeyed_are_refused_by_name() {
    let server = TestServer::start().await;
    for (name, value) in
        [("wasi-time", "real"), ("wasm-cpu", "1"), ("wasi-clock", "slow"), ("wasm-memory", "99999999999")]
    {
        let refusal = server.refused(copy_with(&[(name, value)])).await;
        assert_eq!(refusal.code, Code::InvalidArgument, "{refusal:?}");
        assert!(refusal.message.contains(name), "{refusal:?}");
    }
    let loosened =
        copy_with(&[("wasi-clock", "real"), ("wasi-random", "system"), ("wasm-memory", "1000000")]);
    server.succeed(loosened).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_an_output_keeps_its_digest() {
    let server = TestServer::start().await;
    let action = copy_with(&[]).outputs(&["in", "in/from", "out/to"]);
    let result = server.succeed(action).await.result();
    let files: Vec<_> = result.output_files.iter().map(|file| file.digest.clone().unwrap()).collect();
    assert_eq!(files, [digest(&[7; 3000]).to_wire(), digest(&[7; 3000]).to_wire()]);
    assert_eq!(result.output_directories.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_staged_for_a_module() {
    let server = TestServer::start().await;
    let sleeping = TestAction::wasm("loop", &[]).timeout(Duration::from_secs(1));
    let mut running = server.begin(sleeping).await;
    running.until_stage(Stage::Executing).await;
    assert_eq!(std::fs::read_dir(server.staged()).unwrap().count(), 0);
    assert_eq!(running.ended().await.unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(std::fs::read_dir(server.staged()).unwrap().count(), 0);
}
