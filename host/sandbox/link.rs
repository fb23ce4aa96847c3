//! Linker: binds the plain functions of the ABI to the engine.

use wasmtime::{Caller, Engine, Instance, Linker, Memory, ResourceLimiter, Result, Store, Val};

use super::abi::{HostCall, HostResult, HostReturn, HostState};
use super::functions::host_functions;
use super::gate;
use super::interface::ABI_MODULE;
use super::interrupt::HostInterrupt;
use super::meter::{self, REFILL};
use crate::limits::Limits;

/// The data in a wasmtime store: the run, and the handles that the engine needs.
pub struct StoreData {
    pub run: HostState,
    /// The guest, after instantiation.
    pub instance: Option<Instance>,
    /// The guest's memory, after instantiation.
    pub memory: Option<Memory>,
    /// The reason why a host call ended the run.
    pub stop: Option<HostInterrupt>,
    pub growth: MemoryLimiter,
}

/// Resource limiter for the growth of memory and tables. Growth beyond the limits is refused before
/// the host tries, and the guest reads -1. So a failed attempt to grow is always the host's
/// failure, and must not appear to the guest as the job's limit.
pub struct MemoryLimiter {
    memory_bytes_max: u64,
    /// The largest size that the memory has had.
    pub memory_bytes: u64,
    pub host_failed: bool,
}

impl MemoryLimiter {
    pub fn new(limits: &Limits) -> Self {
        Self { memory_bytes_max: limits.memory_bytes, memory_bytes: 0, host_failed: false }
    }
}

impl MemoryLimiter {
    /// Returns whether the memory may grow to `desired` bytes.
    pub fn admits_memory(&mut self, desired: usize, maximum: Option<usize>) -> bool {
        let admitted = desired as u64 <= self.memory_bytes_max && maximum.is_none_or(|maximum| desired <= maximum);
        if admitted {
            self.memory_bytes = self.memory_bytes.max(desired as u64);
        }
        admitted
    }

    /// Returns whether the table may grow to `desired` elements.
    pub fn admits_table(&self, desired: usize, maximum: Option<usize>) -> bool {
        desired as u64 <= gate::GateLimits::DEFAULT.table_elements && maximum.is_none_or(|maximum| desired <= maximum)
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        Ok(self.admits_memory(desired, maximum))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.host_failed = true;
        Err(error)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        Ok(self.admits_table(desired, maximum))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.host_failed = true;
        Err(error)
    }
}

/// Returns a linker with all functions that a metered guest can import. The meter's state is the
/// last parameter and the last result of each.
pub fn linker(engine: &Engine) -> Result<Linker<StoreData>> {
    let mut linker = Linker::new(engine);
    macro_rules! link {
        ($name:ident ($($argument:ident: $type:ty),*) asks) => {
            linker.func_wrap(ABI_MODULE, stringify!($name), |caller: Caller<'_, StoreData>, $($argument: $type,)* state: i64| {
                let arguments = [$(u64::from($argument)),*];
                call(caller, state, (stringify!($name), &arguments), |call| call.$name($($argument),*))
            })?;
        };
        ($name:ident ($($argument:ident: $type:ty),*) tells) => {
            linker.func_wrap(ABI_MODULE, stringify!($name), |caller: Caller<'_, StoreData>, $($argument: $type,)* state: i64| {
                let arguments = [$(u64::from($argument)),*];
                let told = call(caller, state, (stringify!($name), &arguments), |call| call.$name($($argument),*));
                told.map(|((), state)| state)
            })?;
        };
    }
    host_functions!(link);
    linker.func_wrap(ABI_MODULE, REFILL, refill)?;
    Ok(linker)
}

fn call<R: HostReturn>(
    mut caller: Caller<'_, StoreData>,
    state: i64,
    name: (&str, &[u64]),
    act: impl FnOnce(&mut HostCall<'_>) -> HostResult<R>,
) -> Result<(R, i64)> {
    let memory = memory(&caller)?;
    let (memory, guest) = memory.data_and_store_mut(&mut caller);
    guest.run.call(memory, state, name, act).map_err(|stop| guest.ended(stop))
}

fn refill(mut caller: Caller<'_, StoreData>, state: i64) -> Result<i64> {
    let memory = memory(&caller)?;
    let memory_bytes = memory.data_size(&caller);
    let is_at_checkpoint = caller.data_mut().run.is_at_checkpoint(memory_bytes);
    let globals = is_at_checkpoint.then(|| {
        let mut globals = Vec::new();
        for name in meter::global_names() {
            let Some(global) = caller.get_export(&name).and_then(|found| found.into_global()) else { break };
            globals.extend(bits(&global.get(&mut caller)));
        }
        globals
    });
    let (memory, guest) = memory.data_and_store_mut(&mut caller);
    guest.run.refill(state, memory, globals.as_deref()).map_err(|stop| guest.ended(stop))
}

/// Returns the counters of a module that was compiled for a profile; empty for any other module.
pub fn counters(store: &mut Store<StoreData>) -> Vec<u64> {
    let Some(instance) = store.data().instance else { return Vec::new() };
    let count = |name: String| match instance.get_global(&mut *store, &name)?.get(&mut *store) {
        Val::I64(count) => Some(count.cast_unsigned()),
        _ => None,
    };
    meter::counter_names().map_while(count).collect()
}

fn memory(caller: &Caller<'_, StoreData>) -> Result<Memory> {
    caller.data().memory.ok_or_else(|| wasmtime::format_err!("a host call before `run`"))
}

fn bits(value: &Val) -> [u8; 16] {
    let number = match value {
        Val::I32(number) => u128::from(number.cast_unsigned()),
        Val::I64(number) => u128::from(number.cast_unsigned()),
        Val::F32(bits) => u128::from(*bits),
        Val::F64(bits) => u128::from(*bits),
        Val::V128(bits) => bits.as_u128(),
        _ => 0,
    };
    number.to_le_bytes()
}

impl StoreData {
    fn ended(&mut self, stop: HostInterrupt) -> wasmtime::Error {
        self.stop = Some(stop);
        wasmtime::format_err!("a host call ended the run")
    }
}
