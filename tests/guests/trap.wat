;; Traps two calls deep, for a backtrace with names.
(module
  (memory (export "memory") 1)
  (func $at_the_bottom unreachable)
  (func $in_the_middle (call $at_the_bottom))
  (func (export "_start") (call $in_the_middle)))
