//! Damaged stores: the damage is detected and reported, and `courier fsck` restores what was
//! promised.

use std::path::{Path, PathBuf};

use super::Side;
use crate::common::noise;

/// Creates a carrier with pending and acknowledged receipts.
fn carrier() -> (Side, Vec<String>) {
    let (carrier, destination) = Side::pair("");
    let node = destination.serve();
    carrier.knows("bob", &destination.key(), &node.url());
    for number in 0..3_u8 {
        carrier.send(&[number; 100], "alice");
    }
    carrier.run("flush").output();
    let pending = (0..10_u64).map(|number| carrier.send(&noise(number, 1_000), "alice")).collect();
    (carrier, pending)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let at = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &at);
        } else {
            std::fs::copy(entry.path(), at).unwrap();
        }
    }
}

/// Asserts that all receipts and credits are there, and that no command reports a problem.
#[track_caller]
fn is_whole(carrier: &Side, pending: &[String], what: &str) {
    let (mut found, mut expected) = (carrier.ids("--pending"), pending.to_vec());
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "{what}");
    assert_eq!((carrier.credit(), carrier.ids("--acked").len()), ((3, 3), 3), "{what}");
}

#[test]
fn a_damaged_database_is_noticed_or_sound_and_rebuilt_with_all_its_receipts() {
    let (carrier, pending) = carrier();
    let (store, kept) = (carrier.store(), carrier.here.path("kept"));
    copy(&store, &kept);
    let queue = store.join("queue");
    let length = std::fs::metadata(queue.join("db")).unwrap().len();
    let flips = (0..48).map(|number| (format!("a bit at {number}/48"), number * length / 48 + 3, true));
    let cuts = [0, 1, length / 3, length / 2, length - 1].map(|at| (format!("cut at {at}"), at, false));
    for (what, at, is_flip) in flips.chain(cuts) {
        // The journal is restored too, because a rebuild starts a new one.
        std::fs::remove_dir_all(&store).unwrap();
        copy(&kept, &store);
        let mut bytes = std::fs::read(queue.join("db")).unwrap();
        if is_flip {
            bytes[at as usize] ^= 4;
        } else {
            bytes.truncate(at as usize);
        }
        std::fs::write(queue.join("db"), &bytes).unwrap();
        let ran = carrier.run("list --json");
        match ran.code {
            0 => assert_eq!(ran.json().len(), pending.len(), "{what}: nothing goes missing in silence"),
            code => {
                assert!(code == 2 && ran.stderr.contains("node compute courier fsck"), "{what}: {ran:?}");
                assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
            }
        }
        let ran = carrier.run("fsck");
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
        is_whole(&carrier, &pending, &what);
    }
}

#[test]
fn a_database_that_is_gone_is_rebuilt() {
    for gone in [&["queue"][..], &["queue", "journal"]] {
        let (carrier, pending) = carrier();
        for name in gone {
            let path = carrier.store().join(name);
            std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)).unwrap();
        }
        let ran = carrier.run("list");
        assert!(ran.code == 2 && ran.stderr.contains("fsck"), "{gone:?}: {ran:?}");
        assert_eq!(carrier.run("fsck").code, 0);
        is_whole(&carrier, &pending, &format!("{gone:?}"));
    }
}

#[test]
fn a_damaged_bundle_is_named_moved_aside_and_never_forwarded() {
    for by_fsck in [true, false] {
        let (carrier, destination) = Side::pair("");
        let node = destination.serve();
        carrier.knows("bob", &destination.key(), &node.url());
        let bundle = noise(1, 300_000);
        let id = carrier.send(&bundle, "alice");
        let files = carrier.files("bundles", "bundle");
        let mut bytes = bundle.clone();
        bytes[299_999] ^= 1;
        std::fs::write(&files[0], &bytes).unwrap();
        let ran = if by_fsck { carrier.run("fsck") } else { carrier.run("flush --retry-for 0s") };
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.code == 1 && said.contains(&id) && said.contains(".damaged"), "{ran:?}");
        assert_eq!((carrier.ids("--dead"), node.count("courier_received")), (vec![id.clone()], 0));
        let aside: PathBuf = carrier.files("bundles", "damaged").remove(0);
        assert!(std::fs::read(aside).unwrap() == bytes && destination.staged().is_empty());
    }
}

#[test]
fn a_lost_archive_is_noticed() {
    let (carrier, pending) = carrier();
    std::fs::remove_dir_all(carrier.store().join("archive")).unwrap();
    let ran = carrier.run("list");
    assert!(ran.code == 2 && ran.stderr.contains("archive"), "{ran:?}");
    let ran = carrier.run("fsck");
    assert!(ran.code < 2, "{ran:?}");
    let mut found = carrier.ids("--pending");
    found.retain(|id| pending.contains(id));
    assert_eq!(found.len(), pending.len(), "no receipt is lost with it");
}
