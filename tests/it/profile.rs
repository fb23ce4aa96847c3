//! Gas profile: it accounts for all the gas of a run.

use serde_json::{Value, json};

use crate::common::{Workplace, root};

const MIXED: &str = r#"(module
  (import "compute" "blake3" (func $blake3 (param i32 i32 i32)))
  (table $t 1 funcref)
  (memory (export "memory") 1)
  (func $small (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
  (func $mover
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 100))
    (memory.fill (i32.const 0) (i32.const 1) (i32.const 60000))
    (memory.copy (i32.const 9) (i32.const 1) (i32.const 60000))
    (drop (memory.grow (i32.const 1)))
    (drop (memory.grow (i32.const -1)))
    (drop (table.grow $t (ref.null func) (i32.const 5)))
    (table.fill $t (i32.const 0) (ref.null func) (i32.const 4)))
  (func (export "run") (result i32) (local $i i32)
    (loop $turn
      (drop (call $small (local.get $i)))
      (br_if $turn (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
    (call $mover)
    (call $blake3 (i32.const 0) (i32.const 8000) (i32.const 0))
    (i32.const 0)))"#;

fn gas(part: &Value) -> u64 {
    part["gas"].as_u64().unwrap()
}

#[test]
fn all_gas_of_a_run_is_somebodys() {
    let here = Workplace::new();
    here.file("data", "a slice");
    here.file("mixed.wat", MIXED);
    let ran = here.run("compute module profile ./mixed.wat data --json");
    assert_eq!((ran.code, &*ran.stderr), (0, ""));
    let profile = ran.json().remove(0);
    let parts = profile["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(gas).sum::<u64>(), gas(&profile));
    assert!(parts.iter().all(|part| part.get("forfeited").is_none()), "{parts:?}");
    let run = here.run("compute run --json --module ./mixed.wat data").json().remove(0);
    assert_eq!(gas(&profile), gas(&run), "it costs as much as any run");

    let of = |key: &str, value: Value| parts.iter().find(|part| part[key] == value).map(gas);
    let pieces = 60_000 / 64;
    assert_eq!((of("bulk", json!("memory.fill")), of("bulk", json!("memory.copy"))), (Some(pieces), Some(pieces)));
    assert_eq!(of("host", json!("blake3")), Some(64 + 8000 / 8 + 8000 / 4));
    assert_eq!(of("name", json!("small")), Some(1000));
    assert_eq!(of("start", json!(true)), Some(4096 + 1), "a page of memory, an element of the table");
    let named: Vec<&Value> = parts.iter().filter_map(|part| part.get("name")).collect();
    assert_eq!(named, [&json!("run"), &json!("mover"), &json!("small")], "the dearest first");
}

#[test]
fn what_a_failing_run_forfeits_stands_apart() {
    let here = Workplace::new();
    here.file("data", "a slice");
    here.file("m.wat", MIXED.replace("(call $blake3", "unreachable (call $blake3"));
    let ran = here.run("compute module profile ./m.wat data --json");
    let profile = ran.json().remove(0);
    assert_eq!((ran.code, &profile["outcome"]), (1, &json!("trap_unreachable")));
    let parts = profile["parts"].as_array().unwrap();
    assert_eq!(parts.iter().map(gas).sum::<u64>(), gas(&profile));
    assert_eq!(parts.iter().filter(|part| part.get("forfeited") == Some(&json!(true))).count(), 1);
}

#[test]
fn a_profile_is_shown_as_a_table() {
    let here = Workplace::new();
    let (guest, slice) = (root().join("guest-workloads/dist/word-count-rust.wasm"), root().join("LICENSE"));
    let arguments = ["compute".into(), "module".into(), "profile".into(), guest, slice, "--top".into(), "2".into()];
    let ran = here.node(arguments);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!((ran.code, lines.len()), (0, 4), "{ran:?}");
    assert!(lines[0].contains(" %  run (function ") && lines[2].ends_with(" more"), "{ran:?}");
    assert!(lines[3].ends_with(" 100.0 %  in all; done"), "{ran:?}");
}
