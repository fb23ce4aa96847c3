//! Orders from the command line to the running node, and the answers. The courier has orders of its
//! own.

use std::pin::pin;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::batch::{Batch, BatchRequest, SliceFailure};
use crate::binary::Binary;
use crate::digest::Digest;
use crate::key::commands::{self as key_orders, KeyAnswer, KeyRequest};
use crate::modules::commands::{self as module_orders, ModuleAnswer, ModuleRequest};
use crate::node::Node;
use crate::prices::SharedBoard;
use crate::prices::commands::{PriceAnswer, PriceRequest};
use crate::runner::{CacheSource, RunAnswer, RunResult};

/// Size of one piece of an output in the answers.
const PIECE_BYTES: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeCommand {
    /// Runs the slices in these files.
    Run(BatchRequest),
    Module(ModuleRequest),
    Price(PriceRequest),
    Key(KeyRequest),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeEvent {
    /// A piece of the output of the slice that the next `Ran` reports.
    Output {
        piece: Binary,
    },
    /// Result of the next slice, in the order of the files.
    Ran {
        proof: Binary,
        source: CacheSource,
        log: Binary,
        has_output: bool,
    },
    NotRun(SliceFailure),
    Module(ModuleAnswer),
    Price(Box<PriceAnswer>),
    Key(KeyAnswer),
    /// The order failed at this point; the answers before it are valid.
    Error(SliceFailure),
}

/// Executes `order`, until it is done or the receiver of the answers is gone.
pub async fn execute(
    node: &Node,
    board: &SharedBoard,
    order: NodeCommand,
    now_ms: u64,
    answers: &mpsc::Sender<NodeEvent>,
) {
    let failed = match order {
        NodeCommand::Run(order) => {
            // Reading assets and compiling block on the disk.
            match tokio::task::block_in_place(|| Batch::open(order, node)) {
                Ok(batch) => return run(batch, answers).await,
                Err(error) => SliceFailure { code: error.code().to_owned(), message: error.to_string() },
            }
        }
        NodeCommand::Module(order) => {
            let modules = node.runner.modules();
            match tokio::task::block_in_place(|| module_orders::execute(modules, order, now_ms)) {
                Ok(answer) => return drop(answers.send(NodeEvent::Module(answer)).await),
                Err(error) => SliceFailure { code: error.code().to_owned(), message: error.to_string() },
            }
        }
        NodeCommand::Price(order) => {
            let performed = tokio::task::block_in_place(|| {
                let stored = node.runner.modules().stored().ok();
                let is_stored = |digest: &Digest| stored.is_some_and(|stored| stored.contains(digest));
                board.execute(order, is_stored, now_ms).map_err(|error| error.to_string())
            });
            match performed {
                Ok(told) => {
                    for answer in told {
                        if answers.send(NodeEvent::Price(Box::new(answer))).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                Err(message) => SliceFailure { code: "prices".to_owned(), message },
            }
        }
        NodeCommand::Key(order) => {
            let Node { keyring, signer, .. } = node;
            let now = SystemTime::now();
            match tokio::task::block_in_place(|| key_orders::execute(keyring, Some(signer), order, now)) {
                Ok(answer) => return drop(answers.send(NodeEvent::Key(answer)).await),
                Err(error) => SliceFailure { code: "key".to_owned(), message: error.to_string() },
            }
        }
    };
    let _ = answers.send(NodeEvent::Error(failed)).await;
}

async fn run(batch: Batch, answers: &mpsc::Sender<NodeEvent>) {
    let mut ran = pin!(batch.run());
    while let Some(result) = ran.next().await {
        let told = match result {
            Ok(answer) => tell(answer, answers).await,
            Err(failure) => answers.send(NodeEvent::NotRun(failure)).await,
        };
        if told.is_err() {
            return;
        }
    }
}

async fn tell(answer: RunAnswer, answers: &mpsc::Sender<NodeEvent>) -> Result<(), mpsc::error::SendError<NodeEvent>> {
    let RunAnswer { finished, source } = answer;
    for piece in finished.output.as_deref().unwrap_or_default().chunks(PIECE_BYTES) {
        answers.send(NodeEvent::Output { piece: Binary(piece.to_vec()) }).await?;
    }
    let has_output = finished.output.is_some();
    let (proof, log) = (Binary(finished.proof.to_bytes()), Binary(finished.log.clone()));
    answers.send(NodeEvent::Ran { proof, source, log, has_output }).await
}

/// Assembles the results of a batch from its answers.
#[derive(Default)]
pub struct ReplyAssembler {
    output: Vec<u8>,
}

impl ReplyAssembler {
    /// Adds an answer, and returns a slice's result when it is complete. `Err` says why the node's
    /// answers are not valid.
    pub fn take(&mut self, answer: NodeEvent) -> Result<Option<Result<RunAnswer, SliceFailure>>, String> {
        match answer {
            NodeEvent::Output { piece } => {
                self.output.extend(piece.0);
                Ok(None)
            }
            NodeEvent::Ran { proof, source, log, has_output } => {
                let output = std::mem::take(&mut self.output);
                let finished = RunResult::from_wire(&proof.0, has_output.then_some(output), log.0);
                let finished = finished.map_err(|error| error.to_string())?.into();
                Ok(Some(Ok(RunAnswer { finished, source })))
            }
            NodeEvent::NotRun(failure) => Ok(Some(Err(failure))),
            NodeEvent::Error(failure) => Err(failure.message),
            NodeEvent::Module(_) | NodeEvent::Price(_) | NodeEvent::Key(_) => {
                Err("it answers what was not asked".to_owned())
            }
        }
    }
}
