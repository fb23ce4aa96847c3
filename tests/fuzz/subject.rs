//! A module of the ABI's shape, made of bytes: the first of them say what kind it is to be, the rest are what wasm-smith
//! takes its choices from. The same bytes make the same module.

use arbitrary::{Result, Unstructured};
use wasm_encoder::AbstractHeapType;
use wasm_encoder::reencode::{Error, Reencode};
use wasm_smith::{Config, InstructionKind, InstructionKinds, Module};

use super::agree::GAS;
use super::enliven::{self, Depth, Manner};

/// So many bytes say what kind of module it is to be.
pub const KIND_BYTES: usize = 40;

/// For modules that are to fill the stack: as much as they need to come to the end of it.
const DEEP_GAS: u64 = 10 * GAS;

/// What `bytes` stand for, and how much gas it is to be given; an error where they are too few.
pub fn module(bytes: &[u8]) -> Result<(Vec<u8>, u64)> {
    let (kind, choices) = bytes.split_at_checked(KIND_BYTES).ok_or(arbitrary::Error::NotEnoughData)?;
    let mut kind = Unstructured::new(kind);
    let manner = manner(&mut kind)?;
    // Whoever keeps traps off by masks of his own has no use for wasm-smith's.
    let disallow_traps = if manner.is_some_and(|manner| manner.masks) { false } else { kind.ratio(7, 8)? };
    let config = Config { disallow_traps, ..config(&mut kind)? };
    let wasm = Module::new(config, &mut Unstructured::new(choices))?.to_bytes();
    let wasm = without_externref(&wasm);
    let Some(manner) = manner else { return Ok((wasm, GAS)) };
    Ok((enliven::enlivened(&wasm, manner), if manner.depth.is_some() { DEEP_GAS } else { GAS }))
}

/// How a module is made to do more than wasm-smith's mostly do, which trap at once or have nothing to do; one in eight is
/// left as it is.
fn manner(kind: &mut Unstructured<'_>) -> Result<Option<Manner>> {
    let (is_raw, is_deep) = (kind.ratio(1, 8)?, kind.ratio(1, 16)?);
    let manner = Manner {
        seed: kind.arbitrary()?,
        rounds: kind.int_in_range(1..=40)?,
        masks: kind.arbitrary()?,
        is_patient: !is_deep && kind.ratio(4, 5)?,
        depth: if is_deep { Some(depth(kind)?) } else { None },
        fails: kind.ratio(1, 16)?,
    };
    Ok((!is_raw).then_some(manner))
}

/// Some of these fill the stack, some do not.
fn depth(kind: &mut Unstructured<'_>) -> Result<Depth> {
    Ok(Depth {
        calls: kind.int_in_range(0..=40_000)?,
        locals: kind.int_in_range(0..=100)?,
        values: kind.int_in_range(0..=900)?,
    })
}

/// What the gate's list of features leaves of WebAssembly, and of that in some modules only a part: what is left then
/// meets itself more often.
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
        allow_start_export: false,
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

/// The gate refuses `externref`, and wasm-smith has no `funcref` without it; every operator that takes the one takes the
/// other.
fn without_externref(wasm: &[u8]) -> Vec<u8> {
    struct AllFuncref;

    impl Reencode for AllFuncref {
        type Error = std::convert::Infallible;

        fn abstract_heap_type(
            &mut self,
            value: wasmparser::AbstractHeapType,
        ) -> Result<AbstractHeapType, Error<Self::Error>> {
            Ok(match value {
                wasmparser::AbstractHeapType::Extern => AbstractHeapType::Func,
                other => wasm_encoder::reencode::utils::abstract_heap_type(self, other),
            })
        }
    }

    let mut module = wasm_encoder::Module::new();
    let parser = wasmparser::Parser::new(0);
    AllFuncref.parse_core_module(&mut module, parser, wasm).expect("wasm-smith makes valid modules");
    module.finish()
}
