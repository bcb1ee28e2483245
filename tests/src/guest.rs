//! Guests: the text modules in `guests/`, and preview-2 components made of them.

use std::path::Path;

use bytes::Bytes;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};

/// Assembles `guests/NAME.wat`.
#[track_caller]
pub fn guest(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(name).with_extension("wat");
    match wat::parse_file(&path) {
        Ok(module) => module.into(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// Wraps a preview-1 guest into a preview-2 command, as toolchains do.
#[track_caller]
pub fn component_of(name: &str) -> Bytes {
    let encode = || {
        wit_component::ComponentEncoder::default()
            .module(&guest(name))?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)?
            .encode()
    };
    encode().expect("a guest makes a component").into()
}

/// Makes a module that opens files one after the other, all by paths of the same length, and reads each. It exits with
/// the errno of the first that it cannot open.
pub fn reader_of(paths: &[String]) -> Bytes {
    let length = paths[0].len();
    assert!(paths.iter().all(|path| path.len() == length && !path.contains(['"', '\\'])));
    let text = format!(
        r#"(module
          (import "wasi_snapshot_preview1" "path_open"
            (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
          (memory (export "memory") 8)
          ;; 0: iovec   8: bytes read   12: opened descriptor   1024: what was read   65536: paths
          (data (i32.const 65536) "{paths}")
          (func (export "_start")
            (local $left i32) (local $path i32) (local $errno i32)
            (local.set $left (i32.const {count}))
            (local.set $path (i32.const 65536))
            (loop $next
              (local.set $errno (call $path_open
                (i32.const 3) (i32.const 1) (local.get $path) (i32.const {length})
                (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12)))
              (if (local.get $errno) (then (call $proc_exit (local.get $errno))))
              (i32.store (i32.const 0) (i32.const 1024))
              (i32.store (i32.const 4) (i32.const 4096))
              (drop (call $fd_read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
              (drop (call $fd_close (i32.load (i32.const 12))))
              (local.set $path (i32.add (local.get $path) (i32.const {length})))
              (local.set $left (i32.sub (local.get $left) (i32.const 1)))
              (br_if $next (local.get $left)))))"#,
        paths = paths.concat(),
        count = paths.len(),
    );
    wat::parse_str(&text).expect("a module").into()
}
