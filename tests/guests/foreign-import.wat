;; Wants a function that is no part of WASI.
(module
  (import "env" "open_the_door" (func))
  (memory (export "memory") 1)
  (func (export "_start")))
