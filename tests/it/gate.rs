//! Modules that the gate does not let through.

use compute_host::sandbox::{Admitted, Refusal};

#[test]
fn the_gate_refuses_what_is_not_on_its_list() {
    let memory = "(memory (export \"memory\") 1)";
    let run = "(func (export \"run\") (result i32) (i32.const 0))";
    let refusal = |wat: &str| Admitted::new(wat::parse_str(wat).unwrap()).err().unwrap_or_else(|| panic!("{wat}"));
    let module = |fields: &str| refusal(&format!("(module {fields})"));

    assert_eq!(module(&format!("{memory} {run} (func $s) (start $s)")), Refusal::Start);
    assert_eq!(module(memory), Refusal::NoRunExport);
    assert_eq!(module(&format!("{memory} (func (export \"run\"))")), Refusal::NoRunExport);
    assert_eq!(
        module(&format!("{memory} (func (export \"run\") (param i32) (result i32) (i32.const 0))")),
        Refusal::NoRunExport
    );
    assert_eq!(module(&format!("{memory} (global (export \"run\") i32 (i32.const 0))")), Refusal::NoRunExport);
    assert_eq!(module(run), Refusal::MemoryCount { found: 0 });
    assert_eq!(module(&format!("(memory 1) {run}")), Refusal::NoMemoryExport);
    assert_eq!(
        module(&format!("(import \"compute\" \"memory\" (memory 1)) {run}")),
        Refusal::UnknownImport { module: "compute".to_owned(), name: "memory".to_owned() }
    );
    assert_eq!(
        module(&format!("(import \"env\" \"log\" (func (param i32 i32))) {memory} {run}")),
        Refusal::UnknownImport { module: "env".to_owned(), name: "log".to_owned() }
    );
    assert_eq!(
        module(&format!("(import \"compute\" \"log\" (func (param i32))) {memory} {run}")),
        Refusal::ImportSignature { name: "log", expected: "(func (param i32 i32))".to_owned() }
    );
    assert_eq!(module(&format!("{memory} {run} (table 10001 funcref)")), Refusal::TableElements { found: 10_001 });
    assert_eq!(
        module(&format!("{memory} {run} (table 1 funcref) (table 1 funcref)")),
        Refusal::TableCount { found: 2 }
    );
    assert_eq!(refusal("(component)"), Refusal::Component);
}

#[test]
fn features_that_could_give_two_answers_are_not_valid() {
    let run = "(func (export \"run\") (result i32) (i32.const 0))";
    for fields in [
        "(memory (export \"memory\") 1 1 shared)",
        "(memory (export \"memory\") i64 1)",
        "(memory (export \"memory\") 1) (memory 1)",
        "(memory (export \"memory\") 1) (func (param v128) (result v128)
            (i8x16.relaxed_swizzle (local.get 0) (local.get 0)))",
        "(memory (export \"memory\") 1) (func (result i32) (return_call 0))",
        "(memory (export \"memory\") 1) (tag)",
        "(memory (export \"memory\") 1) (type (struct))",
        "(memory (export \"memory\") 1) (table 1 externref)",
        "(memory (export \"memory\") 1) (global i32 (i32.add (i32.const 1) (i32.const 1)))",
    ] {
        let wasm = wat::parse_str(format!("(module {fields} {run})")).unwrap();
        assert!(matches!(Admitted::new(wasm), Err(Refusal::Invalid { .. })), "{fields}");
    }
}

#[test]
fn what_is_no_module_is_refused() {
    for bytes in [&b""[..], b"\0asm", b"\0asm\x01\0\0", b"hello", b"\0asm\x02\0\0\0", b"(module)"] {
        assert!(matches!(Admitted::new(bytes), Err(Refusal::Invalid { .. })), "{bytes:?}");
    }
    assert!(
        matches!(Admitted::new(vec![0; (4 << 20) + 1]), Err(Refusal::TooLarge { found }) if found == (4 << 20) + 1)
    );
}
