//! Fair queue for a scarce resource, such as threads for guests or processes for compilers. Owners
//! are served round robin, and the callers of one owner in order of arrival.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::shares::{Owner, Shares};

/// A fair queue for a number of permits.
pub struct Turns<K: Owner>(Arc<TurnsShared<K>>);

struct TurnsShared<K: Owner> {
    permits: usize,
    spare: usize,
    line: Mutex<TenantLine<K>>,
}

struct TenantLine<K: Owner> {
    in_use: usize,
    /// Number of permits of each owner that holds some.
    held: HashMap<K, usize>,
    /// Waiting callers, for each owner that has some.
    waiting: HashMap<K, Waiter<K>>,
    /// The same owners, in the order of their turns.
    order: BTreeMap<u64, K>,
    places: Shares<K>,
    next_number: u64,
}

struct Waiter<K: Owner> {
    turn: u64,
    callers: BTreeMap<u64, OnTurn<K>>,
}

/// Callback that gets the permit. It runs on the thread that releases a permit, so it must only
/// hand the work on.
type OnTurn<K> = Box<dyn FnOnce(Turn<K>) + Send>;

/// Error of a full queue, in total or for this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wait already")]
pub struct LineIsFull;

/// A permit. Dropping it gives it to the next caller in the queue.
pub struct Turn<K: Owner> {
    shared: Arc<TurnsShared<K>>,
    owner: K,
}

/// A place in the queue. Dropping it leaves the queue.
pub struct QueuePlace<K: Owner> {
    shared: Arc<TurnsShared<K>>,
    owner: K,
    number: u64,
}

impl<K: Owner> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Owner + Send + 'static> Turns<K> {
    /// Creates a queue. `permits` are for the next caller of any owner. `spare` additional ones are
    /// for an owner that holds none, so that it need not wait until others finish. At most
    /// `waiting_max` callers can wait, by the rule of [`Shares`].
    pub fn new(permits: usize, spare: usize, waiting_max: u64) -> Self {
        let line = TenantLine {
            in_use: 0,
            held: HashMap::new(),
            waiting: HashMap::new(),
            order: BTreeMap::new(),
            places: Shares::new(waiting_max),
            next_number: 0,
        };
        Self(Arc::new(TurnsShared { permits, spare, line: Mutex::new(line) }))
    }

    /// Waits for a permit. A caller that drops the future leaves the queue.
    pub async fn wait(&self, owner: &K) -> Result<Turn<K>, LineIsFull> {
        let (sender, turn) = oneshot::channel();
        let place = self.start(owner, move |turn| drop(sender.send(turn)))?;
        let turn = turn.await;
        drop(place);
        Ok(turn.expect("a place in the line is served or left"))
    }

    /// Waits as [`Turns::wait`] does, and blocks the thread.
    pub fn wait_blocking(&self, owner: &K) -> Result<Turn<K>, LineIsFull> {
        // No owner: one turn goes through it.
        let (sender, turn) = mpsc::channel();
        let place = self.start(owner, move |turn| drop(sender.send(turn)))?;
        let turn = turn.recv();
        drop(place);
        Ok(turn.expect("a place in the line is served or left"))
    }

    /// Returns a permit if one is free for `owner` now.
    pub fn try_take(&self, owner: &K) -> Option<Turn<K>> {
        let mut line = self.0.lock();
        self.0.is_free_for(&line, owner).then(|| self.0.grant(&mut line, owner))
    }

    /// Calls `start` with a permit: at once, or later on the thread that releases one. That thread
    /// continues when `start` returns. If the place is dropped before that, `start` is never
    /// called.
    pub fn start(&self, owner: &K, start: impl FnOnce(Turn<K>) + Send + 'static) -> Result<QueuePlace<K>, LineIsFull> {
        let mut line = self.0.lock();
        let number = line.number();
        // Nobody in the queue can use a permit that is free for `owner`.
        if self.0.is_free_for(&line, owner) {
            let turn = self.0.grant(&mut line, owner);
            drop(line);
            start(turn);
        } else {
            line.places.take(owner, 1).map_err(|_| LineIsFull)?;
            line.push(owner, number, Box::new(start));
        }
        Ok(QueuePlace { shared: self.0.clone(), owner: owner.clone(), number })
    }

    /// Returns the number of waiting callers.
    pub fn waiting(&self) -> u64 {
        self.0.lock().places.taken()
    }

    /// Returns the number of permits in use.
    pub fn in_use(&self) -> usize {
        self.0.lock().in_use
    }
}

impl<K: Owner> TurnsShared<K> {
    fn lock(&self) -> MutexGuard<'_, TenantLine<K>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a permit would be free for `owner` if it were next.
    fn is_free_for(&self, line: &TenantLine<K>, owner: &K) -> bool {
        line.in_use < self.permits || (line.in_use < self.permits + self.spare && !line.held.contains_key(owner))
    }

    fn grant(self: &Arc<Self>, line: &mut TenantLine<K>, owner: &K) -> Turn<K> {
        line.in_use += 1;
        *line.held.entry(owner.clone()).or_default() += 1;
        Turn { shared: self.clone(), owner: owner.clone() }
    }

    /// Releases a permit of `owner`, and grants permits while a caller in the queue may have one.
    /// Skips at most as many owners as hold permits.
    fn give_back(self: &Arc<Self>, owner: &K) {
        let mut line = self.lock();
        line.give_back(owner);
        while let Some(owner) = line.order.values().find(|owner| self.is_free_for(&line, owner)).cloned() {
            let Some(start) = line.pop(&owner) else { return };
            let turn = self.grant(&mut line, &owner);
            // If the caller leaves at this moment, `start` drops the turn and so releases it.
            drop(line);
            start(turn);
            line = self.lock();
        }
    }
}

impl<K: Owner> TenantLine<K> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn push(&mut self, owner: &K, number: u64, caller: OnTurn<K>) {
        let order = &mut self.order;
        let own = self.waiting.entry(owner.clone()).or_insert_with(|| {
            order.insert(number, owner.clone());
            Waiter { turn: number, callers: BTreeMap::new() }
        });
        own.callers.insert(number, caller);
    }

    /// Removes the first caller of `owner`. The owner's next turn comes after those of all other
    /// owners.
    fn pop(&mut self, owner: &K) -> Option<OnTurn<K>> {
        let turn = self.number();
        let own = self.waiting.get_mut(owner)?;
        let (_, caller) = own.callers.pop_first()?;
        self.places.release(owner, 1);
        self.order.remove(&own.turn);
        if own.callers.is_empty() {
            self.waiting.remove(owner);
        } else {
            own.turn = turn;
            self.order.insert(turn, owner.clone());
        }
        Some(caller)
    }

    fn remove(&mut self, owner: &K, number: u64) {
        let Some(own) = self.waiting.get_mut(owner) else { return };
        if own.callers.remove(&number).is_none() {
            return;
        }
        self.places.release(owner, 1);
        if own.callers.is_empty() {
            self.order.remove(&own.turn);
            self.waiting.remove(owner);
        }
    }

    fn give_back(&mut self, owner: &K) {
        self.in_use -= 1;
        match self.held.get_mut(owner) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(self.held.remove(owner)),
        }
    }
}

impl<K: Owner> Drop for Turn<K> {
    fn drop(&mut self) {
        self.shared.give_back(&self.owner);
    }
}

impl<K: Owner> Drop for QueuePlace<K> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.owner, self.number);
    }
}

#[cfg(test)]
mod tests;
