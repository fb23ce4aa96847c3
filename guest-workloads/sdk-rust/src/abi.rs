//! The `compute` ABI, version 1, as the host declares it in `host/sandbox/gate.rs`. On wasm32 a
//! pointer and a `usize` are an `i32` of WebAssembly. WebAssembly integers have no sign; guest and
//! host agree on it.

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "compute")]
unsafe extern "C" {
    pub safe fn input_len() -> u64;
    pub fn input_read(dst: *mut u8, offset: u64, len: usize) -> usize;
    pub fn input_blake3(offset: u64, len: u64, dst: *mut u8);
    pub fn blake3(ptr: *const u8, len: usize, dst: *mut u8);
    pub fn blake3_update(ptr: *const u8, len: usize);
    pub fn blake3_finish(dst: *mut u8);
    pub safe fn args_len() -> u64;
    pub fn args_read(dst: *mut u8, offset: u64, len: usize) -> usize;
    pub safe fn asset_len(index: u32) -> i64;
    pub fn asset_read(index: u32, dst: *mut u8, offset: u64, len: usize) -> usize;
    pub fn output_write(ptr: *const u8, len: usize);
    pub fn proof_commit(ptr: *const u8);
    pub fn log(ptr: *const u8, len: usize);
}

#[cfg(not(target_arch = "wasm32"))]
pub use elsewhere::*;

/// Functions for other targets, without a host: a guest can be checked, documented and linked
/// there, and its own functions tested.
#[cfg(not(target_arch = "wasm32"))]
mod elsewhere {
    #[cold]
    fn no_host() -> ! {
        panic!("there is no host to ask: build for wasm32-unknown-unknown, and let the node run it")
    }

    pub fn input_len() -> u64 {
        no_host()
    }

    pub unsafe fn input_read(_dst: *mut u8, _offset: u64, _len: usize) -> usize {
        no_host()
    }

    pub unsafe fn input_blake3(_offset: u64, _len: u64, _dst: *mut u8) {
        no_host()
    }

    pub unsafe fn blake3(_ptr: *const u8, _len: usize, _dst: *mut u8) {
        no_host()
    }

    pub unsafe fn blake3_update(_ptr: *const u8, _len: usize) {
        no_host()
    }

    pub unsafe fn blake3_finish(_dst: *mut u8) {
        no_host()
    }

    pub fn args_len() -> u64 {
        no_host()
    }

    pub unsafe fn args_read(_dst: *mut u8, _offset: u64, _len: usize) -> usize {
        no_host()
    }

    pub fn asset_len(_index: u32) -> i64 {
        no_host()
    }

    pub unsafe fn asset_read(_index: u32, _dst: *mut u8, _offset: u64, _len: usize) -> usize {
        no_host()
    }

    pub unsafe fn output_write(_ptr: *const u8, _len: usize) {
        no_host()
    }

    pub unsafe fn proof_commit(_ptr: *const u8) {
        no_host()
    }

    pub unsafe fn log(_ptr: *const u8, _len: usize) {
        no_host()
    }
}
