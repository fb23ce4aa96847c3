//! The gate's estimate of compile costs: sums computed by hand, and expensive modules.

use compute_host::sandbox::{
    Admitted, CompileEngine, CompileEstimate, GateLimits, GateReport, LIMITS, LimitName, Refusal, meter,
};
use wasm_encoder::{CustomSection, Encode as _, Section as _};

#[allow(dead_code, reason = "the bench uses more of it")]
#[path = "../../benches/common/bombs.rs"]
mod bombs;

fn module(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {fields} (memory (export \"memory\") 1))")).unwrap()
}

/// Returns the usage of each limit by a module of these fields, with no limit that stops the check.
fn used(fields: &str) -> GateLimits {
    GateReport::of(&module(fields), &GateLimits::DEFAULT).used
}

/// Returns the estimate for the most expensive function of a module of these fields, before
/// metering.
fn bare_cost(fields: &str) -> u64 {
    CompileEstimate::of(&module(fields)).unwrap().dearest.1
}

/// Returns the estimate for a function of this code, with a parameter and two locals, minus the
/// fixed costs: 35 for the function, 0.1 for each local and one more, 2 for the parameter, 0.8 a
/// byte, and one block.
fn beyond_bytes(code: &str) -> f64 {
    let host = "(import \"compute\" \"blake3_update\" (func $host (param i32 i32)))";
    let fields = format!("{host} (func (param i32) (local i32 i32) {code})");
    let fixed = 35.0 + 0.1 * 4.0 + 2.0 + 12.0 + 0.005;
    bare_cost(&fields) as f64 - fixed - 0.8 * used(&fields).body_bytes as f64
}

/// Compares with a tolerance: estimates are rounded up to whole units, and values that are live at
/// the operators add a few units.
#[track_caller]
fn costs(code: &str, expected: f64) {
    let found = beyond_bytes(code);
    assert!((expected - 0.1..expected + 4.0).contains(&found), "{code}: {found}, not {expected}");
}

#[test]
fn what_is_counted_costs_what_is_measured() {
    costs("", 0.0);
    costs("(drop (i32.load (i32.const 0)))", 3.0);
    costs("(i32.store (i32.const 0) (i32.const 0))", 3.0);
    costs("(drop (f64.sqrt (f64.const 0)))", 4.0);
    costs("(drop (f32x4.max (v128.const i64x2 0 0) (v128.const i64x2 0 0)))", 20.0);
    costs("(drop (i32.trunc_sat_f32_s (f32.const 0)))", 14.0);
    // The call and two values.
    costs("(call $host (i32.const 0) (i32.const 0))", 9.0 + 6.0);
    // The host's function, and three more blocks. The quadratic term is for four blocks instead of
    // one.
    costs("(memory.fill (i32.const 0) (i32.const 0) (i32.const 0))", 30.0 + 36.0 + 0.075);
    // A trap. The code after it is dead, but is still present.
    costs("unreachable", 14.0);
}

#[test]
fn joins_are_ways_in_times_what_changes() {
    let joins = |code: &str| used(&format!("(func (param i32) (local i32 i32) {code})")).joins;
    let set = "(local.set 1 (i32.const 1))";
    let both = format!("{set} {set} (local.set 2 (local.get 1))");
    let leave = "(br_if 0 (local.get 0))";
    assert_eq!(joins(&format!("{set} {set}")), 0, "nothing meets");
    assert_eq!(joins(&format!("(block {both})")), 0, "one way");
    assert_eq!(joins(&format!("(block {both} {leave})")), 2 * 2);
    assert_eq!(joins(&format!("(block {both} {leave} {leave})")), 3 * 2);
    assert_eq!(joins(&format!("(loop {both} {leave})")), 2 * 2);
    assert_eq!(joins(&format!("(if (local.get 0) (then {set}))")), 2);
    assert_eq!(joins(&format!("(if (local.get 0) (then {set}) (else {set}))")), 3, "an arm is a way");
    assert_eq!(joins(&format!("(block {set} (br_table 0 0 0 (local.get 0)))")), 4, "each entry is a way");
    assert_eq!(
        joins(&format!("(block (block {set} (br_if 1 (local.get 0)) (br_if 0 (local.get 0))))")),
        2 + 2,
        "once in each"
    );
    assert_eq!(joins(&format!("(block {set} (block {set} (br_if 1 (local.get 0))) {set})")), 2, "once in all of it");
    assert_eq!(joins(&format!("(block {leave} (br 0) {set})")), 0, "dead code is not compiled");
    assert_eq!(joins(&format!("(block {leave} (block (br 0)) {set})")), 2, "after a branch, it is alive");
    assert_eq!(joins(&format!("(block {leave} (block unreachable) {set})")), 0, "nothing leads there");
}

