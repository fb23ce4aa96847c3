;; NaNs. What arithmetic makes is made canonical where something else than arithmetic sees it. `$norm` does so once, for
;; its result, and not for the products and the sum in between. `$polynomial` has a lazy local: only arithmetic is written
;; to `$sum`, so nothing is done in the loop, and what is read from it for the result is made canonical. `$moved` is a copy
;; of bits that happens to go through a float: nothing is done. `$lanes` is of vectors.
(module
  (memory 1)

  (func $norm (param $a f64) (param $b f64) (result f64)
    (f64.sqrt (f64.add (f64.mul (local.get $a) (local.get $a)) (f64.mul (local.get $b) (local.get $b)))))

  (func $polynomial (param $x f64) (param $n i32) (result f64) (local $sum f64)
    (loop $next
      (local.set $sum (f64.add (f64.mul (local.get $sum) (local.get $x)) (f64.const 1)))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum))

  (func $moved (param $to i32) (param $from i32) (local $bits f64)
    (local.set $bits (f64.load (local.get $from)))
    (f64.store (local.get $to) (local.get $bits)))

  (func $lanes (param $at i32)
    (v128.store (local.get $at)
      (f32x4.mul (v128.load (local.get $at)) (v128.const f32x4 2 2 2 2)))))
