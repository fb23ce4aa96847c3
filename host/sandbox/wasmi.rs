//! wasmi: a verification engine by other authors than all the other engines.

use wasmi::{Caller, CompilationMode, Config, Engine, Error, Linker, Memory, Module, Store, TrapCode, Val};
use wasmi_core::LimiterError;

use super::abi::{HostCall, HostResult, HostReturn, HostState, Invocation};
use super::engine::NATIVE_STACK_BYTES;
use super::functions::host_functions;
use super::interface::ABI_MODULE;
use super::interrupt::HostInterrupt;
use super::link::MemoryLimiter;
use super::meter::{self, FRAME_MIN_BYTES, REFILL, STACK_BYTES};
use super::outcome::{Outcome, Trap};
use super::{Execution, RunFailure, SandboxError, conclude, memory_limit, stopped_at_start};
use crate::limits::Limits;

pub struct Interpreter {
    engine: Engine,
    module: Module,
}

struct InterpreterGuest {
    run: HostState,
    memory: Option<Memory>,
    stop: Option<HostInterrupt>,
    growth: MemoryLimiter,
}

impl Interpreter {
    pub fn new(metered: &[u8]) -> Result<Self, SandboxError> {
        let mut config = Config::default();
        config
            // Report what wasmi cannot translate before the guest runs.
            .compilation_mode(CompilationMode::Eager)
            .set_max_recursion_depth((STACK_BYTES / FRAME_MIN_BYTES) as usize + 1024)
            .set_max_stack_height(NATIVE_STACK_BYTES)
            .wasm_tail_call(false)
            // The memory64 support is compiled in, but off. Without it, wasmi 2.0.0 misreads large
            // offsets of `v128.store8_lane` and `v128.store16_lane`.
            .wasm_memory64(false)
            .wasm_extended_const(false)
            .wasm_relaxed_simd(false);
        let engine = Engine::new(&config);
        let module = Module::new(&engine, metered).map_err(|error| SandboxError::Compile(error.to_string()))?;
        Ok(Self { engine, module })
    }

    pub fn run(&self, work: Invocation) -> Result<Execution, SandboxError> {
        let limits = work.limits;
        if limits.memory_bytes > Limits::MEMORY_BYTES_MAX {
            return Err(SandboxError::MemoryLimitTooHigh(limits.memory_bytes));
        }
        let memory = self.module.exports().find_map(|export| export.ty().memory().copied());
        let run = HostState::new(work);
        if memory.is_some_and(|memory| memory.minimum() << 16 > limits.memory_bytes) {
            return Ok(memory_limit(run));
        }
        let mut guest = InterpreterGuest { run, memory: None, stop: None, growth: MemoryLimiter::new(&limits) };
        let state = match guest.run.start(meter::start_gas(self.module.exports().map(|export| export.name()))) {
            Ok(state) => state,
            Err(stop) => return stopped_at_start(stop, guest.growth, guest.run),
        };
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.growth);
        let returned = call(&mut store, &self.module, state);
        if let (true, Some(memory)) = (store.data().run.tracer.is_some(), store.data().memory) {
            let (memory, guest) = memory.data_and_store_mut(&mut store);
            guest.run.end(memory, Vec::new());
        }
        let InterpreterGuest { run, stop, growth, .. } = store.into_data();
        conclude(returned.map_err(RunFailure::from), stop, growth, run)
    }
}

fn call(store: &mut Store<InterpreterGuest>, module: &Module, mut state: i64) -> Result<(i32, i64), Error> {
    let instance = linker(store.engine())?.instantiate_and_start(&mut *store, module)?;
    store.data_mut().memory = instance.get_memory(&*store, "memory");
    for name in meter::STARTS {
        if let Some(start) = instance.get_func(&*store, name) {
            state = start.typed::<i64, i64>(&*store)?.call(&mut *store, state)?;
        }
    }
    instance.get_typed_func::<i64, (i32, i64)>(&*store, "run")?.call(store, state)
}

