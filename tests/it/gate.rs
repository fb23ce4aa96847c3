//! Modules that the gate refuses, and its messages.

use compute_host::digest::Digest;
use compute_host::sandbox::{
    Admitted, Compiler, GateLimits, GateReport, LIMITS, LimitName, Position, PrepareError, Refusal, Rule,
};

const MEMORY: &str = "(memory (export \"memory\") 1)";
const RUN: &str = "(func (export \"run\") (result i32) (i32.const 0))";

#[track_caller]
fn refusal(wat: &str) -> Refusal {
    Admitted::new(wat::parse_str(wat).unwrap()).err().unwrap_or_else(|| panic!("{wat} is admitted"))
}

/// Returns the code of the first rule that a module of these fields breaks.
#[track_caller]
fn code(fields: &str) -> &'static str {
    refusal(&format!("(module {fields})")).code()
}

#[test]
fn the_gate_refuses_what_is_not_on_its_list() {
    assert_eq!(code(MEMORY), "no_run_export");
    assert_eq!(code(&format!("{MEMORY} (func (export \"run\"))")), "run_signature");
    assert_eq!(
        code(&format!("{MEMORY} (func (export \"run\") (param i32) (result i32) (i32.const 0))")),
        "run_signature"
    );
    assert_eq!(code(&format!("{MEMORY} (global (export \"run\") i32 (i32.const 0))")), "no_run_export");
    assert_eq!(code(RUN), "no_memory");
    assert_eq!(code(&format!("(memory 1) {RUN}")), "no_memory_export");
    assert_eq!(code(&format!("(import \"compute\" \"memory\" (memory 1)) {RUN}")), "unknown_import");
    assert_eq!(code(&format!("(import \"compute\" \"log\" (global i32)) {MEMORY} {RUN}")), "unknown_import");
    assert_eq!(code(&format!("(import \"env\" \"log\" (func (param i32 i32))) {MEMORY} {RUN}")), "unknown_import");
    assert_eq!(code(&format!("(import \"compute\" \"exec\" (func)) {MEMORY} {RUN}")), "unknown_import");
    assert_eq!(code(&format!("(import \"compute\" \"log\" (func (param i32))) {MEMORY} {RUN}")), "import_signature");
    assert_eq!(code(&format!("{MEMORY} {RUN} (func (export \"_start\"))")), "reserved_export");
    assert_eq!(code(&format!("{MEMORY} {RUN} (global (export \"_initialize\") i32 (i32.const 0))")), "reserved_export");
    assert_eq!(code(&format!("{MEMORY} {RUN} (func (export \"_initialize\") (param i32))")), "initialize_signature");
    assert_eq!(code(&format!("{MEMORY} {RUN} (func (export \"compute_abi_2\"))")), "reserved_export");
    assert_eq!(code(&format!("{MEMORY} {RUN} (data (i32.const 65535) \"ab\")")), "segment_range");
    assert_eq!(code(&format!("{MEMORY} {RUN} (data (i32.const -1) \"\")")), "segment_range");
    assert_eq!(code(&format!("{MEMORY} {RUN} (table 1 funcref) (elem (i32.const 1) func 0)")), "segment_range");
    assert_eq!(refusal("(component)").code(), "component");
}

#[test]
fn a_refusal_says_what_where_and_what_to_do() {
    let wat = format!("(module {MEMORY} {RUN} (func $deep {} {}))", "block ".repeat(1_100), "end ".repeat(1_100));
    let refusal = refusal(&wat);
    let limit = LimitName::Nesting.limit();
    let Position { offset: Some(_), function: Some((1, Some(name))) } = &refusal.place else { panic!("{refusal:?}") };
    assert_eq!(name, "deep");
    assert_eq!(refusal.rule, Rule::Limit { name: limit.name, max: limit.default, found: 1_100 });
    assert_eq!((refusal.code(), refusal.hint()), ("nesting", limit.hint));
    let said = refusal.to_string();
    assert!(said.starts_with("function 1 (`deep`) has 1100 blocks in each other; at most 1024 are admitted (at byte "));
}

#[test]
fn a_report_lists_all_that_stands_against_a_module() {
    let wat = format!(
        "(module (import \"env\" \"a\" (func)) (import \"env\" \"b\" (func)) {MEMORY}
           (func {} {}) (func (result i32) (i64.const 0)) (func {} {}))",
        "block ".repeat(1_100),
        "end ".repeat(1_100),
        "block ".repeat(1_200),
        "end ".repeat(1_200),
    );
    let report = GateReport::of(&wat::parse_str(&wat).unwrap(), &GateLimits::DEFAULT);
    let codes: Vec<_> = report.refusals.iter().map(Refusal::code).collect();
    assert_eq!(codes, ["unknown_import", "unknown_import", "nesting", "invalid", "nesting", "no_run_export"]);
    assert_eq!(report.used.nesting, 1_200);
    assert_eq!((report.features, report.float_free), (None, None));
}

#[test]
fn a_report_says_what_a_module_is() {
    let of =
        |fields: &str| GateReport::of(&wat::parse_str(format!("(module {fields})")).unwrap(), &GateLimits::DEFAULT);
    let plain = of(&format!("{MEMORY} {RUN}"));
    assert_eq!((plain.refusals, plain.kind.name(), plain.memory_pages), (vec![], "compute", Some((1, None))));
    assert_eq!((plain.features, plain.float_free), (Some(vec![]), Some(true)));
    let more = of(&format!("{MEMORY} {RUN} (func (param f32) (drop (i32x4.splat (i32.extend8_s (i32.const 1)))))"));
    assert_eq!(
        (more.features, more.float_free),
        (Some(vec!["sign-extension-ops".into(), "simd128".into()]), Some(false))
    );
    let lanes = of(&format!("{MEMORY} {RUN} (func (param v128) (drop (f32x4.add (local.get 0) (local.get 0))))"));
    assert_eq!(lanes.float_free, Some(false), "floats in lanes are floats");
}

