//! Fair queue of tasks: round-robin over scopes, and first-in first-out within a scope. However
//! many tasks one scope has, each task of another scope waits for at most one of them per own task.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::slice::Tenant;
use crate::store::{TaskId, WaitingTask};

#[derive(Default)]
pub struct FairQueue {
    /// Waiting tasks of each scope. Scopes without waiting tasks are absent.
    waiting: HashMap<Tenant, BTreeMap<u64, TaskId>>,
    /// The same scopes in the order of their turns; the first is next.
    turns: VecDeque<Tenant>,
}

impl FairQueue {
    pub fn push(&mut self, WaitingTask { number, scope, id }: WaitingTask) {
        let own = self.waiting.entry(scope.clone()).or_default();
        if own.is_empty() {
            self.turns.push_back(scope);
        }
        own.insert(number, id);
    }

    /// Dequeues the next task of a scope for which `place` returns a permit, and returns both.
    pub fn next<P>(&mut self, place: impl Fn(&Tenant) -> Option<P>) -> Option<(WaitingTask, P)> {
        let found = self.turns.iter().enumerate().find_map(|(at, scope)| Some((at, place(scope)?)));
        let (at, place) = found?;
        let scope = self.turns.remove(at)?;
        let own = self.waiting.get_mut(&scope)?;
        let (number, id) = own.pop_first()?;
        if own.is_empty() {
            self.waiting.remove(&scope);
        } else {
            self.turns.push_back(scope.clone());
        }
        Some((WaitingTask { number, scope, id }, place))
    }

    pub fn remove(&mut self, WaitingTask { number, scope, .. }: &WaitingTask) {
        let Some(own) = self.waiting.get_mut(scope) else { return };
        own.remove(number);
        if own.is_empty() {
            self.waiting.remove(scope);
            self.turns.retain(|other| other != scope);
        }
    }

    /// Returns how many tasks of a scope wait, and the first `max` of them.
    pub fn first_of(&self, scope: &Tenant, max: usize) -> (u64, Vec<TaskId>) {
        let Some(own) = self.waiting.get(scope) else { return (0, Vec::new()) };
        (own.len() as u64, own.values().take(max).copied().collect())
    }

    /// Returns how many tasks would run before this one, in the current state.
    pub fn ahead(&self, scope: &Tenant, number: u64) -> u64 {
        let Some(own) = self.waiting.get(scope) else { return 0 };
        let own_ahead = own.range(..number).count();
        let mut is_before = true;
        let mut ahead = own_ahead;
        for other in &self.turns {
            if other == scope {
                is_before = false;
            } else {
                let turns = own_ahead + usize::from(is_before);
                ahead += self.waiting.get(other).map_or(0, |theirs| theirs.len().min(turns));
            }
        }
        ahead as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(scope: &str, number: u64) -> WaitingTask {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        WaitingTask { number, scope: scope.parse().unwrap(), id: TaskId::from_bytes(id) }
    }

    const fn anywhere(_: &Tenant) -> Option<()> {
        Some(())
    }

    #[test]
    fn a_scope_without_a_place_keeps_its_turn_and_others_go_on() {
        let mut turns = FairQueue::default();
        for (scope, number) in [("a", 0), ("a", 1), ("b", 2)] {
            turns.push(waiting(scope, number));
        }
        let not_a = |scope: &Tenant| (scope.token() != Some("a")).then_some(());
        assert_eq!(turns.next(not_a).map(|(next, ())| next.number), Some(2));
        assert_eq!(turns.next(not_a), None);
        assert_eq!(turns.next(anywhere).map(|(next, ())| next.number), Some(0));
    }

    #[test]
    fn nine_thousand_of_one_do_not_keep_one_of_another_waiting() {
        let mut turns = FairQueue::default();
        (0..9_000).for_each(|number| turns.push(waiting("greedy", number)));
        turns.push(waiting("late", 9_000));
        turns.push(waiting("later", 9_001));
        assert_eq!(turns.ahead(&"late".parse().unwrap(), 9_000), 1);
        let order: Vec<u64> = std::iter::from_fn(|| turns.next(anywhere)).map(|(next, ())| next.number).collect();
        assert_eq!(order[..5], [0, 9_000, 9_001, 1, 2]);
        assert_eq!(order.len(), 9_002);
    }

    #[test]
    fn what_is_said_to_be_ahead_is() {
        let mut turns = FairQueue::default();
        let mut number = 0;
        for (scope, count) in [("a", 5), ("b", 1), ("c", 3), ("a", 2), ("d", 4)] {
            for _ in 0..count {
                turns.push(waiting(scope, number));
                number += 1;
            }
        }
        turns.remove(&waiting("c", 7));
        turns.remove(&waiting("b", 5));
        for _ in 0..3 {
            turns.next(anywhere).unwrap();
            let mut said: Vec<(u64, u64)> = Vec::new();
            for (scope, own) in &turns.waiting {
                said.extend(own.keys().map(|number| (turns.ahead(scope, *number), *number)));
            }
            said.sort_unstable();
            let mut rest = FairQueue { waiting: turns.waiting.clone(), turns: turns.turns.clone() };
            let order: Vec<(u64, u64)> = (0..)
                .zip(std::iter::from_fn(|| rest.next(anywhere)))
                .map(|(at, (next, ()))| (at, next.number))
                .collect();
            assert_eq!(said, order);
        }
    }

    #[test]
    fn what_comes_back_has_its_old_place() {
        let mut turns = FairQueue::default();
        (0..3).for_each(|number| turns.push(waiting("a", number)));
        let (first, ()) = turns.next(anywhere).unwrap();
        turns.push(first.clone());
        assert_eq!(turns.next(anywhere), Some((first, ())));
        turns.remove(&waiting("a", 1));
        turns.remove(&waiting("a", 2));
        assert_eq!((turns.next(anywhere), turns.turns.len(), turns.waiting.len()), (None, 0, 0));
    }
}
