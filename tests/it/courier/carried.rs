//! Successful deliveries from one node to another.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use super::{Counters, Side};
use crate::common::{Ran, noise};

#[test]
fn the_two_commands_bring_the_bundle_over_byte_for_byte() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    carrier.here.file("bundle.bin", b"what alice has to say");
    let id = carrier.here.run("compute courier send bundle.bin alice").output().trim_end().to_owned();
    assert_eq!(carrier.ids("--pending"), [&*id]);
    let flushed = carrier.here.run("compute courier flush").output();
    assert_eq!(
        flushed,
        format!("{id}  forwarded to bob, 1 credited\n1 forwarded (21 B), 1 credited\n"),
        "of a mebibyte it is next to nothing, and the hop counts"
    );
    assert_eq!((carrier.ids("--pending"), carrier.ids("--acked")), (vec![], vec![id.clone()]));
    assert_eq!(carrier.credit(), (1, 1));
    assert_eq!(carrier.counters(), Counters { attempts: 1, failures: 0, invalid: 0 });
    let received = destination.received();
    assert_eq!(received.len(), 1);
    assert_eq!(std::fs::read(&received[0]).unwrap(), b"what alice has to say");
    assert_eq!(node.count("courier_received"), 1);
    assert_eq!((destination.staged(), carrier.staged()), (vec![], vec![]));
    assert_eq!(carrier.files("bundles", ""), Vec::<PathBuf>::new(), "what is acknowledged is not kept");
    let again = carrier.run("flush");
    again.is(0, "0 forwarded (0 B), 0 credited\n", "");
    assert_eq!(node.stop(), 0);
    assert_eq!(std::fs::read(&destination.received()[0]).unwrap(), b"what alice has to say");
}

#[test]
fn bundles_of_any_size_arrive_whole() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    let mut bundles: Vec<Vec<u8>> = [0, 1, 65_536, 65_537, 262_144, 262_145, 5 << 20]
        .iter()
        .enumerate()
        .map(|(seed, bytes)| noise(seed as u64, *bytes))
        .collect();
    bundles.iter().for_each(|bundle| drop(carrier.send(bundle, "alice")));
    carrier.run("flush").output();
    let mut received: Vec<Vec<u8>> = destination.received().iter().map(|path| std::fs::read(path).unwrap()).collect();
    bundles.sort();
    received.sort();
    assert!(received == bundles, "{:?}", received.iter().map(Vec::len).collect::<Vec<_>>());
    assert_eq!(carrier.credit().1, 7);
}

#[test]
fn commands_go_through_the_node_that_runs() {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    let carrying = carrier.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    let bundle = noise(7, 3 << 20);
    let id = carrier.send(&bundle, "alice");
    let ran = carrier.run("flush");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(carrying.count("courier_attempt_duration_seconds_count"), 1, "the node itself has tried it");
    assert_eq!(carrying.counters(), Counters { attempts: 1, failures: 0, invalid: 0 });
    assert_eq!(carrier.ids("--acked"), [&*id]);
    assert_eq!(carrier.run(&format!("show {id}")).code, 0);
    assert!(std::fs::read(&destination.received()[0]).unwrap() == bundle);
    assert_eq!(carrier.credit(), (3001, 1));
    // The error is the same as without a running node, after a note that the node executed the
    // command.
    let error = carrier.run("show ffffffff");
    assert_eq!(carrying.stop(), 0);
    let alone = carrier.run("show ffffffff");
    assert_eq!(error.stderr, format!("note: the running node does this\n{}", alone.stderr));
    assert_eq!((&error.stdout, error.code), (&alone.stdout, alone.code));
    assert_eq!(error.code, 2);
}

#[test]
fn a_bundle_from_a_pipe_is_taken_in_with_and_without_a_node() {
    let carrier = Side::new();
    let bundle = noise(8, 1 << 20);
    let send = |sender: &str| {
        let mut command = carrier.here.command(["compute", "courier", "send", "-", sender]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        bundle.chunks(1000).for_each(|part| pipe.write_all(part).unwrap());
        drop(pipe);
        Ran::from(child.wait_with_output().unwrap()).output().trim_end().to_owned()
    };
    let first = send("alice");
    let node = carrier.serve();
    assert_eq!(send("alice"), first);
    let second = send("carol");
    assert_eq!(carrier.ids("--pending"), [first, second]);
    let files = carrier.files("bundles", "bundle");
    assert_eq!(files.len(), 1, "the same bytes are kept once");
    assert!(std::fs::read(&files[0]).unwrap() == bundle);
    assert_eq!(node.stop(), 0);
    assert_eq!(carrier.staged(), Vec::<PathBuf>::new());
}

#[test]
fn what_was_received_is_carried_on_with_its_sender_its_time_and_a_hop_more() {
    let (first, second) = Side::pair("");
    let third = Side::new();
    let last = third.serve();
    third.knows("second", &second.key(), "");
    second.knows("carol", &third.key(), &last.url());
    let node = second.serve();
    first.knows("bob", &second.key(), &node.url());
    let id = first.send(b"a bundle for carol", "alice --expires 1h");
    first.run("flush").output();
    // The running node executes the command, and forwards the bundle by itself.
    let onward = second.run(&format!("onward {} --to carol", &id[..8])).output().trim_end().to_owned();
    assert_ne!(onward, id, "it is another destination's");
    crate::courier::wait_until("it has arrived", || third.received().len() == 1);
    assert_eq!(std::fs::read(&third.received()[0]).unwrap(), b"a bundle for carol");
    let (before, after) = (&second.json("list --received")[0], &third.json("list --received")[0]);
    assert_eq!((before["hops"].as_u64(), after["hops"].as_u64()), (Some(1), Some(2)));
    assert_eq!((&before["sender"], &before["expires_ms"]), (&after["sender"], &after["expires_ms"]));
    crate::courier::wait_until("it is credited", || second.credit() == (2, 1));
    assert_eq!(first.credit(), (1, 1));
    // A node can have received and sent a bundle under the same id: each command acts on the one
    // that it can apply to.
    second.knows("bob", &Side::new().key(), "");
    second.here.file("bundle.bin", b"a bundle for carol");
    assert_eq!(second.run("send bundle.bin alice --to bob").output().trim_end(), id);
    assert_eq!(second.run(&format!("onward {id} --to carol")).stdout.trim_end(), onward);
    second.run(&format!("drop {id}")).output();
    assert_eq!((second.ids("--pending").len(), second.received().len()), (0, 1), "the receipt goes first");
    second.run(&format!("drop {id}")).output();
    assert_eq!(second.received().len(), 0);
    let ran = second.run(&format!("onward {onward} --to carol"));
    assert_eq!(ran.code, 2, "what was not received cannot be: {ran:?}");
    assert!(ran.stderr.contains("nothing that was received"), "{ran:?}");
}