/// Returns the estimate of a sum of `n` loads with `between` after each.
fn sum(n: usize, between: &str) -> u64 {
    let line = format!("(local.set 1 (i32.add (local.get 1) (i32.load (local.get 0)))) {between}");
    bare_cost(&format!("(func (param i32) (result i32) (local i32 i32 i32 i32) {} (local.get 1))", line.repeat(n)))
}

#[test]
fn what_does_not_change_a_value_does_not_hide_what_it_keeps_alive() {
    // Code that makes the weight of a sum look smaller, while it stays a sum, would make it cheap
    // to keep all of its loads live. The same code on another local shows the cost without that
    // effect.
    for between in [
        "(local.set $x (block (result i32) (local.get $x)))",
        "(local.set $x (block (result i32) (br_if 0 (local.get $x) (local.get 0))))",
        "(block (br_if 0 (local.get 0)) unreachable (local.set $x (i32.const 0)))",
        "(if (local.get 0) (then (local.set $x (i32.const 0)) (return (i32.const 0))))",
        "(block (br_if 0 (local.get 0)) (block unreachable) (local.set $x (i32.const 0)))",
        "(block (br_if 0 (local.get 0)) (local.set $x (local.get $x)))",
        "(local.set $y (local.get $x))
         (block (br_if 0 (local.get 0)) (local.set $x (i32.const 0)) (local.set $x (local.get $y)))",
        "(if (local.get 0) (then (local.set $x (i32.const 0)) unreachable) (else (local.set $x (local.get $x))))",
    ] {
        let to = |x: &str, y: &str| sum(1_000, &between.replace("$x", x).replace("$y", y));
        let (found, other) = (to("1", "2"), to("3", "4"));
        assert!(found * 3 >= other * 2, "{between}: {found}, not {other}");
    }
    // A value that really differs between two paths becomes one value where the paths meet.
    let joined = "(block (br_if 0 (local.get 0)) (local.set $x (i32.load (local.get 0))))";
    assert!(sum(1_000, &joined.replace("$x", "1")) * 2 < sum(1_000, &joined.replace("$x", "3")));
}

#[test]
fn values_that_meet_are_kept_alive_as_loads_are() {
    let cost = |term: &str| {
        let meet = "(block (local.set 2 (i32.const 7)) (br_if 0 (local.get 0)) (local.set 2 (i32.const 3)))";
        let line = format!("{meet} (local.set 1 (i32.add (local.get 1) (local.get {term})))");
        bare_cost(&format!("(func (param i32) (result i32) (local i32 i32) {} (local.get 1))", line.repeat(1_000)))
    };
    // The cost of computing the sum where it is read is the same for both.
    let again = (1..=1_000).sum::<u64>();
    assert!(cost("2") - again > 3 * (cost("0") - again), "{} and {}", cost("2"), cost("0"));
}

#[test]
fn constants_fold_however_they_come() {
    // The first three of a row are cheaper: 6, 12 and 24.
    let folds = |code: &str| beyond_bytes(&code.repeat(104)) > 100.0 * 48.0;
    assert!(folds("(local.set 0 (i32.add (local.get 0) (i32.const 5)))"));
    assert!(folds("(local.set 0 (i32.add (i32.const 5) (local.get 0)))"));
    assert!(folds("(local.set 1 (i32.const 5)) (local.set 0 (i32.xor (local.get 0) (local.get 1)))"));
    assert!(folds("(local.set 0 (i32.sub (local.get 0) (i32.add (i32.const 5) (i32.const 6))))"));
    assert!(!folds("(local.set 0 (i32.add (local.get 0) (i32.load (i32.const 5))))"));
    assert!(!folds("(local.set 0 (i32.mul (i32.and (local.get 0) (i32.const 5)) (i32.const 6)))"));
}

#[test]
fn a_module_costs_the_sum_of_its_functions() {
    // The cost equals that of its functions, one after another.
    let bomb = bombs::BOMBS.iter().find(|bomb| bomb.name == "roots").unwrap();
    let price = |copies| CompileEstimate::of(&bomb.module(256, copies)).unwrap();
    let (one, many) = (price(1), price(101));
    assert_eq!(one.dearest.1, many.dearest.1);
    let sum = one.milli + 100 * 1_000 * one.dearest.1;
    assert!((sum * 98 / 100..sum * 102 / 100).contains(&many.milli), "{}, not {sum}", many.milli);
}

