//! Generated programs, unlike any that a person writes. The meter does not change their results,
//! and they cost the same on every engine.

mod program;
mod spread;

use crate::engines::{ALL, Form, Kind, Machine, Ran, Stop, Value, on_a_deep_stack};
use program::Program;

const PROGRAMS: u64 = 40;

/// Enough gas for most programs. wasmi built with debug assertions leaves some bytes on the native
/// stack for some operators, such as those that read a global. That bounds how long a program can
/// run there.
const GAS: u64 = (1 << 20) + (1 << 18);

/// Returns all that is observable of a program after each of its calls.
fn seen(kind: Kind, form: Form, program: &Program) -> Vec<(Ran, Option<blake3::Hash>, Vec<Option<Value>>)> {
    let mut machine = Machine::new(kind, form);
    let instance = machine.instantiate(&program.wasm).unwrap();
    let calls = program.calls.iter().map(|(export, arguments)| {
        let ran = machine.invoke_within(GAS, instance, export, arguments);
        let memory = machine.memory(instance, "memory").map(|memory| blake3::hash(&memory));
        (ran, memory, program.globals.iter().map(|global| machine.global(instance, global)).collect())
    });
    calls.collect()
}

#[test]
fn generated_programs_do_and_cost_the_same_everywhere() {
    let (mut ended, mut stopped, mut cut) = (0, 0, 0);
    for seed in 0..PROGRAMS {
        let program = Program::new(seed);
        on_a_deep_stack(|| {
            let metered = seen(Kind::Cranelift, Form::Metered, &program);
            for (kind, form) in ALL.into_iter().flat_map(|kind| [(kind, Form::Metered), (kind, Form::Scrambled)]) {
                assert_eq!(seen(kind, form, &program), metered, "program {seed} on {kind:?}, {form:?}");
            }
            let is_cut = |ran: &Ran| matches!(ran.ended, Err(Stop::OutOfGas | Stop::OutOfStack));
            if metered.iter().any(|(ran, ..)| is_cut(ran)) {
                cut += 1;
                return;
            }
            let plain = seen(Kind::Cranelift, Form::Plain, &program);
            for ((metered, memory, globals), plain) in metered.into_iter().zip(plain) {
                *(if metered.ended.is_ok() { &mut ended } else { &mut stopped }) += 1;
                let expected = (plain.0.ended, plain.1, plain.2);
                assert_eq!((metered.ended, memory, globals), expected, "program {seed}, without the meter");
            }
        });
    }
    println!("{ended} calls came to their end, {stopped} were stopped; {cut} programs ran out of gas or stack");
    assert!(ended > 50 && stopped > 20 && cut > 0, "the programs are all alike");
}

/// Gas is the sum over the executed operators, wherever it is charged. A branch in front of each
/// operator charges each operator by itself. Then the program uses the same gas and the gas of the
/// branches. With two such branches the increase doubles.
#[test]
fn gas_is_what_each_operator_costs_that_ran() {
    let mut compared = 0;
    for seed in 0..PROGRAMS / 2 {
        let program = Program::new(seed);
        let used = |branches: usize| {
            let wasm = spread::spread(&program.wasm, branches);
            on_a_deep_stack(|| {
                let mut machine = Machine::new(Kind::CraneliftUnoptimised, Form::Metered);
                let instance = machine.instantiate(&wasm).unwrap();
                let calls = program.calls.iter();
                let run = |(export, arguments): &(String, Vec<Value>)| {
                    machine.invoke_within(16 * GAS, instance, export, arguments)
                };
                calls.map(run).collect::<Vec<Ran>>()
            })
        };
        for (export, [none, one, two]) in (0..).zip(zipped([used(0), used(1), used(2)])) {
            if [&none, &one, &two].iter().any(|ran| ran.ended.is_err()) {
                // The next call would find a different memory, because this one was cut off.
                break;
            }
            assert_eq!(one.gas - none.gas, two.gas - one.gas, "f{export} of program {seed}: {none:?} {one:?} {two:?}");
            assert!(one.gas > none.gas);
            compared += 1;
        }
    }
    assert!(compared > 20, "only {compared} calls were compared");
}

fn zipped<T: Clone>([one, two, three]: [Vec<T>; 3]) -> Vec<[T; 3]> {
    one.into_iter().zip(two).zip(three).map(|((one, two), three)| [one, two, three]).collect()
}

/// Smallest program among the generated ones that shows the fault in wasmi 2.0.0, which does not
/// concern the meter. Until the fault is fixed, generated programs select by a condition in a
/// local.
#[test]
#[ignore = "wasmi 2.0.0 forgets the condition of a `select` where another integer is on the operand stack"]
fn wasmi_chooses_as_the_others_do() {
    let wasm = wat::parse_str(
        r#"(module (func (export "run") (param i64 f32 f32 i32) (result f32)
             (i64.sub (local.get 0) (i64.const 5))
             (select (f32.neg (local.get 1)) (f32.const 9) (i32.eqz (local.get 3)))
             (local.set 1) (drop) (local.get 1)))"#,
    )
    .unwrap();
    let arguments = [Value::I64(1), Value::F32(1f32.to_bits()), Value::F32(0), Value::I32(0)];
    for kind in ALL {
        let mut machine = Machine::new(kind, Form::Plain);
        let instance = machine.instantiate(&wasm).unwrap();
        let ran = machine.invoke(instance, "run", &arguments);
        assert_eq!(ran.values(), [Value::F32((-1f32).to_bits())], "{kind:?}");
    }
}
