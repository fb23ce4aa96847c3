//! Turns: a line in front of something scarce, such as threads for guests or processes for compilers. Owners have their turn
//! one after another, and each owner's callers in the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use tokio::sync::oneshot;

use crate::shares::{Owner, Shares};

/// A line in front of a number of permits.
pub struct Turns<K: Owner>(Arc<Shared<K>>);

struct Shared<K: Owner> {
    permits: usize,
    spare: usize,
    line: Mutex<Line<K>>,
}

struct Line<K: Owner> {
    in_use: usize,
    /// The permits of each owner that holds some.
    held: HashMap<K, usize>,
    /// The callers of each owner that has some in the line.
    waiting: HashMap<K, Waiting<K>>,
    /// The same owners by their turn.
    order: BTreeMap<u64, K>,
    places: Shares<K>,
    next_number: u64,
}

struct Waiting<K: Owner> {
    turn: u64,
    callers: BTreeMap<u64, Start<K>>,
}

/// What a caller does with its permit. It is called by whoever gives the permit back, so it hands the work on.
type Start<K> = Box<dyn FnOnce(Turn<K>) + Send>;

/// There are as many in the line as it takes, all in all or of this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many wait already")]
pub struct LineIsFull;

/// A permit. Its drop gives it to the next in the line.
pub struct Turn<K: Owner> {
    shared: Arc<Shared<K>>,
    owner: K,
}

/// A place in the line. Its drop leaves the line.
pub struct Place<K: Owner> {
    shared: Arc<Shared<K>>,
    owner: K,
    number: u64,
}

impl<K: Owner> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Owner + Send + 'static> Turns<K> {
    /// `permits` are for whoever is next. `spare` ones beyond these are for an owner that holds none, so that it need not
    /// wait for the end of what others do. The line takes `waiting_max` callers, by the rule of [`Shares`].
    pub fn new(permits: usize, spare: usize, waiting_max: u64) -> Self {
        let line = Line {
            in_use: 0,
            held: HashMap::new(),
            waiting: HashMap::new(),
            order: BTreeMap::new(),
            places: Shares::new(waiting_max),
            next_number: 0,
        };
        Self(Arc::new(Shared { permits, spare, line: Mutex::new(line) }))
    }

    /// Waits for a permit. A caller that stops waiting (the future is dropped) leaves the line.
    pub async fn wait(&self, owner: &K) -> Result<Turn<K>, LineIsFull> {
        let (sender, turn) = oneshot::channel();
        let place = self.start(owner, move |turn| drop(sender.send(turn)))?;
        let turn = turn.await;
        drop(place);
        Ok(turn.expect("a place in the line is served or left"))
    }

    /// The same for a caller that may block its thread, whatever that thread belongs to.
    pub fn wait_blocking(&self, owner: &K) -> Result<Turn<K>, LineIsFull> {
        // No owner: one turn goes through it.
        let (sender, turn) = mpsc::channel();
        let place = self.start(owner, move |turn| drop(sender.send(turn)))?;
        let turn = turn.recv();
        drop(place);
        Ok(turn.expect("a place in the line is served or left"))
    }

    /// A permit that is free for `owner` now.
    pub fn try_take(&self, owner: &K) -> Option<Turn<K>> {
        let mut line = self.0.lock();
        self.0.is_free_for(&line, owner).then(|| self.0.grant(&mut line, owner))
    }

    /// Calls `start` with a permit: at once, or on the thread that gives one back, which goes on when `start` returns. If the
    /// place is dropped before that, `start` is never called.
    pub fn start(&self, owner: &K, start: impl FnOnce(Turn<K>) + Send + 'static) -> Result<Place<K>, LineIsFull> {
        let mut line = self.0.lock();
        let number = line.number();
        // Nobody in the line waits for a permit that is free.
        if self.0.is_free_for(&line, owner) {
            let turn = self.0.grant(&mut line, owner);
            drop(line);
            start(turn);
        } else {
            line.places.take(owner, 1).map_err(|_| LineIsFull)?;
            line.push(owner, number, Box::new(start));
        }
        Ok(Place { shared: self.0.clone(), owner: owner.clone(), number })
    }

    /// How many callers wait.
    pub fn waiting(&self) -> u64 {
        self.0.lock().places.taken()
    }

    /// How many permits are in use.
    pub fn in_use(&self) -> usize {
        self.0.lock().in_use
    }
}

impl<K: Owner> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Line<K>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `owner` would have a permit now if it were next.
    fn is_free_for(&self, line: &Line<K>, owner: &K) -> bool {
        line.in_use < self.permits || (line.in_use < self.permits + self.spare && !line.held.contains_key(owner))
    }

    fn grant(self: &Arc<Self>, line: &mut Line<K>, owner: &K) -> Turn<K> {
        line.in_use += 1;
        *line.held.entry(owner.clone()).or_default() += 1;
        Turn { shared: self.clone(), owner: owner.clone() }
    }

    /// Takes back a permit of `owner`, and hands out permits as long as somebody in the line may have one. At most as many
    /// owners are passed over as hold permits.
    fn give_back(self: &Arc<Self>, owner: &K) {
        let mut line = self.lock();
        line.give_back(owner);
        while let Some(owner) = line.order.values().find(|owner| self.is_free_for(&line, owner)).cloned() {
            let Some(start) = line.pop(&owner) else { return };
            let turn = self.grant(&mut line, &owner);
            // Where the caller has left at this moment, the turn is given back inside.
            drop(line);
            start(turn);
            line = self.lock();
        }
    }
}

impl<K: Owner> Line<K> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn push(&mut self, owner: &K, number: u64, caller: Start<K>) {
        let order = &mut self.order;
        let own = self.waiting.entry(owner.clone()).or_insert_with(|| {
            order.insert(number, owner.clone());
            Waiting { turn: number, callers: BTreeMap::new() }
        });
        own.callers.insert(number, caller);
    }

    /// The first caller of `owner`, whose next turn then comes after those of all others.
    fn pop(&mut self, owner: &K) -> Option<Start<K>> {
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

impl<K: Owner> Drop for Place<K> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.owner, self.number);
    }
}

#[cfg(test)]
mod tests;
