//! Modules that mean harm before they are entered, by what they are, or by what they ask of the host in a
//! loop. What they do once they run is in `hostile.rs`, what they do to the compiler in `compile_hostile.rs`.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use wardian_server::config::Config;
use wardian_tests::{Refusal, TestAction, TestServer, soon};

const MIB: usize = 1 << 20;

/// Exit code of a trap.
const TRAP: i32 = 134;

fn small_limits(config: &mut Config) {
    // One slot: whatever hangs would be noticed.
    config.worker.slots = 1;
    config.worker.limits.wasm_memory_bytes_max = 64 * MIB;
    config.worker.limits.wasm_table_elements_max = 1_000_000;
}

#[track_caller]
fn module(text: &str) -> Bytes {
    match wat::parse_str(format!("(module {text})")) {
        Ok(module) => module.into(),
        Err(error) => panic!("{error}"),
    }
}

/// How a module ended: with an exit code and standard error, or refused. The server is unharmed.
async fn end(module: Bytes, timeout: Duration) -> Result<(i32, String), Refusal> {
    let server = TestServer::with(small_limits).await;
    let action = TestAction::wasm_tool(module, &[]).timeout(timeout).do_not_cache();
    let ended = soon("the end of a hostile module", server.run(action)).await;
    soon("a sign of life", server.assert_unharmed()).await;
    match ended.refusal() {
        Some(refusal) => Err(refusal),
        None => Ok((ended.result().exit_code, server.streams(&ended).await.1)),
    }
}

async fn exits(text: &str, code: i32) {
    let end = end(module(text), Duration::from_secs(60)).await;
    assert_eq!(end.as_ref().map(|(code, _)| *code), Ok(code), "{end:?}");
}

async fn traps(text: &str, why: &str) {
    let (code, stderr) = end(module(text), Duration::from_secs(60)).await.expect("a trap is a result");
    assert!(code == TRAP && stderr.contains(why), "{code}, {stderr}");
}

async fn is_refused(text: &str, code: Code, why: &str) {
    let refusal = end(module(text), Duration::from_secs(60)).await.expect_err("it got through");
    assert_eq!(refusal.code, code, "{refusal:?}");
    assert!(refusal.message.contains(why), "{refusal:?}");
}

async fn times_out(text: &str) {
    let refusal = end(module(text), Duration::from_secs(1)).await.expect_err("it came to an end");
    assert_eq!(refusal.code, Code::DeadlineExceeded, "{refusal:?}");
}

/// Calls a function of preview 1 for ever.
async fn calls_for_ever(name: &str, parameters: &str, arguments: &str) {
    times_out(&format!(
        r#"(import "wasi_snapshot_preview1" "{name}" (func $call (param {parameters}) (result i32)))
           (memory (export "memory") 600)
           (data (i32.const 64) "missing")
           (func (export "_start") (loop $again (drop (call $call {arguments})) (br $again)))"#
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_that_traps() {
    traps(
        r#"(func $at_the_start unreachable) (start $at_the_start) (func (export "_start"))"#,
        "at_the_start",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_that_never_ends() {
    times_out(r#"(func $s (loop $again (br $again))) (start $s) (func (export "_start"))"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_that_eats_memory() {
    let text = r#"(memory (export "memory") 1)
        (func $s (loop $again
            (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1))) unreachable))
        (start $s) (func (export "_start"))"#;
    is_refused(text, Code::ResourceExhausted, "wasm_memory_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_function_that_exits() {
    let text = r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (func $s (call $exit (i32.const 7))) (start $s) (func (export "_start") unreachable)"#;
    exits(text, 7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_does_not_fit_into_memory() {
    traps(r#"(memory 1) (data (i32.const 65530) "too long") (func (export "_start"))"#, "out of bounds")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_that_do_not_fit_into_a_table() {
    traps(r#"(table 1 funcref) (func $f) (elem (i32.const 1) $f) (func (export "_start"))"#, "out of bounds")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_starts_too_large() {
    let text = r#"(table 2000000 funcref) (func (export "_start"))"#;
    is_refused(text, Code::ResourceExhausted, "wasm_table_elements_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tables_share_one_limit() {
    let text = "(table 200000 funcref)".repeat(6) + r#"(func (export "_start"))"#;
    is_refused(&text, Code::ResourceExhausted, "wasm_table_elements_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recursion_with_thousands_of_locals() {
    let locals = " i64".repeat(5_000);
    let uses: String =
        (0..5_000).map(|local| format!("(local.set {local} (i64.load (i32.const 0)))")).collect();
    let sum: String = (0..5_000).map(|local| format!("(i64.add (local.get {local}))")).collect();
    // All locals live across the call, so every frame is large.
    let text = format!(
        r#"(memory 1)
           (func $deeper (result i64) (local{locals}) {uses} (call $deeper) {sum})
           (func (export "_start") (drop (call $deeper)))"#
    );
    traps(&text, "stack").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_wants_something() {
    let end = end(module(r#"(func (export "_start") (param i32))"#), Duration::from_secs(60)).await;
    assert_ne!(end.as_ref().map(|(code, _)| *code), Ok(0), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_from_somewhere_else() {
    let text = r#"(import "env" "memory" (memory 1)) (func (export "_start"))"#;
    is_refused(text, Code::InvalidArgument, "env::memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_of_preview_1_with_other_parameters() {
    let text = r#"(import "wasi_snapshot_preview1" "fd_close" (func (param i64) (result i32)))
        (func (export "_start"))"#;
    is_refused(text, Code::InvalidArgument, "fd_close").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_a_memory() {
    let text = r#"(import "wasi_snapshot_preview1" "args_sizes_get" (func $f (param i32 i32) (result i32)))
        (func (export "_start") (drop (call $f (i32.const 0) (i32.const 4))))"#;
    traps(text, "memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn yielding_for_ever() {
    calls_for_ever("sched_yield", "", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_the_clock_for_ever() {
    calls_for_ever("clock_time_get", "i32 i64 i32", "(i32.const 1) (i64.const 1) (i32.const 8)").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_for_a_file_for_ever() {
    let arguments = "(i32.const 3) (i32.const 0) (i32.const 64) (i32.const 7) (i32.const 128)";
    calls_for_ever("path_filestat_get", "i32 i32 i32 i32 i32", arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_the_root_for_ever() {
    let arguments = "(i32.const 3) (i32.const 128) (i32.const 4096) (i64.const 0) (i32.const 8)";
    calls_for_ever("fd_readdir", "i32 i32 i32 i64 i32", arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_nothing_for_ever() {
    let arguments = "(i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8)";
    calls_for_ever("fd_write", "i32 i32 i32 i32", arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_random_bytes_for_ever() {
    calls_for_ever("random_get", "i32 i32", "(i32.const 128) (i32.const 39000000)").await;
}
