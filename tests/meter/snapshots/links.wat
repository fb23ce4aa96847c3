;; Imports, types and exports. Each function type has the state behind its parameters and behind its results, imported
;; functions too. One import more, `compute.refill`, stands behind the module's own: so indices of functions that the
;; module defines move up by one, in exports, elements, calls and `ref.func`; locals move up behind the parameters. Types
;; of blocks stay as they were.
(module
  (import "compute" "output_write" (func $write (param i32 i32)))
  (memory (export "memory") 1)
  (type $binary (func (param i32 i32) (result i32)))
  (table 2 funcref)
  (elem (i32.const 0) $add $swap_and_subtract)
  (global $count (mut i32) (i32.const 0))

  (func $add (type $binary)
    (i32.add (local.get 0) (local.get 1)))

  (func $swap_and_subtract (type $binary) (local $kept i32)
    (local.set $kept (local.get 0))
    (local.get 1)
    (block (param i32) (result i32)
      (i32.sub (local.get $kept))))

  (func (export "run") (result i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (call $write (i32.const 0) (i32.const 5))
    (call_indirect (type $binary) (i32.const 1) (i32.const 2) (global.get $count))))
