//! Turns: a line in front of something scarce, such as threads for guests or processes for compilers. Owners have their turn
//! one after another, and each owner's callers in the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    callers: BTreeMap<u64, oneshot::Sender<Turn<K>>>,
}

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
struct Place<K: Owner> {
    shared: Arc<Shared<K>>,
    owner: K,
    number: u64,
}

impl<K: Owner> Clone for Turns<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Owner> Turns<K> {
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
        let (place, turn) = self.enter(owner)?;
        let turn = turn.await;
        drop(place);
        Ok(turn.expect("a place in the line is served or left"))
    }

    /// The same for a caller that may block its thread.
    pub fn wait_blocking(&self, owner: &K) -> Result<Turn<K>, LineIsFull> {
        let (place, turn) = self.enter(owner)?;
        let turn = turn.blocking_recv();
        drop(place);
        Ok(turn.expect("a place in the line is served or left"))
    }

    /// How many callers wait.
    pub fn waiting(&self) -> u64 {
        self.0.lock().places.taken()
    }

    /// How many permits are in use.
    pub fn in_use(&self) -> usize {
        self.0.lock().in_use
    }

    fn enter(&self, owner: &K) -> Result<(Place<K>, oneshot::Receiver<Turn<K>>), LineIsFull> {
        let (sender, receiver) = oneshot::channel();
        let mut line = self.0.lock();
        // A permit that is free now is not waited for, so the length of the line does not matter.
        if self.0.is_free_for(&line, owner) {
            line.places.retake(owner, 1);
        } else {
            line.places.take(owner, 1).map_err(|_| LineIsFull)?;
        }
        let number = line.number();
        line.push(owner, number, sender);
        self.0.serve(&mut line);
        drop(line);
        Ok((Place { shared: self.0.clone(), owner: owner.clone(), number }, receiver))
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

    /// Hands out permits as long as somebody in the line may have one. At most as many owners are passed over as hold
    /// permits.
    fn serve(self: &Arc<Self>, line: &mut Line<K>) {
        while let Some(owner) = line.order.values().find(|owner| self.is_free_for(line, owner)).cloned() {
            let Some(caller) = line.pop(&owner) else { return };
            line.in_use += 1;
            *line.held.entry(owner.clone()).or_default() += 1;
            if let Err(turn) = caller.send(Turn { shared: self.clone(), owner }) {
                // The caller left at this moment. The drop of the turn would lock the line again.
                line.give_back(&turn.owner);
                std::mem::forget(turn);
            }
        }
    }
}

impl<K: Owner> Line<K> {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn push(&mut self, owner: &K, number: u64, caller: oneshot::Sender<Turn<K>>) {
        let order = &mut self.order;
        let own = self.waiting.entry(owner.clone()).or_insert_with(|| {
            order.insert(number, owner.clone());
            Waiting { turn: number, callers: BTreeMap::new() }
        });
        own.callers.insert(number, caller);
    }

    /// The first caller of `owner`, whose next turn then comes after those of all others.
    fn pop(&mut self, owner: &K) -> Option<oneshot::Sender<Turn<K>>> {
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
        let mut line = self.shared.lock();
        line.give_back(&self.owner);
        self.shared.serve(&mut line);
    }
}

