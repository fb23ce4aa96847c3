//! Backoff: when an attempt is due, and that a restart does not change it.

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Side, wait_until};

/// Accepts connections, counts them, and closes them.
fn counting() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 1]);
        }
    });
    (address, count)
}

fn due_ms(side: &Side) -> Vec<u64> {
    side.json("list --pending").iter().map(|receipt| receipt["due_ms"].as_u64().unwrap()).collect()
}

#[test]
fn the_due_time_and_the_destinations_state_survive_a_restart() {
    let (carrier, destination) = Side::pair("");
    let (address, count) = counting();
    carrier.knows("bob", &destination.key(), &address);
    for bundle in [b"one", b"two", b"333"] {
        carrier.send(bundle, "alice");
    }
    // Each failure doubles the bound, so after a few failures a due time is far enough away for the
    // checks below.
    let far = || {
        let now_ms = compute_host::courier::system_clock();
        let due = due_ms(&carrier);
        due.len() == 3 && due.iter().all(|due_ms| *due_ms > now_ms + 20_000)
    };
    for _ in 0..200 {
        if far() {
            break;
        }
        assert_eq!(carrier.run("flush --retry-for 0s").code, 1);
    }
    assert!(far(), "{:?}", due_ms(&carrier));
    let (due, tried) = (due_ms(&carrier), count.load(Ordering::SeqCst));
    let attempts: Vec<u64> = carrier.json("list").iter().map(|receipt| receipt["attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts.iter().sum::<u64>(), tried as u64, "what is persisted is what was done");

    let node = carrier.serve();
    assert_eq!(due_ms(&carrier), due, "not a millisecond is lost");
    // The node would have attempted a delivery before it answers, or soon after. Its flush metrics
    // show that it did not.
    carrier.run("peer list").output();
    let fresh = carrier.json("list --pending").len();
    assert_eq!((fresh, count.load(Ordering::SeqCst)), (3, tried));
    assert_eq!(node.count("courier_flush_attempt_total"), tried as u64);
    assert_eq!(node.stop(), 0);
    assert_eq!(due_ms(&carrier), due);

    // A new receipt for a destination that has failed is due at once, but still waits for the
    // destination's backoff.
    let new = carrier.send(b"four", "alice");
    let node = carrier.serve();
    wait_until("the node to look", || node.metric("courier_oldest_pending_seconds") > 1.0);
    assert_eq!(count.load(Ordering::SeqCst), tried, "nor is it tried for {new}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_dead_destination_is_probed_by_one_receipt_and_not_by_all() {
    let (carrier, destination) = Side::pair("");
    let (address, count) = counting();
    carrier.knows("bob", &destination.key(), &address);
    for bundle in 0..20_u8 {
        carrier.send(&[bundle], "alice");
    }
    let node = carrier.serve();
    wait_until("three tries", || node.count("courier_flush_failure_total") >= 3);
    let failures = node.count("courier_flush_failure_total");
    assert!(count.load(Ordering::SeqCst) as u64 <= failures + 2, "one after the other, not twenty at once");
    assert_eq!(node.stop(), 0);
}
