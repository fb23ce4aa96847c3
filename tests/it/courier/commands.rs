//! Courier commands, and their output.

use std::sync::Arc;

use compute_host::courier::commands::{CourierRequest, ListFilter, execute};
use compute_host::courier::events::CourierEvent;
use compute_host::courier::{Courier, Settings, system_clock};
use compute_host::key::Signer;

use super::{Serving, Side};

/// Creates a carrier and its destination.
fn pair() -> (Side, Side, Serving) {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    (carrier, destination, node)
}

#[test]
fn sending_again_is_one_receipt() {
    let (carrier, _destination, _node) = pair();
    let id = carrier.send(b"bundle", "alice");
    assert_eq!(carrier.run("send bundle.bin alice").stdout, format!("{id}\n"));
    assert_eq!(carrier.run("send bundle.bin alice --to bob").stdout, format!("{id}\n"));
    assert_ne!(carrier.send(b"bundle", "carol"), id);
    assert_eq!(carrier.ids("").len(), 2);
    carrier.run("flush").output();
    assert_eq!(carrier.run("send bundle.bin alice --json").json()[0]["was"], "acknowledged");
    assert_eq!(carrier.ids("").len(), 0);
    assert_eq!(carrier.credit(), (2, 2));
}

/// The reader of a list may close the pipe early, and the store is large.
#[test]
fn a_list_ends_when_nobody_wants_the_rest() {
    let carrier = Side::new();
    let signer = Arc::new(Signer::new(carrier.node_key()));
    let courier = Arc::new(Courier::open(&carrier.state(), signer, Settings::default(), system_clock).unwrap());
    for number in 0..1_000 {
        let mut sending = courier.begin_send(format!("sender-{number}").parse().unwrap(), None, None).unwrap();
        sending.write(b"bundle").unwrap();
        sending.finish().unwrap();
    }
    let unwanted = tokio::sync::Notify::new();
    let mut told = Vec::new();
    let tell = |answer| {
        told.push(answer);
        unwanted.notify_one();
    };
    let order = CourierRequest::List { which: ListFilter::Pending };
    let listed = execute(&courier, order, tokio::io::empty(), tell, unwanted.notified());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(listed).unwrap();
    assert_eq!(told.pop(), Some(CourierEvent::Problem { what: "interrupted".to_owned() }));
    assert!((1..1_000).contains(&told.len()), "{}", told.len());
}

#[test]
fn what_cannot_be_sent_is_an_error_and_leaves_nothing() {
    let (carrier, _destination, _node) = pair();
    carrier.here.file("bundle.bin", "bundle");
    for line in [
        "send missing.bin alice",
        "send . alice",
        "send bundle.bin alice --to nobody",
        "send bundle.bin al\u{e4}ce",
        "send bundle.bin alice --expires never",
        "show 00",
        "show nothex",
        "retry 00",
        "drop 00",
        "ack export 00 file.ack",
        "peer remove nobody",
        "peer add carol nokey",
        "import missing",
    ] {
        let ran = carrier.run(line);
        assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.starts_with("error: "), "{line}: {ran:?}");
    }
    let own = format!("peer add me {}", carrier.key());
    assert_eq!(carrier.run(&own).code, 2);
    assert_eq!((carrier.ids("").len(), carrier.files("bundles", "").len()), (0, 0));
}

#[test]
fn an_id_may_be_cut_as_long_as_it_is_one_receipts() {
    let (carrier, _destination, _node) = pair();
    let mut ids: Vec<String> = (0..17_u8).map(|bundle| carrier.send(&[bundle], "alice")).collect();
    ids.sort();
    let two = ids.windows(2).find(|two| two[0][..1] == two[1][..1]).unwrap();
    let ran = carrier.run(&format!("show {}", &two[0][..1]));
    assert!(ran.code == 2 && ran.stderr.contains("several ids begin with"), "{ran:?}");
    let ran = carrier.run(&format!("drop {}", &two[0][..1]));
    assert!(ran.code == 2 && carrier.ids("").len() == 17, "{ran:?}");
    assert_eq!(carrier.json(&format!("show {}", &two[0][..12]))[0]["id"], *two[0]);
    carrier.run(&format!("drop {}", &two[0][..12])).output();
    assert_eq!(carrier.ids("").len(), 16);
}

