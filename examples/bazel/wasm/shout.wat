;; SPDX-License-Identifier: Apache-2.0
;;
;; shout.wasm INPUT OUTPUT
;;
;; A WASI preview 1 command: copies INPUT to OUTPUT with a-z made A-Z.
;; Both paths are relative to the first preopened directory (fd 3), which for
;; a remote action is the input root, the directory Bazel's paths start from.
;;
;; shout.wasm is built from this file by:  wat2wasm shout.wat -o shout.wasm
(module
  (import "wasi_snapshot_preview1" "args_sizes_get"
    (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get"
    (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open
      (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read"
    (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close"
    (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit"
    (func $proc_exit (param i32)))

  ;;      0  argc            8  iovec {address, length}
  ;;      4  argument bytes 16  bytes moved by the last read or write
  ;;     20  the fd path_open made
  ;;     64  messages
  ;;   1024  argv            2048  the arguments' bytes, up to 16 KiB
  ;;  32768  the data, 32 KiB at a time
  (memory (export "memory") 1)
  (data (i32.const 64) "usage: shout.wasm INPUT OUTPUT\n")           ;; 31
  (data (i32.const 128) "shout.wasm: cannot open the input file\n")  ;; 39
  (data (i32.const 192) "shout.wasm: cannot open the output file\n") ;; 40
  (data (i32.const 256) "shout.wasm: cannot read the input file\n")  ;; 39
  (data (i32.const 320) "shout.wasm: cannot write the output file\n") ;; 41

  ;; Says a message on standard error and exits.
  (func $die (param $message i32) (param $length i32) (param $status i32)
    (i32.store (i32.const 8) (local.get $message))
    (i32.store (i32.const 12) (local.get $length))
    (drop (call $fd_write
      (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 16)))
    (call $proc_exit (local.get $status))
    unreachable)

  (func $strlen (param $s i32) (result i32)
    (local $p i32)
    (local.set $p (local.get $s))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (i32.load8_u (local.get $p))))
        (local.set $p (i32.add (local.get $p) (i32.const 1)))
        (br $next)))
    (i32.sub (local.get $p) (local.get $s)))

  ;; Opens a path under fd 3; -1 when the host refuses.
  (func $open (param $path i32) (param $oflags i32) (param $rights i64)
    (result i32)
    (if (call $path_open
          (i32.const 3)
          (i32.const 1) ;; lookupflags: symlink_follow
          (local.get $path) (call $strlen (local.get $path))
          (local.get $oflags)
          (local.get $rights) (i64.const 0)
          (i32.const 0)
          (i32.const 20))
      (then (return (i32.const -1))))
    (i32.load (i32.const 20)))

  ;; Makes $length bytes at 32768 upper case.
  (func $upper (param $length i32)
    (local $p i32)
    (local $end i32)
    (local $c i32)
    (local.set $p (i32.const 32768))
    (local.set $end (i32.add (local.get $p) (local.get $length)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $p) (local.get $end)))
        (local.set $c (i32.load8_u (local.get $p)))
        ;; 'a' <= c <= 'z'
        (if (i32.lt_u (i32.sub (local.get $c) (i32.const 97)) (i32.const 26))
          (then (i32.store8
            (local.get $p) (i32.sub (local.get $c) (i32.const 32)))))
        (local.set $p (i32.add (local.get $p) (i32.const 1)))
        (br $next))))

  ;; Writes $length bytes from 32768, however many writes that takes.
  (func $write_all (param $fd i32) (param $length i32)
    (local $p i32)
    (local.set $p (i32.const 32768))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $length)))
        (i32.store (i32.const 8) (local.get $p))
        (i32.store (i32.const 12) (local.get $length))
        (if (call $fd_write
              (local.get $fd) (i32.const 8) (i32.const 1) (i32.const 16))
          (then (call $die (i32.const 320) (i32.const 41) (i32.const 1))))
        (if (i32.eqz (i32.load (i32.const 16)))
          (then (call $die (i32.const 320) (i32.const 41) (i32.const 1))))
        (local.set $p
          (i32.add (local.get $p) (i32.load (i32.const 16))))
        (local.set $length
          (i32.sub (local.get $length) (i32.load (i32.const 16))))
        (br $next))))

  (func (export "_start")
    (local $in i32)
    (local $out i32)
    (local $n i32)
    (if (call $args_sizes_get (i32.const 0) (i32.const 4))
      (then unreachable))
    (if (i32.or
          (i32.ne (i32.load (i32.const 0)) (i32.const 3))
          (i32.gt_u (i32.load (i32.const 4)) (i32.const 16384)))
      (then (call $die (i32.const 64) (i32.const 31) (i32.const 2))))
    (if (call $args_get (i32.const 1024) (i32.const 2048))
      (then unreachable))

    (local.set $in (call $open
      (i32.load (i32.const 1028)) ;; argv[1]
      (i32.const 0)
      (i64.const 2))) ;; the right fd_read
    (if (i32.lt_s (local.get $in) (i32.const 0))
      (then (call $die (i32.const 128) (i32.const 39) (i32.const 1))))
    (local.set $out (call $open
      (i32.load (i32.const 1032)) ;; argv[2]
      (i32.const 9) ;; oflags: creat | trunc
      (i64.const 64))) ;; the right fd_write
    (if (i32.lt_s (local.get $out) (i32.const 0))
      (then (call $die (i32.const 192) (i32.const 40) (i32.const 1))))

    (block $end_of_file
      (loop $next
        (i32.store (i32.const 8) (i32.const 32768))
        (i32.store (i32.const 12) (i32.const 32768))
        (if (call $fd_read
              (local.get $in) (i32.const 8) (i32.const 1) (i32.const 16))
          (then (call $die (i32.const 256) (i32.const 39) (i32.const 1))))
        (local.set $n (i32.load (i32.const 16)))
        (br_if $end_of_file (i32.eqz (local.get $n)))
        (call $upper (local.get $n))
        (call $write_all (local.get $out) (local.get $n))
        (br $next)))

    (drop (call $fd_close (local.get $in)))
    (if (call $fd_close (local.get $out))
      (then (call $die (i32.const 320) (i32.const 41) (i32.const 1))))))