impl<K: Owner> Drop for Place<K> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.owner, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    /// A token, by its number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Token(u8);

    impl Owner for Token {}

    type Wait = Pin<Box<dyn Future<Output = Result<Turn<Token>, LineIsFull>>>>;

    fn wait(turns: &Turns<Token>, owner: u8) -> Wait {
        let turns = turns.clone();
        let mut wait: Wait = Box::pin(async move { turns.wait(&Token(owner)).await });
        // Its place in the line is taken when it is polled first.
        if let Some(turn) = now(&mut wait) {
            return Box::pin(std::future::ready(turn));
        }
        wait
    }

    fn now(wait: &mut Wait) -> Option<Result<Turn<Token>, LineIsFull>> {
        match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_of_another_comes_after_one_of_a_thousand() {
        let turns = Turns::new(1, 0, 10_000);
        let running = now(&mut wait(&turns, 1)).unwrap().unwrap();
        let mut greedy: Vec<Wait> = (0..1_000).map(|_| wait(&turns, 1)).collect();
        let mut late = [wait(&turns, 2), wait(&turns, 2)];
        drop(running);
        let first = now(&mut greedy[0]).expect("the greedy token came first").unwrap();
        assert!(now(&mut late[0]).is_none());
        drop(first);
        let second = now(&mut late[0]).expect("it is the other's turn").unwrap();
        drop(second);
        assert!(now(&mut late[1]).is_none(), "the turns alternate");
        drop(now(&mut greedy[1]).unwrap().unwrap());
        assert!(now(&mut late[1]).is_some());
    }

    #[test]
    fn spare_permits_start_whoever_runs_nothing() {
        let turns = Turns::new(2, 1, 100);
        let held: Vec<_> = (0..2).map(|_| now(&mut wait(&turns, 1)).unwrap().unwrap()).collect();
        let mut greedy = wait(&turns, 1);
        assert!(now(&mut greedy).is_none());
        let spare = now(&mut wait(&turns, 2)).expect("it runs nothing").unwrap();
        assert!(now(&mut wait(&turns, 2)).is_none(), "it runs something");
        assert!(now(&mut wait(&turns, 3)).is_none(), "there is no second spare");
        drop(held);
        assert_eq!(turns.in_use(), 2, "one of the two went to the line");
        drop((greedy, spare));
        assert_eq!((turns.in_use(), turns.waiting()), (0, 0));
    }

    #[test]
    fn a_line_has_places_for_more_than_one_owner() {
        let turns = Turns::new(1, 0, 10);
        let running = now(&mut wait(&turns, 1)).unwrap().unwrap();
        let mut line: Vec<Wait> = (0..9).map(|_| wait(&turns, 1)).collect();
        assert_eq!(now(&mut wait(&turns, 1)).unwrap().err(), Some(LineIsFull));
        line.push(wait(&turns, 2));
        assert_eq!(turns.waiting(), 10);
        drop(line);
        assert_eq!(turns.waiting(), 0, "who stops waiting leaves the line");
        drop(running);
        assert!(turns.0.lock().held.is_empty() && turns.0.lock().order.is_empty());
    }

    #[test]
    fn a_turn_that_nobody_fetches_goes_to_the_next() {
        let turns = Turns::new(1, 0, 10);
        let running = now(&mut wait(&turns, 1)).unwrap().unwrap();
        let (first, mut second) = (wait(&turns, 1), wait(&turns, 1));
        drop(running);
        assert!(now(&mut second).is_none());
        drop(first);
        assert!(now(&mut second).is_some());
    }

    #[test]
    fn threads_wait_too_and_no_more_run_than_there_are_permits() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let turns = Turns::new(2, 1, 1_000);
        let running = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for i in 0..64u8 {
                let (turns, running) = (turns.clone(), &running);
                scope.spawn(move || {
                    let turn = turns.wait_blocking(&Token(i % 3)).unwrap();
                    assert!(running.fetch_add(1, Ordering::SeqCst) < 3);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                });
            }
        });
        assert_eq!((turns.in_use(), turns.waiting()), (0, 0));
    }

    proptest! {
        /// However the others come and go, an owner that runs nothing has its turn before any other has two.
        #[test]
        fn no_owner_has_two_turns_while_another_waits(
            permits in 1..4usize, spare in 0..3usize, steps in prop::collection::vec((0..4u8, 0..3u8), 1..300)
        ) {
            let turns = Turns::new(permits, spare, 1_000_000);
            let mut waiting: Vec<(u8, Wait)> = Vec::new();
            let mut running: Vec<(u8, Turn<Token>)> = Vec::new();
            // Who had a turn while another waited.
            let mut passed: Vec<(u8, u8)> = Vec::new();
            for (owner, step) in steps {
                match step {
                    0 => waiting.push((owner, wait(&turns, owner))),
                    1 if !running.is_empty() => drop(running.remove(usize::from(owner) % running.len())),
                    2 if !waiting.is_empty() => drop(waiting.remove(usize::from(owner) % waiting.len())),
                    _ => {}
                }
                let mut at = 0;
                while let Some((_, wait)) = waiting.get_mut(at) {
                    let Some(turn) = now(wait) else {
                        at += 1;
                        continue;
                    };
                    let (served, _) = waiting.remove(at);
                    running.push((served, turn.unwrap()));
                    // With spare permits, an owner that runs something gives way to one that runs nothing.
                    passed.retain(|(late, _)| *late != served && waiting.iter().any(|(other, _)| other == late));
                    let runs = |owner: u8| running.iter().any(|(other, _)| *other == owner);
                    let mut late: Vec<u8> = waiting.iter().map(|(owner, _)| *owner).collect();
                    late.retain(|late| *late != served && (spare == 0 || !runs(*late)));
                    late.sort_unstable();
                    late.dedup();
                    for late in late {
                        prop_assert!(!passed.contains(&(late, served)), "{served} came twice before {late}");
                        passed.push((late, served));
                    }
                }
                passed.retain(|(late, _)| waiting.iter().any(|(other, _)| other == late));
                prop_assert_eq!(turns.in_use(), running.len());
                prop_assert!(running.len() <= permits + spare);
                prop_assert!(waiting.is_empty() || running.len() >= permits, "nobody waits beside a free permit");
            }
            drop(running);
            drop(waiting);
            prop_assert_eq!((turns.in_use(), turns.waiting()), (0, 0));
        }
    }
}
