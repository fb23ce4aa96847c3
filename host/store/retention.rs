//! Retention with eviction by owner: the owner that uses the most space loses its oldest entry
//! first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use crate::slice::Tenant;

/// An amount: a number of entries, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub entries: u64,
    pub bytes: u64,
}

impl Amount {
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

/// Entries of several owners. Entry numbers grow with time. A flood from one owner evicts only
/// entries of that owner.
#[derive(Debug)]
pub struct Retention<T> {
    all: Amount,
    /// Scopes with at least one entry.
    by_scope: HashMap<Tenant, TenantEntries<T>>,
}

/// The entries of one scope, by number.
#[derive(Debug)]
struct TenantEntries<T> {
    taken: Amount,
    entries: BTreeMap<u64, T>,
    /// The bytes that each entry holds. Entries without bytes are not listed.
    bytes: BTreeMap<u64, u64>,
}

/// The next eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction<T> {
    pub what: Evicted,
    pub entry: T,
    pub scope: Tenant,
    pub number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The entry and its bytes.
    Entry,
    /// Only the bytes. The entry itself stays known.
    Bytes,
}

impl<T> Default for Retention<T> {
    fn default() -> Self {
        Self { all: Amount::default(), by_scope: HashMap::new() }
    }
}

impl<T: Clone> Retention<T> {
    pub const fn all(&self) -> Amount {
        self.all
    }

    /// Returns the entries that hold bytes.
    pub fn with_bytes(&self) -> impl Iterator<Item = &T> {
        self.by_scope.values().flat_map(|own| own.bytes.keys().filter_map(|number| own.entries.get(number)))
    }

    /// Returns the numbers of a scope's entries below `before`, newest first.
    pub fn newest_first(&self, scope: &Tenant, before: u64) -> impl Iterator<Item = u64> {
        let own = self.by_scope.get(scope);
        own.into_iter().flat_map(move |own| own.entries.range(..before).rev().map(|(number, _)| *number))
    }

    /// Adds an entry. `number` must be unique.
    pub fn add(&mut self, scope: &Tenant, number: u64, entry: T, bytes: u64) {
        let empty = || TenantEntries { taken: Amount::default(), entries: BTreeMap::new(), bytes: BTreeMap::new() };
        let own = self.by_scope.entry(scope.clone()).or_insert_with(empty);
        own.entries.insert(number, entry);
        if bytes > 0 {
            own.bytes.insert(number, bytes);
        }
        let taken = Amount { entries: 1, bytes };
        own.taken = own.taken.and(taken);
        self.all = self.all.and(taken);
    }

    /// Returns the next eviction while the limits are exceeded: the oldest entry, or the oldest
    /// bytes, of the scope that uses the most. The search visits every scope. There is one scope
    /// for each token.
    pub fn next_victim(&self, entries_max: u64, bytes_max: u64) -> Option<Eviction<T>> {
        if self.all.entries > entries_max.max(1) {
            self.first_of_most(Evicted::Entry, |own| own.taken.entries, |own| own.entries.keys().next())
        } else if self.all.bytes > bytes_max {
            self.first_of_most(Evicted::Bytes, |own| own.taken.bytes, |own| own.bytes.keys().next())
        } else {
            None
        }
    }

    fn first_of_most(
        &self,
        what: Evicted,
        has: impl Fn(&TenantEntries<T>) -> u64,
        first: impl Fn(&TenantEntries<T>) -> Option<&u64>,
    ) -> Option<Eviction<T>> {
        let firsts = self.by_scope.iter().filter_map(|(scope, own)| Some((has(own), *first(own)?, scope, own)));
        // If several scopes use equally much, the one with the oldest entry loses it.
        let (_, number, scope, own) = firsts.max_by_key(|(has, number, ..)| (*has, Reverse(*number)))?;
        Some(Eviction { what, entry: own.entries.get(&number)?.clone(), scope: scope.clone(), number })
    }

    pub fn evict(&mut self, goes: &Eviction<T>) {
        self.remove(&goes.scope, goes.number, goes.what);
    }

    pub fn remove(&mut self, scope: &Tenant, number: u64, what: Evicted) {
        let Some(own) = self.by_scope.get_mut(scope) else { return };
        let bytes = own.bytes.remove(&number).unwrap_or(0);
        let entries = match what {
            Evicted::Entry => u64::from(own.entries.remove(&number).is_some()),
            Evicted::Bytes => 0,
        };
        let gone = Amount { entries, bytes };
        own.taken = own.taken.without(gone);
        self.all = self.all.without(gone);
        if own.entries.is_empty() {
            self.by_scope.remove(scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds the entries one by one. Returns the evictions.
    fn gone((entries_max, bytes_max): (u64, u64), added: &[(&str, u64)]) -> (Vec<(Evicted, usize)>, Retention<usize>) {
        let (mut kept, mut gone) = (Retention::default(), Vec::new());
        for (at, (name, bytes)) in added.iter().enumerate() {
            kept.add(&name.parse().unwrap(), at as u64, at, *bytes);
            while let Some(goes) = kept.next_victim(entries_max, bytes_max) {
                kept.evict(&goes);
                gone.push((goes.what, goes.entry));
            }
        }
        (gone, kept)
    }

    #[test]
    fn what_ended_first_goes_first() {
        let ended: Vec<_> = (0..6).map(|_| ("a", 0)).collect();
        assert_eq!(gone((4, 100), &ended).0, [(Evicted::Entry, 0), (Evicted::Entry, 1)]);
        assert_eq!(gone((0, 100), &ended[..2]).0, [(Evicted::Entry, 0)], "the last is always known");
    }

    #[test]
    fn a_flood_of_tasks_pushes_out_the_floods_own() {
        let modest = [("modest", 1), ("modest", 1)];
        let flood = [("greedy", 1); 20];
        let (gone, kept) = gone((10, 100), &[&modest[..], &flood].concat());
        assert_eq!(gone, (2..14).map(|at| (Evicted::Entry, at)).collect::<Vec<_>>());
        assert_eq!(kept.all(), Amount { entries: 10, bytes: 10 }, "an output goes with its task");
    }

    #[test]
    fn a_flood_of_outputs_pushes_out_the_floods_own_and_its_tasks_stay_known() {
        let ended = [("modest", 40), ("greedy", 30), ("greedy", 30), ("greedy", 0), ("greedy", 30), ("other", 20)];
        let (gone, kept) = gone((100, 110), &ended);
        assert_eq!(gone, [(Evicted::Bytes, 1), (Evicted::Bytes, 2)]);
        assert_eq!(kept.all(), Amount { entries: 6, bytes: 90 });
        let mut with_bytes: Vec<usize> = kept.with_bytes().copied().collect();
        with_bytes.sort_unstable();
        assert_eq!(with_bytes, [0, 4, 5]);
    }

    #[test]
    fn one_output_that_is_more_than_all_others_have_makes_no_room_for_itself() {
        let (gone, _) = gone((100, 100), &[("a", 30), ("b", 30), ("c", 90)]);
        assert_eq!(gone, [(Evicted::Bytes, 2)]);
    }

    #[test]
    fn of_those_that_have_as_much_the_one_goes_that_was_here_first() {
        let (gone, kept) = gone((3, 100), &[("b", 0), ("a", 0), ("d", 0), ("c", 0)]);
        assert_eq!(gone, [(Evicted::Entry, 0)]);
        assert_eq!(kept.by_scope.len(), 3, "nothing is kept of who has nothing here");
    }
}
