//! Modules whose bodies have so many NaNs to canonicalise that the meter writes the form for such
//! bodies.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{CodeSection, Module};
use wasmparser::{FunctionBody, Parser};

/// More sites than the meter has branches for.
const SITES: usize = 100;

struct Crowd;

/// Returns the module with so much arithmetic in front of each body. The results are observed and
/// dropped, so the module behaves as before.
pub fn crowded(wasm: &[u8]) -> Vec<u8> {
    let mut module = Module::new();
    Crowd.parse_core_module(&mut module, Parser::new(0), wasm).expect("the module is valid");
    module.finish()
}

impl Reencode for Crowd {
    type Error = Infallible;

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        for _ in 0..SITES {
            let one = 1_f64.into();
            function.instructions().f64_const(one).f64_const(one).f64_add().i64_reinterpret_f64().drop();
        }
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            function.instruction(&self.instruction(operator)?);
        }
        code.function(&function);
        Ok(())
    }
}
