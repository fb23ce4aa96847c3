//! Validation pass over a module. The count of a section is checked before the section.

mod metered;

use wasmparser::types::TypesRef;
use wasmparser::{
    BinaryReaderError, ConstExpr, Data, DataKind, Element, ElementItems, ElementKind, Encoding, Export, ExternalKind,
    FuncToValidate, FuncType, FuncValidatorAllocations, FunctionBody, Import, Parser, Payload, TypeRef, ValType,
    ValidPayload, Validator, ValidatorResources,
};

use super::body::{self, BodyCounters, COUNTED, CodeForm, Declared};
use super::cost;
use super::limits::{GateLimits, LimitName};
use super::refusal::{Position, Refusal, Rule, shortened};
use crate::sandbox::constant::{Constant, computed};
use crate::sandbox::interface::{ABI_FUNCTIONS, ABI_MODULE, AbiFunction, is_reserved_export};

/// How far a pass reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PassMode {
    /// Until the first broken rule: bounds what an untrusted module costs.
    UpToFirst,
    /// To the end, as far as the module is readable: shows its author all broken rules.
    All,
}

/// Maximum refusals in one report; later ones are dropped.
const REFUSALS_MAX: usize = 100;
const PAGE_BYTES: u64 = 65_536;

pub struct GatePass<'a> {
    limits: &'a GateLimits,
    mode: PassMode,
    /// The highest value found for each limit.
    pub used: GateLimits,
    pub refusals: Vec<Refusal>,
    pub shape: ModuleShape,
    allocations: FuncValidatorAllocations,
    tally: BodyCounters,
    /// Compile cost of what has been read, in thousandths of a unit.
    cost: u64,
    /// Bytes of the module without its custom sections.
    compiled_bytes: u64,
    /// The metered module; `None` if the module was not read to its end.
    pub metered: Option<Vec<u8>>,
}

/// Structure of the module, for the rules about the whole module and the report.
#[derive(Default)]
pub struct ModuleShape {
    pub imports: Vec<(String, String)>,
    /// The ABI function of each imported function; these come first in the index space.
    abi: Vec<Option<&'static AbiFunction>>,
    pub exports: Vec<String>,
    declared: Declared,
    pub memory_pages: Option<(u64, Option<u64>)>,
    table_elements: Vec<u64>,
    exports_memory: bool,
    run: Option<(u32, u64)>,
    initialize: Option<(u32, u64)>,
    bodies: u32,
    pub code_bytes: u64,
    pub data_bytes: u64,
}

/// The pass cannot continue.
pub struct Abort;

impl From<BinaryReaderError> for Rule {
    fn from(error: BinaryReaderError) -> Self {
        Self::Invalid { message: shortened(error.message()) }
    }
}

impl<'a> GatePass<'a> {
    pub fn new(limits: &'a GateLimits, mode: PassMode) -> Self {
        Self {
            limits,
            mode,
            used: GateLimits::NONE,
            refusals: Vec::new(),
            shape: ModuleShape::default(),
            allocations: FuncValidatorAllocations::default(),
            tally: BodyCounters::default(),
            cost: 0,
            compiled_bytes: 0,
            metered: None,
        }
    }

    /// Reads `wasm`, and stores the findings in this pass.
    pub fn over(&mut self, wasm: &[u8]) {
        let _stopped = self.sections(wasm).and_then(|()| self.price(wasm));
        super::names::fill_in(wasm, &mut self.refusals);
    }

    pub const fn memory_bytes_min(&self) -> u64 {
        match self.shape.memory_pages {
            Some((pages, _)) => pages.saturating_mul(PAGE_BYTES),
            None => 0,
        }
    }

    fn sections(&mut self, wasm: &[u8]) -> Result<(), Abort> {
        self.compiled_bytes = wasm.len() as u64;
        self.count(LimitName::ModuleBytes, wasm.len() as u64, Position::default())?;
        if wasm.len() as u64 > self.limits.module_bytes {
            // A report is for an author's mistakes; an oversized module costs without bound.
            return Err(Abort);
        }
        let (mut validator, mut parser) = (Validator::new_with_features(super::features()), Parser::new(0));
        // Only the parser knows how to refuse some encodings.
        parser.set_features(super::features());
        for payload in parser.parse_all(wasm) {
            let payload = self.readable(payload)?;
            if let Payload::Version { encoding: Encoding::Component, .. } = payload {
                return self.end(Rule::Component, Position::default());
            }
            self.before(&payload)?;
            let valid = validator.payload(&payload);
            match self.readable(valid)? {
                ValidPayload::Func(function, body) => self.function(function, &body)?,
                ValidPayload::End(types) => self.whole(types.as_ref())?,
                ValidPayload::Ok | ValidPayload::Parser(_) => self.section(payload)?,
            }
        }
        Ok(())
    }

