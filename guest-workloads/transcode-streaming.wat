;; Variant of the reference transcode job that sees the bytes: it reads the slice through a window of
;; two pages and hashes that. Its proof must be the same as that of transcode.wat.
(module $transcode_streaming
  (import "compute" "input_read" (func $input_read (param $dst i32) (param $offset i64) (param $len i32) (result i32)))
  (import "compute" "blake3_update" (func $blake3_update (param $ptr i32) (param $len i32)))
  (import "compute" "blake3_finish" (func $blake3_finish (param $dst i32)))
  (import "compute" "proof_commit" (func $proof_commit (param $ptr i32)))

  (memory (export "memory") 2)
  (global $window_len i32 (i32.const 131072))

  (func (export "run") (result i32)
    (local $offset i64)
    (local $count i32)
    (block $end
      (loop $next
        (local.set $count (call $input_read (i32.const 0) (local.get $offset) (global.get $window_len)))
        (br_if $end (i32.eqz (local.get $count)))
        (call $blake3_update (i32.const 0) (local.get $count))
        (local.set $offset (i64.add (local.get $offset) (i64.extend_i32_u (local.get $count))))
        (br $next)))
    (call $blake3_finish (i32.const 0))
    (call $proof_commit (i32.const 0))
    (i32.const 0)))
