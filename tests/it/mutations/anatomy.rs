//! Parsed modules: sections, function bodies, and the position of each operator.

use std::ops::Range;

use wasmparser::{FunctionBody, Operator, Parser, Payload, ValType, ValidPayload, Validator};

/// A valid module.
pub struct Anatomy {
    pub wasm: Vec<u8>,
    /// Number and content of each section.
    pub sections: Vec<(u8, Vec<u8>)>,
    pub functions: Vec<Function>,
    /// Type of each function, the imported ones first.
    pub types: Vec<u32>,
    pub globals: u32,
}

pub struct Function {
    /// Locals and code, without the length prefix.
    pub body: Vec<u8>,
    pub ty: u32,
    pub locals: Vec<ValType>,
    pub operators: Vec<Place>,
    /// Runs of operators that leave the height of the operand stack and the number of blocks
    /// unchanged.
    pub neutral: Vec<Range<usize>>,
}

/// Position of an operator in its body, and its block depth.
pub struct Place {
    pub bytes: Range<usize>,
    pub depth: u32,
}

/// Longest neutral run that is searched for.
const NEUTRAL_OPERATORS_MAX: usize = 24;

impl Anatomy {
    pub fn of(wasm: &[u8]) -> Self {
        let mut anatomy =
            Self { wasm: wasm.to_vec(), sections: Vec::new(), functions: Vec::new(), types: Vec::new(), globals: 0 };
        let mut validator = Validator::new();
        let mut imported = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.expect("it was admitted");
            if let Some((id, range)) = payload.as_section() {
                anatomy.sections.push((id, wasm[range].to_vec()));
            }
            if let Payload::GlobalSection(globals) = &payload {
                anatomy.globals = globals.count();
            }
            let bodies = anatomy.functions.len();
            if let ValidPayload::Func(function, body) = validator.payload(&payload).expect("it was admitted") {
                let ty = anatomy.types[imported + bodies];
                let mut validator = function.into_validator(Default::default());
                anatomy.functions.push(Function::of(ty, &body, &mut validator));
            }
            match payload {
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        if let wasmparser::TypeRef::Func(ty) = import.expect("it was admitted").ty {
                            anatomy.types.push(ty);
                        }
                    }
                    imported = anatomy.types.len();
                }
                Payload::FunctionSection(functions) => {
                    anatomy.types.extend(functions.into_iter().map(|ty| ty.expect("it was admitted")));
                }
                _ => {}
            }
        }
        anatomy
    }

    /// Returns the module with other function bodies, in their order.
    pub fn with_bodies<'a>(&'a self, bodies: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        const CODE: u8 = 10;
        let mut code = Vec::new();
        leb(&mut code, self.functions.len() as u64);
        for body in bodies {
            leb(&mut code, body.len() as u64);
            code.extend(body);
        }
        let mut sections = self.sections.clone();
        sections.iter_mut().filter(|(id, _)| *id == CODE).for_each(|(_, content)| content.clone_from(&code));
        encode(&sections)
    }

    /// Returns the module with another body for one function.
    pub fn with_body(&self, function: usize, body: &[u8]) -> Vec<u8> {
        let bodies = self.functions.iter().enumerate();
        self.with_bodies(bodies.map(|(i, other)| if i == function { body } else { &other.body[..] }))
    }
}

impl Function {
    fn of(
        ty: u32,
        body: &FunctionBody<'_>,
        validator: &mut wasmparser::FuncValidator<wasmparser::ValidatorResources>,
    ) -> Self {
        let start = body.range().start;
        let mut locals = body.get_binary_reader();
        validator.read_locals(&mut locals).expect("it was admitted");
        let mut reader = body.get_operators_reader().expect("it was admitted");
        let mut operators = Vec::new();
        // Stack height and block count before each operator and after the last. An `else` leaves
        // its block.
        let mut heights = vec![(0, 1)];
        let mut steps_out = Vec::new();
        while !reader.eof() {
            let (operator, at) = reader.read_with_offset().expect("it was admitted");
            let depth = validator.control_stack_height();
            validator.op(at, &operator).expect("it was admitted");
            operators.push(Place { bytes: at - start..reader.original_position() - start, depth });
            heights.push((validator.operand_stack_height(), validator.control_stack_height()));
            steps_out.push(matches!(operator, Operator::Else));
        }
        let locals = (0..validator.len_locals()).filter_map(|local| validator.get_local_type(local)).collect();
        let neutral = neutral(&operators, &heights, &steps_out);
        Self { body: body.as_bytes().to_vec(), ty, locals, operators, neutral }
    }
}

fn neutral(operators: &[Place], heights: &[(u32, u32)], steps_out: &[bool]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for first in 0..operators.len() {
        let (values, blocks) = heights[first];
        for last in first..operators.len().min(first + NEUTRAL_OPERATORS_MAX) {
            let (after, blocks_after) = heights[last + 1];
            if after < values || blocks_after < blocks || (steps_out[last] && blocks_after == blocks) {
                break;
            }
            if (after, blocks_after) == (values, blocks) {
                found.push(operators[first].bytes.start..operators[last].bytes.end);
            }
        }
    }
    found
}

pub fn encode(sections: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (id, content) in sections {
        wasm.push(*id);
        leb(&mut wasm, content.len() as u64);
        wasm.extend(content);
    }
    wasm
}

/// Appends unsigned LEB128.
pub fn leb(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Appends signed LEB128.
pub fn signed_leb(to: &mut Vec<u8>, mut value: i64) {
    loop {
        let (byte, rest) = (value as u8 & 0x7f, value >> 7);
        if (rest == 0 && byte & 0x40 == 0) || (rest == -1 && byte & 0x40 != 0) {
            return to.push(byte);
        }
        to.push(byte | 0x80);
        value = rest;
    }
}
