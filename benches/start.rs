//! Process time of `node compute run` on one small slice, with a warm cache; beside it a process
//! that does nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use criterion::{Criterion, criterion_group, criterion_main};

const NODE: &str = env!("CARGO_BIN_EXE_node");

fn start(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("transcode.slice"), "a slice").unwrap();
    let mut group = criterion.benchmark_group("start");
    for (name, program, arguments) in [
        ("true", "true", &[][..]),
        ("node --version", NODE, &["--version"]),
        ("answered from the store", NODE, &["compute", "run", "transcode.slice"]),
        ("run anew", NODE, &["compute", "run", "--no-cache", "transcode.slice"]),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| run(directory.path(), program, arguments)));
    }
    group.finish();
}

fn run(directory: &Path, program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).current_dir(directory).stdout(Stdio::null()).status();
    assert!(status.unwrap().success());
}

criterion_group!(benches, start);
criterion_main!(benches);
