//! What a guest may import, and must export: the `compute` ABI, version 1.

use wasmparser::ValType;

/// The module that a guest's imports come from.
pub const ABI_MODULE: &str = "compute";

/// Name, parameters, results.
pub type AbiFunction = (&'static str, &'static [ValType], &'static [ValType]);

/// What a guest may import, and the linker offers.
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

/// A name that says how a module wants to be started, where `run` is what is called here; and the ABI's own, for its
/// later versions. `_initialize` is a function, or nothing.
pub fn is_reserved_export(name: &str) -> bool {
    matches!(name, "_start" | "_initialize") || name.starts_with("compute_")
}
