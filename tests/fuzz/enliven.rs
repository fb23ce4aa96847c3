//! Rewriting of a module so that it does more. Most of wasm-smith's modules trap at once, or call
//! nothing. A new `run` calls each of a module's functions in rounds, with arguments of all kinds,
//! and stores the results in memory. Operators that would end most runs at the beginning are
//! softened, so that the rest runs too.

mod access;
mod numbers;
mod body;
mod driver;
mod wrapper;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, ConstExpr, ExportKind, FunctionSection, GlobalSection, GlobalType, Module, SectionId, StartSection,
    TypeSection, ValType,
};
use wasmparser::{
    ElementItems, FuncType, FunctionBody, Import, MemArg, Operator, OperatorsReader, Parser, Payload, TypeRef,
};

/// Number of the module's functions that the new `run` writes to its table, where others call them.
pub const SLOTS: u32 = 8;

/// Mask of addresses. They are within the first page: below this, with an offset below
/// [`OFFSET_END`].
pub const ADDRESS_MASK: i32 = 0xefff;
const OFFSET_END: u64 = 0x100;

/// Manner in which a module is changed.
#[derive(Clone, Copy)]
pub struct Manner {
    /// Seed of all random choices in this module.
    pub seed: u64,
    /// Number of calls of each function.
    pub rounds: u32,
    /// Masks addresses to lie in memory, makes divisors odd, and turns `unreachable` into a return.
    pub masks: bool,
    /// Whether a function that loops or calls for long returns early.
    pub is_patient: bool,
    pub depth: Option<Depth>,
    /// Whether the new `run` returns a failure.
    pub fails: bool,
    pub start: Start,
}

/// Functions that are called before `run`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Nowhere,
    /// The module's start function.
    Section,
    /// The export `_initialize`.
    Initialize,
    Both,
}

impl Start {
    const fn has_section(self) -> bool {
        matches!(self, Self::Section | Self::Both)
    }

    const fn has_initialize(self) -> bool {
        matches!(self, Self::Initialize | Self::Both)
    }
}

/// Depth to which functions that call others fill the stack.
#[derive(Clone, Copy)]
pub struct Depth {
    /// Number of times that they call themselves first.
    pub calls: u32,
    /// Number of unused locals.
    pub locals: u32,
    /// Number of vectors that they would keep while they call themselves.
    pub values: u32,
}

/// Returns `wasm`, changed. `wasm` has the shape that `subject` requests from wasm-smith.
pub fn enlivened(wasm: &[u8], manner: Manner) -> Vec<u8> {
    let mut pass = Enliven::new(manner);
    for payload in Parser::new(0).parse_all(wasm) {
        pass.note(&payload.expect("the module is valid"));
    }
    let mut module = Module::new();
    pass.parse_core_module(&mut module, Parser::new(0), wasm).expect("the module is valid");
    module.finish()
}

struct Enliven {
    manner: Manner,
    random: u64,
    types: Vec<FuncType>,
    /// Type of each function, imported ones first.
    functions: Vec<u32>,
    imports: Vec<String>,
    /// Imports that have wrappers, in the order of the wrappers.
    wrapped: Vec<u32>,
    globals: u32,
    /// Index of the former `run`.
    run: u32,
    bodies: usize,
}

impl Enliven {
    fn new(manner: Manner) -> Self {
        Self {
            manner,
            random: manner.seed,
            types: Vec::new(),
            functions: Vec::new(),
            imports: Vec::new(),
            wrapped: Vec::new(),
            globals: 0,
            run: 0,
            bodies: 0,
        }
    }

