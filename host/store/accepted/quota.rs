//! Quota of accepted tasks: limits for the whole node, and the share of one token.

use serde::Deserialize;

use crate::shares::{ShareRefused, Shares};
use crate::slice::Tenant;
use crate::store::retention::Amount;

/// Limits for accepted tasks, set by the node's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueLimits {
    /// Maximum number of tasks that have not ended.
    pub entries_max: u64,
    /// Maximum size of their slices, arguments and assets, in bytes.
    pub bytes_max: u64,
    /// Maximum number of ended tasks that clients can still ask for. Beyond it, the scope with the
    /// most such tasks loses the one that ended first.
    pub finished_max: u64,
    /// Maximum size of the outputs of ended tasks, in bytes. Beyond it, the scope with the most
    /// bytes loses the output of the task that ended first. A single output above this limit is not
    /// stored.
    pub outputs_bytes_max: u64,
}

impl QueueLimits {
    /// Upper bound for both limits on tasks. Each task uses half a kibibyte of memory.
    pub const ENTRIES_MAX: u64 = 1_000_000;
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 16 << 30, finished_max: 10_000, outputs_bytes_max: 4 << 30 }
    }
}

/// The reserved space, including that of uploads in progress. The owner may use all of it, a token
/// only its share.
#[derive(Debug)]
pub struct TaskQuota {
    entries: Shares<Tenant>,
    bytes: Shares<Tenant>,
}

impl TaskQuota {
    pub fn new(quota: &QueueLimits) -> Self {
        Self { entries: Shares::new(quota.entries_max), bytes: Shares::new(quota.bytes_max) }
    }

    pub const fn all(&self) -> Amount {
        Amount { entries: self.entries.taken(), bytes: self.bytes.taken() }
    }

    /// Reserves space for a task of `scope`, or for more bytes of one, if there is enough.
    pub fn take(&mut self, scope: &Tenant, more: Amount) -> Result<(), ShareRefused> {
        self.entries.take(scope, more.entries)?;
        self.bytes.take(scope, more.bytes).inspect_err(|_| self.entries.release(scope, more.entries))
    }

    /// Restores the reservation of tasks that were accepted before a restart, even if it exceeds
    /// the current quota.
    pub fn retake(&mut self, scope: &Tenant, taken: Amount) {
        self.entries.retake(scope, taken.entries);
        self.bytes.retake(scope, taken.bytes);
    }

    pub fn release(&mut self, scope: &Tenant, taken: Amount) {
        self.entries.release(scope, taken.entries);
        self.bytes.release(scope, taken.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_bytes_are_taken_together_or_not_at_all() {
        let quota = QueueLimits { entries_max: 10, bytes_max: 1_000, ..QueueLimits::default() };
        let (mut room, token) = (TaskQuota::new(&quota), "a".parse().unwrap());
        assert_eq!(room.take(&token, Amount { entries: 1, bytes: 901 }), Err(ShareRefused));
        assert_eq!(room.all(), Amount::default());
        assert_eq!(room.take(&token, Amount { entries: 1, bytes: 900 }), Ok(()));
        assert_eq!(room.take(&Tenant::OWNER, Amount::bytes(101)), Err(ShareRefused));
        assert_eq!(room.take(&Tenant::OWNER, Amount { entries: 9, bytes: 100 }), Ok(()));
        assert_eq!(room.all(), Amount { entries: 10, bytes: 1_000 });
        room.release(&token, Amount { entries: 1, bytes: 900 });
        room.release(&Tenant::OWNER, Amount { entries: 9, bytes: 100 });
        assert_eq!(room.all(), Amount::default());
    }
}
