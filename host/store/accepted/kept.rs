//! What has ended and can still be asked for: of whom how much there is, and what goes first where that is too much.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use super::room::{AcceptedQuota, Taken};
use super::task::TaskId;
use crate::slice::Scope;

/// Tasks that have ended, and the outputs that are kept of them.
#[derive(Debug, Default)]
pub struct Kept {
    all: Taken,
    /// Scopes that have something here, and nothing else.
    by_scope: HashMap<Scope, Own>,
}

/// What one scope has, by the order in which it ended.
#[derive(Debug, Default)]
struct Own {
    taken: Taken,
    tasks: BTreeMap<u64, TaskId>,
    /// The lengths of outputs in bytes. An empty one takes no room and never has to go, so it is not among them.
    outputs: BTreeMap<u64, u64>,
}

/// What has to go next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goes {
    pub what: What,
    pub id: TaskId,
    scope: Scope,
    order: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A task, and its output with it.
    Task,
    /// Of a task that stays known.
    Output,
}

impl Kept {
    /// Tasks, and the bytes of their outputs.
    pub const fn all(&self) -> Taken {
        self.all
    }

    /// The tasks that have an output here.
    pub fn with_output(&self) -> impl Iterator<Item = TaskId> {
        self.by_scope.values().flat_map(|own| own.outputs.keys().filter_map(|order| own.tasks.get(order).copied()))
    }

    /// Adds a task; each has an `order` of its own, which is higher than that of all that ended before.
    pub fn add(&mut self, scope: &Scope, order: u64, id: TaskId, output_bytes: u64) {
        let own = self.by_scope.entry(scope.clone()).or_default();
        own.tasks.insert(order, id);
        if output_bytes > 0 {
            own.outputs.insert(order, output_bytes);
        }
        let taken = Taken { entries: 1, bytes: output_bytes };
        own.taken = own.taken.and(taken);
        self.all = self.all.and(taken);
    }

    /// What is to go where there is more than the quota allows: of the scope that has most, what ended first. So whoever floods
    /// this pushes out what is its own. There are as many scopes as tokens, and they are gone through.
    pub fn next_to_go(&self, quota: &AcceptedQuota) -> Option<Goes> {
        if self.all.entries > quota.finished_max.max(1) {
            self.first_of_most(What::Task, |own| own.taken.entries, |own| own.tasks.keys().next())
        } else if self.all.bytes > quota.outputs_bytes_max {
            self.first_of_most(What::Output, |own| own.taken.bytes, |own| own.outputs.keys().next())
        } else {
            None
        }
    }

    fn first_of_most(
        &self,
        what: What,
        has: impl Fn(&Own) -> u64,
        first: impl Fn(&Own) -> Option<&u64>,
    ) -> Option<Goes> {
        let firsts = self.by_scope.iter().filter_map(|(scope, own)| {
            let order = *first(own)?;
            Some((has(own), Reverse(order), scope, *own.tasks.get(&order)?))
        });
        // Of those that have as much, the one whose first has been here for longest.
        let (_, Reverse(order), scope, id) = firsts.max_by_key(|(has, order, ..)| (*has, *order))?;
        Some(Goes { what, id, scope: scope.clone(), order })
    }

    pub fn remove(&mut self, goes: &Goes) {
        let Some(own) = self.by_scope.get_mut(&goes.scope) else { return };
        let bytes = own.outputs.remove(&goes.order).unwrap_or(0);
        let entries = match goes.what {
            What::Task => u64::from(own.tasks.remove(&goes.order).is_some()),
            What::Output => 0,
        };
        let gone = Taken { entries, bytes };
        own.taken = own.taken.without(gone);
        self.all = self.all.without(gone);
        if own.tasks.is_empty() {
            self.by_scope.remove(&goes.scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has these end, one after another, and says by their numbers what had to go.
    fn gone(quota: &AcceptedQuota, ended: &[(&str, u64)]) -> (Vec<(What, usize)>, Kept) {
        let (mut kept, mut gone) = (Kept::default(), Vec::new());
        let id = |at: usize| TaskId::from_bytes([at as u8; 16]);
        for (at, (name, output_bytes)) in ended.iter().enumerate() {
            kept.add(&name.parse().unwrap(), at as u64, id(at), *output_bytes);
            while let Some(goes) = kept.next_to_go(quota) {
                kept.remove(&goes);
                gone.push((goes.what, (0..ended.len()).find(|at| id(*at) == goes.id).unwrap()));
            }
        }
        (gone, kept)
    }

    fn quota(finished_max: u64, outputs_bytes_max: u64) -> AcceptedQuota {
        AcceptedQuota { finished_max, outputs_bytes_max, ..AcceptedQuota::default() }
    }

    #[test]
    fn what_ended_first_goes_first() {
        let ended: Vec<_> = (0..6).map(|_| ("a", 0)).collect();
        assert_eq!(gone(&quota(4, 100), &ended).0, [(What::Task, 0), (What::Task, 1)]);
        assert_eq!(gone(&quota(0, 100), &ended[..2]).0, [(What::Task, 0)], "the last is always known");
    }

    #[test]
    fn a_flood_of_tasks_pushes_out_the_floods_own() {
        let modest = [("modest", 1), ("modest", 1)];
        let flood = [("greedy", 1); 20];
        let (gone, kept) = gone(&quota(10, 100), &[&modest[..], &flood].concat());
        assert_eq!(gone, (2..14).map(|at| (What::Task, at)).collect::<Vec<_>>());
        assert_eq!(kept.all(), Taken { entries: 10, bytes: 10 }, "an output goes with its task");
    }

    #[test]
    fn a_flood_of_outputs_pushes_out_the_floods_own_and_its_tasks_stay_known() {
        let ended = [("modest", 40), ("greedy", 30), ("greedy", 30), ("greedy", 0), ("greedy", 30), ("other", 20)];
        let (gone, kept) = gone(&quota(100, 110), &ended);
        assert_eq!(gone, [(What::Output, 1), (What::Output, 2)]);
        assert_eq!(kept.all(), Taken { entries: 6, bytes: 90 });
        let with_output: Vec<TaskId> = kept.with_output().collect();
        assert_eq!(with_output.len(), 3, "{with_output:?}");
    }

    #[test]
    fn one_output_that_is_more_than_all_others_have_makes_no_room_for_itself() {
        let (gone, _) = gone(&quota(100, 100), &[("a", 30), ("b", 30), ("c", 90)]);
        assert_eq!(gone, [(What::Output, 2)]);
    }

    #[test]
    fn of_those_that_have_as_much_the_one_goes_that_was_here_first() {
        let (gone, kept) = gone(&quota(3, 100), &[("b", 0), ("a", 0), ("d", 0), ("c", 0)]);
        assert_eq!(gone, [(What::Task, 0)]);
        assert_eq!(kept.by_scope.len(), 3, "nothing is kept of who has nothing here");
    }
}
