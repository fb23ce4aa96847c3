//! Puts a branch to the next operator in front of each operator, so that none is paid for together with another; and with
//! it as many operators that cost nothing by themselves as come to a unit of gas, so that the module's own come to as many
//! as before.

use std::convert::Infallible;

use compute_host::sandbox::meter::FREE_PER_UNIT;
use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{BlockType, CodeSection, Instruction, Module};
use wasmparser::{FunctionBody, Parser};

struct Spreader {
    branches: usize,
}

/// The module with so many branches in front of each operator, that does what it did.
pub fn spread(wasm: &[u8], branches: usize) -> Vec<u8> {
    let mut module = Module::new();
    let mut spreader = Spreader { branches };
    spreader.parse_core_module(&mut module, Parser::new(0), wasm).expect("the module is valid");
    module.finish()
}

impl Reencode for Spreader {
    type Error = Infallible;

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            for _ in 0..self.branches {
                function.instruction(&Instruction::Block(BlockType::Empty));
                // The block and the branch to its end cost nothing either; the end itself is not reached.
                for _ in 2..FREE_PER_UNIT {
                    function.instruction(&Instruction::Nop);
                }
                function.instruction(&Instruction::Br(0)).instruction(&Instruction::End);
            }
            let operator = reader.read()?;
            function.instruction(&self.instruction(operator)?);
        }
        code.function(&function);
        Ok(())
    }
}
