//! How much may be accepted and kept, and how much may be accepted of one token.

use std::collections::HashMap;

use serde::Deserialize;

use crate::slice::Scope;

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

/// A token may take so many times what it leaves free: nine tenths if it is alone, and less the more others have taken. So there
/// is always something left for one more. (Dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds for
/// shared-memory packet switches", 1998.)
const SHARE_OF_FREE: u64 = 9;

/// How much is taken, also by what is still being handed in.
#[derive(Debug, Default)]
pub struct Room {
    all: Taken,
    by_scope: HashMap<Scope, Taken>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub entries: u64,
    pub bytes: u64,
}

impl Room {
    pub const fn all(&self) -> Taken {
        self.all
    }

    /// Takes room for a task of `scope`, or for more bytes of one, if there is some. The owner may take all of it.
    pub fn take(&mut self, scope: &Scope, more: Taken, quota: &AcceptedQuota) -> Result<(), NoRoom> {
        let Taken { entries, bytes } = self.by_scope.get(scope).copied().unwrap_or_default().and(more);
        let all = self.all.and(more);
        let is_bounded = scope.token().is_some();
        let fits = |own: u64, all: u64, max: u64| {
            all <= max && (!is_bounded || own <= SHARE_OF_FREE.saturating_mul(max - all).max(1))
        };
        let fits = (more.entries == 0 || fits(entries, all.entries, quota.entries_max))
            && (more.bytes == 0 || fits(bytes, all.bytes, quota.bytes_max));
        if !fits {
            return Err(NoRoom);
        }
        self.all = all;
        self.by_scope.insert(scope.clone(), Taken { entries, bytes });
        Ok(())
    }

    /// Takes room for what was accepted before, whether there is some or not.
    pub fn retake(&mut self, scope: &Scope, taken: Taken) {
        self.all = self.all.and(taken);
        let own = self.by_scope.entry(scope.clone()).or_default();
        *own = own.and(taken);
    }

    pub fn release(&mut self, scope: &Scope, taken: Taken) {
        self.all = self.all.without(taken);
        if let Some(own) = self.by_scope.get_mut(scope) {
            *own = own.without(taken);
            if *own == Taken::default() {
                self.by_scope.remove(scope);
            }
        }
    }
}

/// There is none.
#[derive(Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Taken {
    pub const fn entry() -> Self {
        Self { entries: 1, bytes: 0 }
    }

    pub const fn bytes(bytes: u64) -> Self {
        Self { entries: 0, bytes }
    }

    pub const fn and(self, more: Self) -> Self {
        Self { entries: self.entries.saturating_add(more.entries), bytes: self.bytes.saturating_add(more.bytes) }
    }

    pub const fn without(self, less: Self) -> Self {
        Self { entries: self.entries.saturating_sub(less.entries), bytes: self.bytes.saturating_sub(less.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_leaves_room_for_others_and_the_owner_may_have_all() {
        let quota = AcceptedQuota { entries_max: 10_000, bytes_max: 1 << 30, ..AcceptedQuota::default() };
        let mut room = Room::default();
        let mut fill = |name: &str| {
            let scope = if name.is_empty() { Scope::OWNER } else { name.parse().unwrap() };
            let mut taken = 0;
            while room.take(&scope, Taken::entry(), &quota).is_ok() {
                taken += 1;
            }
            taken
        };
        assert_eq!(fill("greedy"), 9_000);
        assert_eq!(fill("greedier"), 900);
        assert_eq!(fill("late"), 90);
        assert_eq!(fill(""), 10);
    }

    #[test]
    fn bytes_are_bounded_likewise_and_what_is_released_is_free_again() {
        let quota = AcceptedQuota { entries_max: 10, bytes_max: 1_000, ..AcceptedQuota::default() };
        let (mut room, token) = (Room::default(), "a".parse().unwrap());
        assert_eq!(room.take(&token, Taken::bytes(901), &quota), Err(NoRoom));
        assert_eq!(room.take(&token, Taken::bytes(900), &quota), Ok(()));
        assert_eq!(room.take(&Scope::OWNER, Taken::bytes(101), &quota), Err(NoRoom));
        assert_eq!(room.take(&Scope::OWNER, Taken { entries: 1, bytes: 100 }, &quota), Ok(()));
        assert_eq!(room.all(), Taken { entries: 1, bytes: 1_000 });
        room.release(&token, Taken::bytes(900));
        room.release(&Scope::OWNER, Taken { entries: 1, bytes: 100 });
        assert_eq!((room.all(), room.by_scope.len()), (Taken::default(), 0), "nothing is kept of who has nothing here");
    }
}
