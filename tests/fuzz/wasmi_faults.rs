//! Workarounds for the faults of wasmi 2.0.0. A module on which only wasmi differs is rewritten
//! with them and run again.
//!
//! wasmi forgets the condition of a `select` if another integer is on the operand stack behind it,
//! unless the condition comes from a local. It assigns a register twice if an `if` has parameters,
//! and panics if it is built with assertions, unless the parameters go through locals. It loses a
//! float that lies below a block with parameters which is left early, unless the parameters go
//! through locals. `fixtures/` has all three.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{BlockType, CodeSection, Encode as _, Function, InstructionSink, Module, TypeSection, ValType};
use wasmparser::{FuncType, FunctionBody, Operator, Parser, Payload};

/// Returns the same module, rewritten to avoid the faults of wasmi.
pub fn avoided(wasm: &[u8]) -> Vec<u8> {
    let mut pass = Avoid::default();
    for payload in Parser::new(0).parse_all(wasm) {
        pass.note(&payload.expect("the module is valid"));
    }
    let mut module = Module::new();
    pass.parse_core_module(&mut module, Parser::new(0), wasm).expect("the module is valid");
    module.finish()
}

#[derive(Default)]
struct Avoid {
    types: Vec<FuncType>,
    /// Types of the module's own functions.
    functions: Vec<u32>,
    bodies: usize,
}

/// An `if` whose parameters are in locals.
struct Arms {
    locals: Vec<u32>,
    has_else: bool,
}

impl Avoid {
    fn note(&mut self, payload: &Payload<'_>) {
        match payload {
            Payload::TypeSection(section) => {
                let types = section.clone().into_iter_err_on_gc_types();
                self.types.extend(types.map(|ty| ty.expect("the module is valid")));
            }
            Payload::FunctionSection(section) => {
                self.functions.extend(section.clone().into_iter().map(|ty| ty.expect("the module is valid")));
            }
            _ => {}
        }
    }
}

impl Reencode for Avoid {
    type Error = Infallible;

    /// Adds each type once more without its parameters, behind the module's own types.
    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_type_section(self, types, section)?;
        for ty in self.types.clone() {
            let results = self.val_types(ty.results().to_vec())?;
            types.ty().function([], results);
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error<Infallible>> {
        let mut next = self.types[self.functions[self.bodies] as usize].params().len() as u32;
        self.bodies += 1;
        let mut locals = Vec::new();
        for declared in body.get_locals_reader()? {
            let (count, ty) = declared?;
            next += count;
            locals.push((count, self.val_type(ty)?));
        }
        let condition = next;
        locals.push((1, ValType::I32));
        next += 1;
        let (mut bytes, mut open) = (Vec::new(), Vec::<Option<Arms>>::new());
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            let mut sink = InstructionSink::new(&mut bytes);
            match &operator {
                Operator::Select | Operator::TypedSelect { .. } => {
                    sink.local_set(condition).local_get(condition);
                }
                Operator::Block { blockty: wasmparser::BlockType::FuncType(ty) }
                | Operator::If { blockty: wasmparser::BlockType::FuncType(ty) } => {
                    let is_if = matches!(operator, Operator::If { .. });
                    let params = self.types[*ty as usize].params().to_vec();
                    if is_if {
                        sink.local_set(condition);
                    }
                    let held: Vec<u32> = (next..).take(params.len()).collect();
                    next += params.len() as u32;
                    locals.extend(self.val_types(params)?.into_iter().map(|ty| (1, ty)));
                    held.iter().rev().for_each(|local| {
                        sink.local_set(*local);
                    });
                    let without = BlockType::FunctionType(self.types.len() as u32 + ty);
                    if is_if {
                        sink.local_get(condition).if_(without);
                    } else {
                        sink.block(without);
                    }
                    give_back(&held, &mut sink);
                    open.push(is_if.then_some(Arms { locals: held, has_else: false }));
                    continue;
                }
                Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => open.push(None),
                Operator::Else => {
                    if let Some(Some(arms)) = open.last_mut() {
                        arms.has_else = true;
                        sink.else_();
                        give_back(&arms.locals, &mut sink);
                        continue;
                    }
                }
                Operator::End => {
                    if let Some(Some(arms)) = open.pop()
                        && !arms.has_else
                    {
                        sink.else_();
                        give_back(&arms.locals, &mut sink);
                    }
                }
                _ => {}
            }
            self.instruction(operator)?.encode(&mut bytes);
        }
        let mut function = Function::new(locals);
        function.raw(bytes);
        code.function(&function);
        Ok(())
    }
}

fn give_back(locals: &[u32], sink: &mut InstructionSink<'_>) {
    locals.iter().for_each(|local| {
        sink.local_get(*local);
    });
}
