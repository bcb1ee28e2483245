;; Fills the garbage-collected heap: a list of arrays, all of them in use.
(module
  (type $bytes (array (mut i8)))
  (type $node (struct (field (ref null $node)) (field (ref $bytes))))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $list (ref null $node))
    (loop $more
      (local.set $list
        (struct.new $node (local.get $list) (array.new_default $bytes (i32.const 1000000))))
      (br $more))))
