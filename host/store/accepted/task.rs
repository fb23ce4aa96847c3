//! Task: an accepted slice, and what to do with it, under an id of its own.

use std::fmt;
use std::fs::File;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::Limits;
use crate::proof::Blob;
use crate::sandbox::Outcome;
use crate::slice::{Slice, SliceId, Tenant};
use crate::workload::{Asset, Workload};

/// Id by which a client asks for its task later: 16 random bytes, so that nobody can guess the id
/// of another client's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId([u8; 16]);

impl TaskId {
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// Writes 32 hexadecimal digits.
impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it is not the id of a task: 32 hexadecimal digits, in lower case, are expected")]
pub struct NotATaskId;

impl FromStr for TaskId {
    type Err = NotATaskId;

    fn from_str(text: &str) -> Result<Self, NotATaskId> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(NotATaskId);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NotATaskId)
    }
}

/// Workload of a task. A module is identified by its digest, and must be stored when the task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskWorkload {
    Transcode,
    Inference,
    Stored(Digest),
}

impl From<TaskWorkload> for Workload {
    fn from(workload: TaskWorkload) -> Self {
        match workload {
            TaskWorkload::Transcode => Self::Transcode,
            TaskWorkload::Inference => Self::Inference,
            TaskWorkload::Stored(digest) => Self::Stored(digest),
        }
    }
}

/// A task without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub id: TaskId,
    pub scope: Tenant,
    /// Id of the slice. Without one, the slice is named by the digest of everything that determines
    /// its result.
    pub slice_id: Option<SliceId>,
    pub workload: TaskWorkload,
    pub limits: Limits,
    /// Time limit of the guest.
    pub timeout_ms: Option<u64>,
    /// True if the task must run even if a result exists.
    pub runs_anew: bool,
    pub accepted_ms: u64,
}

/// The stored data of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInfo {
    pub task: Task,
    pub slice_bytes: u64,
    /// `None` while the task has not ended.
    pub ending: Option<TaskOutcome>,
}

/// Input of the guest.
pub struct TaskInput {
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub slice: Slice,
}

/// A stored output of a guest.
#[derive(Debug)]
pub enum TaskOutput {
    Held(Vec<u8>),
    /// A file that has been verified. Reading starts at its first byte.
    File {
        file: File,
        bytes: u64,
    },
    /// Output that was evicted, or not stored.
    Gone,
}

/// Ending of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskOutcome {
    /// Success: a proof exists under this id in the task's scope. The guest's output may or may not
    /// be stored.
    Done { slice_id: SliceId, outcome: Outcome, output: Blob },
    /// Failure without a proof. The code is a stable name; the message is for people.
    Failed { code: String, message: String },
}

impl TaskOutcome {
    pub const CODE_BYTES_MAX: usize = 64;
    pub const MESSAGE_BYTES_MAX: usize = 384;

    /// Creates a failure. The code and the message are truncated to their limits.
    pub fn failed(code: &str, message: &str) -> Self {
        let cut = |text: &str, max: usize| text[..text.floor_char_boundary(max)].to_owned();
        Self::Failed { code: cut(code, Self::CODE_BYTES_MAX), message: cut(message, Self::MESSAGE_BYTES_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_in_no_other_way() {
        let id = TaskId::from_bytes(*b"\x00\x01sixteen bytes\xff");
        let text = id.to_string();
        assert_eq!(text, "00017369787465656e206279746573ff");
        assert_eq!(text.parse::<TaskId>().unwrap(), id);
        for other in ["", &text[1..], &format!("{text}0"), &text.to_uppercase(), &text.replacen("00", "+0", 1)] {
            assert!(other.parse::<TaskId>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_failure_is_told_in_words_of_bounded_length() {
        let TaskOutcome::Failed { code, message } = TaskOutcome::failed(&"c".repeat(100), &"ä".repeat(1000)) else {
            panic!()
        };
        assert_eq!((code.len(), message.len()), (64, 384));
        let TaskOutcome::Failed { message, .. } = TaskOutcome::failed("", &format!("x{}", "ä".repeat(1000))) else {
            panic!()
        };
        assert_eq!(message.len(), 383, "no character is cut in two");
    }
}
