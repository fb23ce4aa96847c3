//! wasmi 2.0.0 forgets the condition of a `select` where another integer is on the operand stack behind it. It does not
//! where the condition comes out of a local: so a module on which wasmi alone differs is tried once more like that.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{CodeSection, Function, Instruction, Module, ValType};
use wasmparser::{FunctionBody, Operator, Parser, Payload};

/// The same module with each `select`'s condition put into a local first; `None` if it has no `select`.
pub fn through_locals(wasm: &[u8]) -> Option<Vec<u8>> {
    let mut pass = ThroughLocals::default();
    for payload in Parser::new(0).parse_all(wasm) {
        pass.note(&payload.expect("the module is valid"));
    }
    let mut module = Module::new();
    pass.parse_core_module(&mut module, Parser::new(0), wasm).expect("the module is valid");
    (pass.selects > 0).then(|| module.finish())
}

#[derive(Default)]
struct ThroughLocals {
    /// The number of parameters of each type.
    types: Vec<u32>,
    /// The types of the module's own functions.
    functions: Vec<u32>,
    bodies: usize,
    selects: usize,
}

impl ThroughLocals {
    fn note(&mut self, payload: &Payload<'_>) {
        match payload {
            Payload::TypeSection(section) => {
                let types = section.clone().into_iter_err_on_gc_types();
                self.types.extend(types.map(|ty| ty.expect("the module is valid").params().len() as u32));
            }
            Payload::FunctionSection(section) => {
                self.functions.extend(section.clone().into_iter().map(|ty| ty.expect("the module is valid")));
            }
            _ => {}
        }
    }
}

impl Reencode for ThroughLocals {
    type Error = Infallible;

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error<Infallible>> {
        let mut condition = self.types[self.functions[self.bodies] as usize];
        self.bodies += 1;
        let mut locals = Vec::new();
        for declared in body.get_locals_reader()? {
            let (count, ty) = declared?;
            condition += count;
            locals.push((count, self.val_type(ty)?));
        }
        locals.push((1, ValType::I32));
        let mut function = Function::new(locals);
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            if matches!(operator, Operator::Select | Operator::TypedSelect { .. }) {
                self.selects += 1;
                function.instruction(&Instruction::LocalSet(condition)).instruction(&Instruction::LocalGet(condition));
            }
            function.instruction(&self.instruction(operator)?);
        }
        code.function(&function);
        Ok(())
    }
}
