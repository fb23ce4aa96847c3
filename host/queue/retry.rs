//! Retry policy: which errors are retried, and when. A caller's error ends the task; a host failure
//! may be transient.

use std::time::Duration;

use crate::modules::{ModulesError, StoredError};
use crate::runner::RunError;
use crate::sandbox::{InputError, SandboxError};
use crate::slice::SliceError;
use crate::store::{StoreError, TaskId, TaskOutcome};

/// With the delays below, the attempts take about four minutes. By then a full disk may have been
/// cleared. A failed compiler's result is forgotten after one minute.
pub const ATTEMPTS_MAX: u32 = 10;

const DELAY_MIN: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Returns the delay after so many attempts, from 1 on.
pub fn delay(attempts: u32) -> Duration {
    DELAY_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(DELAY_MAX)
}

/// Maximum number of attempts counted for the delay when the store failed. The store opens itself
/// again, and accepted tasks wait for that.
pub const STORE_ATTEMPTS: u32 = 4;

/// Returns whether the node's own store failed. Such a failure does not count as an attempt at the
/// task.
pub const fn is_the_stores(error: &RunError) -> bool {
    matches!(error, RunError::Store(_))
}

/// Returns whether the error is transient, so that another attempt may succeed.
pub fn is_transient(error: &RunError) -> bool {
    match error {
        RunError::Store(_) | RunError::Random(_) | RunError::Busy | RunError::Lost => true,
        RunError::Slice(error) => matches!(error, SliceError::Open { .. } | SliceError::Read { .. }),
        RunError::Sandbox(error) => may_pass_in_sandbox(error),
        RunError::Module(error) => match &**error {
            ModulesError::Sandbox(error) => may_pass_in_sandbox(error),
            ModulesError::Stored(error) => matches!(error, StoredError::Io { .. }),
            ModulesError::Busy(_) => true,
            ModulesError::NotAModule(_) | ModulesError::Refused(_) | ModulesError::NoLonger(_) => false,
        },
        RunError::SliceIdConflict(_)
        | RunError::TooManyAssets(_)
        | RunError::TooLong { .. }
        | RunError::NotReproduced(_)
        | RunError::Contradiction(_) => false,
    }
}

const fn may_pass_in_sandbox(error: &SandboxError) -> bool {
    match error {
        SandboxError::Engine(_)
        | SandboxError::AddressSpace { .. }
        | SandboxError::Thread(_)
        | SandboxError::Compiler(_)
        | SandboxError::HostMemory
        | SandboxError::CodeMemory(_)
        | SandboxError::Input(InputError::Io(_))
        | SandboxError::Cancelled => true,
        SandboxError::Meter(_)
        | SandboxError::Compile(_)
        | SandboxError::TooDear { .. }
        | SandboxError::MemoryLimitTooHigh(_)
        | SandboxError::Input(InputError::Changed)
        | SandboxError::Deadline
        | SandboxError::BeyondClaim(_) => false,
    }
}

/// Returns the outcome of a task whose last attempt failed with `error`. The message does not
/// reveal the host's files to the caller.
pub fn ending(id: &TaskId, error: &RunError) -> TaskOutcome {
    let host_failed = || TaskOutcome::failed(error.code(), "the node failed at it; hand it in again later");
    match error {
        _ if is_transient(error) => host_failed(),
        RunError::Slice(_) => damaged(id),
        RunError::Module(module) if matches!(**module, ModulesError::Stored(StoredError::Damaged { .. })) => {
            host_failed()
        }
        _ => TaskOutcome::failed(error.code(), &error.to_string()),
    }
}

/// Returns the outcome of a task whose stored bytes differ from what was accepted.
pub fn damaged(id: &TaskId) -> TaskOutcome {
    TaskOutcome::failed("task_damaged", &StoreError::TaskDamaged { id: *id }.to_string())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn attempts_are_ever_further_apart_and_are_over_in_minutes() {
        let delays: Vec<u64> = (1..ATTEMPTS_MAX).map(|attempts| delay(attempts).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(delay(u32::MAX), DELAY_MAX);
    }

    #[test]
    fn what_the_host_failed_at_is_tried_again_and_its_paths_are_told_to_nobody() {
        let path = || PathBuf::from("/secret/path");
        let id = TaskId::from_bytes([1; 16]);
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for (error, passes, code) in [
            (RunError::Store(StoreError::Io { path: path(), cause: full() }), true, "store"),
            (RunError::Slice(SliceError::Read { path: path(), cause: full() }), true, "slice_unreadable"),
            (RunError::Slice(SliceError::Changed { path: path() }), false, "task_damaged"),
            (RunError::Lost, true, "lost"),
            (RunError::Sandbox(SandboxError::Deadline), false, "deadline"),
            (RunError::SliceIdConflict("x".parse().unwrap()), false, "slice_id_conflict"),
        ] {
            assert_eq!(is_transient(&error), passes, "{error}");
            let TaskOutcome::Failed { code: told, message } = ending(&id, &error) else { panic!("{error}") };
            assert_eq!(told, code);
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
