//! Chains of operators. For each operator, by its name in the schedule, there is a text that
//! executes it again and again. Each execution waits for the one before.

/// Type of a value, by its name in the text format.
type Ty = &'static str;

/// Code that reads its value from the local `$x` of a type, and writes the next value there.
pub struct Chain {
    pub code: String,
    /// Parts of the time that are not the operator's. Conversions between types and back, of which
    /// half is subtracted, and other operators.
    pub round_trips: Vec<(Ty, Ty)>,
    pub others: Vec<&'static str>,
    /// Number of equal parts in the rest, each of which is the operator's time.
    pub parts: f64,
    /// Whether each execution waits for the one before. If an operator leaves nothing to wait for,
    /// its throughput is measured.
    pub is_chain: bool,
}

/// Returns the measurement of `name`; `None` for an operator that cannot be repeated, or is no
/// instruction.
pub fn chain(name: &str) -> Option<Chain> {
    by_hand(name).or_else(|| store(name)).or_else(|| {
        let (operands, result) = signature(name)?;
        Some(of_signature(name, &operands, result))
    })
}

/// Returns the conversion from one type to the other and back.
pub fn round_trip((from, to): (Ty, Ty)) -> Chain {
    let code = format!("local.get $x_{from} {} {} local.set $x_{from}", bridge(from, to), bridge(to, from));
    Chain { code, round_trips: Vec::new(), others: Vec::new(), parts: 1.0, is_chain: true }
}

fn of_signature(name: &str, operands: &[Ty], result: Ty) -> Chain {
    let mut chain = plain(String::new());
    let immediate = match name {
        "i8x16.shuffle" => " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        // The last lane; some compilers emit nothing for the first.
        name if name.contains("_lane") && name.contains("64") => " 1",
        name if name.contains("_lane") => " 3",
        _ => "",
    };
    let first = operands[0];
    let mut x = format!("local.get $x_{result} {}", bridge(result, first));
    if result != first {
        chain.round_trips.push((result, first));
    }
    // Quotients of many bits take longest.
    let is_division = name.contains(".div") || name.contains(".rem");
    match first {
        "i32" if is_division => {
            x += " i32.const 0x4fffffff i32.or";
            chain.others.push("i32.or");
        }
        "i64" if is_division => {
            x += " i64.const 0x4fffffffffffffff i64.or";
            chain.others.push("i64.or");
        }
        _ => {}
    }
    // The divisor is the former result, so that the result neither grows nor shrinks.
    let is_swapped = is_division && first.starts_with(['f', 'v']);
    // The result of a lane load is the next address.
    let other = if name.contains(".load") { "x" } else { "y" };
    let others: String = operands[1..].iter().map(|ty| format!(" local.get ${other}_{ty}")).collect();
    let all = if is_swapped { format!("{others} {x}") } else { format!("{x} {others}") };
    chain.code = format!("{all} {name}{immediate} local.set $x_{result}");
    chain
}

fn plain(code: String) -> Chain {
    Chain { code, round_trips: Vec::new(), others: Vec::new(), parts: 1.0, is_chain: true }
}

/// Returns the chain of an operator that is not a function of its operands.
fn by_hand(name: &str) -> Option<Chain> {
    let x = "local.get $x_i32";
    let zero = "local.get $zero";
    let (code, parts, is_chain) = match name {
        "select" => (format!("{x} local.get $y_i32 {x} select local.set $x_i32"), 1.0, true),
        "select_typed" => (format!("{x} local.get $y_i32 {x} select (result i32) local.set $x_i32"), 1.0, true),
        // Processors eliminate a single pair of them.
        "global.get" | "global.set" => (format!("{x} global.set $g global.get $g local.set $x_i32"), 2.0, false),
        "call" => (format!("{x} call $same local.set $x_i32"), 1.0, true),
        "call_indirect" => (format!("{x} {zero} call_indirect (type $unary) local.set $x_i32"), 1.0, true),
        "br_if" => (format!("{zero} br_if $out"), 1.0, false),
        "if" => (format!("{zero} if unreachable end"), 1.0, false),
        "br_table" => (format!("block block {zero} br_table 0 1 end end"), 1.0, false),
        "memory.size" | "table.size" => (format!("{name} global.set $g"), 1.0, false),
        "ref.func" => ("ref.func $same global.set $f".to_owned(), 1.0, false),
        "ref.is_null" => ("global.get $f ref.is_null global.set $g".to_owned(), 1.0, false),
        "table.get" => (format!("{zero} table.get $t global.set $f"), 1.0, false),
        "table.set" => (format!("{zero} global.get $f table.set $t"), 1.0, false),
        // More pages than the maximum allows.
        "memory.grow" => ("i32.const 0x10000 memory.grow global.set $g".to_owned(), 1.0, false),
        "table.grow" => ("global.get $f i32.const 1 table.grow $t global.set $g".to_owned(), 1.0, false),
        "memory.fill" | "memory.copy" | "memory.init" | "table.fill" | "table.copy" | "table.init" => {
            (moving(name, 1), 1.0, false)
        }
        "data.drop" => ("data.drop $gone".to_owned(), 1.0, false),
        "elem.drop" => ("elem.drop $gone".to_owned(), 1.0, false),
        _ => return None,
    };
    Some(Chain { parts, is_chain, ..plain(code) })
}

/// Returns a bulk operator over `count` bytes or elements.
pub fn moving(name: &str, count: u32) -> String {
    match name {
        "memory.fill" => format!("i32.const 0x4000 local.get $y_i32 i32.const {count} memory.fill"),
        "memory.copy" => format!("i32.const 0x4000 i32.const 0x8000 i32.const {count} memory.copy"),
        "memory.init" => format!("i32.const 0x4000 i32.const 0 i32.const {count} memory.init $bytes"),
        "table.fill" => format!("i32.const 0 global.get $f i32.const {count} table.fill $t"),
        "table.copy" => format!("i32.const 0 i32.const 2048 i32.const {count} table.copy $t $t"),
        _ => format!("i32.const 0 i32.const 0 i32.const {count} table.init $t $elements"),
    }
}

