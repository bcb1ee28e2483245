;; Asks for more than its own maximum a thousand times, which must cost nothing, then takes what it may.
(module
  (memory (export "memory") 1 10)
  (func (export "_start")
    (local $left i32)
    (local.set $left (i32.const 1000))
    (loop $again
      (if (i32.ne (memory.grow (i32.const 100)) (i32.const -1)) (then unreachable))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (if (i32.ne (memory.grow (i32.const 9)) (i32.const 1)) (then unreachable))))
