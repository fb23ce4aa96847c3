//! Work after a call returns. In a full stack, the frames do such work one after another, and their
//! gas is checked. Each way back is charged after it is done, and ends where the gas ends.
//!
//! The work of a frame is less here than the amount that is always checked: only the rule for the
//! way back causes the check. More work would be checked in any case, and would show nothing.

use compute_host::sandbox::meter::{RETURN_MAX, SMALL_MAX, UNCHECKED_MAX, UNLOOKED_MAX};

use crate::engines::{ALL, Kind, Seen, Stop, Value, alike_on};

/// Number of frames that wait.
const DEPTH: u32 = 3_000;

/// Work of a frame, in each form in which it can be written. The frame counts itself once, and
/// spends more than [`RETURN_MAX`] behind the call.
const WAYS: [(&str, &str); 9] = [
    ("in a row", "(call $deeper) WORK (call $count)"),
    ("in a block", "(block (call $deeper)) (block (br_if 0 (i32.const 0)) WORK) (call $count)"),
    ("behind a branch", "(block (br_if 0 (i32.const 0)) (call $deeper) (br_if 0 (i32.const 0)) WORK) (call $count)"),
    ("in both arms", "(if (global.get $one) (then (call $deeper)) (else (nop))) WORK (call $count)"),
    ("in a loop", "(local $turn i32) (call $deeper)
        (loop (br_if 0 (i32.lt_u (local.tee $turn (i32.add (local.get $turn) (i32.const 1))) (i32.const 200)))) (call $count)"),
    // The calls themselves cost less than the amount that is checked.
    ("in small functions", "(call $deeper) (call $small) (call $small) (call $small) (call $count)"),
    ("in many small functions", "(call $deeper) SMALL (call $count)"),
    ("in functions that call", "(call $deeper) (call $calls) (call $calls) (call $calls) (call $calls) (call $count)"),
    ("before it returns early", "(call $deeper) (call $count) WORK (return)"),
];

/// Amounts of work: slightly more than the amount without a check, and slightly less than the
/// amount that is checked anywhere.
const WORKS: [u64; 3] = [RETURN_MAX + 2, 100, UNCHECKED_MAX - 3 * SMALL_MAX];

/// Ways in which a frame calls the next one.
const CALLS: [(&str, &str); 4] = [
    ("itself", "(call $frame)"),
    ("a function that calls it", "(call $other)"),
    ("through a table", "(call_indirect (i32.const 0))"),
    ("a function that calls through a table", "(call $through)"),
];

/// Ways in which the last frame skips the call. If the call is in an `if`, the code after it is no
/// longer in one row with it.
const ENDS: [(&str, &str); 2] = [
    ("if it goes on", "(if (call $goes_on) (then CALL))"),
    ("unless it returns", "(if (i32.eqz (call $goes_on)) (then (call $count) (return))) CALL"),
];

/// Gas that one frame and two below it may spend between two checks. The two frames do not wait for
/// a deep call.
const BETWEEN_LOOKS: u64 = 3 * (2 * UNCHECKED_MAX + 2 * SMALL_MAX);

/// Returns operators that cost `gas`, an even number. Few of them make a value, because frames pay
/// for values.
fn work(gas: u64) -> String {
    let (dear, cheap) = (gas as usize / 12, gas as usize % 12 / 2);
    "(elem.drop $e) ".repeat(dear) + &"(global.set $one (global.get $one)) ".repeat(cheap)
}

fn module(body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module (table 2 funcref) (elem (i32.const 0) $frame) (elem $e func $small)
          (global $done (export "count") (mut i32) (i32.const 0)) (global $left (mut i32) (i32.const 0))
          (global $one (mut i32) (i32.const 1))
          (func $count (global.set $done (i32.add (global.get $done) (i32.const 1))))
          (func $goes_on (result i32)
            (global.set $left (i32.sub (global.get $left) (i32.const 1))) (i32.ge_s (global.get $left) (i32.const 0)))
          (func $small {small})
          (func $calls (call $small) (call $small) (call $small))
          (func $other (call $frame))
          (func $through (call_indirect (i32.const 0)))
          (func $frame {body})
          (func (export "run") (param i32) (global.set $left (local.get 0)) (call $frame)))"#,
        small = work(SMALL_MAX - 10),
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Returns how many frames counted themselves.
fn count(seen: &Seen) -> u32 {
    let Some(Value::I32(count)) = seen.count else { panic!("{:?}", seen.count) };
    count
}

fn run(kinds: &[Kind], wasm: &[u8], depth: u32, total: u64) -> Seen {
    alike_on(kinds, wasm, "run", &[Value::I32(depth)], total)
}

/// Asserts that the stack of `wasm` runs out of gas on its way back.
#[track_caller]
fn is_looked_at(kinds: &[Kind], wasm: &[u8], what: &str) {
    let seen = run(kinds, wasm, DEPTH, 1 << 40);
    assert_eq!((&seen.ran.ended, count(&seen)), (&Ok(Vec::new()), DEPTH + 1), "{what}");
    let all = seen.ran.gas;
    let a_frame = all / u64::from(DEPTH + 1);
    for missing in [all / 4, all / 2] {
        let seen = run(kinds, wasm, DEPTH, all - missing);
        assert_eq!((&seen.ran.ended, seen.ran.gas), (&Err(Stop::OutOfGas), all - missing), "{what}");
        assert!(seen.overdrawn <= BETWEEN_LOOKS, "{what}: {} units behind the end", seen.overdrawn);
        // Measures the work that was done too, not only the gas that the guest reports.
        let undone = u64::from(DEPTH + 1 - count(&seen)) * a_frame;
        assert!(missing <= undone + BETWEEN_LOOKS, "{what}: {undone} of {missing} was not done");
        // The way back is not charged in advance either: some frames have returned by then.
        let least = if missing == all / 4 { DEPTH / 4 } else { 0 };
        assert!(count(&seen) >= least, "{what}: only {} came back", count(&seen));
    }
}

#[test]
fn a_full_stack_is_looked_at_on_its_way_back() {
    let mut engines = ALL[..4].chunks(1).cycle();
    for (way, body) in WAYS {
        let works = if body.contains("WORK") { &WORKS[..] } else { &WORKS[..1] };
        for gas in works {
            for (how, call) in CALLS {
                for (end, ends) in ENDS {
                    let deeper = ends.replace("CALL", call);
                    let body = body.replace("(call $deeper)", &deeper).replace("WORK", &work(*gas));
                    let wasm = module(&body.replace("SMALL", &"(call $small) ".repeat(9)));
                    // The first of each way runs on all four engines, the others on one engine in
                    // turn.
                    let is_first = gas == &WORKS[0] && call == CALLS[0].1;
                    let kinds = if is_first { &ALL[..4] } else { engines.next().unwrap() };
                    is_looked_at(kinds, &wasm, &format!("{gas} {way}, {how}, {end}"));
                }
            }
        }
    }
}

/// A chain of functions that call each other once is as deep as there are functions.
#[test]
fn a_chain_of_many_functions_is_looked_at_on_its_way_back() {
    const FUNCTIONS: usize = 1_000;
    for gas in WORKS {
        let work = work(gas);
        let functions: String = (0..FUNCTIONS)
            .map(|at| format!("(func $f{at} (block (call $f{})) (block (br_if 0 (i32.const 0)) {work}))", at + 1))
            .collect();
        let wasm = wat::parse_str(format!(
            "(module (elem $e func) (global $one (mut i32) (i32.const 0)) {functions} (func $f{FUNCTIONS})
              (func (export \"run\") (param i32) (call $f0)))"
        ))
        .unwrap();
        let all = run(&[Kind::Winch], &wasm, 0, 1 << 40).ran.gas;
        let seen = run(&[Kind::Winch], &wasm, 0, all / 2);
        assert_eq!(seen.ran.ended, Err(Stop::OutOfGas));
        // Below the frames that can be deep, sixteen others wait.
        let bound = 18 * (2 * UNCHECKED_MAX + 2 * SMALL_MAX);
        assert!(seen.overdrawn <= bound.min(all / 4), "{gas} in each: {} behind the end of {all}", seen.overdrawn);
    }
}

/// A small amount of work is not checked. Even a full stack of such frames spends no more than the
/// documented bound.
#[test]
fn a_full_stack_with_little_left_to_do_is_soon_at_its_end() {
    const FRAMES: u32 = 150_000;
    let wasm = module(&format!("(if (call $goes_on) (then (call $frame))) {}", work(RETURN_MAX)));
    let seen = run(&ALL[..4], &wasm, FRAMES, 1 << 40);
    assert_eq!(seen.ran.ended, Ok(Vec::new()));
    let on_the_way_back = u64::from(FRAMES) * RETURN_MAX;
    let seen = run(&ALL[..4], &wasm, FRAMES, seen.ran.gas - on_the_way_back);
    assert_eq!(seen.ran.ended, Err(Stop::OutOfGas));
    assert!(seen.overdrawn <= on_the_way_back && seen.overdrawn > on_the_way_back / 2, "{}", seen.overdrawn);
    assert!(seen.overdrawn <= UNLOOKED_MAX);
}

/// Random bodies, with calls that can be deep anywhere in them.
struct Shapes(u64);

impl Shapes {
    /// Returns a number below `end`, by a linear congruential generator (Knuth, MMIX).
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn condition(&mut self) -> &'static str {
        self.one(&["(i32.const 0)", "(global.get $one)", "(i32.and (global.get $done) (i32.const 1))"])
    }

    fn deep(&mut self) -> String {
        let (end, call) = (self.below(2), self.below(CALLS.len()));
        let end = ["(if (call $goes_on) (then CALL))", "(block (br_if 0 (i32.eqz (call $goes_on))) CALL)"][end];
        end.replace("CALL", CALLS[call].1)
    }

    /// Returns one to four statements, with at most `levels` nested blocks.
    fn statements(&mut self, levels: usize) -> String {
        (0..1 + self.below(4)).map(|_| self.statement(levels)).collect()
    }

    fn statement(&mut self, levels: usize) -> String {
        let kinds = if levels == 0 { 5 } else { 10 };
        match self.below(kinds) {
            0 | 1 => work(2 * self.below(200) as u64),
            2 => "(call $small)".repeat(1 + self.below(4)),
            3 => self.one(&["(call $calls)", "(call $count)"]).to_owned(),
            4 => self.deep(),
            5 => format!("(block {})", self.statements(levels - 1)),
            6 => format!(
                "(block {} (br_if 0 {}) {})",
                self.statements(levels - 1),
                self.condition(),
                self.statements(levels - 1)
            ),
            7 => format!("(if {} (then {}))", self.condition(), self.statements(levels - 1)),
            8 => format!(
                "(if {} (then {}) (else {}))",
                self.condition(),
                self.statements(levels - 1),
                self.statements(levels - 1)
            ),
            _ => format!(
                "(block (block (br_table 0 1 {}) {}) {})",
                self.condition(),
                self.statements(levels - 1),
                self.statements(levels - 1)
            ),
        }
    }

    /// Returns a body whose frames always call the next one.
    fn body(&mut self) -> String {
        let (before, deep, behind) = (self.statements(1), self.deep(), self.statements(3));
        let around = self.one(&["DEEP", "(block DEEP)", "(block (br_if 0 (i32.const 0)) DEEP)", "(loop DEEP)"]);
        format!("(call $count) {before} {} {behind}", around.replace("DEEP", &deep))
    }
}

#[test]
fn a_full_stack_of_any_shape_is_looked_at_on_its_way_back() {
    // Frames of the function itself, and of those between.
    let bound = 2 * u64::from(DEPTH) * RETURN_MAX + 18 * (2 * UNCHECKED_MAX + 2 * SMALL_MAX);
    let mut worst = 0;
    for seed in 0..60 {
        let wasm = module(&Shapes(seed).body());
        let seen = run(&[Kind::Winch], &wasm, DEPTH, 1 << 40);
        assert_eq!(seen.ran.ended, Ok(Vec::new()), "shape {seed}");
        assert!(count(&seen) > DEPTH, "shape {seed}");
        for part in 1..8 {
            let seen = run(&[Kind::Winch], &wasm, DEPTH, seen.ran.gas * part / 8);
            assert_eq!(seen.ran.ended, Err(Stop::OutOfGas), "shape {seed}");
            assert!(seen.overdrawn <= bound, "shape {seed}: {} behind the end", seen.overdrawn);
            worst = worst.max(seen.overdrawn);
        }
    }
    println!("at most {worst} units behind the end, of {bound}");
}

/// A small amount of work is not checked: a frame that adds two numbers and returns pays for no
/// check.
#[test]
fn a_frame_with_little_left_to_do_is_charged_once() {
    let wasm = wat::parse_str(
        r#"(module (func $fib (export "run") (param i32) (result i32)
             (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
               (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                              (call $fib (i32.sub (local.get 0) (i32.const 2))))))))"#,
    )
    .unwrap();
    let text = wasmprinter::print_bytes(crate::engines::metered(&wasm)).unwrap();
    // The head of the function, and one for each arm.
    assert_eq!(text.matches("i64.sub").count(), 3, "{text}");
}
