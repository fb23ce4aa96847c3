;; What a call comes back to. Behind a call that can be deep, a frame's work is charged when the call has returned, and
;; looked at; what comes to a few units is charged with what stands before the call. Behind any other call, all is charged
;; before it.
(module
  (func $leaf (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))

  (func $little_left (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $little_left (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
      (else (i32.const 0))))

  (func $much_left (param i32) (result i64)
    (if (local.get 0) (then (drop (call $much_left (i32.sub (local.get 0) (i32.const 1))))))
    (i64.div_u (i64.div_u (i64.div_u (i64.const 9) (i64.const 2)) (i64.const 2)) (i64.const 2)))

  (func $not_deep (param i32) (result i64)
    (drop (call $leaf (local.get 0)))
    (i64.div_u (i64.div_u (i64.div_u (i64.const 9) (i64.const 2)) (i64.const 2)) (i64.const 2))))
