//! Originals of the mutations: the repository's guests, and modules with features that those do not
//! use.

use std::path::{Path, PathBuf};

use compute_host::sandbox::Admitted;

use super::anatomy::Anatomy;
use crate::common::root;

/// Returns the modules in a folder of the repository, text and binary.
fn in_folder(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files
        .filter(|file| file.extension().is_some_and(|extension| extension == "wat" || extension == "wasm"))
        .collect();
    files.sort();
    files
}

pub fn all() -> Vec<Anatomy> {
    let folders = ["guest-workloads", "guest-workloads/dist", "tests/guests"];
    let files: Vec<PathBuf> = folders.iter().flat_map(|folder| in_folder(&root().join(folder))).collect();
    assert!(files.len() >= 5, "the guests are not where they were: {files:?}");
    let read = files.iter().map(|file| std::fs::read(file).unwrap());
    let written = [LOOPS, TABLES, LANES, FLOATS].map(|wat| wat.as_bytes().to_vec());
    let admitted = read.chain(written).filter_map(|module| Admitted::new(&*wat::parse_bytes(&module).unwrap()).ok());
    let modules: Vec<Anatomy> = admitted.map(|admitted| Anatomy::of(admitted.wasm())).collect();
    assert!(modules.len() >= 9, "too few are admitted");
    modules
}

/// Loops, branches of each kind, integers of both widths, globals, output.
const LOOPS: &str = r#"(module
    (import "compute" "input_len" (func $input_len (result i64)))
    (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (import "compute" "log" (func $log (param i32 i32)))
    (memory (export "memory") 1)
    (global $seen (mut i32) (i32.const 0))
    (global $limit i64 (i64.const 100))
    (func $gcd (param $a i32) (param $b i32) (result i32)
      (local $rest i32)
      (loop $again
        (if (local.get $b)
          (then
            (local.set $rest (i32.rem_u (local.get $a) (local.get $b)))
            (local.set $a (local.get $b))
            (local.set $b (local.get $rest))
            (br $again))))
      (local.get $a))
    (func $mix (param $x i64) (result i64)
      (i64.xor
        (i64.rotl (local.get $x) (i64.const 13))
        (i64.mul (i64.shr_u (local.get $x) (i64.const 7)) (i64.const 0x9e3779b97f4a7c15))))
    (func $class (param $byte i32) (result i32)
      (block $other (block $digit (block $letter
        (br_table $digit $letter $other (i32.div_u (local.get $byte) (i32.const 48))))
        (return (i32.const 2)))
        (return (i32.const 1)))
      (i32.const 0))
    (func (export "run") (result i32)
      (local $i i32) (local $count i32) (local $sum i64)
      (local.set $count (call $input_read (i32.const 256) (i64.const 0) (i32.const 64)))
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
          (local.set $sum (call $mix (i64.add (local.get $sum)
            (i64.load8_u offset=256 (local.get $i)))))
          (global.set $seen (i32.add (global.get $seen) (call $class (i32.load8_u offset=256 (local.get $i)))))
          (i32.store8 offset=512 (local.get $i) (i32.popcnt (i32.load8_u offset=256 (local.get $i))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $next (i64.lt_u (i64.extend_i32_u (local.get $i)) (global.get $limit)))))
      (i64.store (i32.const 0) (local.get $sum))
      (i32.store (i32.const 8) (call $gcd (global.get $seen) (i32.const 36)))
      (call $output_write (i32.const 0) (i32.const 16))
      (call $log (i32.const 512) (local.get $count))
      (i32.clz (select (i32.const -1) (i32.const 1) (i64.ne (local.get $sum) (i64.const 0))))))"#;

/// Function tables, recursion, several results, references, bulk operations on memory and tables.
const TABLES: &str = r#"(module
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
    (import "compute" "proof_commit" (func $proof_commit (param i32)))
    (type $binary (func (param i32 i32) (result i32)))
    (memory (export "memory") 1 3)
    (table $operations 8 20 funcref)
    (elem (i32.const 0) $add $sub $both)
    (elem $more func $times $power)
    (elem declare func $times)
    (data $passive "passive data")
    (data (i32.const 64) "active data")
    (func $add (type $binary) (i32.add (local.get 0) (local.get 1)))
    (func $sub (type $binary) (i32.sub (local.get 0) (local.get 1)))
    (func $times (type $binary) (i32.mul (local.get 0) (local.get 1)))
    (func $swap (param i32 i32) (result i32 i32) (local.get 1) (local.get 0))
    (func $both (type $binary)
      (call $swap (local.get 0) (local.get 1))
      (block (param i32 i32) (result i32) (i32.xor)))
    (func $power (type $binary)
      (if (result i32) (i32.le_s (local.get 1) (i32.const 0))
        (then (i32.const 1))
        (else (i32.mul (local.get 0) (call $power (local.get 0) (i32.sub (local.get 1) (i32.const 1)))))))
    (func (export "run") (result i32)
      (local $i i32) (local $value i32) (local $kept funcref)
      (table.init $operations $more (i32.const 3) (i32.const 0) (i32.const 2))
      (table.copy $operations $operations (i32.const 5) (i32.const 0) (i32.const 3))
      (drop (table.grow $operations (ref.func $times) (i32.const 2)))
      (local.set $kept (table.get $operations (i32.const 1)))
      (if (i32.eqz (ref.is_null (local.get $kept)))
        (then (table.set $operations (i32.const 0) (local.get $kept))))
      (loop $each
        (local.set $value (call_indirect $operations (type $binary)
          (i32.add (local.get $value) (i32.const 7)) (i32.const 3) (local.get $i)))
        (i32.store (i32.shl (local.get $i) (i32.const 2)) (local.get $value))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $each (i32.lt_u (local.get $i) (table.size $operations))))
      (memory.init $passive (i32.const 100) (i32.const 0) (i32.const 12))
      (memory.copy (i32.const 200) (i32.const 60) (i32.const 60))
      (memory.fill (i32.const 300) (i32.const 7) (i32.const 30))
      (data.drop $passive)
      (call $blake3 (i32.const 0) (i32.const 400) (i32.const 1024))
      (call $output_write (i32.const 0) (i32.const 40))
      (call $proof_commit (i32.const 1024))
      (i32.sub (memory.grow (i32.const 1)) (i32.const 1))))"#;

