//! Start of a metered module: the function that is called first, and the parts that the host sets
//! up.

use compute_host::sandbox::meter;
use wasmparser::{ExternalKind, Parser, Payload};

use crate::engines::metered;

/// Returns the names and kinds of a metered module's exports.
fn exports(text: &str) -> Vec<(String, ExternalKind)> {
    let wasm = metered(&wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}")));
    let mut found = Vec::new();
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload.unwrap() {
            Payload::ExportSection(section) => {
                found.extend(section.into_iter().map(|export| export.map(|it| (it.name.to_owned(), it.kind)).unwrap()));
            }
            Payload::StartSection { .. } => panic!("an engine would call it, and not the host"),
            _ => {}
        }
    }
    found
}

fn gas(fields: &str) -> u64 {
    let exports = exports(&format!("(module (memory 1) (func $f) {fields})"));
    meter::start_gas(exports.iter().map(|(name, _)| &**name))
}

#[test]
fn a_start_function_is_exported() {
    let of = |text: &str| exports(text).into_iter().filter(|(name, _)| meter::STARTS.contains(&&**name)).collect();
    let started: Vec<_> = of("(module (memory 1) (func $f) (start $f))");
    assert_eq!(started, [(meter::STARTS[0].to_owned(), ExternalKind::Func)]);
    let both: Vec<_> = of("(module (memory 1) (func $f (export \"_initialize\")) (start $f))");
    assert_eq!(both.len(), 2);
    assert_eq!(of("(module (memory 1) (func $f))"), Vec::new());
}

#[test]
fn each_part_of_a_start_has_its_price() {
    let base = gas("");
    for (fields, cost) in [
        ("(data (i32.const 0) \"\")", 128),
        ("(data (i32.const 0) \"0123456789012345678901234567890123456789012345678901234567890123\")", 128 + 1),
        ("(table 7 funcref)", 7),
        ("(table 7 funcref) (elem (i32.const 0) $f $f $f)", 7 + 128 + 3 * 16),
        ("(table 7 funcref) (elem (i32.const 0) funcref (ref.func $f) (ref.null func))", 7 + 128 + 2 * 16),
        ("(global i32 (i32.const 1)) (global (mut f64) (f64.const 1))", 2),
        ("(data \"passive\") (elem func $f) (elem declare func $f)", 0),
    ] {
        assert_eq!(gas(fields) - base, cost, "{fields}");
    }
    let pages = |pages: u64| {
        let exports = exports(&format!("(module (memory {pages}))"));
        meter::start_gas(exports.iter().map(|(name, _)| &**name))
    };
    assert_eq!(pages(1), 4_096);
    assert_eq!(pages(65_536), 65_536 * 4_096);
    assert_eq!(pages(0), 0);
}

/// The meter evaluates constant expressions, so that no engine has to.
#[test]
fn a_metered_module_has_plain_constants_alone() {
    let text = "(module (memory 1) (global i64 (i64.mul (i64.const 3) (i64.sub (i64.const 1) (i64.const 5))))
        (data (i32.add (i32.const 7) (i32.const 9)) \"x\"))";
    let printed = wasmprinter::print_bytes(metered(&wat::parse_str(text).unwrap())).unwrap();
    assert!(printed.contains("i64.const -12") && printed.contains("(i32.const 16)"), "{printed}");
    assert!(!printed.contains("i64.mul") && !printed.contains("i32.add"), "{printed}");
}
