//! A destination that is killed again and again while a carrier delivers bundles.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use crate::books::Books;
use crate::nodes::{self, Destination};
use crate::part::{self, Part};
use crate::random::Random;

const ROUNDS: u64 = 200;

/// Bundles to deliver in a round, if the destination lives that long.
const BUNDLES: u64 = 8;

#[test]
fn a_destination_killed_at_any_time_has_all_that_it_has_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (here, there) = (directory.path().join("carrier"), directory.path().join("destination"));
    nodes::add_carrier(&nodes::open(&there, nodes::DESTINATION));
    let (carrier, runtime, http) = (nodes::open(&here, nodes::CARRIER), nodes::runtime(), nodes::http());
    let (mut books, mut random) = (Books::default(), Random(3));
    let (mut cut_off, mut span_us, mut failures) = (0, 20_000, 0);
    for round in 0..ROUNDS {
        for number in round * BUNDLES..(round + 1) * BUNDLES {
            books.give(number);
            let mut sending = carrier.begin_send(nodes::sender(), None, None).unwrap();
            sending.write(&nodes::bundle(number)).unwrap();
            books.tell(sending.finish().unwrap().id);
        }
        let (mut child, address) = start(&Part::Destination { state: there.clone() });
        let after = Duration::from_micros(random.below(span_us));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            child.kill().unwrap();
            child.wait().unwrap();
        });
        let summary = nodes::flush(&runtime, &carrier, http.clone(), &nodes::destination(address), |_| {});
        killer.join().unwrap();
        failures += summary.failures;
        cut_off += usize::from(summary.failures > 0);
        // A kill after all work is done shows nothing.
        span_us = if summary.failures > 0 { span_us * 21 / 20 } else { span_us * 10 / 11 };
        books.check(&carrier, &nodes::open(&there, nodes::DESTINATION));
    }
    let destination = Destination::start(&there);
    let summary = nodes::flush(&runtime, &carrier, http, &destination.peer, |_| {});
    assert_eq!((summary.pending, summary.failures), (0, 0), "{summary:?}");
    books.check(&carrier, &destination.courier);
    books.close(&carrier, &destination.courier);
    assert!(cut_off >= ROUNDS as usize / 4, "of {ROUNDS} kills only {cut_off} came in time to cut something off");
    println!(
        "destination: {ROUNDS} kills, {cut_off} of them in the middle, {failures} tries cut off; {} acknowledged, 0 lost",
        books.credited()
    );
}

/// Starts a destination, and returns its address.
fn start(part: &Part) -> (Child, SocketAddr) {
    let mut child = part::start(part);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| line.unwrap().strip_prefix("listens at ").map(str::to_owned));
    (child, address.expect("it says where it listens").parse().unwrap())
}
