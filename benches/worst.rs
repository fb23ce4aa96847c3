//! Worst cases, found by hill climbing. `gas` finds the most expensive unit of gas: three hundred
//! kernels run in a loop, on return from a deep recursion, and beside others. The climb goes on
//! from the most expensive ones. `gas` also measures starts. `compile` finds the most expensive
//! byte to compile, and `verify` the most expensive check over its run. Each name alone runs that
//! part.
//!
//! Aims: a unit takes at most eight times the cheapest unit, except where the deadline is the bound
//! (docs/gas.md), and never more than 8 ns.

#[allow(dead_code, reason = "operators are run here, and not told apart")]
#[path = "calibration/chains.rs"]
mod chains;
#[path = "worst/compile.rs"]
mod compile;
#[path = "worst/kernels.rs"]
mod kernels;
#[allow(dead_code, reason = "code is run bare by the bench `calibration`")]
#[path = "common/lab.rs"]
mod lab;
#[path = "worst/verify.rs"]
mod verify;

use std::cmp::Reverse;

use self::kernels::{Kernel, kernels};
use self::lab::{Context, Guests, Start};

/// Longest time of a unit in ns where a price covers it, and its ratio to the cheapest unit.
const NS_MAX: f64 = 8.0;
const RATIO_AIM: f64 = 8.0;
/// Least time of a unit in ns that the clock can tell from none.
const NS_MIN: f64 = 0.05;

/// Programs that the climb starts from, and steps from each.
const STARTS: usize = 6;
const STEPS: usize = 100;

/// A program: kernels one behind the other, so many times, in a context.
#[derive(Clone)]
struct Program {
    kernels: Vec<usize>,
    times: usize,
    context: Context,
}

/// Always the same (Knuth, MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` says so; `cargo test` does not.
    let is_timed = arguments.iter().any(|a| a == "--bench") && !arguments.iter().any(|a| a == "--test");
    let asked = |name: &str| arguments.iter().all(|argument| argument.starts_with('-') || argument == name);
    let kernels = kernels();
    assert!(kernels.len() >= 110, "only {} kernels", kernels.len());
    if asked("gas") {
        gas(&kernels, is_timed);
    }
    if asked("compile") {
        compile::climb(is_timed);
    }
    if asked("verify") {
        verify::climb(&kernels, is_timed, |program| shown(program, &kernels));
    }
}

fn shown(program: &Program, kernels: &[Kernel]) -> String {
    let names: Vec<&str> = program.kernels.iter().map(|at| &*kernels[*at].name).collect();
    format!("{:?} x {} {}", program.context, program.times, names.join(", "))
}

/// Measures the time of a unit of gas.
fn gas(kernels: &[Kernel], is_timed: bool) {
    let lab = Guests::new();
    let cost = |program: &Program| {
        let code: String = program.kernels.iter().map(|at| format!("{}\n", kernels[*at].code)).collect();
        lab.ns_per_gas(&code, program.times, program.context)
    };

    let alone = (0..kernels.len()).flat_map(|at| {
        [Context::Loop, Context::WayBack].map(|context| Program { kernels: vec![at], times: 8, context })
    });
    // A test tries some of each.
    let tried = alone.step_by(if is_timed { 1 } else { 41 });
    let mut found: Vec<(f64, Program)> = tried.filter_map(|program| Some((cost(&program)?, program))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    // A program that ends before it is measured has no time of its own.
    let cheapest = found.iter().rev().map(|(ns, _)| *ns).find(|ns| *ns > NS_MIN).unwrap_or(f64::NAN);
    if is_timed {
        println!("the cheapest takes {cheapest:.3} ns a unit");
        print("alone, the most expensive", &found[..20], cheapest, |program| shown(program, kernels));
        print("climbed", &[], cheapest, |program| shown(program, kernels));
    }

    let mut random = Random(1);
    let steps = if is_timed { STEPS } else { 1 };
    let covered = |program: &Program| !program.kernels.iter().any(|at| kernels[*at].is_cold);
    let from: Vec<(f64, Program)> =
        found.iter().filter(|(_, program)| covered(program)).take(STARTS).cloned().collect();
    let mut climbed: Vec<(f64, Program)> = from
        .into_iter()
        .map(|mut best| {
            for _ in 0..steps {
                let next = changed(&best.1, kernels, &mut random);
                if let Some(ns) = cost(&next).filter(|ns| *ns > best.0 && covered(&next)) {
                    best = (ns, next);
                }
            }
            if is_timed {
                print_row(&best, cheapest, |program| shown(program, kernels));
            }
            best
        })
        .collect();
    climbed.sort_by(|a, b| b.0.total_cmp(&a.0));

    if !is_timed {
        return;
    }
    starts(&lab, cheapest);
    let dearest = climbed.first().map_or(0.0, |(ns, _)| *ns);
    println!("\nat most {dearest:.2} ns a unit where a price covers it; aim {NS_MAX}");
    println!("that is {:.1} times the cheapest; aim {RATIO_AIM}", dearest / cheapest);
}

fn print(what: &str, programs: &[(f64, Program)], cheapest: f64, shown: impl Fn(&Program) -> String) {
    println!("\n{what:<70} {:>8} {:>8}", "ns/gas", "ratio");
    for row in programs {
        print_row(row, cheapest, &shown);
    }
}

fn print_row((ns, program): &(f64, Program), cheapest: f64, shown: impl Fn(&Program) -> String) {
    println!("  {:<68} {ns:>8.2} {:>8.1}", shown(program), ns / cheapest);
}

/// A neighbour: another kernel, one more, one less, more or fewer of them, or the other context.
fn changed(program: &Program, kernels: &[Kernel], random: &mut Random) -> Program {
    let mut next = program.clone();
    let (any, at) = (random.below(kernels.len()), random.below(next.kernels.len()));
    match random.below(6) {
        0 => next.kernels[at] = any,
        1 if next.kernels.len() < 4 => next.kernels.push(any),
        2 if next.kernels.len() > 1 => drop(next.kernels.remove(at)),
        3 => next.times = (next.times * 2).min(64),
        4 => next.times = (next.times / 2).max(1),
        _ => next.context = if next.context == Context::Loop { Context::WayBack } else { Context::Loop },
    }
    next
}

/// Measures the start of a guest, by the parts that it has.
fn starts(lab: &Guests, cheapest: f64) {
    let mut rows: Vec<(f64, &str)> = Start::ALL.iter().map(|start| (lab.start_ns_per_gas(start), start.name)).collect();
    rows.sort_by_key(|(ns, _)| Reverse((ns * 1e6) as u64));
    println!("\n{:<70} {:>8} {:>8}", "starts", "ns/gas", "ratio");
    for (ns, name) in rows {
        println!("  {name:<68} {ns:>8.2} {:>8.1}", ns / cheapest);
    }
}