    fn note(&mut self, payload: &Payload<'_>) {
        let valid = "the module is valid";
        match payload {
            Payload::TypeSection(section) => {
                self.types.extend(section.clone().into_iter_err_on_gc_types().map(|ty| ty.expect(valid)));
            }
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    if let Import { name, ty: TypeRef::Func(ty), .. } = import.expect(valid) {
                        self.functions.push(ty);
                        self.imports.push(name.to_owned());
                    }
                }
            }
            Payload::FunctionSection(section) => {
                self.functions.extend(section.clone().into_iter().map(|ty| ty.expect(valid)));
            }
            Payload::GlobalSection(section) => self.globals = section.count(),
            Payload::ElementSection(section) => {
                for element in section.clone() {
                    match element.expect(valid).items {
                        ElementItems::Functions(section) => {
                            section.into_iter().for_each(|function| self.wrap(function.expect(valid)));
                        }
                        ElementItems::Expressions(_, section) => {
                            let expressions = section.into_iter().map(|expression| expression.expect(valid));
                            expressions.for_each(|expression| self.note_operators(expression.get_operators_reader()));
                        }
                    }
                }
            }
            Payload::CodeSectionEntry(body) => self.note_operators(body.get_operators_reader().expect(valid)),
            Payload::ExportSection(section) => {
                let mut exports = section.clone().into_iter().map(|export| export.expect(valid));
                self.run = exports.find(|export| export.name == "run").expect("there is a `run`").index;
            }
            _ => {}
        }
    }

    fn note_operators(&mut self, operators: OperatorsReader<'_>) {
        for operator in operators {
            match operator.expect("the module is valid") {
                Operator::Call { function_index } | Operator::RefFunc { function_index } => self.wrap(function_index),
                _ => {}
            }
        }
    }

    /// Adds a wrapper for the function, if it is imported.
    fn wrap(&mut self, function: u32) {
        if function < self.imported() && !self.wrapped.contains(&function) {
            self.wrapped.push(function);
        }
    }

    /// Returns a number below `end`, by a linear congruential generator (Knuth, MMIX).
    fn below(&mut self, end: u32) -> u32 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.random >> 33) % u64::from(end)) as u32
    }

    fn signature(&self, function: u32) -> &FuncType {
        &self.types[self.functions[function as usize] as usize]
    }

    const fn imported(&self) -> u32 {
        self.imports.len() as u32
    }

    /// Returns the indices of the module's own functions.
    fn own(&self) -> std::ops::Range<u32> {
        self.imported()..self.functions.len() as u32
    }

    /// Returns the index of the new `run`, behind all others. The wrappers of imports come behind
    /// it, and then the two functions that can be called before it.
    const fn driver(&self) -> u32 {
        self.functions.len() as u32
    }

    const fn starter(&self) -> u32 {
        self.driver() + 1 + self.wrapped.len() as u32
    }

    /// Returns the index of the global that counts the remaining patience.
    const fn patience(&self) -> u32 {
        self.globals
    }
}

fn add_patience(globals: &mut GlobalSection) {
    globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(0));
}

impl Reencode for Enliven {
    type Error = std::convert::Infallible;

    /// Redirects calls of an import to its wrapper.
    fn function_index(&mut self, function: u32) -> Result<u32, Error<Self::Error>> {
        let wrapper = self.wrapped.iter().position(|wrapped| *wrapped == function);
        Ok(wrapper.map_or(function, |wrapper| self.driver() + 1 + wrapper as u32))
    }

    fn mem_arg(&mut self, arg: MemArg) -> Result<wasm_encoder::MemArg, Error<Self::Error>> {
        let mut arg = utils::mem_arg(self, arg)?;
        if self.manner.masks {
            arg.offset %= OFFSET_END;
        }
        Ok(arg)
    }

    /// Adds the type of a function without parameters and results.
    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([], []);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        utils::parse_function_section(self, functions, section)?;
        functions.function(self.functions[self.run as usize]);
        self.wrapped.iter().for_each(|import| {
            functions.function(self.functions[*import as usize]);
        });
        // The added type.
        functions.function(self.types.len() as u32).function(self.types.len() as u32);
        Ok(())
    }

    fn parse_global_section(
        &mut self,
        globals: &mut GlobalSection,
        section: wasmparser::GlobalSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        utils::parse_global_section(self, globals, section)?;
        add_patience(globals);
        Ok(())
    }

    /// Adds a section of globals if there is none. The start section comes behind the exports.
    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<(), Error<Self::Error>> {
        if before == Some(SectionId::Export) && after != Some(SectionId::Global) {
            let mut globals = GlobalSection::new();
            add_patience(&mut globals);
            module.section(&globals);
        }
        if after == Some(SectionId::Export) && self.manner.start.has_section() {
            module.section(&StartSection { function_index: self.starter() });
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut wasm_encoder::ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        for export in section {
            let export = export?;
            if export.name == "run" {
                exports.export("run", ExportKind::Func, self.driver());
            } else {
                self.parse_export(exports, export)?;
            }
        }
        if self.manner.start.has_initialize() {
            exports.export("_initialize", ExportKind::Func, self.starter() + 1);
        }
        // A function whose reference is taken must be named somewhere outside of the code.
        for function in self.own() {
            exports.export(&format!("function {function}"), ExportKind::Func, function);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        utils::parse_code_section(self, code, section)?;
        code.function(&driver::driver(self));
        self.wrapped.iter().for_each(|import| {
            code.function(&wrapper::wrapper(self, *import));
        });
        code.function(&driver::starter(self)).function(&driver::starter(self));
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Error<Self::Error>> {
        let function = self.imported() + self.bodies as u32;
        self.bodies += 1;
        code.function(&body::body(self, function, &body)?);
        Ok(())
    }
}
