;; The small demo: prints a picture and writes the same to postcard.txt. Needs nothing but WASI.
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)

  ;; 0: one iovec (address, length); 8: bytes written; 12: the new file's descriptor.
  (data (i32.const 16) "postcard.txt")
  (data (i32.const 64)
    "\n"
    "      _______________\n"
    "     /               \\\n"
    "    /_________________\\\n"
    "    |    \\|/          |\n"
    "    |     |/    \\|/   |\n"
    "    |    \\|   \\| |/   |\n"
    "    |~~~~~~~~~~~~~~~~~|\n"
    "    '================='\n"
    "    greetings from inside\n\n")
  ;; Ends where the text ends, so that its length need not be counted by hand.
  (func $length (result i32)
    (local $at i32)
    (local.set $at (i32.const 64))
    (loop $next
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.load8_u (local.get $at))))
    (i32.sub (local.get $at) (i32.const 64)))

  ;; Exits with the WASI error as exit code, if there is one.
  (func $check (param $error i32)
    (if (local.get $error) (then (call $proc_exit (local.get $error)))))

  (func $write (param $descriptor i32)
    (call $check (call $fd_write (local.get $descriptor) (i32.const 0) (i32.const 1) (i32.const 8))))

  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (call $length))
    (call $write (i32.const 1))
    ;; Descriptor 3 is the first directory that was handed in; 9 is create + truncate, 64 the right to write.
    (call $check (call $path_open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 12)
      (i32.const 9) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 12)))
    (call $write (i32.load (i32.const 12)))
    (call $check (call $fd_close (i32.load (i32.const 12))))))
