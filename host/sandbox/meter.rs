//! Metering by rewriting: the rewritten module counts its own gas and stack, and exposes only
//! canonical NaNs. The counts are the same on every engine, because every engine runs the same
//! instructions.
//!
//! The meter's state is one `i64`: the last parameter and the last result of each function,
//! including host functions. Within a function it is a local. So it lives in a register, needs no
//! memory access, and the guest has no name for it. The low half is the remaining gas of the grant.
//! The high half is the remaining stack in bytes. Both are signed; a negative half is overdrawn,
//! and then the function calls [`REFILL`].
//!
//! | file       | concern                                                          |
//! |------------|------------------------------------------------------------------|
//! | `schedule` | the gas cost of each operator                                    |
//! | `bulk`     | operators whose work depends on an operand                       |
//! | `arity`    | how many operands an operator pops and pushes                    |
//! | `walk`     | one pass over a body: reachable operators and their operands     |
//! | `calls`    | which calls can be deep                                          |
//! | `gas`      | where a body is charged, how much, and where its poll points are |
//! | `stack`    | the stack charge of a frame                                      |
//! | `role`     | how an operator reads floats, and which floats it makes          |
//! | `nan`      | where the bits of a NaN can be observed                          |
//! | `added`    | functions that the meter adds to the module                      |
//! | `kept`     | locals that are passed through a refill call                     |
//! | `start`    | the cost of a guest's start, and its start function              |
//! | `write`    | the rewritten body                                               |

mod schedule;
mod stack;
mod state;
mod calls;
mod bulk;
mod gas;
mod schedule_table;
mod role;
mod nan;
mod added_functions;
mod arity;
mod walk;
mod live_across_call;
mod start;
mod write;

use std::collections::HashMap;

use wasm_encoder::reencode::{self, Reencode};
use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection, EntityType,
    ExportKind, ExportSection, FunctionSection, GlobalSection, ImportSection, MemorySection, Module, TableSection,
    TypeSection, ValType,
};
use wasmparser::{BinaryReaderError, CompositeInnerType, FuncType, GlobalType, Parser, Payload, SubType, TypeRef};

use self::added_functions::Helpers;
pub use self::calls::CALL_HEIGHT_MAX;
use self::calls::CallGraph;
pub use self::gas::{RETURN_MAX, SMALL_MAX, UNCHECKED_MAX, UNLOOKED_MAX};
pub use self::nan::NAN_RULE_VERSION;
pub use self::schedule::{
    BYTES_PER_UNIT, ELEMENTS_PER_UNIT, FREE_PER_UNIT, HASH_END_BYTES, QUANTUM, SCHEDULE_VERSION, TURN, costs, hash_gas,
    host_call_gas, output_gas,
};
pub use self::schedule_table::table;
pub use self::stack::{FRAME_MIN_BYTES, STACK_BYTES, STACK_RULE_VERSION};
use self::start::StartFindings;
pub use self::start::{START_RULE_VERSION, STARTS, start_gas};
pub use self::state::MeterState;
use super::constant::{Constant, computed};
use super::interface::ABI_MODULE;

/// Version of the rewriting. Raise it with each change of the output: native code from another
/// version is compiled again.
pub const FORM_VERSION: u16 = 2;

/// Function that a metered module imports from the ABI's module, in addition to the guest's
/// imports. The function takes an overdrawn state and returns one that is not overdrawn, or ends
/// the run.
pub const REFILL: &str = "refill";

/// Returns the export names of the mutable numeric globals of a metered module, in order.
/// Checkpoints read these globals. The gate refuses a guest that uses such names itself.
pub fn global_names() -> impl Iterator<Item = String> {
    (0..).map(|index| format!("compute_global_{index}"))
}

/// Returns the export names of the counters of [`counting`]. Each function with a body has one, in
/// order. The helpers of `memory.fill` and `memory.copy` have the last two.
pub fn counter_names() -> impl Iterator<Item = String> {
    (0..).map(|index| format!("compute_gas_{index}"))
}

