//! Names that would control a terminal, hide in a log, or fill it.

use compute_host::sandbox::{Admitted, GateLimits, GateReport};

use super::{MEMORY, RUN, refusal};

/// Text that would mislead a terminal, a browser or a reader, and a part of it that must stay
/// readable.
const MISLEADING: &[(&str, &str)] = &[
    ("a colour", "\x1b[31mred"),
    ("a title", "\x1b]0;title\x07"),
    ("a cleared screen", "\x1b[2J\x1b[H"),
    ("an 8-bit escape", "\u{9b}2J"),
    ("NUL", "be\0fore"),
    ("a new line", "error\nerror: all is well"),
    ("a return", "hidden\rshown"),
    ("backspaces", "abc\x08\x08\x08xyz"),
    ("DEL", "a\x7fb"),
    ("right to left, overriding", "\u{202e}gnp.exe"),
    ("right to left, isolated", "a\u{2067}b\u{2069}"),
    ("a mark of direction", "a\u{200f}b"),
    ("zero width", "a\u{200b}b\u{200d}c"),
    ("a mark of byte order", "\u{feff}a"),
    ("a line separator", "a\u{2028}b\u{2029}c"),
    ("a soft hyphen", "a\u{ad}b"),
    ("tags", "a\u{e0041}\u{e007f}"),
    ("a private character", "a\u{e000}b"),
    ("marks on marks", "a\u{336}\u{336}\u{336}\u{336}b"),
    ("our own quotes", "a` is admitted; `b"),
];

fn quoted(name: &str) -> String {
    name.bytes().map(|byte| format!("\\{byte:02x}")).collect()
}

/// Modules in which a stranger's name gets into a refusal.
fn places(name: &str) -> [(&'static str, Vec<u8>); 7] {
    let (name, deep) = (quoted(name), format!("{} {}", "block ".repeat(3000), "end ".repeat(3000)));
    let text = |fields: String| wat::parse_str(format!("(module {fields})")).unwrap();
    [
        ("an import", text(format!("(import \"env\" \"{name}\" (func)) {MEMORY} {RUN}"))),
        ("an import's module", text(format!("(import \"{name}\" \"f\" (func)) {MEMORY} {RUN}"))),
        ("an import of the ABI", text(format!("(import \"compute\" \"{name}\" (func)) {MEMORY} {RUN}"))),
        ("a reserved export", text(format!("{MEMORY} {RUN} (func (export \"compute_{name}\"))"))),
        (
            "an export that is there twice",
            text(format!("{MEMORY} {RUN} (export \"{name}\" (func 0)) (export \"{name}\" (func 0))")),
        ),
        ("a function's export", text(format!("{MEMORY} {RUN} (func (export \"{name}\") {deep})"))),
        ("a function's name", text(format!("{MEMORY} {RUN} (func (@name \"{name}\") {deep})"))),
    ]
}

fn is_misleading(c: char) -> bool {
    let invisible =
        ['\u{ad}', '\u{feff}', '\u{200b}', '\u{200d}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{336}', '\u{e000}'];
    c.is_control()
        || invisible.contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
        || ('\u{e0000}'..='\u{e007f}').contains(&c)
}

#[test]
fn names_that_mislead_are_written_out() {
    for (attack, name) in MISLEADING {
        for (place, wasm) in places(name) {
            let said = refusal(attack, &wasm).to_string();
            assert!(!said.contains(is_misleading), "{attack}, as {place}: {said:?}");
            for refusal in GateReport::of(&wasm, &GateLimits::DEFAULT).refusals {
                assert!(!refusal.to_string().contains(is_misleading), "{attack}, as {place}: {refusal}");
            }
        }
    }
}

/// Names of up to 100,000 bytes are read; longer ones are not valid.
#[test]
fn endless_names_are_cut_off() {
    for bytes in [257, 10_000, 99_000, 100_001, 1 << 20] {
        for (place, wasm) in places(&"n".repeat(bytes)) {
            let refusal = refusal("an endless name", &wasm);
            assert!(refusal.to_string().len() < 400, "{bytes} bytes, as {place}: {refusal}");
            let report = GateReport::of(&wasm, &GateLimits::DEFAULT);
            assert!(report.refusals.iter().all(|refusal| refusal.to_string().len() < 400), "{bytes} bytes, as {place}");
        }
    }
}

/// Such an export is not refused, and is harmless because nothing looks for it.
#[test]
fn a_strange_name_on_what_nobody_asks_for_is_no_matter() {
    for (attack, name) in MISLEADING {
        let wat = format!("(module {MEMORY} {RUN} (func (export \"{}\")))", quoted(name));
        assert!(Admitted::new(wat::parse_str(&wat).unwrap()).is_ok(), "{attack}");
    }
}