#[test]
fn an_estimate_follows_what_the_meter_writes() {
    // The compiler gets the metered body: results whose NaNs can be observed, long copies, growth,
    // loop back edges, calls.
    let run = "(func (export \"run\") (result i32) i32.const 0)";
    for (code, is_more) in [
        ("(local.set 1 (f64.neg (f64.add (local.get 1) (local.get 1))))", true),
        ("(local.set 2 (v128.not (f32x4.add (local.get 2) (local.get 2))))", true),
        ("(memory.copy (local.get 0) (local.get 0) (local.get 0))", true),
        ("(drop (memory.grow (local.get 0)))", true),
        ("(loop (br_if 0 (local.get 0)))", true),
        ("(local.set 0 (i32.add (local.get 0) (local.get 0)))", false),
    ] {
        let of = |n: usize| module(&format!("{run} (func (param i32) (local f64 v128) {})", code.repeat(n)));
        let (metered, bare) = (meter::metered(&of(500)).unwrap(), CompileEstimate::of(&of(500)).unwrap());
        let price = CompileEstimate::of(&metered).unwrap();
        let used = GateReport::of(&of(500), &GateLimits::DEFAULT).used;
        assert_eq!((used.function_cost, used.metered_bytes), (price.dearest.1, metered.len() as u64), "{code}");
        assert_eq!(
            price.dearest.1 > 3 * bare.dearest.1 / 2,
            is_more,
            "{code}: {} of {}",
            price.dearest.1,
            bare.dearest.1
        );
        // The size after metering has a limit of its own.
        let dear = GateLimits { compile_cost: u64::MAX, function_cost: u64::MAX, ..GateLimits::DEFAULT };
        assert!(Admitted::within(&dear, of(500)).is_ok(), "{code}");
        let limits = GateLimits { metered_bytes: metered.len() as u64 - 1, ..dear };
        assert_eq!(Admitted::within(&limits, of(500)).err().map(|refusal| refusal.code()), Some("metered_bytes"));
    }
}

#[test]
fn segments_that_are_copied_at_the_start_are_paid_for() {
    let segments = |n: u32, step: u32| {
        let data: String = (0..n).map(|i| format!("(data (i32.const {}) \"a\")", i * step)).collect();
        wat::parse_str(format!(
            "(module (memory (export \"memory\") 1024) {data} (func (export \"run\") (result i32) i32.const 0))"
        ))
        .unwrap()
    };
    assert!(Admitted::new(segments(2, 60_000_000)).is_ok(), "two bytes that lie far apart");
    assert!(Admitted::new(segments(500, 120_000)).is_ok());
    let refused = Admitted::new(segments(60_000, 1_000)).err().map(|refusal| refusal.code());
    assert!(matches!(refused, Some("function_cost" | "compile_cost" | "data_segments")), "{refused:?}");
}

#[test]
fn what_is_not_compiled_pays_for_nothing() {
    let bomb = bombs::BOMBS.iter().find(|bomb| bomb.name == "traps").unwrap();
    let mut wasm = bomb.module(4_096, 1);
    let cost = |wasm: &[u8]| GateReport::of(wasm, &GateLimits::DEFAULT).used.compile_cost;
    let bare = cost(&wasm);
    assert!(bare > 100, "{bare}");
    let padding = CustomSection { name: "padding".into(), data: vec![0; 1_000_000].into() };
    wasm.push(padding.id());
    padding.encode(&mut wasm);
    assert_eq!(cost(&wasm), bare);
    assert_eq!(Admitted::new(wasm.as_slice()).err().map(|refusal| refusal.code()), Some("compile_cost"));
}

#[test]
fn a_bomb_is_refused_or_its_cost_goes_with_its_size() {
    for bomb in bombs::BOMBS {
        let mut refused = 0;
        for n in [16, 256, 4_096, 65_536] {
            let wasm = bomb.module(n, 1);
            let admitted = Admitted::new(wasm.as_slice());
            let limit = |refusal: &Refusal| LIMITS.iter().any(|limit| limit.key == refusal.code());
            assert!(admitted.as_ref().err().is_none_or(limit), "{} {n}: {:?}", bomb.name, admitted.err());
            refused += usize::from(admitted.is_err());
        }
        // Items that each cost the compiler less than 6 us a byte, in any number.
        const CHEAP: &[&str] = &[
            "data",
            "data at the end",
            "passive data",
            "bits",
            "remainders",
            "loads",
            "loads far",
            "loads and stores",
            "roots",
            "vector products",
            "vector minima",
            "minima",
            "precisions",
            "ceilings",
            "truncations",
            "vector shifts",
            "vector truncations",
            "sinks",
        ];
        assert!(refused > 0 || CHEAP.contains(&bomb.name), "{} is admitted at any size", bomb.name);
    }
}