/// The reason why a module cannot be rewritten. An admitted module never has one.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    #[error("it is not valid: {0}")]
    Invalid(#[from] BinaryReaderError),
    #[error("it has {0}, which the meter does not know")]
    Unsupported(&'static str),
}

impl From<reencode::Error<MeterError>> for MeterError {
    fn from(error: reencode::Error<Self>) -> Self {
        match error {
            reencode::Error::UserError(error) => error,
            reencode::Error::ParseError(error) => Self::Invalid(error),
            _ => Self::Unsupported("a part that cannot be written again"),
        }
    }
}

/// Rewrites like [`metered`], and also counts each function's gas in a global, for a profile. Such
/// a module uses the same gas, but more time.
pub fn counting(wasm: &[u8]) -> Result<Vec<u8>, MeterError> {
    rewritten(wasm, Meter { counts: true, ..Meter::default() })
}

/// Adds the meter to `wasm`, and removes its custom sections. `wasm` must be valid under the
/// features that the gate allows.
pub fn metered(wasm: &[u8]) -> Result<Vec<u8>, MeterError> {
    rewritten(wasm, Meter::default())
}

fn rewritten(wasm: &[u8], mut meter: Meter) -> Result<Vec<u8>, MeterError> {
    let mut out = Sections::default();
    meter.read(wasm, &mut out)?;
    meter.add_helpers(&mut out);
    Ok(meter.module(&out))
}

/// Knowledge about the whole module that its bodies need.
#[derive(Default)]
struct Meter {
    types: Vec<SubType>,
    /// The type of each function; imported functions come first.
    functions: Vec<u32>,
    imported_functions: u32,
    /// Imported globals come first.
    globals: Vec<GlobalType>,
    bodies: u32,
    /// Whether the module counts gas by function, for a profile.
    counts: bool,
    /// Types that the rewriting adds to the module's own, in the order of their indices.
    own_types: Vec<(Vec<ValType>, Vec<ValType>)>,
    own_type_indices: HashMap<(Vec<ValType>, Vec<ValType>), u32>,
    helpers: Helpers,
    /// For each function, whether calls of it can be deep.
    deep: Vec<bool>,
    start: StartFindings,
    /// Number of operators that lookahead has read, in addition to the pass over each body.
    steps: u64,
    /// Branch hints of each body, for rarely executed branches.
    hints: Vec<Vec<BranchHint>>,
}

#[derive(Default)]
struct Sections {
    imports: ImportSection,
    functions: FunctionSection,
    tables: TableSection,
    memories: MemorySection,
    globals: GlobalSection,
    exports: ExportSection,
    elements: ElementSection,
    data_count: Option<u32>,
    code: CodeSection,
    data: DataSection,
}

impl Reencode for Meter {
    type Error = MeterError;

    /// Shifts the module's own functions by one, because the meter's import precedes them.
    fn function_index(&mut self, function: u32) -> Result<u32, reencode::Error<MeterError>> {
        Ok(self.function_at(function))
    }

    fn const_expr(&mut self, expression: wasmparser::ConstExpr<'_>) -> Result<ConstExpr, reencode::Error<MeterError>> {
        match computed(&expression) {
            Some(Constant::I32(value)) => Ok(ConstExpr::i32_const(value)),
            Some(Constant::I64(value)) => Ok(ConstExpr::i64_const(value)),
            None => reencode::utils::const_expr(self, expression),
        }
    }
}

impl Meter {
    const fn function_at(&self, function: u32) -> u32 {
        if function < self.imported_functions { function } else { function + 1 }
    }

    /// Returns the global that counts the gas of this body. The two indices after the last body
    /// count for the fill and copy helpers.
    fn counter(&self, body: u32) -> Option<u32> {
        self.counts.then_some(self.globals.len() as u32 + body)
    }

    const fn refill(&self) -> u32 {
        self.imported_functions
    }

    fn signature(&self, ty: u32) -> Result<&FuncType, MeterError> {
        match self.types.get(ty as usize).map(|ty| &ty.composite_type.inner) {
            Some(CompositeInnerType::Func(ty)) => Ok(ty),
            _ => Err(MeterError::Unsupported("a type that is no function's")),
        }
    }

    /// Returns the index of a type that the rewriting needs, and adds the type if it is new.
    fn own_type(&mut self, params: Vec<ValType>, results: Vec<ValType>) -> u32 {
        let next = (self.types.len() + self.own_types.len()) as u32;
        let ty = (params, results);
        *self.own_type_indices.entry(ty).or_insert_with_key(|ty| {
            self.own_types.push(ty.clone());
            next
        })
    }

    fn read(&mut self, wasm: &[u8], out: &mut Sections) -> Result<(), MeterError> {
        self.calls_in(wasm)?;
        Parser::new(0).parse_all(wasm).try_for_each(|payload| self.section(payload?, out))
    }

    /// Reads the call graph.
    fn calls_in(&mut self, wasm: &[u8]) -> Result<(), MeterError> {
        let (mut imported, mut caller, mut graph) = (0, 0, CallGraph::default());
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        imported += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                    }
                    caller = imported;
                }
                Payload::FunctionSection(section) => graph = CallGraph::new((imported + section.count()) as usize),
                Payload::CodeSectionEntry(body) => {
                    graph.read(caller, &body)?;
                    caller += 1;
                }
                _ => {}
            }
        }
        self.deep = graph.deep();
        Ok(())
    }

    fn is_deep(&self, function: u32) -> bool {
        self.deep.get(function as usize).copied().unwrap_or(true)
    }

    fn section(&mut self, payload: Payload<'_>, out: &mut Sections) -> Result<(), MeterError> {
        self.start.read(&payload)?;
        match payload {
            Payload::TypeSection(section) => {
                for group in section {
                    self.types.extend(group?.into_types());
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    if let TypeRef::Func(ty) = import.ty {
                        self.functions.push(ty);
                        self.imported_functions += 1;
                    }
                    if let TypeRef::Global(ty) = import.ty {
                        self.globals.push(ty);
                    }
                    out.imports.import(import.module, import.name, self.entity_type(import.ty)?);
                }
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    let ty = ty?;
                    self.functions.push(ty);
                    out.functions.function(ty);
                }
            }
            Payload::TableSection(section) => self.parse_table_section(&mut out.tables, section)?,
            Payload::MemorySection(section) => self.parse_memory_section(&mut out.memories, section)?,
            Payload::GlobalSection(section) => {
                for global in section.clone() {
                    self.globals.push(global?.ty);
                }
                self.parse_global_section(&mut out.globals, section)?;
            }
            Payload::ExportSection(section) => self.parse_export_section(&mut out.exports, section)?,
            Payload::ElementSection(section) => self.parse_element_section(&mut out.elements, section)?,
            Payload::DataCountSection { count, .. } => out.data_count = Some(count),
            Payload::DataSection(section) => self.parse_data_section(&mut out.data, section)?,
            Payload::CodeSectionEntry(body) => {
                let index = (self.imported_functions + self.bodies) as usize;
                self.bodies += 1;
                let ty = *self.functions.get(index).ok_or(MeterError::Unsupported("a body of no function"))?;
                write::body(self, ty, &body, &mut out.code)?;
            }
            Payload::TagSection(_) => return Err(MeterError::Unsupported("a tag")),
            _ => {}
        }
        Ok(())
    }

    fn hint(&mut self, hints: Vec<BranchHint>) {
        self.hints.push(hints);
    }

    fn module(mut self, out: &Sections) -> Vec<u8> {
        let refill_index = self.refill();
        let refill = self.own_type(vec![ValType::I64], vec![ValType::I64]);
        let mut imports = out.imports.clone();
        imports.import(ABI_MODULE, REFILL, EntityType::Function(refill));
        let mut exports = out.exports.clone();
        let numbers =
            self.globals.iter().enumerate().filter(|(_, ty)| ty.mutable && !ty.content_type.is_reference_type());
        for (name, (index, _)) in global_names().zip(numbers) {
            exports.export(&name, ExportKind::Global, index as u32);
        }
        self.start.export(&mut exports, |function| self.function_at(function));
        let mut globals = out.globals.clone();
        if self.counts {
            for (name, body) in counter_names().zip(0..self.bodies + 2) {
                let ty = wasm_encoder::GlobalType { val_type: ValType::I64, mutable: true, shared: false };
                globals.global(ty, &ConstExpr::i64_const(0));
                exports.export(&name, ExportKind::Global, self.globals.len() as u32 + body);
            }
        }
        let mut module = Module::new();
        module.section(&self.type_section()).section(&imports).section(&out.functions);
        if !out.tables.is_empty() {
            module.section(&out.tables);
        }
        if !out.memories.is_empty() {
            module.section(&out.memories);
        }
        module.section(&globals).section(&exports).section(&out.elements);
        if let Some(count) = out.data_count {
            module.section(&DataCountSection { count });
        }
        let mut hints = BranchHints::new();
        for (function, of_body) in (refill_index + 1..).zip(self.hints) {
            if !of_body.is_empty() {
                hints.function_hints(function, of_body);
            }
        }
        module.section(&hints).section(&out.code).section(&out.data);
        module.finish()
    }

    /// Writes each function type with the state after its parameters and its results, then the
    /// types that the rewriting added.
    fn type_section(&self) -> TypeSection {
        let mut section = TypeSection::new();
        for ty in &self.types {
            let CompositeInnerType::Func(ty) = &ty.composite_type.inner else { continue };
            let with_state = |types: &[wasmparser::ValType]| {
                types.iter().map(|ty| val_type(*ty)).chain([ValType::I64]).collect::<Vec<_>>()
            };
            section.ty().function(with_state(ty.params()), with_state(ty.results()));
        }
        for (params, results) in &self.own_types {
            section.ty().function(params.iter().copied(), results.iter().copied());
        }
        section
    }
}

fn val_type(ty: wasmparser::ValType) -> ValType {
    match ty {
        wasmparser::ValType::I32 => ValType::I32,
        wasmparser::ValType::I64 => ValType::I64,
        wasmparser::ValType::F32 => ValType::F32,
        wasmparser::ValType::F64 => ValType::F64,
        wasmparser::ValType::V128 => ValType::V128,
        wasmparser::ValType::Ref(ty) if ty.is_extern_ref() => ValType::EXTERNREF,
        wasmparser::ValType::Ref(_) => ValType::FUNCREF,
    }
}

#[cfg(test)]
mod tests;
