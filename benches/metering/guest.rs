//! A kernel under one of wasmtime's settings, or under the meter.

use std::time::Duration;

use compute_host::sandbox::meter::{self, MeterState};
use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Caller, Config, Engine, Linker, Module, Store};

/// Mechanism that stops or counts a guest, and canonicalises its NaNs.
pub struct Setting {
    pub name: &'static str,
    fuel: bool,
    epochs: bool,
    nans: bool,
    metered: bool,
}

const PLAIN: Setting = Setting { name: "plain", fuel: false, epochs: false, nans: false, metered: false };

/// Settings. The last is the meter's, and the one before it is the setting that the meter replaces.
pub const SETTINGS: [Setting; 5] = [
    PLAIN,
    Setting { name: "fuel", fuel: true, ..PLAIN },
    Setting { name: "epochs", epochs: true, ..PLAIN },
    Setting { name: "all + NaN", fuel: true, epochs: true, nans: true, ..PLAIN },
    Setting { name: "ours", metered: true, ..PLAIN },
];

impl Setting {
    fn engine(&self) -> Engine {
        let mut config = Config::new();
        config
            .memory_reservation(4 << 30)
            .memory_guard_size(32 << 20)
            .generate_address_map(false)
            .native_unwind_info(false)
            .wasm_backtrace_max_frames(None)
            .wasm_branch_hinting(self.metered)
            .consume_fuel(self.fuel)
            .epoch_interruption(self.epochs)
            .cranelift_nan_canonicalization(self.nans);
        Engine::new(&config).unwrap()
    }
}

/// Host's state of a run: its output, and the gas that it was granted.
#[derive(Default)]
struct Host {
    output: Vec<u8>,
    granted: u64,
}

pub struct Run {
    pub output: Vec<u8>,
    /// Processor time of the thread.
    pub time: Duration,
    pub gas: u64,
}

/// A compiled kernel.
pub struct Guest<'a> {
    setting: &'a Setting,
    linker: Linker<Host>,
    module: Module,
}

impl<'a> Guest<'a> {
    pub fn new(setting: &'a Setting, wasm: &[u8]) -> Self {
        let engine = setting.engine();
        let mut linker = Linker::new(&engine);
        let module = if setting.metered {
            linker.func_wrap("compute", meter::REFILL, refill).unwrap();
            linker
                .func_wrap("compute", "output_write", |caller: Caller<'_, Host>, at: u32, len: u32, state: i64| {
                    write(caller, at, len);
                    state
                })
                .unwrap();
            Module::from_binary(&engine, &meter::metered(wasm).unwrap())
        } else {
            linker.func_wrap("compute", "output_write", write).unwrap();
            Module::from_binary(&engine, wasm)
        };
        Self { setting, linker, module: module.unwrap() }
    }

    /// Runs the kernel in an instance of its own. Only the call of `run` is timed.
    pub fn run(&self) -> Run {
        let mut store = Store::new(self.module.engine(), Host::default());
        if self.setting.fuel {
            store.set_fuel(u64::MAX / 2).unwrap();
        }
        if self.setting.epochs {
            store.set_epoch_deadline(1 << 40);
        }
        let instance = self.linker.instantiate(&mut store, &self.module).unwrap();
        let start = processor_time();
        let (code, left) = if self.setting.metered {
            let run = instance.get_typed_func::<i64, (i32, i64)>(&mut store, "run").unwrap();
            let (code, state) = run.call(&mut store, MeterState::BEGIN.to_i64()).unwrap();
            let state = MeterState::from_i64(state);
            assert_eq!(state.stack_bytes(), MeterState::BEGIN.stack_bytes(), "all frames are given back");
            (code, state.gas())
        } else {
            let run = instance.get_typed_func::<(), i32>(&mut store, "run").unwrap();
            (run.call(&mut store, ()).unwrap(), 0)
        };
        let time = processor_time() - start;
        assert_eq!(code, 0, "a kernel ends well");
        let Host { output, granted } = store.into_data();
        Run { output, time, gas: granted.wrapping_sub(left as u64) }
    }
}

/// Returns the thread's processor time. Time in which another thread runs does not count.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Grants the overdrawn gas, and a quantum in addition.
fn refill(mut caller: Caller<'_, Host>, state: i64) -> i64 {
    let left = MeterState::from_i64(state);
    assert!(left.stack_bytes() >= 0, "no kernel needs so much stack");
    let grant = (-left.gas()).max(0) as u64 + meter::QUANTUM;
    caller.data_mut().granted += grant;
    state + grant as i64
}

fn write(mut caller: Caller<'_, Host>, at: u32, len: u32) {
    let memory = caller.get_export("memory").unwrap().into_memory().unwrap();
    let bytes = memory.data(&caller)[at as usize..][..len as usize].to_vec();
    caller.data_mut().output.extend(bytes);
}
