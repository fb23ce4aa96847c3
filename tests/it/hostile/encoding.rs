//! Encodings that lie about lengths, counts, order, and kinds.

use compute_host::sandbox::{Admitted, GateReport, Invocation, Outcome};
use compute_host::sandbox::{GateLimits, Input};

use super::{LIMITS, open, refusal, sandbox};

const TYPE: u8 = 1;
const IMPORT: u8 = 2;
const FUNCTION: u8 = 3;
const TABLE: u8 = 4;
const MEMORY: u8 = 5;
const GLOBAL: u8 = 6;
const EXPORT: u8 = 7;
const START: u8 = 8;
const ELEMENT: u8 = 9;
const CODE: u8 = 10;
const DATA: u8 = 11;
const DATA_COUNT: u8 = 12;
const TAG: u8 = 13;
const CUSTOM: u8 = 0;

/// 2^32-1, in LEB128.
const MOST: &[u8] = b"\xff\xff\xff\xff\x0f";

/// Sections of a module that is admitted, in their order.
fn sections() -> Vec<(u8, Vec<u8>)> {
    vec![
        (TYPE, b"\x01\x60\x00\x01\x7f".to_vec()),
        (FUNCTION, b"\x01\x00".to_vec()),
        (MEMORY, b"\x01\x00\x01".to_vec()),
        (EXPORT, b"\x02\x06memory\x02\x00\x03run\x00\x00".to_vec()),
        (CODE, b"\x01\x04\x00\x41\x00\x0b".to_vec()),
    ]
}

/// Returns the position of a section. The standard does not order all sections by their numbers.
fn order(id: u8) -> u8 {
    match id {
        TAG => 2 * MEMORY + 1,
        DATA_COUNT => 2 * ELEMENT + 1,
        id => 2 * id,
    }
}

/// Returns the module with one section replaced or added.
fn with(id: u8, content: &[u8]) -> Vec<u8> {
    let mut sections = sections();
    match sections.iter_mut().find(|(other, _)| *other == id) {
        Some((_, old)) => *old = content.to_vec(),
        None => {
            let at = sections.iter().position(|(other, _)| order(*other) > order(id)).unwrap_or(sections.len());
            sections.insert(at, (id, content.to_vec()));
        }
    }
    module(&sections)
}

fn module(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in sections {
        module.push(*id);
        leb(&mut module, content.len());
        module.extend(content);
    }
    module
}

