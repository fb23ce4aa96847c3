//! Carrier killed in each window of its work on a bundle.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::books::{Books, Found};
use crate::nodes::{self, Destination, Victim};
use crate::part::{self, Kill, Part};
use crate::random::Random;

/// Number of kills in each window.
const ROUNDS: usize = 200;

/// Limit on tries: a kill at a random time can miss its window.
const TRIES_MAX: usize = 10 * ROUNDS;

/// Bundles that a carrier stores in each round.
const BUNDLES: u64 = 2;

/// One carrier, killed again and again, and one destination.
struct Rounds {
    _directory: TempDir,
    state: PathBuf,
    destination: Destination,
    books: Books,
    next: u64,
    kills: usize,
}

impl Rounds {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let destination = Destination::start(&directory.path().join("destination"));
        let state = directory.path().join("carrier");
        Self { _directory: directory, state, destination, books: Books::default(), next: 0, kills: 0 }
    }

    /// Runs one carrier until it ends, and returns the state after it; `None` if it was not killed.
    /// If `stored` is given, the carrier is killed when the destination has stored that many
    /// bundles and one more.
    fn round(&mut self, kill: Kill, stored: Option<u64>) -> Option<Found> {
        let bundles: Vec<u64> = (self.next..).take(BUNDLES as usize).collect();
        self.next += BUNDLES;
        bundles.iter().for_each(|number| self.books.give(*number));
        let address = self.destination.peer.address.as_ref().unwrap();
        let (host, port) = (address.bundles_url().host_str().unwrap(), address.bundles_url().port().unwrap());
        let destination = format!("{host}:{port}").parse().unwrap();
        let child = part::start(&Part::Carrier { state: self.state.clone(), bundles, destination, kill });
        let victim = stored.map(|after| Victim { process: Pid::from_child(&child), after });
        *self.destination.victim.lock().unwrap() = victim;
        let output = child.wait_with_output().unwrap();
        *self.destination.victim.lock().unwrap() = None;
        part::told(&String::from_utf8_lossy(&output.stdout)).for_each(|id| self.books.tell(id));
        let was_killed = output.status.signal() == Some(Signal::KILL.as_raw());
        assert!(was_killed || output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let carrier = nodes::open(&self.state, nodes::CARRIER);
        let found = self.books.check(&carrier, &self.destination.courier);
        self.kills += usize::from(was_killed);
        was_killed.then_some(found)
    }

    /// Forwards the rest, and checks the totals.
    fn end(mut self, windows: &str) {
        let carrier = nodes::open(&self.state, nodes::CARRIER);
        let before = self.books.credited();
        let runtime = nodes::runtime();
        let summary = nodes::flush(&runtime, &carrier, nodes::http(), &self.destination.peer, |_| {});
        assert_eq!((summary.pending, summary.failures), (0, 0), "{summary:?}");
        self.books.check(&carrier, &self.destination.courier);
        self.books.close(&carrier, &self.destination.courier);
        println!(
            "{windows}: {} kills; {} ids told, 0 lost; {} credited ({before} before the end), 0 twice, all with evidence",
            self.kills,
            self.books.told(),
            self.books.credited(),
        );
    }
}

/// Kill times, adjusted until the process dies equally often before and after the event.
struct Aim {
    random: Random,
    span_us: u64,
}

impl Aim {
    fn us(&mut self) -> u64 {
        self.random.below(self.span_us)
    }

    fn learn(&mut self, was_early: bool) {
        self.span_us = if was_early { self.span_us * 21 / 20 + 1 } else { self.span_us * 20 / 21 + 1 };
    }
}

#[test]
fn a_carrier_killed_before_or_after_it_inserts_a_receipt_loses_nothing_that_was_told() {
    let mut rounds = Rounds::new();
    let mut aim = Aim { random: Random(1), span_us: 8_000 };
    let (mut before, mut after) = (0, 0);
    for _ in 0..TRIES_MAX {
        if before >= ROUNDS && after >= ROUNDS {
            break;
        }
        let known = rounds.books.told();
        let Some(found) = rounds.round(Kill::Inserting { after_us: aim.us() }, None) else {
            aim.learn(false);
            continue;
        };
        // The other bundles of the round were reported.
        assert!(rounds.books.told() - known >= BUNDLES as usize - 1);
        *(if found.unknown > 0 { &mut before } else { &mut after }) += 1;
        aim.learn(found.unknown > 0);
    }
    for after_requests in 0..20 {
        let found = rounds.round(Kill::BeforeRequest { after: after_requests % BUNDLES }, None);
        after += usize::from(found.is_some_and(|found| found.pending > 0));
    }
    assert!(before >= ROUNDS && after >= ROUNDS, "{before} before, {after} after");
    rounds.end(&format!("before insert {before}, after insert {after}"));
}

#[test]
fn a_carrier_killed_after_it_has_sent_is_answered_with_the_same_when_it_sends_again() {
    let mut rounds = Rounds::new();
    let mut after_send = 0;
    for _ in 0..TRIES_MAX {
        if after_send >= ROUNDS {
            break;
        }
        let found = rounds.round(Kill::Never, Some(rounds.next % 5));
        after_send += usize::from(found.is_some_and(|found| found.pending > 0));
    }
    assert!(after_send >= ROUNDS, "{after_send}");
    rounds.end(&format!("after send {after_send}"));
}

#[test]
fn a_carrier_killed_after_the_reply_or_the_commit_is_credited_once() {
    let mut rounds = Rounds::new();
    let mut aim = Aim { random: Random(2), span_us: 8_000 };
    let (mut replied, mut committed) = (0, 0);
    for round in 0..TRIES_MAX as u64 {
        if replied >= ROUNDS && committed >= ROUNDS {
            break;
        }
        let after = round / 4 % BUNDLES;
        let kill = match round % 4 {
            0 => Kill::AtReply { after },
            1 => Kill::AfterCommit { after },
            _ => Kill::AfterReply { after_us: aim.us() },
        };
        let Some(found) = rounds.round(kill, None) else {
            aim.learn(false);
            continue;
        };
        // Other bundles may have been credited in that round, but not the one of the last reply.
        let is_committed = found.credited > 0 && !matches!(kill, Kill::AtReply { .. });
        *(if is_committed { &mut committed } else { &mut replied }) += 1;
        if matches!(kill, Kill::AfterReply { .. }) {
            aim.learn(!is_committed);
        }
    }
    assert!(replied >= ROUNDS && committed >= ROUNDS, "{replied} after the reply, {committed} after the commit");
    rounds.end(&format!("after the reply {replied}, after commit {committed}"));
}
