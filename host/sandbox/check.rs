//! What a module must look like before anything else reads it: valid under the features that we allow, and of the
//! `compute` ABI's shape. [`Admitted`] is the evidence that it does.

use std::sync::Arc;

use wasmparser::types::TypesRef;
use wasmparser::{
    BinaryReaderError, Encoding, ExternalKind, FuncType, Import, Parser, Payload, TypeRef, ValType, ValidPayload,
    Validator, WasmFeatures,
};

use crate::digest::Digest;

/// The largest module, in bytes (NEAR's limit, too).
pub const MODULE_BYTES_MAX: usize = 4 << 20;
/// The largest table, in elements (NEAR's limit, too): tables are host memory that no job's memory limit counts.
pub const TABLE_ELEMENTS_MAX: u64 = 10_000;

/// The module that a guest's imports come from.
pub const ABI_MODULE: &str = "compute";

/// Name, parameters, results.
pub type AbiFunction = (&'static str, &'static [ValType], &'static [ValType]);

/// What a guest may import, and the linker offers.
pub const ABI_FUNCTIONS: &[AbiFunction] = {
    const I: ValType = ValType::I32;
    const L: ValType = ValType::I64;
    &[
        ("input_len", &[], &[L]),
        ("input_read", &[I, L, I], &[I]),
        ("input_blake3", &[L, L, I], &[]),
        ("blake3", &[I, I, I], &[]),
        ("blake3_update", &[I, I], &[]),
        ("blake3_finish", &[I], &[]),
        ("args_len", &[], &[L]),
        ("args_read", &[I, L, I], &[I]),
        ("asset_len", &[I], &[L]),
        ("asset_read", &[I, I, L, I], &[I]),
        ("output_write", &[I, I], &[]),
        ("proof_commit", &[I], &[]),
        ("log", &[I, I], &[]),
    ]
};

/// What compilers emit today and every engine runs alike. Everything else is refused: floats stay, threads, relaxed
/// SIMD and the rest of what could give two answers do not.
pub fn features() -> WasmFeatures {
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
        | WasmFeatures::FLOATS
}

/// A module that passed; its bytes cannot change any more.
#[derive(Clone)]
pub struct Admitted {
    wasm: Arc<[u8]>,
    digest: Digest,
    memory_bytes_min: u64,
}

/// Why a module was not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the module has {found} bytes; at most {MODULE_BYTES_MAX} are admitted")]
    TooLarge { found: usize },
    #[error("not a valid module: {message} (at byte {offset})")]
    Invalid { message: String, offset: usize },
    #[error("this is a component; a core module is expected (build it for wasm32-unknown-unknown)")]
    Component,
    #[error("the module has a start function; export `run` instead")]
    Start,
    #[error("import `{module}.{name}` is not part of the compute ABI; a guest imports from `{ABI_MODULE}` alone")]
    UnknownImport { module: String, name: String },
    #[error("import `{ABI_MODULE}.{name}` has another signature in the compute ABI: {expected}")]
    ImportSignature { name: &'static str, expected: String },
    #[error("the module has {found} memories; exactly one of its own is expected")]
    MemoryCount { found: u32 },
    #[error("the module has a table of {found} elements; at most {TABLE_ELEMENTS_MAX} are admitted")]
    TableElements { found: u64 },
    #[error("the module has {found} tables; at most one is admitted")]
    TableCount { found: u32 },
    #[error("the module does not export its memory as `memory`")]
    NoMemoryExport,
    #[error("the module does not export `run` as a function without parameters that returns an i32")]
    NoRunExport,
}

impl Admitted {
    /// Checks `wasm`, the binary form of a module.
    pub fn new(wasm: impl Into<Arc<[u8]>>) -> Result<Self, Refusal> {
        let wasm = wasm.into();
        if wasm.len() > MODULE_BYTES_MAX {
            return Err(Refusal::TooLarge { found: wasm.len() });
        }
        let shape = Shape::read(&wasm)?;
        Ok(Self { digest: Digest::of(&wasm), memory_bytes_min: shape.memory_bytes_min, wasm })
    }

    pub fn wasm(&self) -> &[u8] {
        &self.wasm
    }

    /// BLAKE3 of the module's bytes: its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The memory that a run starts with.
    pub fn memory_bytes_min(&self) -> u64 {
        self.memory_bytes_min
    }
}

/// What one pass over the module sees, for the rules that need the whole of it.
#[derive(Default)]
struct Shape {
    /// What the module imports, in order: the first functions of its index space.
    imports: Vec<&'static AbiFunction>,
    memories: u32,
    memory_bytes_min: u64,
    tables: u32,
    table_elements: u64,
    exports_memory: bool,
    run: Option<u32>,
}

impl Shape {
    fn read(wasm: &[u8]) -> Result<Self, Refusal> {
        let mut shape = Self::default();
        let mut validator = Validator::new_with_features(features());
        let mut allocations = Default::default();
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(invalid)?;
            if let Payload::Version { encoding: Encoding::Component, .. } = payload {
                return Err(Refusal::Component);
            }
            match validator.payload(&payload).map_err(invalid)? {
                ValidPayload::Func(function, body) => {
                    let mut function = function.into_validator(allocations);
                    function.validate(&body).map_err(invalid)?;
                    allocations = function.into_allocations();
                }
                ValidPayload::End(types) => shape.check(types.as_ref())?,
                ValidPayload::Ok | ValidPayload::Parser(_) => shape.note(payload)?,
            }
        }
        Ok(shape)
    }

    fn note(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    self.imports.push(known_import(&import.map_err(invalid)?)?);
                }
            }
            Payload::MemorySection(memories) => {
                self.memories = memories.count();
                for memory in memories {
                    self.memory_bytes_min = memory.map_err(invalid)?.initial.saturating_mul(65_536);
                }
            }
            Payload::TableSection(tables) => {
                self.tables = tables.count();
                for table in tables {
                    self.table_elements = self.table_elements.max(table.map_err(invalid)?.ty.initial);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    match (export.name, export.kind) {
                        ("memory", ExternalKind::Memory) => self.exports_memory = true,
                        ("run", ExternalKind::Func) => self.run = Some(export.index),
                        _ => {}
                    }
                }
            }
            Payload::StartSection { .. } => return Err(Refusal::Start),
            _ => {}
        }
        Ok(())
    }

    fn check(&self, types: TypesRef<'_>) -> Result<(), Refusal> {
        let signature = |function| types[types.core_function_at(function)].unwrap_func();
        for (index, (name, params, results)) in (0..).zip(&self.imports) {
            let expected = FuncType::new(params.iter().copied(), results.iter().copied());
            if signature(index) != &expected {
                return Err(Refusal::ImportSignature { name, expected: expected.to_string() });
            }
        }
        if self.memories != 1 {
            return Err(Refusal::MemoryCount { found: self.memories });
        }
        if self.tables > 1 {
            return Err(Refusal::TableCount { found: self.tables });
        }
        if self.table_elements > TABLE_ELEMENTS_MAX {
            return Err(Refusal::TableElements { found: self.table_elements });
        }
        if !self.exports_memory {
            return Err(Refusal::NoMemoryExport);
        }
        let runs = FuncType::new([], [ValType::I32]);
        if self.run.is_none_or(|function| signature(function) != &runs) {
            return Err(Refusal::NoRunExport);
        }
        Ok(())
    }
}

fn known_import(import: &Import<'_>) -> Result<&'static AbiFunction, Refusal> {
    let known = ABI_FUNCTIONS.iter().find(|(name, ..)| {
        import.module == ABI_MODULE && import.name == *name && matches!(import.ty, TypeRef::Func(_))
    });
    known.ok_or_else(|| Refusal::UnknownImport { module: import.module.to_owned(), name: import.name.to_owned() })
}

fn invalid(error: BinaryReaderError) -> Refusal {
    Refusal::Invalid { message: error.message().to_owned(), offset: error.offset() }
}