fn leb(to: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Returns the module, followed by bytes that are not quite a section.
fn and(tail: &[u8]) -> Vec<u8> {
    [&module(&sections()), tail].concat()
}

/// Returns the module with this body and its correct length.
fn body(code: &[u8]) -> Vec<u8> {
    let mut content = vec![1];
    leb(&mut content, code.len());
    content.extend(code);
    with(CODE, &content)
}

#[track_caller]
fn refused(attack: &str, wasm: &[u8], code: &str) {
    let refusal = refusal(attack, wasm);
    assert_eq!(refusal.code(), code, "{attack}: {refusal}");
    assert!(!GateReport::of(wasm, &GateLimits::DEFAULT).refusals.is_empty(), "{attack}");
}

#[test]
fn lengths_that_lie_are_found_out() {
    for (attack, wasm) in [
        ("a section that ends beyond the end", and(b"\x00\x7f\x01a")),
        ("a section of 4 GiB", and(&[b"\x00", MOST].concat())),
        ("a length without an end", and(b"\x00\x80\x80\x80\x80\x80\x00")),
        ("a length of 35 bits", and(b"\x00\xff\xff\xff\xff\x7f")),
        ("a length that breaks off", and(b"\x00\x80")),
        ("a section without a length", and(b"\x00")),
        ("a custom section without a name", and(b"\x00\x00")),
        ("a name longer than its section", and(b"\x00\x03\x05ab")),
        ("a name of 4 GiB", and(&[b"\x00\x06", MOST, b"a"].concat())),
        ("an export's name of 4 GiB", with(EXPORT, &[b"\x01", MOST, b"run\x00\x00"].concat())),
        ("a body that ends beyond its section", with(CODE, b"\x01\x05\x00\x41\x00\x0b")),
        ("a body of 4 GiB", with(CODE, &[b"\x01", MOST, b"\x00\x41\x00\x0b"].concat())),
        ("a body that ends before its end", with(CODE, b"\x01\x03\x00\x41\x00\x0b")),
        ("a body of nothing", with(CODE, b"\x01\x00")),
        ("a body without an end", body(b"\x00\x41\x00")),
        ("a body with two ends", body(b"\x00\x41\x00\x0b\x0b")),
        ("more in a section than its count", with(FUNCTION, b"\x01\x00\x00")),
        ("less in a section than its count", with(FUNCTION, b"\x02\x00")),
        ("data of 4 GiB", with(DATA, &[b"\x01\x00\x41\x00\x0b", MOST].concat())),
    ] {
        refused(attack, &wasm, "invalid");
    }
}

#[test]
fn counts_without_content_are_refused_for_what_they_claim() {
    for (id, code) in [
        (TYPE, "types"),
        (IMPORT, "imports"),
        (FUNCTION, "functions"),
        (TABLE, "tables"),
        (MEMORY, "invalid"),
        (GLOBAL, "globals"),
        (EXPORT, "exports"),
        (ELEMENT, "invalid"),
        (CODE, "invalid"),
        (DATA, "data_segments"),
        (DATA_COUNT, "invalid"),
        (TAG, "invalid"),
    ] {
        refused("2^32-1 of them", &with(id, MOST), code);
    }
    for (attack, wasm) in [
        ("parameters", with(TYPE, &[b"\x01\x60", MOST].concat())),
        ("results", with(TYPE, &[b"\x01\x60\x00", MOST].concat())),
        ("locals", body(&[b"\x01", MOST, b"\x7f\x41\x00\x0b"].concat())),
        ("locals twice", body(&[b"\x02", MOST, b"\x7f", MOST, b"\x7f\x41\x00\x0b"].concat())),
        ("groups of locals", body(&[MOST, b"\x41\x00\x0b"].concat())),
        ("targets of a branch", body(&[b"\x00\x41\x00\x0e", MOST, b"\x00\x0b"].concat())),
        ("types of a select", body(&[b"\x00\x1c", MOST, b"\x7f\x0b"].concat())),
        ("elements of a segment", with(ELEMENT, &[b"\x01\x01\x00", MOST].concat())),
    ] {
        refused(attack, &wasm, "invalid");
    }
    refused("50,000 locals in three bytes", &body(b"\x01\xd0\x86\x03\x7b\x41\x00\x0b"), "locals");
    refused("elements of a table", &with(TABLE, &[b"\x01\x70\x00", MOST].concat()), "table_elements");
    refused("pages of memory", &with(MEMORY, &[b"\x01\x00", MOST].concat()), "invalid");
}

#[test]
fn sections_out_of_their_order_are_refused() {
    let count = sections().len();
    for i in 0..count {
        let mut twice = sections();
        twice.insert(i, twice[i].clone());
        refused("a section twice", &module(&twice), "invalid");
        for j in 0..i {
            let mut swapped = sections();
            swapped.swap(i, j);
            refused("two sections in each other's place", &module(&swapped), "invalid");
        }
    }
    for (attack, tail) in [
        ("a section of the future", &b"\x0e\x01\x00"[..]),
        ("a section of the far future", b"\x7f\x01\x00"),
        ("a start behind the code", b"\x08\x01\x00"),
        ("a count of data behind the data", b"\x0b\x01\x00\x0c\x01\x00"),
        ("a second module", b"\0asm\x01\0\0\0"),
    ] {
        refused(attack, &and(tail), "invalid");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let without = |id: u8| module(&sections().into_iter().filter(|(other, _)| *other != id).collect::<Vec<_>>());
    for (attack, wasm) in [
        ("functions without code", without(CODE)),
        ("code without functions", without(FUNCTION)),
        ("a function of no type", without(TYPE)),
        ("an export of no memory", without(MEMORY)),
        ("a body too many", with(CODE, b"\x02\x04\x00\x41\x00\x0b\x04\x00\x41\x00\x0b")),
        ("a body too few", with(FUNCTION, b"\x02\x00\x00")),
        ("a type that is not there", with(FUNCTION, b"\x01\x07")),
        ("an export that is not there", with(EXPORT, b"\x01\x03run\x00\x07")),
        ("an export of no kind", with(EXPORT, b"\x01\x03run\x09\x00")),
        ("two exports of one name", with(EXPORT, b"\x02\x03run\x00\x00\x03run\x00\x00")),
        ("a start that is not there", with(START, b"\x07")),
        ("a count of data without data", with(DATA_COUNT, b"\x01")),
        ("a type of no kind", with(TYPE, b"\x01\x3f\x00\x01\x7f")),
        ("a value of no type", with(TYPE, b"\x01\x60\x00\x01\x00")),
        ("a memory of unknown flags", with(MEMORY, b"\x01\x80\x01\x01")),
        ("a memory whose most is less", with(MEMORY, b"\x01\x01\x02\x01")),
        ("an element segment of no kind", with(ELEMENT, b"\x01\x08\x00")),
        ("a data segment of no kind", with(DATA, b"\x01\x03\x00")),
        ("a data segment at no constant", with(DATA, b"\x01\x00\x20\x00\x0b\x00")),
        ("a global of another type", with(GLOBAL, b"\x01\x7f\x00\x42\x00\x0b")),
        ("a global without a value", with(GLOBAL, b"\x01\x7f\x00\x0b")),
        ("a global that can half change", with(GLOBAL, b"\x01\x7f\x02\x41\x00\x0b")),
        ("an import of no kind", with(IMPORT, b"\x01\x01a\x01b\x07\x00")),
        ("an import of no type", with(IMPORT, b"\x01\x07compute\x03log\x00\x09")),
    ] {
        refused(attack, &wasm, "invalid");
    }
}

#[test]
fn code_that_is_none_is_refused() {
    for (attack, code) in [
        ("an opcode of nothing", &b"\x00\xff\x0b"[..]),
        ("a prefix of nothing", b"\x00\xfc"),
        ("a prefixed opcode of nothing", b"\x00\xfc\xff\xff\xff\xff\x0f\x0b"),
        ("a SIMD opcode of nothing", b"\x00\xfd\x9a\x01\x0b"),
        ("a constant of six bytes", b"\x00\x41\x80\x80\x80\x80\x80\x00\x0b"),
        ("a constant of 33 bits", b"\x00\x41\xff\xff\xff\xff\x4f\x0b"),
        ("half a float", b"\x00\x43\x00\x00\x0b"),
        ("half a vector", b"\x00\xfd\x0c\x00\x00\x00\x0b"),
        ("a lane that is not there", b"\x00\xfd\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xfd\x15\x10\x0b"),
        ("a local that is not there", b"\x00\x20\x00\x0b"),
        ("a global that is not there", b"\x00\x23\x00\x0b"),
        ("a function that is not there", b"\x00\x10\x63\x0b"),
        ("a table that is not there", b"\x00\x41\x00\x11\x00\x00\x0b"),
        ("a branch out of the function", b"\x00\x0c\x07\x0b"),
        ("a block of no type", b"\x00\x02\x33\x0b\x41\x00\x0b"),
        ("an else without an if", b"\x00\x05\x41\x00\x0b"),
        ("an alignment of 2^32", b"\x00\x41\x00\x28\x20\x00\x0b"),
        ("an alignment above the natural", b"\x00\x41\x00\x28\x03\x00\x0b"),
        ("an offset of 33 bits", b"\x00\x41\x00\x28\x00\xff\xff\xff\xff\x1f\x0b"),
        ("data where none is counted", b"\x00\x41\x00\x41\x00\x41\x00\xfc\x08\x00\x00\x41\x00\x0b"),
        ("a value of another type", b"\x00\x42\x00\x0b"),
        ("no value", b"\x00\x0b"),
        ("a value too many", b"\x00\x41\x00\x41\x00\x0b"),
        ("a value from outside of a block", b"\x00\x41\x00\x02\x40\x1a\x0b\x41\x00\x0b"),
    ] {
        refused(attack, &body(code), "invalid");
    }
}

#[test]
fn text_that_is_none_is_refused() {
    for (attack, text) in [
        ("a lone continuation", &b"\x80"[..]),
        ("a character cut off", b"a\xe2\x82"),
        ("an over-long slash", b"\xc0\xaf"),
        ("an over-long NUL", b"\xc0\x80"),
        ("half a surrogate pair", b"\xed\xa0\x80"),
        ("beyond the last character", b"\xf4\x90\x80\x80"),
        ("bytes of no character", b"\xff\xfe"),
    ] {
        let name = [&[text.len() as u8], text].concat();
        refused(attack, &with(EXPORT, &[b"\x01", &*name, b"\x00\x00"].concat()), "invalid");
        refused(attack, &with(IMPORT, &[b"\x01\x07compute", &*name, b"\x00\x00"].concat()), "invalid");
        refused(attack, &with(IMPORT, &[b"\x01", &*name, b"\x03log\x00\x00"].concat()), "invalid");
        let custom = module(&[sections(), vec![(CUSTOM, name)]].concat());
        refused(attack, &custom, "invalid");
    }
}

#[test]
fn custom_sections_hold_what_they_like_but_not_more_than_is_bounded() {
    let custom = |name: &[u8], bytes: usize| (CUSTOM, [&[name.len() as u8], name, &vec![0; bytes]].concat());
    let of = |custom: Vec<(u8, Vec<u8>)>| module(&[sections(), custom].concat());
    refused("seventeen", &of(vec![custom(b"x", 0); 17]), "custom_sections");
    refused("100,000 of two bytes", &of(vec![custom(b"", 0); 100_000]), "custom_sections");
    refused("a mebibyte and more of zeros", &of(vec![custom(b"x", 1 << 20)]), "custom_bytes");
    refused("a mebibyte and more in several", &of(vec![custom(b"x", 1 << 17); 8]), "custom_bytes");
    // No reader interprets these custom sections, so their names cannot mislead any.
    for name in [&b"name"[..], b"producers", b"dylink.0", b"linking", b"target_features", b".debug_info", b"core"] {
        let inner = module(&sections());
        let forged = (CUSTOM, [&[name.len() as u8], name, &inner].concat());
        runs("a custom section that is none", &of(vec![forged.clone()]));
        let mut deep = sections();
        deep[4] = (CODE, [&b"\x01\xf0\x2e\x00"[..], &b"\x02\x40".repeat(2000), &b"\x0b".repeat(2000)].concat());
        deep.push(forged);
        // A refusal looks for function names in this section.
        refusal("a forged section of names", &module(&deep));
    }
}

#[track_caller]
fn runs(attack: &str, wasm: &[u8]) {
    let admitted = Admitted::new(wasm).unwrap_or_else(|refusal| panic!("{attack}: {refusal}"));
    let program = sandbox().compile(&admitted).unwrap();
    let input: Box<dyn Input> = Box::new(open());
    let work = Invocation::new(input, LIMITS);
    assert_eq!(sandbox().run(&program, work).unwrap().outcome, Outcome::Done, "{attack}");
}

/// The standard allows numbers to be padded up to their width, and these are read correctly.
#[test]
fn padded_numbers_are_what_they_say() {
    runs("a module without pads", &module(&sections()));
    runs("a padded count", &with(FUNCTION, b"\x81\x80\x80\x80\x00\x00"));
    runs("a padded constant", &body(b"\x00\x41\x80\x80\x80\x80\x00\x0b"));
    runs("a padded constant below zero", &body(b"\x00\x41\xff\xff\xff\xff\x7f\x41\x01\x6a\x0b"));
    let mut padded = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in sections() {
        padded.extend([id, content.len() as u8 | 0x80, 0x80, 0x80, 0x80, 0x00]);
        padded.extend(content);
    }
    runs("padded lengths", &padded);
}

/// A reader could accept these proposals although the validator's feature list excludes them,
/// because they are another encoding of the same module.
#[test]
fn forms_of_the_future_are_not_read() {
    let compact = [
        (TYPE, b"\x02\x60\x00\x01\x7f\x60\x00\x01\x7e".to_vec()),
        (IMPORT, b"\x01\x07compute\x00\x7f\x02\x09input_len\x00\x01\x08args_len\x00\x01".to_vec()),
        (FUNCTION, b"\x01\x00".to_vec()),
        (MEMORY, b"\x01\x00\x01".to_vec()),
        (EXPORT, b"\x02\x06memory\x02\x00\x03run\x00\x02".to_vec()),
        (CODE, b"\x01\x04\x00\x41\x00\x0b".to_vec()),
    ];
    refused("compact imports", &module(&compact), "invalid");
    let mut of_one_type = compact.clone();
    of_one_type[1].1 = b"\x01\x07compute\x00\x7e\x00\x01\x02\x09input_len\x08args_len".to_vec();
    refused("compact imports of one type", &module(&of_one_type), "invalid");
    let mut exact = compact.clone();
    exact[1].1 = b"\x02\x07compute\x09input_len\x00\x01\x07compute\x08args_len\x20\x01".to_vec();
    refused("an import of just this type", &module(&exact), "invalid");
    refused(
        "an export of just this type",
        &with(EXPORT, b"\x03\x06memory\x02\x00\x03run\x00\x00\x01x\x20\x00"),
        "invalid",
    );
    refused("`run` of just this type", &with(EXPORT, b"\x02\x06memory\x02\x00\x03run\x20\x00"), "invalid");
}

#[test]
fn no_part_of_a_module_is_one() {
    let whole = module(&sections());
    for len in 0..whole.len() {
        refusal("a module cut off", &whole[..len]);
        refusal("a module without its beginning", &whole[len + 1..]);
    }
}
