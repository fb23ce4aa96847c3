//! The names of functions, looked up only for what is refused: by their exports, or else in the `name` section.

use std::collections::HashMap;

use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload};

use super::refusal::Refusal;

/// Names what `refusals` say of functions, as far as the module does.
pub fn fill_in(wasm: &[u8], refusals: &mut [Refusal]) {
    let mut wanted: HashMap<u32, Option<String>> =
        refusals.iter().filter_map(|refusal| Some((refusal.place.function.as_ref()?.0, None))).collect();
    if wanted.is_empty() {
        return;
    }
    let mut is_named = |index, name: &str| {
        if let Some(unnamed @ None) = wanted.get_mut(&index) {
            *unnamed = Some(name.to_owned());
        }
    };
    // What cannot be read names nothing.
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
    for refusal in refusals {
        if let Some((index, name)) = &mut refusal.place.function {
            *name = wanted.get(index).cloned().flatten();
        }
    }
}