#[test]
fn each_limit_can_be_lowered_and_then_holds() {
    let wat = format!(
        "(module (type (func (param i32 i32) (result i32 i32))) (import \"compute\" \"input_len\" (func (result i64)))
           {MEMORY} {RUN} (table 3 funcref) (elem (i32.const 0) func 0 1)
           (global i32 (i32.const 1)) (global i32 (i32.const 1)) (data (i32.const 0) \"a\") (data \"b\")
           (func $f (param i32 i32) (result i32 i32) (local i32 i32)
             (loop (block (block (block (br_table 0 1 2 (i32.const 7)))))
               (drop (block (result i32) (local.set 2 (i32.const 1)) (br_if 0 (i32.const 1) (i32.const 1)))))
             (drop (drop (call $f (i32.const 1) (i32.const 2))))
             (i32.const 1) (i32.const 2))
           (@custom \"one\" \"content\") (@custom \"two\" \"content\"))"
    );
    let wasm = wat::parse_str(&wat).unwrap();
    let used = GateReport::of(&wasm, &GateLimits::DEFAULT).used;
    assert!(Admitted::within(&used, wasm.as_slice()).is_ok(), "what it uses is enough");
    for limit in LIMITS {
        let found = used.of(limit.name);
        assert!(found > 0, "{} is not tried here", limit.key);
        let lower = used.with(limit.name, found - 1);
        let refusal = Admitted::within(&lower, wasm.as_slice()).err().unwrap_or_else(|| panic!("{}", limit.key));
        assert_eq!(refusal.rule, Rule::Limit { name: limit.name, max: found - 1, found });
        assert_eq!(refusal.code(), limit.key);
    }
}

#[test]
fn features_that_could_give_two_answers_are_not_valid() {
    for (fields, hint) in [
        ("(memory (export \"memory\") 1 1 shared)", "threads"),
        ("(memory (export \"memory\") i64 1)", "wasm32"),
        ("(memory (export \"memory\") 1) (memory 1)", "one memory"),
        (
            "(memory (export \"memory\") 1) (func (param v128) (result v128)
            (i8x16.relaxed_swizzle (local.get 0) (local.get 0)))",
            "other bits",
        ),
        ("(memory (export \"memory\") 1) (func (result i32) (return_call 0))", "tail calls"),
        ("(memory (export \"memory\") 1) (tag)", "exceptions"),
        ("(memory (export \"memory\") 1) (type (struct))", "garbage-collected"),
        ("(memory (export \"memory\") 1) (table 1 externref)", "externref"),
        ("(memory (export \"memory\") 1) (global i32 (i32.and (i32.const 1) (i32.const 1)))", "their sums"),
    ] {
        let refusal = refusal(&format!("(module {fields} {RUN})"));
        assert_eq!(refusal.code(), "invalid", "{fields}");
        assert!(refusal.hint().contains(hint), "{fields}: {refusal}: {}", refusal.hint());
    }
}

#[test]
fn what_is_no_module_is_refused() {
    for bytes in [&b""[..], b"\0asm", b"\0asm\x01\0\0", b"hello", b"\0asm\x02\0\0\0", b"(module)"] {
        assert_eq!(Admitted::new(bytes).err().map(|refusal| refusal.code()), Some("invalid"), "{bytes:?}");
    }
    let large = Admitted::new(vec![0; (4 << 20) + 1]).err().map(|refusal| refusal.rule);
    assert_eq!(large, Some(Rule::Limit { name: LimitName::ModuleBytes, max: 4 << 20, found: (4 << 20) + 1 }));
}

/// Of what is too long, that is said and no more: neither the gate nor a compiler reads on.
#[test]
fn what_is_too_long_is_not_read_to_its_end() {
    const PADDING_BYTES: usize = 64_000_000;
    let wasm = wat::parse_str(r#"(module (import "env" "exit" (func)))"#).unwrap();
    let (head, rest) = wasm.split_at(8);
    // A section's length as LEB128, and a name of no bytes.
    let number = PADDING_BYTES as u32 + 1;
    let leb: Vec<u8> = (0..5).map(|at| (number >> (7 * at)) as u8 & 0x7f | if at < 4 { 0x80 } else { 0 }).collect();
    let long = [head, &[0], &leb, &[0], &vec![0; PADDING_BYTES], rest].concat();
    let too_long =
        Rule::Limit { name: LimitName::ModuleBytes, max: GateLimits::DEFAULT.module_bytes, found: long.len() as u64 };

    let all = GateReport::of(&long, &GateLimits::DEFAULT.with(LimitName::ModuleBytes, u64::MAX / 1_000_000));
    assert!(all.refusals.iter().any(|refusal| refusal.code() == "unknown_import"), "its last section breaks a rule");
    // There is no such program to be started.
    let compiler = Compiler::child("/nonexistent/compiler", Digest::of(b""));
    let prepared = compiler.prepare(&GateLimits::DEFAULT, &*long);
    let Err(PrepareError::Refused(refused)) = prepared else { panic!("it is prepared") };
    for report in [&*refused, &compiler.report(&GateLimits::DEFAULT, &long).unwrap()] {
        let rules: Vec<&Rule> = report.refusals.iter().map(|refusal| &refusal.rule).collect();
        assert_eq!((rules, report.imports.len()), (vec![&too_long], 0));
    }
}
