//! Why the host ends a run before the guest does: by the guest's fault, which is an outcome, or by its own.

use std::io;

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;

/// The host cannot give the guest the input that the run began with.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("it changed while it was read")]
    Changed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why the host ends a run.
#[derive(Debug)]
pub enum Stop {
    /// The guest's fault: a result like any other.
    Guest(Outcome),
    /// The host's: no result.
    Input(InputError),
    /// The host has no memory for what the job's limits allow.
    HostMemory,
    /// Its time is over.
    Deadline,
    /// Nobody waits for it any more.
    Cancelled,
    /// The run is checked against a claim, and can no longer come to it.
    BeyondClaim(Beyond),
}

/// Amounts of which a run used more than a claim says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beyond {
    Gas,
    Output,
}

impl From<Outcome> for Stop {
    fn from(outcome: Outcome) -> Self {
        Self::Guest(outcome)
    }
}

impl From<InputError> for Stop {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}
