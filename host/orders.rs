//! Orders from the command line to the running node, and the answers. The courier has orders of its
//! own.

use std::pin::pin;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::batch::{Batch, BatchOrder, Failure};
use crate::binary::Binary;
use crate::digest::Digest;
use crate::key::orders::{self as key_orders, KeyAnswer, KeyOrder};
use crate::modules::orders::{self as module_orders, ModuleAnswer, ModuleOrder};
use crate::node::Node;
use crate::prices::SharedBoard;
use crate::prices::orders::{PriceAnswer, PriceOrder};
use crate::runner::{Answer as RunAnswer, Finished, Source};

/// Size of one piece of an output in the answers.
const PIECE_BYTES: usize = 32 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Runs the slices in these files.
    Run(BatchOrder),
    Module(ModuleOrder),
    Price(PriceOrder),
    Key(KeyOrder),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// A piece of the output of the slice that the next `Ran` reports.
    Output {
        piece: Binary,
    },
    /// Result of the next slice, in the order of the files.
    Ran {
        proof: Binary,
        source: Source,
        log: Binary,
        has_output: bool,
    },
    NotRun(Failure),
    Module(ModuleAnswer),
    Price(Box<PriceAnswer>),
    Key(KeyAnswer),
    /// The order failed at this point; the answers before it are valid.
    Error(Failure),
}

/// Executes `order`, until it is done or the receiver of the answers is gone.
pub async fn perform(node: &Node, board: &SharedBoard, order: Order, now_ms: u64, answers: &mpsc::Sender<Answer>) {
    let failed = match order {
        Order::Run(order) => {
            // Reading assets and compiling block on the disk.
            match tokio::task::block_in_place(|| Batch::open(order, node)) {
                Ok(batch) => return run(batch, answers).await,
                Err(error) => Failure { code: error.code().to_owned(), message: error.to_string() },
            }
        }
        Order::Module(order) => {
            let modules = node.runner.modules();
            match tokio::task::block_in_place(|| module_orders::perform(modules, order, now_ms)) {
                Ok(answer) => return drop(answers.send(Answer::Module(answer)).await),
                Err(error) => Failure { code: error.code().to_owned(), message: error.to_string() },
            }
        }
        Order::Price(order) => {
            let performed = tokio::task::block_in_place(|| {
                let stored = node.runner.modules().stored().ok();
                let is_stored = |digest: &Digest| stored.is_some_and(|stored| stored.contains(digest));
                board.perform(order, is_stored, now_ms).map_err(|error| error.to_string())
            });
            match performed {
                Ok(told) => {
                    for answer in told {
                        if answers.send(Answer::Price(Box::new(answer))).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                Err(message) => Failure { code: "prices".to_owned(), message },
            }
        }
        Order::Key(order) => {
            let Node { keyring, signer, .. } = node;
            let now = SystemTime::now();
            match tokio::task::block_in_place(|| key_orders::perform(keyring, Some(signer), order, now)) {
                Ok(answer) => return drop(answers.send(Answer::Key(answer)).await),
                Err(error) => Failure { code: "key".to_owned(), message: error.to_string() },
            }
        }
    };
    let _ = answers.send(Answer::Error(failed)).await;
}

async fn run(batch: Batch, answers: &mpsc::Sender<Answer>) {
    let mut ran = pin!(batch.run());
    while let Some(result) = ran.next().await {
        let told = match result {
            Ok(answer) => tell(answer, answers).await,
            Err(failure) => answers.send(Answer::NotRun(failure)).await,
        };
        if told.is_err() {
            return;
        }
    }
}

async fn tell(answer: RunAnswer, answers: &mpsc::Sender<Answer>) -> Result<(), mpsc::error::SendError<Answer>> {
    let RunAnswer { finished, source } = answer;
    for piece in finished.output.as_deref().unwrap_or_default().chunks(PIECE_BYTES) {
        answers.send(Answer::Output { piece: Binary(piece.to_vec()) }).await?;
    }
    let has_output = finished.output.is_some();
    let (proof, log) = (Binary(finished.proof.to_bytes()), Binary(finished.log.clone()));
    answers.send(Answer::Ran { proof, source, log, has_output }).await
}

/// Assembles the results of a batch from its answers.
#[derive(Default)]
pub struct Told {
    output: Vec<u8>,
}

impl Told {
    /// Adds an answer, and returns a slice's result when it is complete. `Err` says why the node's
    /// answers are not valid.
    pub fn take(&mut self, answer: Answer) -> Result<Option<Result<RunAnswer, Failure>>, String> {
        match answer {
            Answer::Output { piece } => {
                self.output.extend(piece.0);
                Ok(None)
            }
            Answer::Ran { proof, source, log, has_output } => {
                let output = std::mem::take(&mut self.output);
                let finished = Finished::told(&proof.0, has_output.then_some(output), log.0);
                let finished = finished.map_err(|error| error.to_string())?.into();
                Ok(Some(Ok(RunAnswer { finished, source })))
            }
            Answer::NotRun(failure) => Ok(Some(Err(failure))),
            Answer::Error(failure) => Err(failure.message),
            Answer::Module(_) | Answer::Price(_) | Answer::Key(_) => Err("it answers what was not asked".to_owned()),
        }
    }
}