    /// Checks the counts in a section's header.
    fn before(&mut self, payload: &Payload<'_>) -> Result<(), Abort> {
        let counts: &[(LimitName, u32, usize)] = &match payload {
            Payload::TypeSection(section) => [(LimitName::Types, section.count(), section.range().start)],
            Payload::ImportSection(section) => [(LimitName::Imports, section.count(), section.range().start)],
            Payload::ExportSection(section) => [(LimitName::Exports, section.count(), section.range().start)],
            Payload::FunctionSection(section) => [(LimitName::Functions, section.count(), section.range().start)],
            Payload::GlobalSection(section) => [(LimitName::Globals, section.count(), section.range().start)],
            Payload::TableSection(section) => [(LimitName::Tables, section.count(), section.range().start)],
            Payload::DataSection(section) => [(LimitName::DataSegments, section.count(), section.range().start)],
            _ => return Ok(()),
        };
        counts.iter().try_for_each(|(name, found, at)| self.count(*name, (*found).into(), place(*at)))
    }

    /// Checks the content of a valid section.
    fn section(&mut self, payload: Payload<'_>) -> Result<(), Abort> {
        match payload {
            Payload::TypeSection(types) => {
                let at = types.range().start;
                for ty in types.into_iter_err_on_gc_types() {
                    let ty = self.readable(ty)?;
                    let (params, results) = (ty.params().len() as u32, ty.results().len() as u32);
                    self.count(LimitName::Params, params.into(), place(at))?;
                    self.count(LimitName::Results, results.into(), place(at))?;
                    self.shape.declared.types.push((params, results));
                }
                self.cost(self.shape.declared.types.len() as u64 * cost::TYPE * cost::MILLI)?;
                // The validator itself is slow on code with such types.
                let wide = self.used.params > self.limits.params || self.used.results > self.limits.results;
                if wide { Err(Abort) } else { Ok(()) }
            }
            Payload::ImportSection(imports) => imports.into_imports_with_offsets().try_for_each(|import| {
                let (at, import) = self.readable(import)?;
                self.import(&import, place(at))
            }),
            Payload::FunctionSection(functions) => functions.into_iter().try_for_each(|ty| {
                let ty = self.readable(ty)?;
                self.shape.declared.functions.push(ty);
                Ok(())
            }),
            Payload::GlobalSection(globals) => globals.into_iter().try_for_each(|global| {
                let global = self.readable(global)?;
                self.shape.declared.constants.push(!global.ty.mutable);
                Ok(())
            }),
            Payload::TableSection(tables) => tables.into_iter_with_offsets().try_for_each(|table| {
                let (at, table) = self.readable(table)?;
                self.shape.table_elements.push(table.ty.initial);
                self.count(LimitName::TableElements, table.ty.initial, place(at))
            }),
            Payload::MemorySection(memories) => memories.into_iter_with_offsets().try_for_each(|memory| {
                let (at, memory) = self.readable(memory)?;
                self.shape.memory_pages = Some((memory.initial, memory.maximum));
                self.count(LimitName::MemoryPages, memory.initial, place(at))
            }),
            Payload::ExportSection(exports) => exports.into_iter_with_offsets().try_for_each(|export| {
                let (at, export) = self.readable(export)?;
                self.export(&export, at as u64)
            }),
            // The meter exports the start function.
            Payload::StartSection { .. } => self.cost(cost::ESCAPED * cost::MILLI),
            Payload::ElementSection(elements) => elements.into_iter_with_offsets().try_for_each(|element| {
                let (at, element) = self.readable(element)?;
                self.element(&element, place(at))
            }),
            Payload::DataSection(data) => data.into_iter_with_offsets().try_for_each(|data| {
                let (at, data) = self.readable(data)?;
                self.data(&data, place(at))
            }),
            Payload::CustomSection(custom) => {
                let at = place(custom.range().start);
                self.add(LimitName::CustomSections, 1, at.clone())?;
                self.add(LimitName::CustomBytes, custom.range().len() as u64, at.clone())?;
                // The compiler does not get custom sections, so they add no budget.
                self.compiled_bytes -= custom.range().len() as u64;
                self.count(LimitName::NameBytes, custom.name().len() as u64, at)
            }
            _ => Ok(()),
        }
    }

