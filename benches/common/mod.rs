//! Functions that several benches need.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use compute_host::digest::HashThreads;
use compute_host::limits::Limits;
use compute_host::modules::Modules;
use compute_host::runner::{Capacity, RunRequest, WorkloadRunner};
use compute_host::sandbox::{Execution, Invocation, Program, Sandbox};
use compute_host::slice::Slice;
use compute_host::workload::Workload;

/// Returns bytes without a pattern.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

/// A guest, compiled and with threads to run on.
pub struct Guest {
    sandbox: Arc<Sandbox>,
    program: Program,
    threads: HashThreads,
    read: AtomicU64,
}

impl Guest {
    pub fn new(workload: &Workload) -> Self {
        let sandbox = Arc::new(Sandbox::new(1).unwrap());
        let program = Modules::in_process(sandbox.clone()).unwrap().program(workload.module()).unwrap();
        Self { sandbox, program, threads: HashThreads::new(1), read: AtomicU64::new(0) }
    }

    pub fn run(&self, slice: &Slice) -> Execution {
        let work = Invocation::new(Box::new(slice.open(&self.threads, &self.read).unwrap()), Limits::DEFAULT);
        self.sandbox.run(&self.program, work).unwrap()
    }
}

/// Returns a runner that has compiled its guest.
pub fn warm_runner(runtime: &tokio::runtime::Runtime, jobs: usize) -> WorkloadRunner {
    let runner = WorkloadRunner::in_memory(Capacity { jobs, ..Capacity::of_this_machine() }).unwrap();
    runtime.block_on(runner.run(fresh(64))).unwrap();
    runner
}

/// Returns a request with new content, so that no cache answers it.
pub fn fresh(bytes: usize) -> RunRequest {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut content = vec![0; bytes];
    content[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    RunRequest::new(Workload::Transcode, Slice::from_bytes(content))
}
