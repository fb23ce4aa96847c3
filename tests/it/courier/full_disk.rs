//! Full disks on either side, simulated by a limit of 2 MiB on the size of a file.

use std::process::{Command, Stdio};

use super::{Serving, Side};
use crate::common::{NODE, Ran, noise};

/// Builds a command of the node that cannot write a longer file.
fn confined(side: &Side, arguments: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$@\"", "sh", NODE]).args(arguments);
    shell.current_dir(side.here.path("")).stdin(Stdio::null());
    shell.env_remove("NODE_DATA_DIR").env_remove("NODE_JOBS").env_remove("RUST_BACKTRACE");
    shell
}

#[test]
fn what_does_not_fit_on_the_carriers_disk_is_not_taken_in() {
    let side = Side::new();
    let small = side.send(b"small", "alice");
    side.here.file("large.bin", noise(1, 5 << 20));
    let ran = Ran::of(confined(&side, &["compute", "courier", "send", "large.bin", "alice"]));
    assert!(ran.code == 2 && ran.stdout.is_empty() && ran.stderr.contains("staged"), "{ran:?}");
    assert_eq!((side.ids("--pending"), side.staged().len()), (vec![small], 0));
    assert_eq!(side.files("bundles", "bundle").len(), 1);
}

#[test]
fn what_does_not_fit_on_the_destinations_disk_is_tried_again() {
    let (carrier, destination) = Side::pair("");
    let node = Serving::start(confined(&destination, &["serve", "--listen", "127.0.0.1:0"]));
    carrier.knows("bob", &destination.key(), &node.url());
    let large = carrier.send(&noise(1, 5 << 20), "alice");
    let small = carrier.send(b"small", "alice");
    let ran = carrier.run("flush --retry-for 0s");
    assert!(ran.code == 1 && ran.stderr.contains("(storage_failed)"), "{ran:?}");
    assert!(!ran.stderr.contains("received/"), "what is wrong with a disk is not for the network to know: {ran:?}");
    assert_eq!((carrier.ids("--dead").len(), destination.staged().len()), (0, 0));
    assert!(carrier.ids("--pending").contains(&large));
    assert_eq!(node.stop(), 0);
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    carrier.run("flush --retry-for 0s").output();
    let (mut acked, mut sent) = (carrier.ids("--acked"), vec![large, small]);
    acked.sort();
    sent.sort();
    assert_eq!((acked, destination.received().len()), (sent, 2));
}
