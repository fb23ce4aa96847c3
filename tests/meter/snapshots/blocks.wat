;; Gas. Operators that are executed together or not at all are paid for together, where the first of them stands. A
;; function pays where it begins, and after each branch: here in both arms of the `if`, behind it, and behind the `br_if`.
;; A function with neither loops nor calls that costs little does not look at what is left: `$small`. One that costs more
;; looks once, where it begins, and then again whenever it may have spent 1,000 since.
(module
  (func $small (param $a i32) (param $b i32) (result i32)
    (i32.add (i32.mul (local.get $a) (local.get $b)) (i32.const 7)))

  (func $arms (param $a i32) (result i32)
    (block $out
      (br_if $out (i32.eqz (local.get $a)))
      (if (i32.lt_s (local.get $a) (i32.const 10))
        (then (local.set $a (i32.div_s (i32.const 1000) (local.get $a))))
        (else (local.set $a (i32.add (local.get $a) (i32.const 1)))))
      (local.set $a (i32.xor (local.get $a) (i32.const 5))))
    (i32.shl (local.get $a) (i32.const 1)))

  (func $dead (param $a i32) (result i32)
    (return (local.get $a))
    (drop (i32.div_s (local.get $a) (i32.const 3)))
    (i32.const 1))

  (func $caller (result i32)
    (i32.add (call $small (i32.const 2) (i32.const 3)) (call $arms (i32.const 4)))))
