;; Grows its memory by one page until that is refused, writes to each page, and fails with its number
;; of pages.
(module
  (memory (export "memory") 1)
  (func (export "run") (result i32)
    (block $refused
      (loop $more
        (br_if $refused (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
        (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
        (br $more)))
    (memory.size)))
