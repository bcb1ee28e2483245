;; Copies the file that argument 1 names to where argument 2 says, both from the working directory.
;; Exits with the errno of the first call that failed.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  ;; 0: iovec   8: bytes moved   12: opened descriptor   64: argument pointers   4096: arguments   65536: a piece
  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  (func $length (param $text i32) (result i32)
    (local $at i32)
    (local.set $at (local.get $text))
    (loop $next
      (if (i32.load8_u (local.get $at)) (then
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))
    (i32.sub (local.get $at) (local.get $text)))
  ;; Descriptor 4 is the working directory.
  (func $open (param $path i32) (param $oflags i32) (param $rights i64) (result i32)
    (call $check (call $path_open
      (i32.const 4) (i32.const 1) (local.get $path) (call $length (local.get $path))
      (local.get $oflags) (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 12)))
    (i32.load (i32.const 12)))
  (func (export "_start")
    (local $from i32)
    (local $to i32)
    (call $check (call $args_get (i32.const 64) (i32.const 4096)))
    ;; The right to read is 2, to write 64; oflags 9 are "create" and "truncate".
    (local.set $from (call $open (i32.load (i32.const 68)) (i32.const 0) (i64.const 2)))
    (local.set $to (call $open (i32.load (i32.const 72)) (i32.const 9) (i64.const 64)))
    (loop $next
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (call $check (call $fd_read (local.get $from) (i32.const 0) (i32.const 1) (i32.const 8)))
      (if (i32.load (i32.const 8)) (then
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (call $check (call $fd_write (local.get $to) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br $next))))))
