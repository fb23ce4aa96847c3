//! Has a module do more. wasm-smith's modules mostly trap at once, or call nothing: here a new `run` calls each of a
//! module's functions round after round, with arguments of all sorts, and keeps in memory what they give. What would end
//! most runs at their beginning is softened, so that they come to the rest.

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

/// The new `run` puts so many of the module's functions into its table, where others call them.
pub const SLOTS: u32 = 8;

/// Addresses are within the first page: below this, with an offset below [`OFFSET_END`].
pub const ADDRESS_MASK: i32 = 0xefff;
const OFFSET_END: u64 = 0x100;

/// How a module is to be changed.
#[derive(Clone, Copy)]
pub struct Manner {
    /// For all that is chosen here.
    pub seed: u64,
    /// How often each function is called.
    pub rounds: u32,
    /// Addresses are made to lie in memory, divisors are made odd, and `unreachable` returns.
    pub masks: bool,
    /// What loops or calls for long returns.
    pub is_patient: bool,
    pub depth: Option<Depth>,
    /// The new `run` returns a failure.
    pub fails: bool,
    pub start: Start,
}

/// What is called before `run`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Nowhere,
    /// The module's start function.
    Section,
    /// What is exported as `_initialize`.
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

/// How functions that call others are to fill the stack.
#[derive(Clone, Copy)]
pub struct Depth {
    /// How often they call themselves first.
    pub calls: u32,
    /// Locals that nobody uses.
    pub locals: u32,
    /// Vectors that they would keep while they call themselves.
    pub values: u32,
}

/// `wasm`, of the shape that `subject` has wasm-smith make, changed.
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
    /// The type of each function, imported ones first.
    functions: Vec<u32>,
    imports: Vec<String>,
    /// The imports that others stand for, in the order of these.
    wrapped: Vec<u32>,
    globals: u32,
    /// The function that was `run`.
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

    /// If the function is imported, another is to stand for it.
    fn wrap(&mut self, function: u32) {
        if function < self.imported() && !self.wrapped.contains(&function) {
            self.wrapped.push(function);
        }
    }

    /// Below `end`, by a linear congruential generator (Knuth, MMIX).
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

    /// The module's own functions, by their indices.
    fn own(&self) -> std::ops::Range<u32> {
        self.imported()..self.functions.len() as u32
    }

    /// The new `run`, behind all others; behind it are those that stand for imports, and then the
    /// two that can be called before it.
    const fn driver(&self) -> u32 {
        self.functions.len() as u32
    }

    const fn starter(&self) -> u32 {
        self.driver() + 1 + self.wrapped.len() as u32
    }

    /// The global that counts what patience is left.
    const fn patience(&self) -> u32 {
        self.globals
    }
}

fn add_patience(globals: &mut GlobalSection) {
    globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(0));
}

impl Reencode for Enliven {
    type Error = std::convert::Infallible;

    /// Whoever calls an import calls what stands for it.
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

    /// Adds that of a function which takes and gives nothing.
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
        // The type that is added.
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

    /// Where there is no section of globals, there is to be one. The start function stands behind
    /// the exports.
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
        // A function whose reference is taken has to be named somewhere outside of the code.
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
