//! Tests that the meter's work is linear in the size of the module, for any shape of module.

use wasm_encoder::{BlockType, CodeSection, Function, FunctionSection, Module, TypeSection, ValType};

use super::added_functions::{KEEPS_MAX, KEPT_TYPES};
use super::{Meter, MeterError, Sections};

/// Returns sixteen locals. Their types differ from one `function` to the next.
fn locals(function: usize) -> Vec<ValType> {
    (0..16).map(|at| KEPT_TYPES[(function / (at + 1) + at * function) % KEPT_TYPES.len()]).collect()
}

fn all_locals(body: &mut Function) {
    for local in 0..16 {
        body.instructions().local_get(local).drop();
    }
}

/// Writes a poll point at every other operator.
fn loops(body: &mut Function) {
    for _ in 0..100 {
        body.instructions().loop_(BlockType::Empty).end();
    }
    all_locals(body);
}

/// Writes a poll point after a call, before each reading of all locals.
fn calls(body: &mut Function) {
    for _ in 0..10 {
        body.instructions().call(0);
        all_locals(body);
        body.instructions().loop_(BlockType::Empty);
        all_locals(body);
        body.instructions().end();
    }
}

fn nested(body: &mut Function) {
    for _ in 0..60 {
        body.instructions().loop_(BlockType::Empty);
        all_locals(body);
    }
    for _ in 0..60 {
        body.instructions().end();
    }
}

/// Writes loops that read no locals, so that a lookahead finds nothing to preserve.
fn nothing_to_keep(body: &mut Function) {
    for _ in 0..200 {
        body.instructions().loop_(BlockType::Empty).nop().end();
    }
}

/// Writes a body.
type BodyShape = fn(&mut Function);

const SHAPES: [(&str, BodyShape); 4] =
    [("loops", loops), ("calls", calls), ("nested", nested), ("nothing to keep", nothing_to_keep)];

fn module(functions: usize, shape: BodyShape) -> Vec<u8> {
    let (mut types, mut declared, mut code) = (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for at in 0..functions {
        declared.function(0);
        let mut body = Function::new_with_locals_types(locals(at));
        shape(&mut body);
        body.instructions().end();
        code.function(&body);
    }
    let mut module = Module::new();
    module.section(&types).section(&declared).section(&code);
    module.finish()
}

/// Returns the metered module, the number of its helpers, and the number of operators that
/// lookahead read.
fn work(wasm: &[u8]) -> Result<(Vec<u8>, usize, u64), MeterError> {
    let (mut meter, mut out) = (Meter::default(), Sections::default());
    meter.read(wasm, &mut out)?;
    let (helpers, steps) = (meter.helpers.len(), meter.steps);
    meter.add_helpers(&mut out);
    Ok((meter.module(&out), helpers, steps))
}

#[test]
fn work_grows_with_the_module() {
    for (name, shape) in SHAPES {
        let [small, large] = [250, 2_000].map(|functions| {
            let wasm = module(functions, shape);
            let (metered, helpers, steps) = work(&wasm).unwrap();
            assert!(helpers <= KEEPS_MAX + 2, "{name}: {helpers} helpers");
            let each = steps as f64 / wasm.len() as f64;
            assert!(each < 40.0, "{name}: {each} operators are looked at for each byte");
            let grown = metered.len() as f64 / wasm.len() as f64;
            assert!(grown < 25.0, "{name}: {grown} times the size");
            (each, grown)
        });
        assert!(large.0 < 1.1 * small.0 + 1.0, "{name}: {small:?} for each byte, then {large:?}");
        assert!(large.1 < 1.1 * small.1, "{name}: {small:?} times, then {large:?}");
    }
}

#[test]
fn helpers_are_told_apart_by_how_many_of_each_type() {
    let swapped = |first: ValType, second: ValType| {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let (mut declared, mut code) = (FunctionSection::new(), CodeSection::new());
        for types in [[first, second], [second, first]] {
            declared.function(0);
            let mut body = Function::new_with_locals_types(types);
            body.instructions().loop_(BlockType::Empty).local_get(0).drop().local_get(1).drop().end().end();
            code.function(&body);
        }
        let mut module = Module::new();
        module.section(&types).section(&declared).section(&code);
        work(&module.finish()).unwrap().1
    };
    for first in KEPT_TYPES {
        for second in KEPT_TYPES {
            assert_eq!(swapped(first, second), 1, "{first:?} and {second:?}");
        }
    }
}
