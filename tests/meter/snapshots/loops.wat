;; Gas in loops. A turn is paid for where it begins, and there the loop looks at what is left: if that is overdrawn it
;; calls `refill`, through a function that takes the locals that the loop will read along and gives them back, so that
;; they need no place on the stack for a call that seldom comes. A loop with nothing in it pays for its turns too.
(module
  (func $sum (param $n i32) (result i64) (local $sum i64)
    (loop $next
      (local.set $sum (i64.add (local.get $sum) (i64.extend_i32_u (local.get $n))))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum))

  (func $for_ever
    (loop $again (br $again))))
