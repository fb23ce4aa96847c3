//! For each limit of the gate, a module just above it, in as few bytes as possible.

use compute_host::sandbox::{Admitted, GateLimits, GateReport, LIMITS, LimitName, Refusal, Rule};

use super::{MEMORY, RUN};

fn times(count: u64, text: &str) -> String {
    text.repeat(count as usize)
}

/// Returns the fields of a module that uses `n` of the limit `name`; `None` if no field can.
fn fields(name: LimitName, n: u64) -> Option<String> {
    let log = r#"(import "compute" "log" (func (param i32 i32)))"#;
    Some(match name {
        LimitName::Types => times(n - 1, "(type (func (param i64)))") + RUN,
        LimitName::Params => format!("{RUN} (type (func (param {})))", times(n, "i32 ")),
        LimitName::Results => format!("{RUN} (type (func (result {})))", times(n, "i32 ")),
        LimitName::Imports => times(n, log) + RUN,
        LimitName::Exports => {
            RUN.to_owned() + &(2..n).map(|i| format!("(export \"{i}\" (func 0))")).collect::<String>()
        }
        LimitName::NameBytes => format!("{RUN} (export \"{}\" (func 0))", times(n, "n")),
        LimitName::Functions => RUN.to_owned() + &times(n - 1, "(func)"),
        LimitName::Globals => RUN.to_owned() + &times(n, "(global i32 (i32.const 0))"),
        LimitName::Tables => RUN.to_owned() + &times(n, "(table 1 funcref)"),
        LimitName::TableElements => format!("{RUN} (table {n} funcref)"),
        LimitName::DataSegments => RUN.to_owned() + &times(n, "(data \"\")"),
        LimitName::ElementItems => {
            let half = times(n / 2, " 0");
            format!("{RUN} (elem func {half}) (elem declare func {half} {})", times(n % 2, " 0"))
        }
        LimitName::BodyBytes => {
            // A constant and a drop take 12 bytes; the rest is `nop`.
            let (wide, rest) = ((n - 2) / 12, (n - 2) % 12);
            let wides = times(wide, "(drop (i64.const -9223372036854775808))");
            format!("{RUN} (func {wides} {})", times(rest, "nop "))
        }
        LimitName::Locals => format!("{RUN} (func (local {}))", times(n, "i32 ")),
        LimitName::Blocks => format!("{RUN} (func {})", times(n, "(block)")),
        LimitName::Nesting => format!("{RUN} (func {} {})", times(n, "block "), times(n, "end ")),
        LimitName::LoopNesting => format!("{RUN} (func {} {})", times(n, "loop "), times(n, "end ")),
        LimitName::CallValues => format!("{RUN} (func $f (param i32)) (func {})", times(n, "(call $f (i32.const 0))")),
        LimitName::StackValues => format!("{RUN} (func {} {})", times(n, "(i32.const 0)"), times(n, "drop ")),
        LimitName::BranchTargets => format!("{RUN} (func (br_table {} (i32.const 0)))", times(n, "0 ")),
        LimitName::CustomSections => RUN.to_owned() + &times(n, "(@custom \"\" \"\")"),
        LimitName::CustomBytes => format!("{RUN} (@custom \"\" \"{}\")", times(n - 1, "-")),
        _ => return None,
    })
}

fn refusals(name: LimitName, n: u64) -> Option<Vec<Refusal>> {
    let memory = if name == LimitName::MemoryPages { MEMORY.replace('1', &n.to_string()) } else { MEMORY.to_owned() };
    let fields = if name == LimitName::MemoryPages { RUN.to_owned() } else { fields(name, n)? };
    let text = format!("(module {fields} {memory})");
    let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name:?}: {error}"));
    let refusals = GateReport::of(&wasm, &GateLimits::DEFAULT).refusals;
    assert_eq!(Admitted::new(wasm).is_err(), !refusals.is_empty(), "{name:?}");
    Some(refusals)
}

#[test]
fn one_more_than_a_limit_is_refused_for_that() {
    let mut tried = 0;
    for limit in LIMITS {
        let (name, max) = (limit.name, limit.default);
        let broken = |refusals: &[Refusal]| {
            let found = |refusal: &Refusal| match refusal.rule {
                Rule::Limit { name: broken, max: bound, found } if broken == name => Some((bound, found)),
                _ => None,
            };
            refusals.iter().find_map(found)
        };
        let Some(over) = refusals(name, max + 1) else { continue };
        tried += 1;
        assert_eq!(broken(&over), Some((max, max + 1)), "{}: {over:?}", limit.key);
        let up_to = refusals(name, max).unwrap_or_default();
        assert_eq!(broken(&up_to), None, "{}: {up_to:?}", limit.key);
    }
    assert!(tried >= 20, "only {tried} limits were tried");
}

/// A function can declare up to 50,000 locals in three bytes. The module is refused long before the
/// locals of all its functions are stored.
#[test]
fn locals_of_all_functions_are_counted_together() {
    let wat = format!("(module {MEMORY} {RUN} {})", times(2000, &format!("(func (local {}))", times(1000, "i64 "))));
    let refusal = super::refusal("two million locals", &wat::parse_str(wat).unwrap());
    assert_eq!(refusal.code(), "compile_cost");
}
