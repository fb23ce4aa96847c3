;; The stack. A function that calls another takes its frame from the state's upper half where it begins, and gives it back
;; where it ends: all ways out lead to the end of a block around the body. Gas and frame are subtracted at once and looked
;; at together. A function that calls none, `$leaf`, takes none.
(module
  (func $leaf (param $a i64) (result i64)
    (i64.mul (local.get $a) (local.get $a)))

  (func $recursive (param $n i64) (result i64)
    (if (i64.eqz (local.get $n))
      (then (return (i64.const 1))))
    (i64.add
      (call $leaf (local.get $n))
      (call $recursive (i64.sub (local.get $n) (i64.const 1))))))
