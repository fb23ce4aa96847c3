//! Emulation of an adverse processor. After each operator of float arithmetic, and before the
//! meter's code uses its result, a NaN becomes another NaN, of any sign and payload.

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, Function, FunctionSection, GlobalSection, GlobalType, Instruction,
    InstructionSink, Module, TypeSection, ValType,
};
use wasmparser::{FunctionBody, Operator, Parser, Payload, TypeRef};

/// Source of the bits: a linear congruential generator (Knuth, MMIX).
const FACTOR: i64 = 6_364_136_223_846_793_005;
const SUMMAND: i64 = 1_442_695_040_888_963_407;
const SEED: i64 = 0x5eed;

/// Shapes, in the order of the functions that are added for them.
#[derive(Clone, Copy)]
enum Shape {
    F32,
    F64,
    F32x4,
    F64x2,
}

const SHAPES: [(Shape, ValType); 4] = [
    (Shape::F32, ValType::F32),
    (Shape::F64, ValType::F64),
    (Shape::F32x4, ValType::V128),
    (Shape::F64x2, ValType::V128),
];

#[derive(Default)]
struct Scrambler {
    types: u32,
    functions: u32,
    globals: u32,
}

/// Returns a metered module on such a processor.
pub fn scrambled(metered: &[u8]) -> Vec<u8> {
    let mut scrambler = Scrambler::default();
    scrambler.count(metered);
    let mut module = Module::new();
    scrambler.parse_core_module(&mut module, Parser::new(0), metered).expect("the module is valid");
    let scrambled = module.finish();
    wasmparser::Validator::new().validate_all(&scrambled).expect("the scrambled module is valid");
    scrambled
}

impl Scrambler {
    fn count(&mut self, wasm: &[u8]) {
        for payload in Parser::new(0).parse_all(wasm) {
            match payload.expect("the module is valid") {
                Payload::TypeSection(section) => self.types = section.count(),
                Payload::FunctionSection(section) => self.functions += section.count(),
                Payload::GlobalSection(section) => self.globals += section.count(),
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        match import.expect("the module is valid").ty {
                            TypeRef::Func(_) => self.functions += 1,
                            TypeRef::Global(_) => self.globals += 1,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

impl Reencode for Scrambler {
    type Error = std::convert::Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), Error> {
        wasm_encoder::reencode::utils::parse_type_section(self, types, section)?;
        for (_, ty) in SHAPES {
            types.ty().function([ty], [ty]);
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error> {
        wasm_encoder::reencode::utils::parse_function_section(self, functions, section)?;
        for shape in 0..SHAPES.len() as u32 {
            functions.function(self.types + shape);
        }
        Ok(())
    }

    fn parse_global_section(
        &mut self,
        globals: &mut GlobalSection,
        section: wasmparser::GlobalSectionReader<'_>,
    ) -> Result<(), Error> {
        wasm_encoder::reencode::utils::parse_global_section(self, globals, section)?;
        let ty = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
        globals.global(ty, &ConstExpr::i64_const(SEED));
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error> {
        wasm_encoder::reencode::utils::parse_code_section(self, code, section)?;
        for (shape, _) in SHAPES {
            code.function(&another_nan(shape, self.globals));
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            let operator = reader.read()?;
            let shape = arithmetic(&operator);
            function.instruction(&self.instruction(operator)?);
            if let Some(shape) = shape {
                function.instruction(&Instruction::Call(self.functions + shape as u32));
            }
        }
        code.function(&function);
        Ok(())
    }
}

/// Returns the shape of float that an arithmetic operator makes. It is derived from the operator's
/// name, not from the meter's own list.
fn arithmetic(operator: &Operator<'_>) -> Option<Shape> {
    let name = format!("{operator:?}");
    let name = name.split([' ', '{']).next().unwrap_or_default();
    if let "F64PromoteF32" | "F32DemoteF64" | "F64x2PromoteLowF32x4" | "F32x4DemoteF64x2Zero" = name {
        return shape(&name[..5]);
    }
    let arithmetic = ["Add", "Sub", "Mul", "Div", "Sqrt", "Min", "Max", "Ceil", "Floor", "Trunc", "Nearest"];
    let of = shape(name)?;
    let rest = name.trim_start_matches("F32x4").trim_start_matches("F64x2");
    let rest = rest.trim_start_matches("F32").trim_start_matches("F64");
    arithmetic.contains(&rest).then_some(of)
}

fn shape(name: &str) -> Option<Shape> {
    Some(match (name.get(..3)?, name.get(3..5)) {
        ("F32", Some("x4")) => Shape::F32x4,
        ("F64", Some("x2")) => Shape::F64x2,
        ("F32", _) => Shape::F32,
        ("F64", _) => Shape::F64,
        _ => return None,
    })
}

/// Returns a function that returns its parameter, but another NaN for a NaN.
fn another_nan(shape: Shape, seed: u32) -> Function {
    let mut function = Function::new([(1, ValType::V128)]);
    let mut sink = function.instructions();
    let number = sink.local_get(0).local_get(0);
    match shape {
        Shape::F32 => number.f32_eq().if_(BlockType::Empty).local_get(0).return_().end(),
        Shape::F64 => number.f64_eq().if_(BlockType::Empty).local_get(0).return_().end(),
        Shape::F32x4 => number.f32x4_eq().local_set(1),
        Shape::F64x2 => number.f64x2_eq().local_set(1),
    };
    match shape {
        Shape::F32 => {
            random(&mut sink, seed).i32_wrap_i64().i32_const(0x7f80_0001).i32_or().f32_reinterpret_i32();
        }
        Shape::F64 => {
            random(&mut sink, seed).i64_const(0x7ff0_0000_0000_0001).i64_or().f64_reinterpret_i64();
        }
        Shape::F32x4 | Shape::F64x2 => {
            sink.local_get(0);
            random(&mut sink, seed).i64x2_splat();
            random(&mut sink, seed).i64x2_replace_lane(1);
            let lane: u128 = match shape {
                Shape::F32x4 => 0x7f80_0001 * 0x1_0000_0001,
                _ => 0x7ff0_0000_0000_0001,
            };
            sink.v128_const((lane << 64 | lane) as i128).v128_or().local_get(1).v128_bitselect();
        }
    }
    sink.end();
    function
}

/// Pushes the next `i64` on the operand stack.
fn random<'a, 'b>(sink: &'a mut InstructionSink<'b>, seed: u32) -> &'a mut InstructionSink<'b> {
    sink.global_get(seed).i64_const(FACTOR).i64_mul().i64_const(SUMMAND).i64_add().global_set(seed);
    // The low bits of such a generator have short periods.
    sink.global_get(seed).global_get(seed).i64_const(32).i64_shr_u().i64_xor()
}