/// Returns a store followed by a load of the same bytes. The load waits for the store, and the time
/// of the load is subtracted.
fn store(name: &str) -> Option<Chain> {
    let (ty, rest) = name.split_once('.')?;
    let bits = rest.strip_prefix("store")?;
    let ty = types().into_iter().find(|known| *known == ty)?;
    let load = match (ty, bits) {
        ("v128", "8_lane" | "16_lane") => {
            let bits = bits.trim_end_matches("_lane");
            let read = format!("i32.load{bits}_u i32x4.splat");
            let code =
                format!("{} {name} 0 local.get $y_i32 {read} local.set $x_v128", "local.get $y_i32 local.get $x_v128");
            let others = vec![if bits == "8" { "i32.load8_u" } else { "i32.load16_u" }, "i32x4.splat"];
            return Some(Chain { others, ..plain(code) });
        }
        ("v128", "32_lane") => "v128.load32_zero",
        ("v128", "64_lane") => "v128.load64_zero",
        ("v128", _) => "v128.load",
        ("i32", "8") => "i32.load8_u",
        ("i32", "16") => "i32.load16_u",
        ("i32", _) => "i32.load",
        ("i64", "8") => "i64.load8_u",
        ("i64", "16") => "i64.load16_u",
        ("i64", "32") => "i64.load32_u",
        ("i64", _) => "i64.load",
        ("f32", _) => "f32.load",
        _ => "f64.load",
    };
    let lane = if bits.ends_with("lane") { " 0" } else { "" };
    let code = format!("local.get $y_i32 local.get $x_{ty} {name}{lane} local.get $y_i32 {load} local.set $x_{ty}");
    Some(Chain { others: vec![load], ..plain(code) })
}

pub const fn types() -> [Ty; 5] {
    ["i32", "i64", "f32", "f64", "v128"]
}

fn named(prefix: &str) -> Option<Ty> {
    types().into_iter().find(|ty| *ty == prefix)
}

/// Returns the operands and the result of an operator that is a function of its operands, or reads
/// memory.
fn signature(name: &str) -> Option<(Vec<Ty>, Ty)> {
    let (prefix, rest) = name.split_once('.')?;
    let lane = match prefix {
        "i8x16" | "i16x8" | "i32x4" => Some("i32"),
        "i64x2" => Some("i64"),
        "f32x4" => Some("f32"),
        "f64x2" => Some("f64"),
        "v128" => Some("v128"),
        _ => None,
    };
    let begins = |with: &[&str]| with.iter().any(|with| rest.starts_with(with));
    if rest == "const" {
        return None;
    }
    if let Some(lane) = lane {
        const V: Ty = "v128";
        return Some(match rest {
            "splat" => (vec![lane], V),
            "replace_lane" => (vec![V, lane], V),
            "bitselect" => (vec![V, V, V], V),
            "shl" | "shr_s" | "shr_u" => (vec![V, "i32"], V),
            "all_true" | "any_true" | "bitmask" => (vec![V], "i32"),
            _ if begins(&["extract_lane"]) => (vec![V], lane),
            _ if begins(&["load"]) && rest.ends_with("_lane") => (vec!["i32", V], V),
            _ if begins(&["load"]) => (vec!["i32"], V),
            "not" | "abs" | "neg" | "popcnt" | "sqrt" | "ceil" | "floor" | "trunc" | "nearest" => (vec![V], V),
            _ if begins(&["extend", "extadd", "convert", "trunc_sat", "demote", "promote"]) => (vec![V], V),
            _ => (vec![V, V], V),
        });
    }
    let ty = named(prefix)?;
    let unary =
        ["clz", "ctz", "popcnt", "extend8_s", "extend16_s", "extend32_s", "abs", "neg", "sqrt", "ceil", "floor"];
    let from = types().into_iter().find(|from| rest.contains(&format!("_{from}")));
    Some(match rest {
        "eqz" => (vec![ty], "i32"),
        "trunc" | "nearest" => (vec![ty], ty),
        _ if begins(&["load"]) => (vec!["i32"], ty),
        _ if begins(&["eq", "ne", "lt", "gt", "le", "ge"]) && rest != "neg" && from.is_none() => (vec![ty, ty], "i32"),
        _ if unary.contains(&rest) => (vec![ty], ty),
        _ => match from {
            Some(from) => (vec![from], ty),
            None => (vec![ty, ty], ty),
        },
    })
}

/// Returns code that converts a value of one type into one of another, through `i32`.
fn bridge(from: Ty, to: Ty) -> String {
    let to_i32 = |from| match from {
        "i64" => "i32.wrap_i64",
        "f32" => "i32.reinterpret_f32",
        "f64" => "i64.reinterpret_f64 i32.wrap_i64",
        "v128" => "i32x4.extract_lane 0",
        _ => "",
    };
    let from_i32 = match to {
        "i64" => "i64.extend_i32_u",
        "f32" => "f32.reinterpret_i32",
        "f64" => "i64.extend_i32_u f64.reinterpret_i64",
        "v128" => "i32x4.splat",
        _ => "",
    };
    match (from, to) {
        _ if from == to => String::new(),
        ("i64", "f64") => "f64.reinterpret_i64".to_owned(),
        ("f64", "i64") => "i64.reinterpret_f64".to_owned(),
        _ => format!("{} {from_i32}", to_i32(from)),
    }
}
