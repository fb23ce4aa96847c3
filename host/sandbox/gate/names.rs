//! Names of functions, from the exports or else from the `name` section. Only messages and reports
//! need names.

use std::collections::HashMap;

use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload, TypeRef};

use super::refusal::{Refusal, shortened};

/// Adds function names to `refusals`, as far as the module has names.
pub fn fill_in(wasm: &[u8], refusals: &mut [Refusal]) {
    let mut wanted: HashMap<u32, Option<String>> =
        refusals.iter().filter_map(|refusal| Some((refusal.place.function.as_ref()?.0, None))).collect();
    if wanted.is_empty() {
        return;
    }
    each_name(wasm, |index, name| {
        if let Some(unnamed @ None) = wanted.get_mut(&index) {
            *unnamed = Some(shortened(name));
        }
    });
    for refusal in refusals {
        if let Some((index, name)) = &mut refusal.place.function {
            *name = wanted.get(index).cloned().flatten();
        }
    }
}

/// Returns the index and the name, if any, of each function that has a body, in order.
pub fn functions(wasm: &[u8]) -> Vec<(u32, Option<String>)> {
    let (mut imported, mut bodies) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            Payload::ImportSection(imports) => {
                let functions = imports.into_imports().map_while(Result::ok);
                imported = functions.filter(|import| matches!(import.ty, TypeRef::Func(_))).count() as u32;
            }
            Payload::FunctionSection(functions) => bodies = functions.count(),
            _ => {}
        }
    }
    let mut names: HashMap<u32, String> = HashMap::new();
    each_name(wasm, |index, name| {
        names.entry(index).or_insert_with(|| name.to_owned());
    });
    (imported..imported + bodies).map(|index| (index, names.remove(&index))).collect()
}

/// Calls `is_named` for each name of a function. Unreadable parts are skipped.
fn each_name(wasm: &[u8], mut is_named: impl FnMut(u32, &str)) {
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            Payload::ExportSection(exports) => {
                let functions = exports.into_iter().flatten().filter(|export| export.kind == ExternalKind::Func);
                functions.for_each(|export| is_named(export.index, export.name));
            }
            Payload::CustomSection(section) => {
                let KnownCustom::Name(names) = section.as_known() else { continue };
                for subsection in names.into_iter().map_while(Result::ok) {
                    if let Name::Function(functions) = subsection {
                        functions.into_iter().map_while(Result::ok).for_each(|name| is_named(name.index, name.name));
                    }
                }
            }
            _ => {}
        }
    }
}
