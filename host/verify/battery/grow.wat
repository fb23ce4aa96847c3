;; Grows its memory until it may not, a table too, and moves bytes over the seams.
(module
  (import "compute" "output_write" (func $write (param i32 i32)))
  (table $t 1 funcref)
  (memory (export "memory") 1)
  (func (export "run") (result i32)
    (local $grown i32)
    (block $refused
      (loop $more
        (br_if $refused (i32.eq (memory.grow (i32.const 1)) (i32.const -1)))
        (local.set $grown (i32.add (local.get $grown) (i32.const 1)))
        (br $more)))
    (i32.store (i32.const 0) (local.get $grown))
    (i32.store (i32.const 4) (memory.size))
    (i32.store (i32.const 8) (memory.grow (i32.const -1)))
    (i32.store (i32.const 12) (table.grow $t (ref.null func) (i32.const 9)))
    (i32.store (i32.const 16) (table.grow $t (ref.null func) (i32.const -1)))
    (memory.fill (i32.const 65530) (i32.const 0xab) (i32.const 700))
    (memory.copy (i32.const 65000) (i32.const 65400) (i32.const 100000))
    (memory.copy (i32.const 70000) (i32.const 64900) (i32.const 100000))
    (call $write (i32.const 0) (i32.const 200000))
    (i32.const 0)))
