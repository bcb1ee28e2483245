;; Prints, as bytes, everything that could differ from one run or machine to the next: clocks and what they can tell
;; apart, random bytes, what the file of argument 1 and the working directory are, and the listing of the directory
;; above it. Exits with the errno of the first call that failed.
(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_res_get" (func $clock_res_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  ;; 0: iovec   8: written   12: length of the listing   64: argument pointers   1024: arguments
  ;; 8192: what is printed: 4 times, 2 resolutions, 32 random bytes, 2 stats, the listing
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
  (func (export "_start")
    (local $path i32)
    (call $check (call $args_get (i32.const 64) (i32.const 1024)))
    (local.set $path (i32.load (i32.const 68)))
    (call $check (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 8192)))
    (call $check (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 8200)))
    (call $check (call $clock_time_get (i32.const 1) (i64.const 0) (i32.const 8208)))
    (call $check (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 8216)))
    (call $check (call $clock_res_get (i32.const 0) (i32.const 8224)))
    (call $check (call $clock_res_get (i32.const 1) (i32.const 8232)))
    (call $check (call $random_get (i32.const 8240) (i32.const 32)))
    (call $check (call $path_filestat_get
      (i32.const 4) (i32.const 1) (local.get $path) (call $length (local.get $path)) (i32.const 8272)))
    (call $check (call $fd_filestat_get (i32.const 4) (i32.const 8336)))
    (call $check (call $fd_readdir (i32.const 3) (i32.const 8400) (i32.const 4096) (i64.const 0) (i32.const 12)))
    (i32.store (i32.const 0) (i32.const 8192))
    (i32.store (i32.const 4) (i32.add (i32.const 208) (i32.load (i32.const 12))))
    (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
