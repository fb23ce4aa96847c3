//! The engine and its settings, one place. What only wasmtime has (traps, serialised code) is translated here.

use std::hash::Hash as _;
use std::sync::Arc;

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy, WasmFeatures,
};

use super::SandboxError;
use super::check::{self, GateLimits};
use super::meter::{self, STACK_BYTES};
use super::native::{self, Publisher};
use super::outcome::{Outcome, Trap};
use crate::digest::Digest;
use crate::limits::Limits;

/// Shown in proofs beside what was observed.
pub const NAME: &str = "wasmtime 48 cranelift";

/// Address space a run: with 4 GiB reserved and a guard behind it, no 32-bit access needs a bounds check.
const MEMORY_RESERVATION_BYTES: u64 = Limits::MEMORY_BYTES_MAX;
const MEMORY_GUARD_BYTES: u64 = 32 << 20;

/// The image of a memory may have so many bytes however little data is in it; a longer one is at least half data. What
/// lies further apart is copied at each start.
pub const IMAGE_BYTES_ALWAYS: u64 = 4 << 20;

/// How much of what a run has touched is zeroed in place rather than given back to the system. The kernel is asked
/// which pages those are (`PAGEMAP_SCAN`, Linux 6.7): 0.8 us more for a guest that touches one page, much less for one
/// whose data lies a mebibyte in, where compilers put it. `benches/README.md` has the figures.
const MEMORY_KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// Stack for the guest's own frames: four times what the meter lets them be charged, and it charges at least what they
/// take. So no guest gets to the end of it; were one to, that would be the host's failure.
pub const NATIVE_STACK_BYTES: usize = 4 * STACK_BYTES as usize;

pub struct Engine(wasmtime::Engine);

impl Engine {
    /// An engine with room for `concurrent_runs` instances at once.
    pub fn new(concurrent_runs: u32) -> Result<Self, SandboxError> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(concurrent_runs)
            .total_memories(concurrent_runs)
            .total_tables(concurrent_runs)
            .max_memories_per_module(1)
            .max_tables_per_module(1)
            .max_memory_size(Limits::MEMORY_BYTES_MAX as usize)
            .table_elements(GateLimits::DEFAULT.table_elements as usize)
            .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT_BYTES)
            .table_keep_resident(GateLimits::DEFAULT.table_elements as usize * size_of::<usize>())
            .pagemap_scan(Enabled::Auto);

        let mut config = settings();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        if native::IS_PUBLISHED_HERE {
            config.with_custom_code_memory(Some(Arc::new(Publisher)));
        }
        // The settings are ours and fit each other; what can be lacking is room for the pool.
        let refused = |error| SandboxError::AddressSpace { runs: concurrent_runs, cause: format!("{error:#}") };
        wasmtime::Engine::new(&config).map(Self).map_err(refused)
    }

    /// [`CompileEngine::settings_digest`] says the same of code that this engine takes.
    pub fn settings_digest(&self) -> Digest {
        settings_digest(&self.0)
    }

    pub fn inner(&self) -> &wasmtime::Engine {
        &self.0
    }
}

impl Engine {
    /// An engine to verify with: one run at a time, compiled and run in this process.
    pub fn to_verify(compiler: Strategy, target: Option<&str>) -> Result<Self, SandboxError> {
        let mut config = settings();
        // An image of the memory would be a file, and the process may open none.
        config.strategy(compiler).memory_init_cow(false);
        if let Some(target) = target {
            config.target(target).map_err(SandboxError::engine)?;
        }
        wasmtime::Engine::new(&config).map(Self).map_err(SandboxError::engine)
    }
}

/// An engine that runs nothing, and so reserves nothing.
pub struct CompileEngine(wasmtime::Engine);

impl CompileEngine {
    pub fn new() -> Result<Self, SandboxError> {
        wasmtime::Engine::new(&settings()).map(Self).map_err(SandboxError::engine)
    }

    /// The native code of `wasm`, as [`wasmtime::Module::serialize`] would give it.
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, SandboxError> {
        self.0.precompile_module(wasm).map_err(SandboxError::compile)
    }

    pub fn settings_digest(&self) -> Digest {
        settings_digest(&self.0)
    }
}

/// What compiled code depends on, and how it is run, but for the pool.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_guard_size(MEMORY_GUARD_BYTES)
        .memory_may_move(false)
        .memory_guaranteed_dense_image_size(IMAGE_BYTES_ALWAYS)
        .signals_based_traps(true)
        .max_wasm_stack(NATIVE_STACK_BYTES)
        // Nothing is asynchronous here, but wasmtime compares the two.
        .async_stack_size(NATIVE_STACK_BYTES)
        // The meter says which branches are seldom taken; and the guest's NaNs are canonical before they come here.
        .wasm_branch_hinting(true)
        .cranelift_opt_level(OptLevel::Speed)
        // Code for the debugger and the profiler: a fifth to two fifths of its size, and nobody reads it.
        .generate_address_map(false)
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false)
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(check::features(), true);
    config
}