    fn import(&mut self, import: &Import<'_>, at: Position) -> Result<(), Abort> {
        self.count(LimitName::NameBytes, import.module.len().max(import.name.len()) as u64, at.clone())?;
        self.shape.imports.push((shortened(import.module), shortened(import.name)));
        if let TypeRef::FuncExact(_) = import.ty {
            return self.end(Rule::exact_function(), at);
        }
        if let TypeRef::Func(ty) = import.ty {
            let known = ABI_FUNCTIONS.iter().find(|(name, ..)| import.module == ABI_MODULE && import.name == *name);
            self.shape.declared.functions.push(ty);
            self.shape.abi.push(known);
            if known.is_some() {
                return Ok(());
            }
        }
        self.refuse(Rule::UnknownImport { module: shortened(import.module), name: shortened(import.name) }, at)
    }

    fn export(&mut self, export: &Export<'_>, offset: u64) -> Result<(), Abort> {
        let at = Position { offset: Some(offset), function: None };
        self.count(LimitName::NameBytes, export.name.len() as u64, at.clone())?;
        self.shape.exports.push(shortened(export.name));
        if export.kind == ExternalKind::FuncExact {
            return self.end(Rule::exact_function(), at);
        }
        if export.kind == ExternalKind::Func {
            self.cost(cost::ESCAPED * cost::MILLI)?;
        }
        match (export.name, export.kind) {
            ("memory", ExternalKind::Memory) => self.shape.exports_memory = true,
            ("run", ExternalKind::Func) => self.shape.run = Some((export.index, offset)),
            ("_initialize", ExternalKind::Func) => self.shape.initialize = Some((export.index, offset)),
            (name, _) if is_reserved_export(name) => {
                self.refuse(Rule::ReservedExport { name: shortened(name) }, at)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn element(&mut self, element: &Element<'_>, at: Position) -> Result<(), Abort> {
        let items: u64 = match &element.items {
            ElementItems::Functions(items) => items.count(),
            ElementItems::Expressions(_, items) => items.count(),
        }
        .into();
        self.add(LimitName::ElementItems, items, at.clone())?;
        self.cost(items * cost::ESCAPED * cost::MILLI)?;
        match &element.kind {
            ElementKind::Active { table_index, offset_expr } => {
                let table = table_index.unwrap_or(0) as usize;
                let room = self.shape.table_elements.get(table).copied().unwrap_or(0);
                self.segment("element", offset_expr, items, room, at)
            }
            ElementKind::Passive | ElementKind::Declared => Ok(()),
        }
    }

    fn data(&mut self, data: &Data<'_>, at: Position) -> Result<(), Abort> {
        self.shape.data_bytes += data.data.len() as u64;
        match &data.kind {
            DataKind::Active { offset_expr, .. } => {
                let room = self.memory_bytes_min();
                self.segment("data", offset_expr, data.data.len() as u64, room, at)
            }
            DataKind::Passive => Ok(()),
        }
    }

    /// Checks an active segment, whose offset must be a constant.
    fn segment(
        &mut self,
        what: &'static str,
        offset: &ConstExpr<'_>,
        len: u64,
        room: u64,
        at: Position,
    ) -> Result<(), Abort> {
        let offset = match computed(offset) {
            Some(Constant::I32(value)) => Some(u64::from(value.cast_unsigned())),
            _ => None,
        };
        match offset {
            Some(offset) if offset + len <= room => Ok(()),
            _ => self.refuse(Rule::SegmentRange { what: what.into() }, at),
        }
    }

    fn function(&mut self, function: FuncToValidate<ValidatorResources>, body: &FunctionBody<'_>) -> Result<(), Abort> {
        let index = function.index;
        let at = |offset: usize| Position { offset: Some(offset as u64), function: Some((index, None)) };
        let start = body.range().start;
        self.shape.bodies += 1;
        self.shape.code_bytes += body.range().len() as u64;
        self.count(LimitName::BodyBytes, body.range().len() as u64, at(start))?;
        let mut validator = function.into_validator(std::mem::take(&mut self.allocations));
        let read =
            body::read(body, &mut validator, &self.shape.declared, self.limits, CodeForm::Brought, &mut self.tally);
        let (found, cost) = match read {
            Ok(read) => read,
            // Other functions may still be valid.
            Err(error) => return self.refuse(error.clone().into(), at(error.offset())),
        };
        self.allocations = validator.into_allocations();
        COUNTED.iter().try_for_each(|name| self.count(*name, found.of(*name), at(start)))?;
        self.cost(cost)
    }

    /// Adds to the compile cost; [`PassMode::UpToFirst`] stops when the cost exceeds its limit.
    fn cost(&mut self, milli: u64) -> Result<(), Abort> {
        self.cost = self.cost.saturating_add(milli);
        match self.mode {
            PassMode::UpToFirst => self.costs(),
            PassMode::All => Ok(()),
        }
    }

    fn costs(&mut self) -> Result<(), Abort> {
        self.count(LimitName::CompileCost, cost::percent(self.cost, self.compiled_bytes), Position::default())
    }

    /// Checks the rules about the whole module: required exports and their types.
    fn whole(&mut self, types: TypesRef<'_>) -> Result<(), Abort> {
        self.costs()?;
        let signature = |function| types[types.core_function_at(function)].unwrap_func();
        for (index, known) in (0..).zip(std::mem::take(&mut self.shape.abi)) {
            let Some((name, params, results)) = known else { continue };
            let expected = FuncType::new(params.iter().copied(), results.iter().copied());
            if signature(index) != &expected {
                let (expected, found) = (expected.to_string(), signature(index).to_string());
                self.refuse(Rule::ImportSignature { name: (*name).into(), expected, found }, Position::default())?;
            }
        }
        match self.shape.memory_pages {
            None => self.refuse(Rule::NoMemory, Position::default())?,
            Some(_) if !self.shape.exports_memory => self.refuse(Rule::NoMemoryExport, Position::default())?,
            Some(_) => {}
        }
        if let Some((function, offset)) = self.shape.initialize
            && signature(function) != &FuncType::new([], [])
        {
            let rule = Rule::InitializeSignature { found: signature(function).to_string() };
            self.refuse(rule, Position { offset: Some(offset), function: Some((function, None)) })?;
        }
        let Some((run, offset)) = self.shape.run else {
            return self.refuse(Rule::NoRunExport, Position::default());
        };
        if signature(run) == &FuncType::new([], [ValType::I32]) {
            return Ok(());
        }
        let at = Position { offset: Some(offset), function: Some((run, None)) };
        self.refuse(Rule::RunSignature { found: signature(run).to_string() }, at)
    }

    /// Records that one item has `found` of what `name` limits.
    fn count(&mut self, name: LimitName, found: u64, at: Position) -> Result<(), Abort> {
        let used = self.used.of_mut(name);
        *used = found.max(*used);
        let max = self.limits.of(name);
        if found > max { self.refuse(Rule::Limit { name, max, found }, at) } else { Ok(()) }
    }

    /// Adds `more` to a sum over the module, which is refused once it crosses its limit.
    fn add(&mut self, name: LimitName, more: u64, at: Position) -> Result<(), Abort> {
        let max = self.limits.of(name);
        let used = self.used.of_mut(name);
        let before = *used;
        *used += more;
        let found = *used;
        if found > max && before <= max { self.refuse(Rule::Limit { name, max, found }, at) } else { Ok(()) }
    }

    fn refuse(&mut self, rule: Rule, place: Position) -> Result<(), Abort> {
        self.refusals.push(Refusal { rule, place });
        if self.mode == PassMode::UpToFirst || self.refusals.len() == REFUSALS_MAX { Err(Abort) } else { Ok(()) }
    }

    fn end(&mut self, rule: Rule, place: Position) -> Result<(), Abort> {
        self.refuse(rule, place).and(Err(Abort))
    }

    fn readable<T>(&mut self, read: Result<T, BinaryReaderError>) -> Result<T, Abort> {
        read.or_else(|error| self.end(error.clone().into(), place(error.offset())).and(Err(Abort)))
    }
}

const fn place(offset: usize) -> Position {
    Position { offset: Some(offset as u64), function: None }
}