fn linker(engine: &Engine) -> Result<Linker<InterpreterGuest>, Error> {
    let mut linker = Linker::new(engine);
    macro_rules! link {
        ($name:ident ($($argument:ident: $type:ty),*) asks) => {
            linker.func_wrap(ABI_MODULE, stringify!($name), |caller: Caller<'_, InterpreterGuest>, $($argument: $type,)* state: i64| {
                let arguments = [$(u64::from($argument)),*];
                act(caller, state, (stringify!($name), &arguments), |call| call.$name($($argument),*))
            })?;
        };
        ($name:ident ($($argument:ident: $type:ty),*) tells) => {
            linker.func_wrap(ABI_MODULE, stringify!($name), |caller: Caller<'_, InterpreterGuest>, $($argument: $type,)* state: i64| {
                let arguments = [$(u64::from($argument)),*];
                let told = act(caller, state, (stringify!($name), &arguments), |call| call.$name($($argument),*));
                told.map(|((), state)| state)
            })?;
        };
    }
    host_functions!(link);
    linker.func_wrap(ABI_MODULE, REFILL, refill)?;
    Ok(linker)
}

fn act<R: HostReturn>(
    mut caller: Caller<'_, InterpreterGuest>,
    state: i64,
    name: (&str, &[u64]),
    act: impl FnOnce(&mut HostCall<'_>) -> HostResult<R>,
) -> Result<(R, i64), Error> {
    let memory = memory(&caller)?;
    let (memory, guest) = memory.data_and_store_mut(&mut caller);
    guest.run.call(memory, state, name, act).map_err(|stop| guest.ended(stop))
}

fn refill(mut caller: Caller<'_, InterpreterGuest>, state: i64) -> Result<i64, Error> {
    let memory = memory(&caller)?;
    let memory_bytes = memory.data_size(&caller);
    let is_at_checkpoint = caller.data_mut().run.is_at_checkpoint(memory_bytes);
    let globals = is_at_checkpoint.then(|| {
        let mut globals = Vec::new();
        for name in meter::global_names() {
            let Some(global) = caller.get_export(&name).and_then(|found| found.into_global()) else { break };
            globals.extend(bits(&global.get(&caller)));
        }
        globals
    });
    let (memory, guest) = memory.data_and_store_mut(&mut caller);
    guest.run.refill(state, memory, globals.as_deref()).map_err(|stop| guest.ended(stop))
}

fn memory(caller: &Caller<'_, InterpreterGuest>) -> Result<Memory, Error> {
    caller.data().memory.ok_or_else(|| Error::new("a host call before `run`"))
}

fn bits(value: &Val) -> [u8; 16] {
    let number = match value {
        Val::I32(number) => u128::from(number.cast_unsigned()),
        Val::I64(number) => u128::from(number.cast_unsigned()),
        Val::F32(number) => u128::from(number.to_bits()),
        Val::F64(number) => u128::from(number.to_bits()),
        Val::V128(number) => number.as_u128(),
        _ => 0,
    };
    number.to_le_bytes()
}

impl InterpreterGuest {
    fn ended(&mut self, stop: HostInterrupt) -> Error {
        self.stop = Some(stop);
        Error::new("a host call ended the run")
    }
}

impl From<Error> for RunFailure {
    fn from(error: Error) -> Self {
        let trap = match error.as_trap_code() {
            Some(TrapCode::UnreachableCodeReached) => Trap::Unreachable,
            Some(TrapCode::MemoryOutOfBounds) => Trap::MemoryOutOfBounds,
            Some(TrapCode::TableOutOfBounds) => Trap::TableOutOfBounds,
            Some(TrapCode::IndirectCallToNull) => Trap::IndirectCallToNull,
            Some(TrapCode::BadSignature) => Trap::IndirectCallSignature,
            Some(TrapCode::IntegerOverflow) => Trap::IntegerOverflow,
            Some(TrapCode::IntegerDivisionByZero) => Trap::IntegerDivideByZero,
            Some(TrapCode::BadConversionToInteger) => Trap::InvalidConversionToInteger,
            // Exhaustion of wasmi's own stack, fuel or memory is a failure of the host.
            _ => return Self::Engine(error.to_string()),
        };
        Self::Trap(Outcome::Trap(trap))
    }
}

impl wasmi::ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool, LimiterError> {
        Ok(self.admits_memory(desired, maximum))
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool, LimiterError> {
        Ok(self.admits_table(desired, maximum))
    }

    fn memory_grow_failed(&mut self, _error: &wasmi::errors::MemoryError) -> Result<(), LimiterError> {
        self.host_failed = true;
        Err(LimiterError::ResourceLimiterDeniedAllocation)
    }

    fn table_grow_failed(&mut self, _error: &wasmi::errors::TableError) -> Result<(), LimiterError> {
        self.host_failed = true;
        Err(LimiterError::ResourceLimiterDeniedAllocation)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}
