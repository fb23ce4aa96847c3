//! Cost of a module when it is added and started: the gate, the first addition, and a run from the
//! store, beside compiling each time.

#[path = "common/large.rs"]
mod large;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use compute_host::digest::{HashThreads, MacKey};
use compute_host::limits::Limits;
use compute_host::modules::{CompiledCode, ModuleRecord, Modules, Quota, StoredModules};
use compute_host::sandbox::{Admitted, Compiler, GateLimits, Invocation, Sandbox, with_guest_stack};
use compute_host::slice::Slice;
use compute_host::workload::WorkloadGuest;
use criterion::{BatchSize, Criterion, Throughput, criterion_group};

const NODE: &str = env!("CARGO_BIN_EXE_node");

/// Returns a module store with all the parts that the node's has.
fn modules(sandbox: &Arc<Sandbox>, directory: &Path) -> Modules {
    let compiler = Compiler::child(NODE, sandbox.settings_digest());
    let quota = Quota { modules_max: 1000, bytes_max: 1 << 30 };
    let code = directory.join("code");
    std::fs::create_dir_all(&code).unwrap();
    Modules::new(sandbox.clone(), compiler, GateLimits::DEFAULT)
        .with_store(StoredModules::new(directory.join("modules"), quota))
        .with_code(CompiledCode::new(code, MacKey::new([1; 32]), 1 << 30))
}

/// Runs a guest that does nothing, from the request to its end.
fn run(sandbox: &Sandbox, modules: &Modules, guest: WorkloadGuest<'_>) {
    let program = modules.program(guest).unwrap();
    let input = Slice::from_bytes(&b""[..]).open(&HashThreads::new(1), &AtomicU64::new(0)).unwrap();
    let work = Invocation::new(Box::new(input), Limits::DEFAULT);
    assert!(sandbox.run(&program, work).unwrap().outcome.is_done());
}

fn of_a_mebibyte(c: &mut Criterion) {
    let wasm = large::module(1 << 20);
    let sandbox = Arc::new(Sandbox::new(1).unwrap());
    let admitted = Admitted::new(wasm.as_slice()).unwrap();
    let record = ModuleRecord::new(wasm.len() as u64, "compute".to_owned(), 0, "a bench".to_owned());
    println!("a module of {} bytes; its code has {}", wasm.len(), {
        Compiler::in_process().unwrap().compile(&admitted).unwrap().len()
    });

    let mut group = c.benchmark_group("module of 1 MiB");
    group.throughput(Throughput::Bytes(wasm.len() as u64));
    let shared: Arc<[u8]> = wasm.into();
    group.bench_function("through the gate", |b| b.iter(|| Admitted::new(black_box(shared.clone())).unwrap()));

    group.sample_size(10).measurement_time(Duration::from_secs(20));
    group.bench_function("added, cold", |b| {
        b.iter_batched(
            || tempfile::tempdir().unwrap(),
            |here| {
                let admitted = Admitted::new(shared.clone()).unwrap();
                modules(&sandbox, here.path()).add(&admitted, None, &record).unwrap();
                here
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("run, compiled each time in this process", |b| {
        b.iter(|| run(&sandbox, &Modules::in_process(sandbox.clone()).unwrap(), WorkloadGuest::Admitted(&admitted)));
    });

    let here = tempfile::tempdir().unwrap();
    let digest = admitted.digest();
    modules(&sandbox, here.path()).add(&admitted, None, &record).unwrap();
    group.sample_size(100).measurement_time(Duration::from_secs(5));
    group.bench_function("run from the store, not in memory", |b| {
        b.iter_batched(
            || modules(&sandbox, here.path()),
            |modules| {
                run(&sandbox, &modules, WorkloadGuest::Stored(digest));
                modules
            },
            BatchSize::PerIteration,
        );
    });
    let hot = modules(&sandbox, here.path());
    group.bench_function("run from the store, in memory", |b| {
        b.iter(|| run(&sandbox, &hot, WorkloadGuest::Stored(digest)))
    });
    group.finish();
}

criterion_group!(benches, of_a_mebibyte);

/// Runs on a thread that can run guests, so that none is started for each.
fn main() {
    with_guest_stack(|| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    })
    .unwrap();
}
