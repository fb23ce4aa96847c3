//! Who carries a command out: the running node, if one has the data directory, or else this process.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::{complain, tell};
use crate::http::{ask_node, connect};
use crate::node::{Node, NodeError, Notice};
use crate::orders::{Answer, Order};
use crate::process;

/// How often it is looked whether a directory that another process has is free, or served.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Threads of a runtime that asks and waits.
const RUNTIME_THREADS: usize = 2;

pub enum By<T> {
    Node(UnixStream),
    Us(T),
}

/// Opens what the command needs, unless a node runs; `open` has nothing while another process has the directory.
pub async fn reach<T>(data_dir: &Path, open: impl Fn() -> Result<Option<T>, NodeError>) -> anyhow::Result<By<T>> {
    let mut has_told = false;
    loop {
        if let Some(stream) = connect(&Node::state(data_dir)).await.context("cannot ask the running node")? {
            complain("note", &"the running node does this");
            return Ok(By::Node(stream));
        }
        if let Some(opened) = open()? {
            return Ok(By::Us(opened));
        }
        if !std::mem::replace(&mut has_told, true) {
            tell(Notice::Waiting { directory: data_dir.to_owned() });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// For what asks and waits.
pub fn runtime() -> anyhow::Result<Runtime> {
    process::check_threads(RUNTIME_THREADS + process::THREADS_RESERVED)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(RUNTIME_THREADS).enable_all().build().context("cannot start the threads that this takes")
}

/// Has the running node carry out what does not take long, and returns its answers.
pub async fn ask_all(stream: UnixStream, order: &Order) -> anyhow::Result<Vec<Answer>> {
    let mut answers = Vec::new();
    ask_node(stream, order, |answer| answers.push(answer)).await?;
    if let Some(Answer::Error(failure)) = answers.last() {
        bail!("{}", failure.message);
    }
    Ok(answers)
}
