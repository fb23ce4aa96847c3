//! The same delivery many times over.

use std::sync::Barrier;

use super::proxy::{Fault, Forger, Proxy};
use super::wire::{delivery, exchange, request};
use super::{Counters, Side};

#[test]
fn a_hundred_at_once_are_one_bundle_and_a_hundred_equal_acknowledgements() {
    let (carrier, destination) = Side::pair("");
    let (key, node) = (carrier.node_key(), destination.serve());
    let bundle = crate::common::noise(1, 300_000);
    let delivery = delivery(&bundle, &key, destination.key().parse().unwrap());
    let request = request(&bundle, &delivery, &key);
    let together = Barrier::new(100);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let one = || {
            together.wait();
            exchange(node.address, &request).unwrap()
        };
        let all: Vec<_> = (0..100).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut statuses: Vec<u16> = answers.iter().map(super::wire::Message::status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![200; 99], vec![201]].concat(), "the first one is new");
    assert!(answers.iter().all(|answer| answer.body == answers[0].body), "and all have the same acknowledgement");
    assert!(
        answers.iter().all(|answer| answer.headers["content-type"] == "application/vnd.compute-host.acknowledgement")
    );
    let files = destination.files("received", "bundle");
    assert_eq!((files.len(), destination.staged().len()), (1, 0));
    assert!(std::fs::read(&files[0]).unwrap() == bundle);
    assert_eq!((node.count("courier_received"), node.count("courier_received_bytes")), (1, 300_000));
    // Later, and after a restart, the answer is still the same.
    assert_eq!(exchange(node.address, &request).unwrap().body, answers[0].body);
    assert_eq!(node.stop(), 0);
    let node = destination.serve();
    let again = exchange(node.address, &request).unwrap();
    assert_eq!((again.status(), &again.body), (200, &answers[0].body));
}

#[test]
fn what_was_delivered_before_the_answer_was_lost_is_credited_once() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    let proxy = Proxy::before(node.address, Forger { destination: destination.node_key() });
    carrier.knows("bob", &destination.key(), &format!("http://{}", proxy.address));
    carrier.send(b"a bundle", "alice");
    proxy.set(Fault::DropReply);
    for _ in 0..5 {
        assert_eq!(carrier.run("flush --retry-for 0s").code, 1);
        assert_eq!((destination.received().len(), carrier.credit()), (1, (0, 0)), "it is there, and nobody knows");
    }
    proxy.set(Fault::None);
    carrier.run("flush").output();
    assert_eq!((destination.received().len(), carrier.credit()), (1, (1, 1)));
    assert_eq!(carrier.counters(), Counters { attempts: 6, failures: 5, invalid: 0 });
}

#[test]
fn the_same_bytes_for_several_are_kept_once_and_each_is_acknowledged() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    let senders = ["alice", "carol", "dave"];
    let ids: Vec<String> = senders.iter().map(|sender| carrier.send(b"the same", sender)).collect();
    assert_eq!((carrier.ids("--pending"), carrier.files("bundles", "bundle").len()), (ids.clone(), 1));
    carrier.run("flush").output();
    assert_eq!((carrier.credit(), carrier.files("bundles", "bundle").len()), ((3, 3), 0));
    let received = destination.received();
    assert!(received.len() == 3 && received.iter().all(|path| *path == received[0]));
    let dropped = destination.ids("--received");
    for (left, id) in [(1, &dropped[0]), (1, &dropped[1]), (0, &dropped[2])] {
        destination.run(&format!("drop {id}")).output();
        assert_eq!(destination.files("received", "bundle").len(), left, "until the last has let it go");
    }
    let again = carrier.run("send bundle.bin alice");
    again.is(0, &format!("{}\n", ids[0]), "note: it was acknowledged before\n");
    assert_eq!(carrier.ids("--pending"), Vec::<String>::new());
}
