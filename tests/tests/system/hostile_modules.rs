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
    config.worker.limits.wasm_workspace_files_max = 200;
    config.worker.limits.wasm_workspace_bytes_max = MIB as u64;
    config.worker.limits.wasm_path_depth_max = 20;
    config.worker.limits.output_bytes_max = 2 * MIB as u64;
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

/// A guest that does something again until that returns an error number, and then exits with `code`, which may
/// be that number.
fn hoarder(again: &str, code: &str) -> String {
    format!(
        r#"(import "wasi_snapshot_preview1" "path_open"
               (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
           (import "wasi_snapshot_preview1" "path_create_directory"
               (func $mkdir (param i32 i32 i32) (result i32)))
           (import "wasi_snapshot_preview1" "fd_filestat_set_size"
               (func $set_size (param i32 i64) (result i32)))
           (import "wasi_snapshot_preview1" "fd_write"
               (func $write (param i32 i32 i32 i32) (result i32)))
           (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
           (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
           (memory (export "memory") 2)
           (data (i32.const 32) "\00\01\00\00\00\80\00\00")
           (data (i32.const 64) "00000000")
           (global $count (mut i32) (i32.const 0))
           (global $fd (mut i32) (i32.const 3))
           ;; Opens or makes the file that is named by the count.
           (func $file (result i32)
               (i32.store (i32.const 64) (i32.or (i32.const 0x30303030)
                   (i32.and (global.get $count) (i32.const 0x0f0f0f0f))))
               (i32.store (i32.const 68) (i32.or (i32.const 0x30303030)
                   (i32.and (i32.shr_u (global.get $count) (i32.const 4)) (i32.const 0x0f0f0f0f))))
               (global.set $count (i32.add (global.get $count) (i32.const 1)))
               (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1)
                   (i64.const 0x40) (i64.const 0) (i32.const 0) (i32.const 16)))
           (func $again (result i32) {again})
           (func (export "_start") (local $errno i32)
               (loop $more
                   (local.set $errno (call $again))
                   (br_if $more (i32.eqz (local.get $errno))))
               (call $exit {code}))"#
    )
}

const FILES: &str =
    "(if (call $file) (then (return (i32.const 51)))) (call $close (i32.load (i32.const 16)))";

/// 32 KiB more in one file.
const BYTES: &str = "(if (i32.eqz (global.get $count)) (then (drop (call $file))))
    (call $write (i32.load (i32.const 16)) (i32.const 32) (i32.const 1) (i32.const 24))";

const DEPTH: &str = "(local $errno i32)
    (local.set $errno (call $mkdir (global.get $fd) (i32.const 64) (i32.const 8)))
    (if (local.get $errno) (then (return (local.get $errno))))
    (local.set $errno (call $open (global.get $fd) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 2)
        (i64.const 0x3fbffebe) (i64.const 0x3fffffff) (i32.const 0) (i32.const 16)))
    (if (local.get $errno) (then (return (local.get $errno))))
    (drop (call $close (global.get $fd)))
    (global.set $fd (i32.load (i32.const 16)))
    (i32.const 0)";

const ITS_ERRNO: &str = "(local.get $errno)";

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

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_of_files() {
    is_refused(&hoarder(FILES, ITS_ERRNO), Code::ResourceExhausted, "wasm_workspace_files_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_of_bytes() {
    is_refused(&hoarder(BYTES, ITS_ERRNO), Code::ResourceExhausted, "wasm_workspace_bytes_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hoarder_of_directories() {
    is_refused(&hoarder(DEPTH, ITS_ERRNO), Code::ResourceExhausted, "wasm_path_depth_max").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gets_along_with_less_succeeds() {
    for again in [FILES, BYTES, DEPTH] {
        exits(&hoarder(again, "(i32.const 0)"), 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_one_large_hole() {
    let text = hoarder(
        "(drop (call $file)) (drop (call $set_size (i32.load (i32.const 16)) (i64.const 0x1000000000000000)))
         (i32.const 1)",
        "(i32.const 0)",
    );
    let server = TestServer::with(small_limits).await;
    let action = TestAction::wasm_tool(module(&text), &[]).outputs(&["00000000"]);
    let ended = soon("a verdict on a hole", server.run(action)).await;
    // Whether the guest may make it or the worker does not take it: nobody reads 2^60 zeros.
    if let Some(refusal) = ended.refusal() {
        assert!(refusal.message.contains("output_bytes_max"), "{refusal:?}");
    } else {
        assert_eq!(ended.result().output_files[0].digest.as_ref().map(|d| d.size_bytes), Some(0));
    }
    soon("a sign of life", server.assert_unharmed()).await;
}
