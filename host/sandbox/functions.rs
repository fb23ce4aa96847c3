//! The host functions: one list for all engines, whose linkers are similar but not identical. The
//! gate has its own list in [`super::interface`].

/// Calls `$link!` for each function that a guest can import: its name, its parameters, and `asks`
/// if it returns a value, else `tells`.
macro_rules! host_functions {
    ($link:ident) => {
        $link!(input_len() asks);
        $link!(input_read(dst: u32, offset: u64, len: u32) asks);
        $link!(input_blake3(offset: u64, len: u64, dst: u32) tells);
        $link!(blake3(ptr: u32, len: u32, dst: u32) tells);
        $link!(blake3_update(ptr: u32, len: u32) tells);
        $link!(blake3_finish(dst: u32) tells);
        $link!(args_len() asks);
        $link!(args_read(dst: u32, offset: u64, len: u32) asks);
        $link!(asset_len(index: u32) asks);
        $link!(asset_read(index: u32, dst: u32, offset: u64, len: u32) asks);
        $link!(output_write(ptr: u32, len: u32) tells);
        $link!(proof_commit(ptr: u32) tells);
        $link!(log(ptr: u32, len: u32) tells);
    };
}
pub(super) use host_functions;
