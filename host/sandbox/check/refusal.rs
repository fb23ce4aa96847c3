//! Why a module is not admitted: the rule, what was found and where, and what to do about it.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits::LimitName;
use crate::sandbox::interface::ABI_MODULE;

/// A rule that a module breaks, and the place where it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub rule: Rule,
    pub place: Place,
}

/// Where in the module's bytes; and in which function, by its index and its name if the module has one for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub offset: Option<u64>,
    pub function: Option<(u32, Option<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    Limit {
        name: LimitName,
        max: u64,
        found: u64,
    },
    /// Not WebAssembly, or not of the features that we allow.
    Invalid {
        message: String,
    },
    Component,
    UnknownImport {
        module: String,
        name: String,
    },
    ImportSignature {
        name: Cow<'static, str>,
        expected: String,
        found: String,
    },
    NoMemory,
    NoMemoryExport,
    NoRunExport,
    RunSignature {
        found: String,
    },
    InitializeSignature {
        found: String,
    },
    ReservedExport {
        name: String,
    },
    /// A segment that does not lie where the module says that there is room for it.
    SegmentRange {
        what: Cow<'static, str>,
    },
}

impl Rule {
    /// The validator takes exact function types for functions, whether the proposal is admitted or not.
    pub fn exact_function() -> Self {
        Self::Invalid { message: "exact function types require the custom descriptors proposal".to_owned() }
    }
}

impl Refusal {
    /// The stable name of the rule, for programs.
    pub fn code(&self) -> &'static str {
        match &self.rule {
            Rule::Limit { name, .. } => name.limit().key,
            Rule::Invalid { .. } => "invalid",
            Rule::Component => "component",
            Rule::UnknownImport { .. } => "unknown_import",
            Rule::ImportSignature { .. } => "import_signature",
            Rule::NoMemory => "no_memory",
            Rule::NoMemoryExport => "no_memory_export",
            Rule::NoRunExport => "no_run_export",
            Rule::RunSignature { .. } => "run_signature",
            Rule::InitializeSignature { .. } => "initialize_signature",
            Rule::ReservedExport { .. } => "reserved_export",
            Rule::SegmentRange { .. } => "segment_range",
        }
    }

    /// What its author can do.
    pub fn hint(&self) -> &'static str {
        match &self.rule {
            Rule::Limit { name, .. } => name.limit().hint,
            Rule::Invalid { message } => feature_hint(message),
            Rule::Component => "build a core module, for wasm32-unknown-unknown",
            Rule::UnknownImport { module, name } => import_hint(module, name),
            Rule::ImportSignature { .. } => "declare it as the ABI has it, or use the SDK in guest-workloads/",
            Rule::NoMemory => "give the module a memory of its own (without `--import-memory`)",
            Rule::NoMemoryExport => "export the memory under the name `memory`",
            Rule::NoRunExport => "export a function `run` without parameters that returns an i32",
            Rule::RunSignature { .. } => "`run` takes nothing and returns an i32: 0 for done, or a failure code",
            Rule::InitializeSignature { .. } => {
                "`_initialize` is what a reactor sets itself up with, and is called before `run`: it takes and returns nothing"
            }
            Rule::ReservedExport { .. } => "build a library without an entry point (`--no-entry`, crate type `cdylib`)",
            Rule::SegmentRange { .. } => "segments lie at constant offsets within the memory or table that starts",
        }
    }
}

/// Which flag of which compiler turns off what is not admitted.
fn feature_hint(message: &str) -> &'static str {
    const HINTS: &[(&str, &str)] = &[
        ("unexpected end", "the file breaks off: copy, build or download it again"),
        ("threads", "build without threads and shared memory"),
        ("shared", "build without threads and shared memory"),
        ("memory64", "build for wasm32"),
        ("64-bit", "build for wasm32"),
        ("exceptions", "build without exceptions (`-fno-exceptions`, `panic=abort`)"),
        ("tail calls", "build without tail calls (`-mno-tail-call`)"),
        ("relaxed SIMD", "relaxed SIMD gives other bits on other machines; use SIMD"),
        ("multiple memories", "use one memory"),
        ("multi-memory", "use one memory"),
        ("gc types", "references to the host's objects (`externref`) are not admitted"),
        ("gc", "garbage-collected types are not admitted; compile to linear memory"),
        ("function references", "typed function references are not admitted"),
        ("constant expression required", "initialise with constants, their sums, differences and products"),
        ("externref", "references to the host's objects are not admitted"),
    ];
    let hint = HINTS.iter().find(|(word, _)| message.contains(word));
    hint.map_or("build it anew for wasm32-unknown-unknown; `wasm-tools validate` shows more", |(_, hint)| hint)
}

