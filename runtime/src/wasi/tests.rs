//! Whole guests over the host. Every function and errno has its case in the crate's integration tests.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use wardian_proto::DigestFunction;
use wardian_store::backend::MemoryStore;

use super::*;
use crate::Limits;
use crate::workspace::{Inputs, WorkspaceLimits};

/// A guest that calls one function after another and stops at the first errno, which is its exit code.
fn module(imports: &str, data: &str, calls: &str) -> wasmtime::Module {
    let text = format!(
        r#"(module {imports}
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) {data}
            (func $check (param i32) (if (local.get 0) (then (call $exit (local.get 0)))))
            (func (export "_start") {calls}))"#
    );
    wasmtime::Module::new(&wasmtime::Engine::default(), text).unwrap()
}

const WRITE: &str =
    r#"(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))"#;
const CLOCK: &str =
    r#"(import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))"#;
const RANDOM: &str =
    r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
const OPEN: &str = r#"(import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))"#;

struct Ended {
    code: wasmtime::Result<i32>,
    stdout: Bytes,
    host: Host,
}

fn run(module: &wasmtime::Module, change: impl FnOnce(&mut Setting)) -> Ended {
    let runtime = Runtime::new().unwrap();
    let store = Arc::new(MemoryStore::new(1 << 20));
    let empty = Digest::empty(DigestFunction::Sha256);
    let inputs = Inputs::new(store, runtime.handle().clone(), 1 << 20, 1 << 20);
    let limits = WorkspaceLimits::of(&Limits::default());
    let workspace = Workspace::new(inputs, empty, limits, std::env::temp_dir());
    let mut setting = Setting {
        arguments: vec!["tool".into()],
        environment: vec![],
        working_directory: RelPath::root(),
        named_directories: vec![],
        action: DigestFunction::Sha256.digest(b"action"),
        clock: ClockPolicy::Fixed,
        random: RandomPolicy::Action,
        wasm_handles_max: 6,
        stdout: Capture::new("standard output", 100),
        stderr: Capture::new("standard error", 100),
        deadline: Deadline::start(Duration::from_secs(60), watch::channel(false).1),
    };
    change(&mut setting);
    let stdout = setting.stdout.clone();
    let (code, host) = run_module(module, Host::new(workspace, setting).unwrap());
    Ended { code, stdout: stdout.bytes(), host }
}

/// Writes `length` bytes from address 0 to standard output.
fn write(length: u32) -> String {
    format!(
        "(i32.store (i32.const 1000) (i32.const 0)) (i32.store (i32.const 1004) (i32.const {length}))
         (call $check (call $write (i32.const 1) (i32.const 1000) (i32.const 1) (i32.const 1008)))"
    )
}

#[test]
fn time_and_chance_are_the_same_in_every_run() {
    let calls = format!(
        "(call $check (call $clock (i32.const 0) (i64.const 0) (i32.const 0)))
         (call $check (call $clock (i32.const 1) (i64.const 0) (i32.const 8)))
         (call $check (call $random (i32.const 16) (i32.const 16))) {}",
        write(32)
    );
    let module = module(&[WRITE, CLOCK, RANDOM].concat(), "", &calls);
    let first = run(&module, |_| {}).stdout;
    assert_eq!(first[..8], crate::workspace::FIXED_TIME.to_le_bytes());
    assert_eq!(first[8..16], (MONOTONIC_START + MONOTONIC_STEP).to_le_bytes());
    assert_eq!(run(&module, |_| {}).stdout, first);
    let other = run(&module, |setting| setting.action = DigestFunction::Sha256.digest(b"other")).stdout;
    assert!(other[..16] == first[..16] && other[16..] != first[16..]);
    let real = run(&module, |setting| {
        setting.clock = ClockPolicy::Real;
        setting.random = RandomPolicy::System;
    });
    assert!(real.stdout[..8] != first[..8] && real.stdout[16..] != first[16..]);
}

#[test]
fn output_is_kept_up_to_the_limit_and_then_ends_the_guest() {
    let module = module(WRITE, "", &[write(60), write(60)].concat());
    let ended = run(&module, |_| {});
    let stopped = ended.code.unwrap_err();
    assert!(matches!(stopped.downcast_ref(), Some(Stopped::TooMuchOutput { bytes_max: 100, .. })));
    assert_eq!(ended.stdout.len(), 100);
}

#[test]
fn descriptors_are_limited_and_the_limit_is_named() {
    let open =
        "(call $check (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 1)
                (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 8)))";
    let data = r#"(data (i32.const 0) "f")"#;
    let ended = run(&module(OPEN, data, &open.repeat(2)), |_| {});
    assert_eq!(ended.code.unwrap(), i32::from(types::Errno::Mfile as u16));
    let hit = ended.host.workspace().limit_hit().unwrap();
    assert_eq!((hit.name, hit.used, hit.allowed), ("wasm_handles_max", 6, 6));
}

#[test]
fn exit_codes_are_bytes() {
    for (status, code) in [("0", 0), ("7", 7), ("126", 126), ("255", 255), ("256", 0), ("-1", 255)] {
        let ended = run(&module("", "", &format!("(call $exit (i32.const {status}))")), |_| {});
        assert_eq!(ended.code.unwrap(), code, "{status}");
    }
}
