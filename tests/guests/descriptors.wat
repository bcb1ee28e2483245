;; Opens the working directory again and again and closes none. Exits with the errno of the refusal,
;; or with 0 when it holds 100000 of them.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 32) ".")
  (func (export "_start")
    (local $left i32)
    (local $errno i32)
    (local.set $left (i32.const 100000))
    (loop $more
      (local.set $errno (call $path_open
        (i32.const 4) (i32.const 0) (i32.const 32) (i32.const 1)
        (i32.const 2) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 12)))
      (if (local.get $errno) (then (call $proc_exit (local.get $errno))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left)))))