/// What usually brings such an import in.
fn import_hint(module: &str, name: &str) -> &'static str {
    match (module, name) {
        ("env", "memory") => "let the module have a memory of its own (without `--import-memory`)",
        ("env", "abort") => "in AssemblyScript, build with `--runtime stub --use abort=`",
        ("env", _) => "a function is declared but not defined: define it, or import it from `compute`",
        ("wasi_snapshot_preview1" | "wasi_unstable", _) => {
            "there is no WASI here: build for wasm32-unknown-unknown (C: wasm32-freestanding) and use the compute ABI"
        }
        ("wbg" | "__wbindgen_placeholder__" | "__wbindgen_externref_xform__", _) => {
            "this is made for JavaScript: build without wasm-bindgen and use the SDK in guest-workloads/"
        }
        ("go" | "gojs", _) => "this is made for JavaScript: Go's own compiler needs a host that it knows",
        (module, _) if module == ABI_MODULE => "the compute ABI has no such function",
        _ => "a guest imports functions of the compute ABI alone",
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place.function {
            Some((index, Some(name))) => write!(f, "function {index} ({})", Quoted(name))?,
            Some((index, None)) => write!(f, "function {index}")?,
            None => f.write_str("the module")?,
        }
        match &self.rule {
            Rule::Limit { name, max, found } => {
                write!(f, " has {found} {}; at most {max} are admitted", name.limit().what)
            }
            Rule::Invalid { message } => write!(f, " is not valid: {}", Quoted(message)),
            Rule::Component => f.write_str(" is a component; a core module is expected"),
            Rule::UnknownImport { module, name } => {
                write!(f, " imports {} from {}, which is not part of the compute ABI", Quoted(name), Quoted(module))
            }
            Rule::ImportSignature { name, expected, found } => {
                write!(f, " imports `{ABI_MODULE}.{name}` as {found}; in the compute ABI it is {expected}")
            }
            Rule::NoMemory => f.write_str(" has no memory"),
            Rule::NoMemoryExport => f.write_str(" does not export its memory as `memory`"),
            Rule::NoRunExport => f.write_str(" does not export a function `run`"),
            Rule::RunSignature { found } => write!(f, " exports `run` as {found}; (func (result i32)) is expected"),
            Rule::InitializeSignature { found } => write!(f, " exports `_initialize` as {found}; (func) is expected"),
            Rule::ReservedExport { name } => write!(f, " exports {}, a name that is reserved", Quoted(name)),
            Rule::SegmentRange { what } => write!(f, " has a {what} segment that does not fit where it is put"),
        }?;
        self.place.offset.map_or(Ok(()), |offset| write!(f, " (at byte {offset})"))
    }
}

impl std::error::Error for Refusal {}

/// Longer names are cut where they are kept, so that a report has a size.
const KEPT_BYTES_MAX: usize = 256;

/// The beginning of a name that a stranger chose.
pub fn shortened(name: &str) -> String {
    match name.len() {
        0..=KEPT_BYTES_MAX => name.to_owned(),
        _ => format!("{}...", &name[..name.floor_char_boundary(KEPT_BYTES_MAX)]),
    }
}

/// A stranger's text in our sentence: in quotes, on one line, without what steers a terminal, and not endless.
struct Quoted<'a>(&'a str);

/// Longer names are cut when they are shown.
const SHOWN_CHARS_MAX: usize = 80;

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        f.write_str("`")?;
        for c in chars.by_ref().take(SHOWN_CHARS_MAX) {
            // Quotes are no danger; what cannot be seen, or turns the direction of writing, is written out.
            if matches!(c, '\'' | '"') { write!(f, "{c}")? } else { write!(f, "{}", c.escape_debug())? }
        }
        f.write_str(if chars.next().is_some() { "...`" } else { "`" })
    }
}
