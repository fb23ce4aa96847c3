//! Modules with the ABI's shape, made of bytes. The first bytes choose the kind, and wasm-smith
//! makes its choices from the rest. The same bytes make the same module.

use arbitrary::{Result, Unstructured};
use compute_host::sandbox::meter;
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{AbstractHeapType, ConstExpr};
use wasm_smith::{Config, InstructionKind, InstructionKinds, Module};

use super::agree::{Engines, GAS, Verdict};
use super::constants::Sums;
use super::enliven::{self, Depth, Manner, Start};

/// Number of bytes that choose the kind of module.
pub const KIND_BYTES: usize = 40;

/// Gas for modules that fill the stack: enough to reach its end.
const DEEP_GAS: u64 = 10 * GAS;

/// A module that must behave the same on every engine.
pub struct Subject {
    pub wasm: Vec<u8>,
    /// The same module, with each constant written as such.
    plain: Vec<u8>,
    /// Gas for the module.
    gas: u64,
}

impl Subject {
    /// Returns the verdict on the module.
    pub fn judged(&self, engines: &Engines) -> Verdict {
        let verdict = engines.judge(&self.wasm, self.gas);
        // The meter evaluates constants, and engines see only its result. An error would be the
        // same on all engines.
        let metered = |wasm: &[u8]| meter::metered(wasm).map_err(|error| error.to_string());
        match verdict {
            Verdict::Agree(_) | Verdict::WasmiFails(_) if metered(&self.wasm) != metered(&self.plain) => {
                Verdict::Differ("the meter computes its constants otherwise".to_owned())
            }
            verdict => verdict,
        }
    }
}

/// Returns the module that `bytes` encode; an error if there are too few bytes.
pub fn subject(bytes: &[u8]) -> Result<Subject> {
    let (kind, choices) = bytes.split_at_checked(KIND_BYTES).ok_or(arbitrary::Error::NotEnoughData)?;
    let mut kind = Unstructured::new(kind);
    let manner = manner(&mut kind)?;
    // A module whose traps the masks avoid needs no protection by wasm-smith.
    let disallow_traps = if manner.is_some_and(|manner| manner.masks) { false } else { kind.ratio(7, 8)? };
    // The rewriting adds the start function of a changed module.
    let allow_start_export = manner.is_none();
    let config = Config { disallow_traps, allow_start_export, ..config(&mut kind)? };
    let sums = if kind.arbitrary()? { Some(kind.arbitrary()?) } else { None };
    let wasm = Module::new(config, &mut Unstructured::new(choices))?.to_bytes();
    let wasm = rewritten(&wasm, AllFuncref);
    let gas = if manner.is_some_and(|manner| manner.depth.is_some()) { DEEP_GAS } else { GAS };
    let plain = manner.map_or(wasm.clone(), |manner| enliven::enlivened(&wasm, manner));
    let wasm = sums.map_or_else(|| plain.clone(), |seed| rewritten(&plain, WithSums(Sums::new(seed))));
    Ok(Subject { wasm, plain, gas })
}

/// Returns the manner in which a module is made to do more. Most modules of wasm-smith trap at once
/// or do nothing. One in eight stays as it is.
fn manner(kind: &mut Unstructured<'_>) -> Result<Option<Manner>> {
    let (is_raw, is_deep) = (kind.ratio(1, 8)?, kind.ratio(1, 16)?);
    let manner = Manner {
        seed: kind.arbitrary()?,
        rounds: kind.int_in_range(1..=40)?,
        masks: kind.arbitrary()?,
        is_patient: !is_deep && kind.ratio(4, 5)?,
        depth: if is_deep { Some(depth(kind)?) } else { None },
        fails: kind.ratio(1, 16)?,
        start: *kind.choose(&[Start::Nowhere, Start::Nowhere, Start::Section, Start::Initialize, Start::Both])?,
    };
    Ok((!is_raw).then_some(manner))
}

/// Returns a depth that fills the stack, or does not.
fn depth(kind: &mut Unstructured<'_>) -> Result<Depth> {
    Ok(Depth {
        calls: kind.int_in_range(0..=40_000)?,
        locals: kind.int_in_range(0..=100)?,
        values: kind.int_in_range(0..=900)?,
    })
}

