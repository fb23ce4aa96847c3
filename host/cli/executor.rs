//! Executor of a command: the running node, if there is one for the data directory, or else this
//! process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::{print_error, tell};
use crate::commands::{NodeCommand, NodeEvent};
use crate::http::{ask_node, connect};
use crate::node::{Node, NodeError, OpenNotice};
use crate::process;

/// Poll interval while another process holds the directory: it may be released, or a node may start
/// to serve.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Threads of a runtime that sends requests and waits for answers.
const RUNTIME_THREADS: usize = 2;

pub enum Executor<T> {
    Daemon(UnixStream),
    InProcess(T),
}

/// Connects to the running node, or else opens what the command needs. `open` returns `None` while
/// another process holds the directory.
pub async fn connect_or_open<T>(
    data_dir: &Path,
    open: impl Fn() -> Result<Option<T>, NodeError>,
) -> anyhow::Result<Executor<T>> {
    let mut has_told = false;
    loop {
        if let Some(stream) = connect(&Node::state(data_dir)).await.context("cannot ask the running node")? {
            print_error("note", &"the running node does this");
            return Ok(Executor::Daemon(stream));
        }
        if let Some(opened) = open()? {
            return Ok(Executor::InProcess(opened));
        }
        if !std::mem::replace(&mut has_told, true) {
            tell(OpenNotice::Waiting { directory: data_dir.to_owned() });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Creates a small runtime that sends requests and waits for answers.
pub fn runtime() -> anyhow::Result<Runtime> {
    process::check_threads(RUNTIME_THREADS + process::THREADS_RESERVED)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(RUNTIME_THREADS).enable_all().build().context("cannot start the threads that this takes")
}

/// Sends a short order to the running node, and returns its answers.
pub async fn ask_all(stream: UnixStream, order: &NodeCommand) -> anyhow::Result<Vec<NodeEvent>> {
    let mut answers = Vec::new();
    ask_node(stream, order, |answer| answers.push(answer)).await?;
    if let Some(NodeEvent::Error(failure)) = answers.last() {
        bail!("{}", failure.message);
    }
    Ok(answers)
}