#[test]
fn a_report_on_what_is_far_beyond_the_limits_takes_no_longer_than_reading_it() {
    // Copying the state of all locals at each end would take 500 million steps: this test would
    // take half a minute instead of a second.
    let sets: String = (0..1_000).map(|local| format!("i32.const 0 local.set {local} ")).collect();
    let (blocks, ends) = ("block ".repeat(500_000), "end ".repeat(500_000));
    let deep = used(&format!("(func (local {}) {blocks} {sets} {ends})", "i32 ".repeat(1_000)));
    assert!(deep.function_cost > LimitName::FunctionCost.limit().default);
    // A few bytes can declare very many locals that need state: a thousand million.
    let locals = used(&format!("(func (local {}))", "i32 ".repeat(50_000)).repeat(200));
    assert_eq!(locals.locals, 50_000);
}

/// Returns the modules in this repository that a compiler built: the kernels and the guests.
fn ordinary_modules() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in ["benches/kernels/dist", "guest-workloads/dist", "guest-workloads"] {
        let entries = std::fs::read_dir(crate::common::root().join(folder)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    files.into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap())).collect()
}

#[test]
fn what_compilers_made_of_ordinary_programs_is_admitted_and_compiles() {
    let engine = CompileEngine::new().unwrap();
    let modules = ordinary_modules();
    assert!(modules.len() >= 27, "only {} modules", modules.len());
    for (file, wasm) in modules {
        let used = GateReport::of(&wasm, &GateLimits::DEFAULT).used;
        // Leaves a margin for what another version of the compiler or the meter makes of them.
        assert!(used.compile_cost <= 95, "{file} has {} percent of what it may cost", used.compile_cost);
        assert!(used.function_cost <= LimitName::FunctionCost.limit().default / 2, "{file}: {}", used.function_cost);
        let admitted = Admitted::new(wasm).unwrap_or_else(|refusal| panic!("{file}: {refusal}"));
        assert!(engine.compile(&admitted.metered().unwrap()).is_ok(), "{file}");
    }
}

#[test]
fn a_value_that_is_many_times_in_itself_keeps_no_more_alive() {
    // The code with which programs reverse bits. Each step uses the value of the step before twice.
    let step = |one: &str| {
        format!(
            "(local.set 1 (i32.or (i32.shl (local.get 1) (i32.const 1)) (i32.shr_u (local.get {one}) (i32.const 1))))"
        )
    };
    // As many values as possible may be live. If the weight doubled with each step, the dropped
    // values would be live too.
    let loads = "(drop (i32.load (local.get 0)))".repeat(2_000);
    let cost =
        |one: &str| beyond_bytes(&format!("{loads} (local.set 1 (i32.load (local.get 0))) {}", step(one).repeat(200)));
    // The bound is the number of values made since the first one, and a step makes three.
    assert!(cost("1") < cost("0") * 2.0, "{}, not {}", cost("1"), cost("0"));
}

#[test]
fn what_is_computed_again_where_it_is_read_is_paid_for_there() {
    // The compiler computes the whole sum in each arm, because none of the arms leads to another.
    let cost = |read: &str| {
        let line = format!(
            "(local.set 1 (i32.rotl (local.get 1) (local.get 0)))
             (if (local.get 0) (then (i32.store (i32.const 8) (local.get {read}))))"
        );
        beyond_bytes(&line.repeat(300))
    };
    let again = (1..=300).sum::<u32>();
    assert!(cost("1") > cost("2") + f64::from(again) * 0.9, "{}, not {} and {again}", cost("1"), cost("2"));
}

#[test]
fn what_branches_carry_is_paid_for_by_each_that_none_dominates() {
    // The local has another value on another way to the place that the branches lead to. So the
    // compiler computes it before each of them.
    let cost = |branch: &str, other: &str| {
        let chain = "(local.set 1 (i32.rotl (local.get 1) (local.get 0)))".repeat(50);
        let block = format!("(block {} (local.set {other} (i32.const 7)))", branch.repeat(100));
        beyond_bytes(&format!("{chain} {block} (i32.store (i32.const 8) (local.get {other}))"))
    };
    let again = |branch: &str| cost(branch, "1") - cost(branch, "2");
    let in_arms = again("(if (local.get 0) (then (br 1)))");
    assert!(in_arms > 0.9 * 100.0 * 50.0, "{in_arms}");
    let one_after_the_other = again("(br_if 0 (local.get 0))");
    assert!(one_after_the_other < 0.1 * in_arms, "{one_after_the_other}");
}
