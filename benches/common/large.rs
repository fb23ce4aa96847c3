//! Module of any size, with the code that compilers emit.

use wasm_encoder::{CodeSection, FunctionSection, Module, RawSection};
use wasmparser::{Parser, Payload};

/// Returns a module of about `bytes` bytes: the word counter in Rust, with its functions repeated.
pub fn module(bytes: usize) -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/guest-workloads/dist/word-count-rust.wasm");
    let wasm = std::fs::read(path).unwrap();
    let (mut types, mut bodies) = (Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload.unwrap() {
            Payload::FunctionSection(section) => types = section.into_iter().map(Result::unwrap).collect(),
            Payload::CodeSectionEntry(body) => bodies.push(body.range()),
            _ => {}
        }
    }
    let copies = bytes / bodies.iter().map(|range| range.len()).sum::<usize>();
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    for _ in 0..copies {
        for (ty, range) in types.iter().zip(&bodies) {
            functions.function(*ty);
            code.raw(&wasm[range.clone()]);
        }
    }
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(&wasm) {
        match payload.unwrap() {
            Payload::FunctionSection(_) => {
                module.section(&functions);
            }
            Payload::CodeSectionStart { .. } => {
                module.section(&code);
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    module.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    module.finish()
}
