;; Sums, products, roots and roundings whose last bits depend on each step before.
(module
  (import "compute" "output_write" (func $write (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "run") (result i32)
    (local $i i32) (local $x f64) (local $y f32)
    (local.set $x (f64.const 0.1))
    (local.set $y (f32.const 0.3))
    (loop $turn
      (local.set $x
        (f64.add
          (f64.mul (f64.sqrt (f64.abs (local.get $x))) (f64.const 1.000000119))
          (f64.div (f64.convert_i32_u (local.get $i)) (f64.const 7919))))
      (local.set $y
        (f32.sub
          (f32.div (f32.demote_f64 (local.get $x)) (f32.const 3.3))
          (f32.nearest (f32.mul (local.get $y) (f32.const 0.7)))))
      (f64.store (i32.shl (local.get $i) (i32.const 4)) (local.get $x))
      (f32.store offset=8 (i32.shl (local.get $i) (i32.const 4)) (local.get $y))
      (i32.store offset=12 (i32.shl (local.get $i) (i32.const 4)) (i32.trunc_sat_f64_s (local.get $x)))
      (br_if $turn (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
    (call $write (i32.const 0) (i32.const 16000))
    (i32.const 0)))
