//! Binds the ABI's plain functions to the engine: each call is charged, then given the guest's memory and its run.

use wasmtime::{Caller, Engine, Linker, Memory, ResourceLimiter, Result};

use super::abi::{self, RunState, Stop};
use super::{check, engine};
use crate::limits::Limits;

/// What a store holds: the run, and what the engine needs of it.
pub struct Guest {
    pub run: RunState,
    /// The guest's memory, known once it is instantiated.
    pub memory: Option<Memory>,
    /// Why a host call ended the run.
    pub stop: Option<Stop>,
    pub growth: Growth,
}

/// Bounds what a guest may grow. What it may not have is refused here, before the host tries, and the guest reads -1; so
/// a failure to grow is always the host's, and must not be told the guest as if it were the job's limit.
pub struct Growth {
    memory_bytes_max: u64,
    /// The largest size of the memory.
    pub memory_bytes: u64,
    pub host_failed: bool,
}

impl Growth {
    pub fn new(limits: &Limits) -> Self {
        Self { memory_bytes_max: limits.memory_bytes, memory_bytes: 0, host_failed: false }
    }
}

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let granted = desired as u64 <= self.memory_bytes_max && maximum.is_none_or(|maximum| desired <= maximum);
        if granted {
            self.memory_bytes = self.memory_bytes.max(desired as u64);
        }
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.host_failed = true;
        Err(error)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        Ok(desired as u64 <= check::GateLimits::DEFAULT.table_elements
            && maximum.is_none_or(|maximum| desired <= maximum))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.host_failed = true;
        Err(error)
    }
}

/// A host call over guest memory: charges for `bytes`, then acts.
fn call<R>(
    caller: &mut Caller<'_, Guest>,
    bytes: u64,
    act: impl FnOnce(&mut [u8], &mut RunState) -> Result<R, Stop>,
) -> Result<R> {
    engine::charge(caller, bytes)?;
    let memory = caller.data().memory.ok_or_else(|| wasmtime::format_err!("a host call before `run`"))?;
    let (memory, guest) = memory.data_and_store_mut(caller);
    act(memory, &mut guest.run).map_err(|stop| {
        guest.stop = Some(stop);
        wasmtime::format_err!("a host call ended the run")
    })
}

/// All that a guest can import; [`check::ABI_FUNCTIONS`] is the same list for the gate.
pub fn linker(engine: &Engine) -> Result<Linker<Guest>> {
    type C<'a> = Caller<'a, Guest>;
    let mut linker = Linker::new(engine);
    let abi = check::ABI_MODULE;
    linker
        .func_wrap(abi, "input_len", |mut c: C<'_>| call(&mut c, 0, |_, run| Ok(abi::input_len(run))))?
        .func_wrap(abi, "input_read", |mut c: C<'_>, dst: u32, offset: u64, len: u32| {
            let bytes = c.data().run.input.cost(offset, len.into());
            call(&mut c, bytes, |memory, run| abi::input_read(memory, run, dst, offset, len))
        })?
        .func_wrap(abi, "input_blake3", |mut c: C<'_>, offset: u64, len: u64, dst: u32| {
            let bytes = c.data().run.input.cost(offset, len);
            call(&mut c, bytes, |memory, run| abi::input_blake3(memory, run, offset, len, dst))
        })?
        .func_wrap(abi, "blake3", |mut c: C<'_>, ptr: u32, len: u32, dst: u32| {
            call(&mut c, len.into(), |memory, _| abi::blake3(memory, ptr, len, dst))
        })?
        .func_wrap(abi, "blake3_update", |mut c: C<'_>, ptr: u32, len: u32| {
            call(&mut c, len.into(), |memory, run| abi::blake3_update(memory, run, ptr, len))
        })?
        .func_wrap(abi, "blake3_finish", |mut c: C<'_>, dst: u32| {
            call(&mut c, 32, |memory, run| abi::blake3_finish(memory, run, dst))
        })?
        .func_wrap(abi, "args_len", |mut c: C<'_>| call(&mut c, 0, |_, run| Ok(abi::args_len(run))))?
        .func_wrap(abi, "args_read", |mut c: C<'_>, dst: u32, offset: u64, len: u32| {
            call(&mut c, len.into(), |memory, run| abi::args_read(memory, run, dst, offset, len))
        })?
        .func_wrap(abi, "asset_len", |mut c: C<'_>, index: u32| {
            call(&mut c, 0, |_, run| Ok(abi::asset_len(run, index)))
        })?
        .func_wrap(abi, "asset_read", |mut c: C<'_>, index: u32, dst: u32, offset: u64, len: u32| {
            call(&mut c, len.into(), |memory, run| abi::asset_read(memory, run, index, dst, offset, len))
        })?
        .func_wrap(abi, "output_write", |mut c: C<'_>, ptr: u32, len: u32| {
            call(&mut c, len.into(), |memory, run| abi::output_write(memory, run, ptr, len))
        })?
        .func_wrap(abi, "proof_commit", |mut c: C<'_>, ptr: u32| {
            call(&mut c, 32, |memory, run| abi::proof_commit(memory, run, ptr))
        })?
        .func_wrap(abi, "log", |mut c: C<'_>, ptr: u32, len: u32| {
            call(&mut c, len.into(), |memory, run| abi::log(memory, run, ptr, len))
        })?;
    Ok(linker)
}
