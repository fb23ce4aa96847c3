use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

/// A token, identified by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TestToken(u8);

impl Owner for TestToken {}

type PendingTurn = Pin<Box<dyn Future<Output = Result<Turn<TestToken>, LineIsFull>>>>;

fn wait(turns: &Turns<TestToken>, owner: u8) -> PendingTurn {
    let turns = turns.clone();
    let mut wait: PendingTurn = Box::pin(async move { turns.wait(&TestToken(owner)).await });
    // The first poll takes the place in the queue.
    if let Some(turn) = now(&mut wait) {
        return Box::pin(std::future::ready(turn));
    }
    wait
}

fn now(wait: &mut PendingTurn) -> Option<Result<Turn<TestToken>, LineIsFull>> {
    match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(turn) => Some(turn),
        Poll::Pending => None,
    }
}

#[test]
fn one_of_another_comes_after_one_of_a_thousand() {
    let turns = Turns::new(1, 0, 10_000);
    let running = now(&mut wait(&turns, 1)).unwrap().unwrap();
    let mut greedy: Vec<PendingTurn> = (0..1_000).map(|_| wait(&turns, 1)).collect();
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
    let mut line: Vec<PendingTurn> = (0..9).map(|_| wait(&turns, 1)).collect();
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
fn work_starts_where_the_permit_is_given_back_unless_its_place_is_left() {
    let turns = Turns::new(1, 0, 10);
    let (sender, started) = std::sync::mpsc::channel();
    let submit = |name: &'static str| {
        let sender = sender.clone();
        turns.start(&TestToken(1), move |turn| sender.send((name, turn)).unwrap()).unwrap()
    };
    let [_first, second, _third] = ["first", "second", "third"].map(submit);
    let (name, turn) = started.try_recv().expect("a free permit is not waited for");
    assert_eq!((name, turns.waiting()), ("first", 2));
    drop(second);
    assert!(started.try_recv().is_err());
    drop(turn);
    assert_eq!(started.try_recv().map(|(name, _)| name), Ok("third"));
    assert_eq!((turns.in_use(), turns.waiting()), (0, 0));
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
                let turn = turns.wait_blocking(&TestToken(i % 3)).unwrap();
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
    /// For any behaviour of the others, an owner that runs nothing has a turn before any other has
    /// two.
    #[test]
    fn no_owner_has_two_turns_while_another_waits(
        permits in 1..4usize, spare in 0..3usize, steps in prop::collection::vec((0..4u8, 0..3u8), 1..300)
    ) {
        let turns = Turns::new(permits, spare, 1_000_000);
        let mut waiting: Vec<(u8, PendingTurn)> = Vec::new();
        let mut running: Vec<(u8, Turn<TestToken>)> = Vec::new();
        // Pairs of a waiting owner and one that had a turn meanwhile.
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
                // With spare permits, an owner that runs something has lower priority than one that
                // runs nothing.
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