#[test]
fn without_a_default_destination_sending_stores_and_flushing_says_what_to_do() {
    let side = Side::new();
    let id = side.send(b"bundle", "alice");
    let ran = side.run("flush --retry-for 0s");
    assert!(ran.code == 1 && ran.stderr.contains("destination"), "{ran:?}");
    assert_eq!(side.ids(""), [&*id]);
    let bob = Side::new();
    bob.knows("alice", &side.key(), "");
    let node = bob.serve();
    side.set("destination = \"bob\"");
    side.knows("bob", &bob.key(), &node.url());
    side.run("flush").output();
    assert_eq!(side.ids("--acked"), [id]);
}

#[test]
fn an_acknowledgement_is_evidence_for_anybody_and_a_changed_one_is_none() {
    let (carrier, destination, _node) = pair();
    let id = carrier.send(b"bundle", "alice");
    assert_eq!(carrier.run(&format!("ack export {id} one.ack")).code, 2, "there is none yet");
    carrier.run("flush").output();
    carrier.run(&format!("ack export {id} one.ack")).output();
    let bytes = std::fs::read(carrier.here.path("one.ack")).unwrap();
    let stranger = Side::new();
    stranger.here.file("one.ack", &bytes);
    let ran = stranger.run("ack verify one.ack --json");
    let said = &ran.json()[0];
    assert_eq!((ran.code, &said["sound"], &said["id"]), (0, &true.into(), &id.as_str().into()));
    assert_eq!(
        (said["destination"].as_str().unwrap(), said["carrier"].as_str().unwrap()),
        (&*destination.key(), &*carrier.key())
    );
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        stranger.here.file(format!("{at}.ack"), &changed);
    }
    stranger.here.file("empty.ack", "");
    stranger.here.file("long.ack", vec![0; 1 << 20]);
    let names: Vec<String> = (0..bytes.len()).map(|at| format!("{at}.ack")).collect();
    let ran = stranger.run(&format!("ack verify {} empty.ack long.ack missing.ack --json", names.join(" ")));
    assert_eq!((ran.code, ran.json().len()), (1, bytes.len() + 3));
    assert!(ran.json().iter().all(|line| line["sound"] == false));
}

#[test]
fn a_directory_carries_bundles_there_and_acknowledgements_back() {
    let (carrier, destination) = Side::pair("");
    carrier.knows("bob", &destination.key(), "");
    let ids = [b"one", b"two"].map(|bundle| carrier.send(bundle, "alice"));
    let stick = carrier.here.path("stick");
    let stick = stick.to_str().unwrap();
    assert_eq!(carrier.run(&format!("export {stick}")).code, 2, "a stick that is not mounted has no directory");
    std::fs::create_dir(stick).unwrap();
    carrier.run(&format!("export {stick}"));
    assert_eq!((carrier.ids("").len(), carrier.credit()), (2, (0, 0)), "what is on its way is not there yet");
    // Hostile or damaged files in the directory are reported, and do not stop the import.
    for name in ["note.txt", "0000000000000000-00000000000000000000000000000000.delivery", "zz.ack"] {
        carrier.here.file(format!("stick/{name}"), [7; 500]);
    }
    std::os::unix::fs::symlink("/etc/passwd", carrier.here.path(format!("stick/{}-{}.ack", "0".repeat(16), ids[0])))
        .unwrap();
    let ran = destination.run(&format!("import {stick}"));
    assert!(ran.code == 1 && ran.stderr.contains("0000000000000000"), "{ran:?}");
    let mut received: Vec<Vec<u8>> = destination.received().iter().map(|path| std::fs::read(path).unwrap()).collect();
    received.sort();
    assert_eq!(received, [b"one", b"two"]);
    let again = destination.run(&format!("import {stick}"));
    assert!(again.stdout.contains("was here already"), "{again:?}");
    let ran = carrier.run(&format!("import {stick}"));
    assert!(ran.stdout.contains("credited"), "{ran:?}");
    assert_eq!((carrier.ids("").len(), carrier.credit(), carrier.ids("--acked").len()), (0, (2, 2), 2));
    carrier.run(&format!("import {stick}"));
    assert_eq!(carrier.credit(), (2, 2));
}
