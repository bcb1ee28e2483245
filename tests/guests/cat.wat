;; Prints the file that argument 1 names, tried below each of the two directories a guest is given.
;; Exits with the errno when neither leads to it.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 2)
  ;; 0: iovec   8: bytes moved   12: opened descriptor   64: argument pointers   4096: arguments   65536: a piece
  (func $length (param $text i32) (result i32)
    (local $at i32)
    (local.set $at (local.get $text))
    (loop $next
      (if (i32.load8_u (local.get $at)) (then
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))
    (i32.sub (local.get $at) (local.get $text)))
  ;; Descriptor 3 is the input root, 4 the working directory.
  (func $open (param $directory i32) (param $path i32) (result i32)
    (call $path_open
      (local.get $directory) (i32.const 1) (local.get $path) (call $length (local.get $path))
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12)))
  (func (export "_start")
    (local $errno i32)
    (drop (call $args_get (i32.const 64) (i32.const 4096)))
    (if (call $open (i32.const 3) (i32.load (i32.const 68))) (then
      (local.set $errno (call $open (i32.const 4) (i32.load (i32.const 68))))
      (if (local.get $errno) (then (call $proc_exit (local.get $errno))))))
    (i32.store (i32.const 0) (i32.const 65536))
    (i32.store (i32.const 4) (i32.const 65536))
    (drop (call $fd_read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
