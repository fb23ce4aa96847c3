//! The `compute` ABI, version 1: the names and types that a guest may import and must export.

use wasmparser::ValType;

/// The module name of a guest's imports.
pub const ABI_MODULE: &str = "compute";

/// Name, parameters and results.
pub type AbiFunction = (&'static str, &'static [ValType], &'static [ValType]);

/// The functions that a guest may import and the linker provides.
pub const ABI_FUNCTIONS: &[AbiFunction] = {
    const I: ValType = ValType::I32;
    const L: ValType = ValType::I64;
    &[
        ("input_len", &[], &[L]),
        ("input_read", &[I, L, I], &[I]),
        ("input_blake3", &[L, L, I], &[]),
        ("blake3", &[I, I, I], &[]),
        ("blake3_update", &[I, I], &[]),
        ("blake3_finish", &[I], &[]),
        ("args_len", &[], &[L]),
        ("args_read", &[I, L, I], &[I]),
        ("asset_len", &[I], &[L]),
        ("asset_read", &[I, I, L, I], &[I]),
        ("output_write", &[I, I], &[]),
        ("proof_commit", &[I], &[]),
        ("log", &[I, I], &[]),
    ]
};

/// Returns whether an export name is reserved. Reserved are names that say how to start a module,
/// because this host calls `run`, and names for later versions of the ABI. If `_initialize` is
/// exported, it must be a function.
pub fn is_reserved_export(name: &str) -> bool {
    matches!(name, "_start" | "_initialize") || name.starts_with("compute_")
}
