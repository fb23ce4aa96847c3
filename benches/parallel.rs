//! Slices a second at 1 and at 2 jobs: small slices, whose cost is the overhead, and slices of 64
//! KiB, which the guest reads completely through its memory.

#[allow(dead_code, reason = "each bench uses a part of it")]
mod common;

use compute_host::runner::RunRequest;
use compute_host::workload::{Workload, transcode_streaming};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::{StreamExt as _, stream};

const SLICES: u64 = 1000;

fn parallel(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let mut group = criterion.benchmark_group("parallel");
    group.throughput(Throughput::Elements(SLICES)).sample_size(30);
    for (name, workload, bytes) in
        [("64 B", Workload::Transcode, 64), ("64 KiB, streaming", transcode_streaming(), 64 << 10)]
    {
        for jobs in [1, 2] {
            let runner = common::warm_runner(&runtime, jobs);
            let request = || RunRequest { workload: workload.clone(), ..common::fresh(bytes) };
            group.bench_function(BenchmarkId::new(name, jobs), |bencher| {
                bencher.iter(|| {
                    let results = stream::iter(0..SLICES).map(|_| runner.run(request())).buffer_unordered(64);
                    runtime.block_on(results.for_each(async |answer| drop(answer.unwrap())));
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, parallel);
criterion_main!(benches);