/// What compiled code depends on beside the module: the compiler's version, its settings, the processor; and how the meter
/// wrote what the compiler was given. wasmtime itself does not compare all of these when it reads code back.
fn settings_digest(engine: &wasmtime::Engine) -> Digest {
    let mut hasher = SettingsHasher::default();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.extend(meter::FORM_VERSION.to_le_bytes());
    hasher.0.extend(meter::table().as_bytes());
    Digest::in_domain("compute-host engine settings v2", &hasher.0)
}

/// Keeps what is hashed, so that the key is BLAKE3's and not that of a hash that may change with the compiler.
#[derive(Default)]
struct SettingsHasher(Vec<u8>);

impl std::hash::Hasher for SettingsHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// What a trap of wasmtime's means here.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Ending(Outcome),
    /// Belongs to something that is off, or that the gate refuses.
    Unreachable,
    /// Newer than this list.
    Unknown,
}

fn meaning(trap: wasmtime::Trap) -> Meaning {
    use wasmtime::Trap as Native;
    Meaning::Ending(match trap {
        Native::UnreachableCodeReached => Outcome::Trap(Trap::Unreachable),
        Native::MemoryOutOfBounds => Outcome::Trap(Trap::MemoryOutOfBounds),
        Native::TableOutOfBounds => Outcome::Trap(Trap::TableOutOfBounds),
        Native::IndirectCallToNull => Outcome::Trap(Trap::IndirectCallToNull),
        Native::BadSignature => Outcome::Trap(Trap::IndirectCallSignature),
        Native::IntegerOverflow => Outcome::Trap(Trap::IntegerOverflow),
        Native::IntegerDivisionByZero => Outcome::Trap(Trap::IntegerDivideByZero),
        Native::BadConversionToInteger => Outcome::Trap(Trap::InvalidConversionToInteger),
        // What the meter does; threads, garbage collection, exceptions, stack switching; epochs; Pulley; components.
        Native::OutOfFuel
        | Native::StackOverflow
        | Native::HeapMisaligned
        | Native::AtomicWaitNonSharedMemory
        | Native::NullReference
        | Native::ArrayOutOfBounds
        | Native::AllocationTooLarge
        | Native::CastFailure
        | Native::UncaughtException
        | Native::UnhandledTag
        | Native::ContinuationAlreadyConsumed
        | Native::Interrupt
        | Native::DisabledOpcode
        | Native::CannotEnterComponent
        | Native::CannotLeaveComponent
        | Native::CannotBlockSyncTask
        | Native::NoAsyncResult
        | Native::AsyncDeadlock
        | Native::InvalidChar
        | Native::DebugAssertStringEncodingFinished
        | Native::DebugAssertEqualCodeUnits
        | Native::DebugAssertPointerAligned
        | Native::DebugAssertUpperBitsUnset
        | Native::StringOutOfBounds
        | Native::ListOutOfBounds
        | Native::InvalidDiscriminant
        | Native::UnalignedPointer
        | Native::TaskCancelNotCancelled
        | Native::TaskCancelOrReturnTwice
        | Native::SubtaskCancelAfterTerminal
        | Native::TaskReturnInvalid
        | Native::WaitableSetDropHasWaiters
        | Native::SubtaskDropNotResolved
        | Native::ThreadNewIndirectInvalidType
        | Native::ThreadNewIndirectUninitialized
        | Native::BackpressureOverflow
        | Native::UnsupportedCallbackCode
        | Native::CannotResumeThread
        | Native::ConcurrentFutureStreamOp
        | Native::ReferenceCountOverflow
        | Native::StreamOpTooBig
        | Native::WaitableSyncAndAsync => return Meaning::Unreachable,
        _ => return Meaning::Unknown,
    })
}

/// The ending that a trap stands for; `None` for those that no admitted module can reach.
pub fn outcome_of(trap: wasmtime::Trap) -> Option<Outcome> {
    match meaning(trap) {
        Meaning::Ending(outcome) => Some(outcome),
        Meaning::Unreachable | Meaning::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trap_of_wasmtimes_is_known() {
        let all: Vec<wasmtime::Trap> = (0..=u8::MAX).filter_map(wasmtime::Trap::from_u8).collect();
        assert!(all.len() >= 50, "the engine lists its traps");
        for trap in all {
            assert_ne!(
                meaning(trap),
                Meaning::Unknown,
                "{trap:?} is new: is it an ending of the guest's, or the host's?"
            );
        }
    }

    #[test]
    fn code_of_one_engine_fits_the_other() {
        let (running, compiling) = (Engine::new(1).unwrap(), CompileEngine::new().unwrap());
        assert_eq!(running.settings_digest(), compiling.settings_digest());
    }
}
