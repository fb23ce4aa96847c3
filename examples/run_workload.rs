//! Runs the workload that the name of the slice file begins with, and prints its proof hash:
//!
//! ```sh
//! cargo run --example run_workload examples/workloads/transcode.slice
//! ```

use anyhow::Context as _;
use compute_host::runner::{Capacity, RunRequest, WorkloadRunner};
use compute_host::slice::Slice;
use compute_host::workload::Workload;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let file = std::env::args_os().nth(1).context("which slice? for example examples/workloads/transcode.slice")?;
    let workload = Workload::of_file(file.as_ref()).context("the file's name begins with no workload's")?;
    let slice = Slice::from_file(file, u64::MAX)?;

    let runner = WorkloadRunner::in_memory(Capacity::of_this_machine())?;
    let answer = runner.run(RunRequest::new(workload, slice)).await?;

    let proof = answer.finished.proof.proof();
    println!("{}", proof.with_context(|| answer.finished.outcome.to_string())?);
    Ok(())
}
