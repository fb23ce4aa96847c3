//! Overhead of a slice of 64 bytes: in the sandbox, through the runner, and beside them an empty
//! task of tokio's `spawn_blocking`. No cache answers, and there is no store.

#[allow(dead_code, reason = "each bench uses a part of it")]
mod common;

use std::time::{Duration, Instant};

use compute_host::sandbox::with_guest_stack;
use compute_host::slice::Slice;
use compute_host::workload::Workload;
use criterion::{Criterion, criterion_group};
use futures_util::{StreamExt as _, stream};

/// Number of concurrent slices where the load is measured.
const UNDER_WAY: usize = 64;

fn overhead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("overhead");
    group.sample_size(200);

    let guest = common::Guest::new(&Workload::Transcode);
    let slice = Slice::from_bytes(vec![1; 64]);
    group.bench_function("sandbox", |bencher| bencher.iter(|| guest.run(&slice)));

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let runner = common::warm_runner(&runtime, 2);
    group.bench_function("spawn_blocking/alone", |bencher| {
        bencher.iter(|| runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await }));
    });
    group.bench_function("runner/alone", |bencher| {
        bencher.iter(|| runtime.block_on(runner.run(common::fresh(64))).unwrap());
    });
    group.bench_function("spawn_blocking/under load", |bencher| {
        bencher.iter_custom(|count| {
            timed(
                &runtime,
                stream::iter(0..count)
                    .map(|_| async { tokio::task::spawn_blocking(|| ()).await })
                    .buffer_unordered(UNDER_WAY),
            )
        });
    });
    group.bench_function("runner/under load", |bencher| {
        bencher.iter_custom(|count| {
            timed(&runtime, stream::iter(0..count).map(|_| runner.run(common::fresh(64))).buffer_unordered(UNDER_WAY))
        });
    });
    group.finish();
}

fn timed<T, E: std::fmt::Debug>(
    runtime: &tokio::runtime::Runtime,
    results: impl futures_util::Stream<Item = Result<T, E>>,
) -> Duration {
    let start = Instant::now();
    runtime.block_on(results.for_each(async |result| drop(result.unwrap())));
    start.elapsed()
}

criterion_group!(benches, overhead);

/// Runs on a thread that can run guests, so that none is started for each.
fn main() {
    with_guest_stack(|| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    })
    .unwrap();
}
