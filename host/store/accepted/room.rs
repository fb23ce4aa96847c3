//! How much may be accepted and kept, and how much may be accepted of one token.

use serde::Deserialize;

use crate::shares::{NoShare, Shares};
use crate::slice::Scope;
use crate::store::kept::Taken;

/// What the node's owner has set for accepted slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AcceptedQuota {
    /// Tasks that have not ended.
    pub entries_max: u64,
    /// Their slices, arguments and assets.
    pub bytes_max: u64,
    /// Tasks that have ended and can still be asked for. Of whoever has most of them, the first to end is forgotten.
    pub finished_max: u64,
    /// What the guests of those have put out. Of whoever has most of it, the output of the first to end goes; a longer one than
    /// all of this is not kept.
    pub outputs_bytes_max: u64,
}

impl AcceptedQuota {
    /// Half a kibibyte of memory goes with each.
    pub const ENTRIES_MAX: u64 = 1_000_000;
}

impl Default for AcceptedQuota {
    fn default() -> Self {
        Self { entries_max: 10_000, bytes_max: 16 << 30, finished_max: 10_000, outputs_bytes_max: 4 << 30 }
    }
}

/// How much is taken, also by what is still being handed in; the owner may take all of it, a token its share.
#[derive(Debug)]
pub struct Room {
    entries: Shares<Scope>,
    bytes: Shares<Scope>,
}

impl Room {
    pub fn new(quota: &AcceptedQuota) -> Self {
        Self { entries: Shares::new(quota.entries_max), bytes: Shares::new(quota.bytes_max) }
    }

    pub const fn all(&self) -> Taken {
        Taken { entries: self.entries.taken(), bytes: self.bytes.taken() }
    }

    /// Takes room for a task of `scope`, or for more bytes of one, if there is some.
    pub fn take(&mut self, scope: &Scope, more: Taken) -> Result<(), NoShare> {
        self.entries.take(scope, more.entries)?;
        self.bytes.take(scope, more.bytes).inspect_err(|_| self.entries.release(scope, more.entries))
    }

    /// Records the room of what was accepted before a restart, also where that is more than there is now.
    pub fn retake(&mut self, scope: &Scope, taken: Taken) {
        self.entries.retake(scope, taken.entries);
        self.bytes.retake(scope, taken.bytes);
    }

    pub fn release(&mut self, scope: &Scope, taken: Taken) {
        self.entries.release(scope, taken.entries);
        self.bytes.release(scope, taken.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_bytes_are_taken_together_or_not_at_all() {
        let quota = AcceptedQuota { entries_max: 10, bytes_max: 1_000, ..AcceptedQuota::default() };
        let (mut room, token) = (Room::new(&quota), "a".parse().unwrap());
        assert_eq!(room.take(&token, Taken { entries: 1, bytes: 901 }), Err(NoShare));
        assert_eq!(room.all(), Taken::default());
        assert_eq!(room.take(&token, Taken { entries: 1, bytes: 900 }), Ok(()));
        assert_eq!(room.take(&Scope::OWNER, Taken::bytes(101)), Err(NoShare));
        assert_eq!(room.take(&Scope::OWNER, Taken { entries: 9, bytes: 100 }), Ok(()));
        assert_eq!(room.all(), Taken { entries: 10, bytes: 1_000 });
        room.release(&token, Taken { entries: 1, bytes: 900 });
        room.release(&Scope::OWNER, Taken { entries: 9, bytes: 100 });
        assert_eq!(room.all(), Taken::default());
    }
}
