//! Branches to the next operator in front of each operator, so that no operator is charged together
//! with another. With each branch come as many free operators as make up a unit of gas. So the
//! module's own operators still sum to as many units as before.

use std::convert::Infallible;

use compute_host::sandbox::meter::FREE_PER_UNIT;
use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{BlockType, CodeSection, Instruction, Module};
use wasmparser::{FunctionBody, Parser};

struct Spreader {
    branches: usize,
}

/// Returns the module with that many branches in front of each operator. The module behaves as
/// before.
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
                // The block and the branch to its end are free too. The end itself is not reached.
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
