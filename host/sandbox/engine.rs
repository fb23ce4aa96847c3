//! The wasmtime engine and its settings, in one place. Concepts that only wasmtime has (traps,
//! serialised code) are translated here.

use std::hash::Hash as _;
use std::sync::Arc;

use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy, WasmFeatures,
};

use super::SandboxError;
use super::gate::{self, GateLimits};
use super::meter::{self, STACK_BYTES};
use super::native::{self, CodePublisher};
use super::outcome::{Outcome, Trap};
use crate::digest::Digest;
use crate::limits::Limits;

/// Engine name that proofs show beside the observed values.
pub const NAME: &str = "wasmtime 48 cranelift";

/// Address space per run: 4 GiB reserved, with a guard behind it. So no 32-bit access needs a
/// bounds check.
const MEMORY_RESERVATION_BYTES: u64 = Limits::MEMORY_BYTES_MAX;
const MEMORY_GUARD_BYTES: u64 = 32 << 20;

/// A memory image may have this many bytes even if it holds little data. A longer image must be at
/// least half data. Data segments that lie further apart are copied at each start.
pub const IMAGE_BYTES_ALWAYS: u64 = 4 << 20;

/// Bytes of a run's touched memory that are zeroed in place instead of returned to the system. The
/// kernel reports which pages were touched (`PAGEMAP_SCAN`, Linux 6.7). The scan takes 0.8 us more
/// for a guest that touches one page. The whole takes much less time for a guest whose data lies a
/// mebibyte in, where compilers put data. `benches/README.md` has the figures.
const MEMORY_KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// Native stack for the guest's frames: four times the stack that the meter allows. The meter
/// charges at least what frames take, so no guest reaches its end. Reaching it would be a failure
/// of the host.
pub const NATIVE_STACK_BYTES: usize = 4 * STACK_BYTES as usize;

pub struct Engine(wasmtime::Engine);

impl Engine {
    /// Creates an engine with a pool for `concurrent_runs` instances at once.
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
            config.with_custom_code_memory(Some(Arc::new(CodePublisher)));
        }
        // The settings are ours and consistent, so the only possible error is a lack of address
        // space for the pool.
        let refused = |error| SandboxError::AddressSpace { runs: concurrent_runs, cause: format!("{error:#}") };
        wasmtime::Engine::new(&config).map(Self).map_err(refused)
    }

    /// Returns the same digest as [`CompileEngine::settings_digest`] for code that this engine can
    /// load.
    pub fn settings_digest(&self) -> Digest {
        settings_digest(&self.0)
    }

    pub fn inner(&self) -> &wasmtime::Engine {
        &self.0
    }
}

impl Engine {
    /// Creates a verification engine: one run at a time, compiled and run in this process.
    pub fn to_verify(compiler: Strategy, target: Option<&str>) -> Result<Self, SandboxError> {
        let mut config = settings();
        // A copy-on-write memory image would need a file, and the process may open none.
        config.strategy(compiler).memory_init_cow(false);
        if let Some(target) = target {
            config.target(target).map_err(SandboxError::engine)?;
        }
        wasmtime::Engine::new(&config).map(Self).map_err(SandboxError::engine)
    }
}

/// An engine that only compiles, runs nothing, and so reserves no address space.
pub struct CompileEngine(wasmtime::Engine);

impl CompileEngine {
    pub fn new() -> Result<Self, SandboxError> {
        wasmtime::Engine::new(&settings()).map(Self).map_err(SandboxError::engine)
    }

    /// Compiles `wasm` to native code in the form of [`wasmtime::Module::serialize`].
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, SandboxError> {
        self.0.precompile_module(wasm).map_err(SandboxError::compile)
    }

    pub fn settings_digest(&self) -> Digest {
        settings_digest(&self.0)
    }
}

/// Returns the settings that affect compiled code and how it runs, except for the pool.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .memory_reservation(MEMORY_RESERVATION_BYTES)
        .memory_guard_size(MEMORY_GUARD_BYTES)
        .memory_may_move(false)
        .memory_guaranteed_dense_image_size(IMAGE_BYTES_ALWAYS)
        .signals_based_traps(true)
        .max_wasm_stack(NATIVE_STACK_BYTES)
        // Nothing here is asynchronous, but wasmtime compares the two stack sizes.
        .async_stack_size(NATIVE_STACK_BYTES)
        // The meter emits branch hints for rare branches. The meter also makes the guest's NaNs
        // canonical, so the engine need not.
        .wasm_branch_hinting(true)
        .cranelift_opt_level(OptLevel::Speed)
        // Data for debuggers and profilers takes a fifth to two fifths of the code's size, and
        // nothing reads it.
        .generate_address_map(false)
        .wasm_backtrace_max_frames(None)
        .native_unwind_info(false)
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(gate::features(), true);
    config
}

/// Computes a digest of everything except the module that compiled code depends on. These are the
/// compiler's version and settings, the processor, and the meter's `FORM_VERSION` and gas schedule.
/// Reason: wasmtime does not compare all of these when it loads code.
fn settings_digest(engine: &wasmtime::Engine) -> Digest {
    let mut hasher = SettingsHasher::default();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.extend(meter::FORM_VERSION.to_le_bytes());
    hasher.0.extend(meter::table().as_bytes());
    Digest::in_domain("compute-host engine settings v2", &hasher.0)
}

/// Hasher that collects the hashed bytes. The key is then a BLAKE3 digest, not a standard hash that
/// may change with the compiler.
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

/// The meaning of a wasmtime trap for a run.
#[derive(Debug, PartialEq, Eq)]
enum TrapMeaning {
    Ending(Outcome),
    /// The trap belongs to a feature that is off or that the gate refuses.
    Unreachable,
    /// The trap is newer than this list.
    Unknown,
}

fn meaning(trap: wasmtime::Trap) -> TrapMeaning {
    use wasmtime::Trap as Native;
    TrapMeaning::Ending(match trap {
        Native::UnreachableCodeReached => Outcome::Trap(Trap::Unreachable),
        Native::MemoryOutOfBounds => Outcome::Trap(Trap::MemoryOutOfBounds),
        Native::TableOutOfBounds => Outcome::Trap(Trap::TableOutOfBounds),
        Native::IndirectCallToNull => Outcome::Trap(Trap::IndirectCallToNull),
        Native::BadSignature => Outcome::Trap(Trap::IndirectCallSignature),
        Native::IntegerOverflow => Outcome::Trap(Trap::IntegerOverflow),
        Native::IntegerDivisionByZero => Outcome::Trap(Trap::IntegerDivideByZero),
        Native::BadConversionToInteger => Outcome::Trap(Trap::InvalidConversionToInteger),
        // In order: what the meter does instead; threads, garbage collection, exceptions, stack
        // switching; epochs; Pulley; components.
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
        | Native::WaitableSyncAndAsync => return TrapMeaning::Unreachable,
        _ => return TrapMeaning::Unknown,
    })
}

/// Returns the outcome that a trap stands for; `None` if no admitted module can reach the trap.
pub fn outcome_of(trap: wasmtime::Trap) -> Option<Outcome> {
    match meaning(trap) {
        TrapMeaning::Ending(outcome) => Some(outcome),
        TrapMeaning::Unreachable | TrapMeaning::Unknown => None,
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
                TrapMeaning::Unknown,
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
