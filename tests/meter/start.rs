//! Modules with a start function, which the gate refuses and the test suite contains. The function
//! is exported instead, and called.

use wasm_encoder::reencode::{Error, Reencode, RoundtripReencoder};
use wasm_encoder::{ExportKind, ExportSection, Module, RawSection};
use wasmparser::{Parser, Payload};

/// Name of the export.
pub const EXPORT: &str = "the start function";

/// Returns the module without its start function, and whether the module had one.
pub fn exported(wasm: &[u8]) -> (Vec<u8>, bool) {
    let start = Parser::new(0).parse_all(wasm).find_map(|payload| match payload {
        Ok(Payload::StartSection { func, .. }) => Some(func),
        _ => None,
    });
    match start {
        None => (wasm.to_vec(), false),
        Some(function) => (with_export(wasm, function).expect("the module is valid"), true),
    }
}

fn with_export(wasm: &[u8], function: u32) -> Result<Vec<u8>, Error> {
    let mut module = Module::new();
    let mut exports = ExportSection::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload?;
        match payload {
            Payload::ExportSection(section) => RoundtripReencoder.parse_export_section(&mut exports, section)?,
            // The export section replaces the start section, which comes after it.
            Payload::StartSection { .. } => {
                exports.export(EXPORT, ExportKind::Func, function);
                module.section(&exports);
            }
            _ => {
                if let Some((id, range)) = payload.as_section() {
                    module.section(&RawSection { id, data: &wasm[range] });
                }
            }
        }
    }
    Ok(module.finish())
}