/// Vectors.
const LANES: &str = r#"(module
    (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 1)
    (data (i32.const 32) "\00\01\02\03\04\05\06\07\08\09\0a\0b\0c\0d\0e\0f0123456789abcdef")
    (global $mask v128 (v128.const i32x4 0xff 0xff00 0xff0000 0xff000000))
    (func $blend (param $a v128) (param $b v128) (result v128)
      (v128.bitselect
        (i8x16.add_sat_u (local.get $a) (local.get $b))
        (i16x8.mul (local.get $a) (i16x8.shl (local.get $b) (i32.const 3)))
        (global.get $mask)))
    (func $scale (param $a v128) (result v128)
      (f32x4.mul (f32x4.convert_i32x4_s (local.get $a)) (f32x4.splat (f32.const 1.5))))
    (func $fold (param $a v128) (result i32)
      (i32.add
        (i32x4.extract_lane 0 (i32x4.dot_i16x8_s (local.get $a) (local.get $a)))
        (i32.add (i8x16.bitmask (local.get $a)) (i16x8.extract_lane_s 7 (local.get $a)))))
    (func (export "run") (result i32)
      (local $i i32) (local $sum v128) (local $wide v128)
      (drop (call $input_read (i32.const 0) (i64.const 0) (i32.const 32)))
      (loop $next
        (local.set $wide (i8x16.shuffle 15 14 13 12 11 10 9 8 0 1 2 3 16 17 18 31
          (v128.load (local.get $i)) (v128.load8_splat offset=3 (local.get $i))))
        (local.set $sum (call $blend (i32x4.add (local.get $sum) (local.get $wide)) (v128.load offset=16 (local.get $i))))
        (local.set $sum (v128.xor (local.get $sum) (call $scale (i64x2.sub (local.get $wide) (local.get $sum)))))
        (v128.store offset=128 (local.get $i) (i8x16.swizzle (local.get $sum) (v128.load (i32.const 32))))
        (v128.store16_lane offset=200 3 (local.get $i) (i16x8.narrow_i32x4_u (local.get $sum) (local.get $wide)))
        (local.set $i (i32.add (local.get $i) (i32.const 16)))
        (br_if $next (i32.lt_u (local.get $i) (i32.const 64))))
      (call $output_write (i32.const 128) (i32.const 96))
      (i32.and
        (call $fold (f64x2.sqrt (f64x2.max (f64x2.convert_low_i32x4_u (local.get $sum)) (f64x2.splat (f64.const 2)))))
        (v128.any_true (i64x2.eq (local.get $sum) (local.get $sum))))))"#;

/// Floats, their conversions, and their comparisons.
const FLOATS: &str = r#"(module
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (import "compute" "args_read" (func $args_read (param i32 i64 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\00\00\80\3f\00\00\00\40\00\00\c0\7f\00\00\80\ff\01\00\00\00\00\00\00\80")
    (global $step (mut f64) (f64.const 0.125))
    (func $series (param $x f64) (param $terms i32) (result f64)
      (local $sum f64) (local $term f64)
      (local.set $term (f64.const 1))
      (block $end
        (loop $more
          (br_if $end (i32.eqz (local.get $terms)))
          (local.set $sum (f64.add (local.get $sum) (local.get $term)))
          (local.set $term (f64.div (f64.mul (local.get $term) (local.get $x)) (f64.convert_i32_u (local.get $terms))))
          (local.set $terms (i32.sub (local.get $terms) (i32.const 1)))
          (br $more)))
      (local.get $sum))
    (func $clamp (param $x f32) (result f32)
      (f32.max (f32.min (local.get $x) (f32.const 0x1.8p10)) (f32.neg (f32.const 100.25))))
    (func $bits (param $x f32) (result i64)
      (i64.or
        (i64.extend_i32_u (i32.reinterpret_f32 (f32.copysign (local.get $x) (f32.const -0))))
        (i64.trunc_sat_f64_s (f64.promote_f32 (f32.floor (local.get $x))))))
    (func (export "run") (result i32)
      (local $i i32) (local $x f32) (local $y f64)
      (drop (call $args_read (i32.const 24) (i64.const 0) (i32.const 8)))
      (loop $next
        (local.set $x (call $clamp (f32.load (local.get $i))))
        (local.set $y (call $series (f64.abs (f64.promote_f32 (local.get $x))) (i32.const 12)))
        (f64.store offset=64 (i32.shl (local.get $i) (i32.const 1)) (local.get $y))
        (i64.store offset=160 (i32.shl (local.get $i) (i32.const 1)) (call $bits (f32.demote_f64 (local.get $y))))
        (global.set $step (f64.nearest (f64.sqrt (f64.add (global.get $step) (local.get $y)))))
        (local.set $i (i32.add (local.get $i) (i32.const 4)))
        (br_if $next (i32.lt_u (local.get $i) (i32.const 32))))
      (call $output_write (i32.const 64) (i32.const 160))
      (if (result i32) (f64.lt (local.get $y) (f64.const 1e9))
        (then (i32.trunc_sat_f64_u (f64.ceil (f64.sub (global.get $step) (global.get $step)))))
        (else (i32.trunc_f64_s (local.get $y))))))"#;
