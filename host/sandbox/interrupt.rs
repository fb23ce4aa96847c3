//! Reasons why the host ends a run early: the guest's fault, which is an outcome, or a cause on the
//! host's side.

use std::io;

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;

/// The host cannot read the input that the run began with.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("it changed while it was read")]
    Changed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The reason why the host ends a run.
#[derive(Debug)]
pub enum HostInterrupt {
    /// The guest caused it: a result like any other.
    Guest(Outcome),
    /// The host caused it: there is no result.
    Input(InputError),
    /// The host has no memory for what the job's limits allow.
    HostMemory,
    /// The deadline has passed.
    Deadline,
    /// The run was cancelled, because its caller has gone.
    Cancelled,
    /// The run is checked against a claim, and can no longer match it.
    BeyondClaim(ClaimedAmount),
}

/// The amount of which a run used more than its claim states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimedAmount {
    Gas,
    Output,
}

impl From<Outcome> for HostInterrupt {
    fn from(outcome: Outcome) -> Self {
        Self::Guest(outcome)
    }
}

impl From<InputError> for HostInterrupt {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}
