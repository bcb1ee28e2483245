;; Prints its arguments, then its environment, one to a line.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  ;; 0: count   4: bytes   8: iovec   16: written   64: pointers   4096: the texts, each with a NUL behind it
  (func $print_texts
    (local $at i32)
    (local.set $at (i32.add (i32.const 4096) (i32.load (i32.const 4))))
    (i32.store (i32.const 8) (i32.const 4096))
    (i32.store (i32.const 12) (i32.load (i32.const 4)))
    (loop $next
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (if (i32.eqz (i32.load8_u (local.get $at))) (then (i32.store8 (local.get $at) (i32.const 10))))
      (br_if $next (i32.gt_u (local.get $at) (i32.const 4096))))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16))))
  (func (export "_start")
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 64) (i32.const 4096)))
    (call $print_texts)
    (drop (call $environ_sizes_get (i32.const 0) (i32.const 4)))
    (if (i32.load (i32.const 0)) (then
      (drop (call $environ_get (i32.const 64) (i32.const 4096)))
      (call $print_texts)))))
