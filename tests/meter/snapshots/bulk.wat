;; Operators whose work depends on an operand. `memory.fill` and `memory.copy` are calls of functions that charge for each
;; piece before they move it. The others charge for all of it, and then act. `memory.grow` and `table.grow` are charged for
;; what they did add, so that one which fails costs its base.
(module
  (memory 1)
  (table 8 funcref)
  (data $text "text")

  (func $fill (param $length i32)
    (memory.fill (i32.const 0) (i32.const 42) (local.get $length)))

  (func $init (param $length i32)
    (memory.init $text (i32.const 0) (i32.const 0) (local.get $length)))

  (func $grow (param $pages i32) (result i32)
    (memory.grow (local.get $pages)))

  (func $grow_table (param $elements i32) (result i32)
    (table.grow (ref.null func) (local.get $elements))))