/// Returns the configuration: the features that the gate allows, and in some modules only a part of
/// them. The operators in such a part are combined more often.
fn config(kind: &mut Unstructured<'_>) -> Result<Config> {
    let mut kinds = InstructionKinds::all();
    if kind.arbitrary()? {
        let mut some = vec![InstructionKind::Control, InstructionKind::Variable];
        for one in [
            InstructionKind::Numeric,
            InstructionKind::Vector,
            InstructionKind::Reference,
            InstructionKind::Parametric,
            InstructionKind::Table,
            InstructionKind::Memory,
        ] {
            if kind.ratio(2, 3)? {
                some.push(one);
            }
        }
        kinds = InstructionKinds::new(&some);
    }
    let memory = kind.choose(&["1", "1 3", "2 100", "1 40000"])?;
    Ok(Config {
        module_shape: Some(wat::parse_str(shape(memory)).expect("the shape is valid text")),
        allowed_instructions: kinds,
        allow_floats: kind.ratio(7, 8)?,
        simd_enabled: kind.ratio(7, 8)?,
        custom_page_sizes_enabled: false,
        exceptions_enabled: false,
        extended_const_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        max_data_segments: 4,
        max_element_segments: 4,
        max_elements: 8,
        max_globals: 8,
        max_funcs: 20,
        max_instructions: 200,
        max_table_elements: 100,
        max_tables: 1,
        max_types: 12,
        ..Config::default()
    })
}

fn shape(memory: &str) -> String {
    format!(
        r#"(module
            (import "compute" "input_len" (func (result i64)))
            (import "compute" "input_read" (func (param i32 i64 i32) (result i32)))
            (import "compute" "input_blake3" (func (param i64 i64 i32)))
            (import "compute" "blake3" (func (param i32 i32 i32)))
            (import "compute" "blake3_update" (func (param i32 i32)))
            (import "compute" "blake3_finish" (func (param i32)))
            (import "compute" "args_len" (func (result i64)))
            (import "compute" "args_read" (func (param i32 i64 i32) (result i32)))
            (import "compute" "asset_len" (func (param i32) (result i64)))
            (import "compute" "asset_read" (func (param i32 i32 i64 i32) (result i32)))
            (import "compute" "output_write" (func (param i32 i32)))
            (import "compute" "proof_commit" (func (param i32)))
            (import "compute" "log" (func (param i32 i32)))
            (memory (export "memory") {memory})
            (table (export "table") {} funcref)
            (func (export "run") (result i32) unreachable))"#,
        enliven::SLOTS
    )
}

/// Replaces `externref`, which the gate refuses, by `funcref`. wasm-smith has no `funcref` without
/// `externref`, and every operator that accepts the one accepts the other.
struct AllFuncref;

impl Reencode for AllFuncref {
    type Error = std::convert::Infallible;

    fn abstract_heap_type(
        &mut self,
        value: wasmparser::AbstractHeapType,
    ) -> std::result::Result<AbstractHeapType, Error<Self::Error>> {
        Ok(match value {
            wasmparser::AbstractHeapType::Extern => AbstractHeapType::Func,
            other => utils::abstract_heap_type(self, other),
        })
    }
}

/// Writes constants as sums.
struct WithSums(Sums);

impl Reencode for WithSums {
    type Error = std::convert::Infallible;

    fn const_expr(
        &mut self,
        expression: wasmparser::ConstExpr<'_>,
    ) -> std::result::Result<ConstExpr, Error<Self::Error>> {
        let sum = self.0.of(&expression);
        sum.map_or_else(|| utils::const_expr(self, expression), Ok)
    }
}

fn rewritten(wasm: &[u8], mut pass: impl Reencode<Error = std::convert::Infallible>) -> Vec<u8> {
    let mut module = wasm_encoder::Module::new();
    pass.parse_core_module(&mut module, wasmparser::Parser::new(0), wasm).expect("wasm-smith makes valid modules");
    module.finish()
}
