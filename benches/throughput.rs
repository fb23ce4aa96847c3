//! Throughput of transcode against native BLAKE3 on the same bytes, on one thread, and as a whole
//! process against `b3sum`.
//!
//! In the measured time, the host hashes the slice of the whole-slice guest once. The slice of the
//! streaming guest is hashed once in that time, by the guest's own calls; the host computes its own
//! digest of it before.

#[allow(dead_code, reason = "each bench uses a part of it")]
mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use compute_host::sandbox::with_guest_stack;
use compute_host::slice::Slice;
use compute_host::workload::{Workload, transcode_streaming};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};

fn in_process(criterion: &mut Criterion) {
    let whole = common::Guest::new(&Workload::Transcode);
    let streaming = common::Guest::new(&transcode_streaming());
    for (name, bytes, samples) in [("1 MiB", 1 << 20, 200), ("256 MiB", 256 << 20, 20)] {
        let content: Arc<[u8]> = common::noise(bytes).into();
        let slice = Slice::from_bytes(content.clone());
        let mut group = criterion.benchmark_group("throughput");
        group.throughput(Throughput::Bytes(bytes as u64)).sample_size(samples);
        group.bench_function(BenchmarkId::new("native", name), |bencher| bencher.iter(|| blake3::hash(&content)));
        group.bench_function(BenchmarkId::new("whole", name), |bencher| {
            bencher.iter(|| whole.run(&Slice::from_bytes(content.clone())));
        });
        group.bench_function(BenchmarkId::new("streaming", name), |bencher| bencher.iter(|| streaming.run(&slice)));
        group.finish();
    }
}

fn whole_process(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let slice = directory.path().join("transcode.slice");
    std::fs::write(&slice, common::noise(1 << 30)).unwrap();
    let mut group = criterion.benchmark_group("process, 1 GiB");
    group.throughput(Throughput::Bytes(1 << 30)).sample_size(10);
    for threads in ["1", "2"] {
        let node = ["compute", "run", "--no-cache", "--jobs", threads, "transcode.slice"];
        group.bench_function(BenchmarkId::new("node", threads), |bencher| {
            bencher.iter(|| run(directory.path(), env!("CARGO_BIN_EXE_node"), &node));
        });
        if Command::new("b3sum").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("b3sum is not here to compare with: cargo install b3sum");
            continue;
        }
        group.bench_function(BenchmarkId::new("b3sum", threads), |bencher| {
            bencher.iter(|| run(directory.path(), "b3sum", &["--num-threads", threads, "transcode.slice"]));
        });
    }
    group.finish();
}

fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).current_dir(directory).stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
}

criterion_group!(benches, in_process, whole_process);

/// Runs on a thread that can run guests, so that none is started for each.
fn main() {
    with_guest_stack(|| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    })
    .unwrap();
}
