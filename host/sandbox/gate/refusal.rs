//! Refusals: the rule that a module breaks, the value and place found, and a remedy.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits::LimitName;
use crate::sandbox::interface::ABI_MODULE;

/// A rule that a module breaks, and the place where it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub rule: Rule,
    pub place: Position,
}

/// A place in the module: its byte offset, and the function by index and by name, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
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
    /// The bytes are not WebAssembly, or use features that are not allowed.
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
    /// A segment that does not fit the declared size of its memory or table.
    SegmentRange {
        what: Cow<'static, str>,
    },
}

impl Rule {
    /// Returns the rule against exact function types. The validator accepts them as functions even
    /// if their proposal is off.
    pub fn exact_function() -> Self {
        Self::Invalid { message: "exact function types require the custom descriptors proposal".to_owned() }
    }
}

impl Refusal {
    /// Returns the stable name of the rule, for programs.
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

    /// Returns advice for the module's author.
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

/// Returns the compiler flag that turns off the feature in the validator's `message`.
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

/// Returns the usual cause of such an import, and its remedy.
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
            Some((index, Some(name))) => write!(f, "function {index} ({})", QuotedText(name))?,
            Some((index, None)) => write!(f, "function {index}")?,
            None => f.write_str("the module")?,
        }
        match &self.rule {
            Rule::Limit { name, max, found } => {
                write!(f, " has {found} {}; at most {max} are admitted", name.limit().what)
            }
            Rule::Invalid { message } => write!(f, " is not valid: {}", QuotedText(message)),
            Rule::Component => f.write_str(" is a component; a core module is expected"),
            Rule::UnknownImport { module, name } => {
                write!(
                    f,
                    " imports {} from {}, which is not part of the compute ABI",
                    QuotedText(name),
                    QuotedText(module)
                )
            }
            Rule::ImportSignature { name, expected, found } => {
                write!(f, " imports `{ABI_MODULE}.{name}` as {found}; in the compute ABI it is {expected}")
            }
            Rule::NoMemory => f.write_str(" has no memory"),
            Rule::NoMemoryExport => f.write_str(" does not export its memory as `memory`"),
            Rule::NoRunExport => f.write_str(" does not export a function `run`"),
            Rule::RunSignature { found } => write!(f, " exports `run` as {found}; (func (result i32)) is expected"),
            Rule::InitializeSignature { found } => write!(f, " exports `_initialize` as {found}; (func) is expected"),
            Rule::ReservedExport { name } => write!(f, " exports {}, a name that is reserved", QuotedText(name)),
            Rule::SegmentRange { what } => write!(f, " has a {what} segment that does not fit where it is put"),
        }?;
        self.place.offset.map_or(Ok(()), |offset| write!(f, " (at byte {offset})"))
    }
}

impl std::error::Error for Refusal {}

/// Maximum bytes of a stored name. Longer names are cut, so that a report has a bounded size.
const KEPT_BYTES_MAX: usize = 256;

/// Returns the beginning of a name from an untrusted module.
pub fn shortened(name: &str) -> String {
    match name.len() {
        0..=KEPT_BYTES_MAX => name.to_owned(),
        _ => format!("{}...", &name[..name.floor_char_boundary(KEPT_BYTES_MAX)]),
    }
}

/// Untrusted text inside our message: in quotes, on one line, bounded, and without control
/// sequences for a terminal.
struct QuotedText<'a>(&'a str);

/// Maximum characters of a displayed name; longer names are cut.
const SHOWN_CHARS_MAX: usize = 80;

impl fmt::Display for QuotedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        f.write_str("`")?;
        for c in chars.by_ref().take(SHOWN_CHARS_MAX) {
            // Quotation marks are harmless. Invisible characters and those that change the writing
            // direction are escaped.
            if matches!(c, '\'' | '"') { write!(f, "{c}")? } else { write!(f, "{}", c.escape_debug())? }
        }
        f.write_str(if chars.next().is_some() { "...`" } else { "`" })
    }
}
