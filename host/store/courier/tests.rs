//! Model test of the store: applies the same random changes to a model and to the store, and
//! compares both.

mod failing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::digest::Digest;
use crate::key::{KeyName, NodeKey};
use crate::proof::Blob;
use crate::receipt::{Acknowledgement, Delivery, Receipt, ReceiptId, ReceiptState};
use crate::store::archive::ArchiveOffset;

/// Expected content of the store.
#[derive(Default)]
struct StoreModel {
    receipts: BTreeMap<ReceiptId, Receipt>,
    credited: BTreeMap<ReceiptId, u64>,
    received: BTreeSet<ReceiptId>,
    attempts: u64,
    failures: u64,
}

/// Random numbers, reproducible by their seed (xorshift64*, Vigna 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

fn destination() -> NodeKey {
    NodeKey::from_secret([2; 32])
}

fn receipt(bundle: &[u8], sender: u64, now_ms: u64) -> Receipt {
    let bundle = Blob { blake3: Digest::of(bundle), bytes: bundle.len() as u64 };
    let sender = format!("sender-{sender}").parse().unwrap();
    let to = now_ms % 3;
    let to: Option<KeyName> = (to > 0).then(|| format!("peer-{to}").parse().unwrap());
    Receipt {
        id: ReceiptId::of(&bundle, &sender, to.as_ref()),
        bundle,
        sender,
        destination: to,
        hops: 0,
        created_ms: now_ms,
        expires_ms: u64::MAX,
        state: ReceiptState::Pending,
        attempts: 0,
        attempted_ms: 0,
        due_ms: now_ms,
        last_error: None,
    }
}

fn staged(store: &CourierStore, bundle: &[u8]) -> crate::store::WrittenBundle {
    let mut staged = store.stage().unwrap();
    staged.write(bundle).unwrap();
    staged.finish().unwrap()
}

fn acknowledgement(receipt: &Receipt) -> Acknowledgement {
    let delivery = Delivery::of(receipt, destination().public(), NodeKey::from_secret([1; 32]).public());
    Acknowledgement::sign(delivery, 7, &destination())
}

impl StoreModel {
    /// Makes one random change to the model and to the store.
    fn change(&mut self, store: &CourierStore, random: &mut Random, now_ms: u64) {
        let at = random.below(self.receipts.len().max(1) as u64) as usize;
        let some = self.receipts.values().nth(at).cloned();
        match (random.below(9), some) {
            (0..=2, _) | (_, None) => self.submit(store, random, now_ms),
            (3, Some(receipt)) => {
                let due_ms = (random.below(3) > 0).then_some(now_ms + random.below(1_000));
                let tried =
                    FailedAttempt { at_ms: now_ms, error: "no".to_owned(), is_invalid_acknowledgement: false, due_ms };
                let lane =
                    CircuitBreaker { destination: receipt.destination.clone(), failures: 1, not_before_ms: now_ms };
                store.record_failure(&receipt.id, &tried, &lane).unwrap();
                (self.attempts, self.failures) = (self.attempts + 1, self.failures + 1);
                let kept = self.receipts.get_mut(&receipt.id).unwrap();
                kept.attempts += 1;
                kept.attempted_ms = now_ms;
                kept.last_error = Some("no".to_owned());
                match due_ms {
                    Some(due_ms) => kept.due_ms = due_ms,
                    None => kept.state = ReceiptState::Dead,
                }
            }
            (4, Some(receipt)) => {
                store.revive(&receipt.id, now_ms, 0).unwrap().unwrap();
                let kept = self.receipts.get_mut(&receipt.id).unwrap();
                (kept.state, kept.due_ms) = (ReceiptState::Pending, now_ms);
            }
            (5, Some(receipt)) => {
                assert_eq!(store.forget(&receipt.id).unwrap().as_ref(), self.receipts.get(&receipt.id));
                self.receipts.remove(&receipt.id);
            }
            (6 | 7, Some(receipt)) => {
                let credit = random.below(100);
                let lane = CircuitBreaker { destination: receipt.destination.clone(), ..CircuitBreaker::default() };
                for expected in [true, false] {
                    let is_credited = store.acknowledge(&acknowledgement(&receipt), credit, now_ms, Some(&lane));
                    assert_eq!(is_credited.unwrap(), expected);
                }
                self.attempts += 2;
                self.receipts.remove(&receipt.id);
                self.credited.insert(receipt.id, credit);
            }
            (_, Some(receipt)) => {
                if random.below(2) == 0 {
                    store.archive().unwrap();
                } else {
                    self.receive(store, &receipt);
                }
            }
        }
    }

    fn submit(&mut self, store: &CourierStore, random: &mut Random, now_ms: u64) {
        // Few different bundles, so that several receipts need the same one.
        let bundle = [b'a' + random.below(6) as u8; 10];
        let new = receipt(&bundle, random.below(8), now_ms);
        let submitted = store.submit(staged(store, &bundle), &new).unwrap();
        match submitted {
            SubmitResult::New => {
                assert!(!self.credited.contains_key(&new.id));
                assert_eq!(self.receipts.insert(new.id, new), None);
            }
            SubmitResult::Known(known) => assert_eq!(self.receipts.get(&new.id), Some(&*known)),
            SubmitResult::Credited(credit) => assert_eq!(self.credited[&new.id], credit.credit),
        }
    }

    fn receive(&mut self, store: &CourierStore, receipt: &Receipt) {
        let acknowledgement = acknowledgement(receipt);
        let bundle = std::fs::read(store.bundles.path(&receipt.bundle.blake3)).unwrap();
        let mut staged = store.stage_received().unwrap();
        staged.write(&bundle).unwrap();
        let (_, is_new) = store.receive(staged.finish().unwrap(), &acknowledgement).unwrap();
        assert_eq!(is_new, self.received.insert(receipt.id));
    }

    /// Checks that the store contains exactly what the model contains.
    fn check(&self, store: &CourierStore) {
        store.check_records(|| false).unwrap();
        for state in [ReceiptState::Pending, ReceiptState::Dead] {
            let found = store.receipts_in(state, None, usize::MAX).unwrap();
            let mut expected: Vec<_> =
                self.receipts.values().filter(|receipt| receipt.state == state).cloned().collect();
            expected.sort_by_key(|receipt| (receipt.created_ms, receipt.id));
            assert_eq!(found, expected);
        }
        let mut pending = BTreeSet::new();
        for (tag, lane) in store.lanes().unwrap() {
            let page = store.page(tag, None, u64::MAX, usize::MAX).unwrap();
            assert!(page.iter().all(|receipt| receipt.destination == lane.destination));
            assert!(page.is_sorted_by_key(|receipt| (receipt.due_ms, receipt.id)));
            pending.extend(page.iter().map(|receipt| receipt.id));
        }
        let is_pending = |receipt: &&Receipt| receipt.state == ReceiptState::Pending;
        assert_eq!(pending, self.receipts.values().filter(is_pending).map(|receipt| receipt.id).collect());
        for receipt in self.receipts.values() {
            assert!(store.bundle(&receipt.bundle).unwrap().is_some());
        }
        for (id, credit) in &self.credited {
            assert_eq!(store.credit(id).unwrap().map(|found| found.credit), Some(*credit));
        }
        let tally = store.tally();
        assert_eq!((tally.attempts, tally.failures), (self.attempts, self.failures));
        let bytes = |receipts: u64| receipts * 10;
        assert_eq!((tally.pending, tally.pending_bytes), (pending.len() as u64, bytes(pending.len() as u64)));
        let dead = self.receipts.len() as u64 - tally.pending;
        assert_eq!((tally.dead, tally.dead_bytes), (dead, bytes(dead)));
        let credit = (self.credited.len() as u64, self.credited.values().sum());
        assert_eq!((tally.credited, tally.credit), credit);
        let totals = store.totals().unwrap();
        assert_eq!(totals.iter().map(|(_, totals)| totals.credit).sum::<u64>(), credit.1);
        assert_eq!(tally.received, self.received.len() as u64);
    }
}

#[test]
fn the_store_holds_what_the_changes_made_of_it() {
    for seed in 1..=6 {
        let (mut random, mut model) = (Random(seed), StoreModel::default());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("courier");
        let mut store = CourierStore::open(&path).unwrap();
        for now_ms in 1_000..1_120 {
            model.change(&store, &mut random, now_ms);
            if now_ms % 40 == 0 {
                model.check(&store);
                drop(store);
                store = CourierStore::open(&path).unwrap();
                model.check(&store);
            }
        }
        model.check(&store);

        // Without the database, only the count of attempts is lost; credited receipts are not.
        while store.archive().unwrap() > 0 {}
        let archived = store.acknowledged_after(None, usize::MAX).unwrap();
        assert_eq!(archived.len(), model.credited.len(), "each stands in the archive once");
        drop(store);
        std::fs::remove_dir_all(path.join("queue")).unwrap();
        assert!(matches!(CourierStore::open(&path), Err(StoreError::CourierDamaged { .. })));
        let report = CourierStore::fsck(&path).unwrap();
        assert!(report.is_sound(), "{report:?}");
        for receipt in model.receipts.values_mut() {
            (receipt.state, receipt.attempts, receipt.attempted_ms) = (ReceiptState::Pending, 0, 0);
            (receipt.due_ms, receipt.last_error) = (receipt.created_ms, None);
        }
        model.check(&CourierStore::open(&path).unwrap());
    }
}

#[test]
fn bundles_go_with_the_last_receipt_that_needs_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = CourierStore::open(directory.path()).unwrap();
    let receipts = [1, 2, 3].map(|sender| receipt(b"bundle", sender, 1_000));
    for receipt in &receipts {
        assert_eq!(store.submit(staged(&store, b"bundle"), receipt).unwrap(), SubmitResult::New);
    }
    let path = store.bundles.path(&receipts[0].bundle.blake3);
    store.forget(&receipts[0].id).unwrap();
    assert!(path.exists());
    assert!(store.acknowledge(&acknowledgement(&receipts[1]), 1, 2_000, None).unwrap());
    assert_eq!(store.archive().unwrap(), 1);
    assert!(path.exists());
    assert!(store.acknowledge(&acknowledgement(&receipts[2]), 1, 2_000, None).unwrap());
    assert!(path.exists(), "until its acknowledgement is in the archive");
    assert_eq!((store.archive().unwrap(), store.archive().unwrap()), (1, 0));
    assert!(!path.exists());
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "nor is its side file there");
}

#[test]
fn a_database_that_has_lost_its_latest_changes_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("before");
    let path = directory.path().join("courier");
    let submit = |sender| {
        let store = CourierStore::open(&path).unwrap();
        store.submit(staged(&store, b"bundle"), &receipt(b"bundle", sender, 1_000)).unwrap();
    };
    submit(1);
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(path.join("queue")).unwrap().map(Result::unwrap).filter(|file| file.path().is_file())
    {
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    submit(2);
    std::fs::remove_dir_all(path.join("queue")).unwrap();
    std::fs::rename(&copy, path.join("queue")).unwrap();
    let Err(error) = CourierStore::open(&path) else { panic!("it was opened") };
    assert!(error.to_string().contains("has lost changes") && error.to_string().contains("courier fsck"), "{error}");
    let report = CourierStore::fsck(&path).unwrap();
    assert_eq!((report.receipts, report.is_sound()), (2, true), "{report:?}");
}

#[test]
fn a_record_or_an_entry_that_is_gone_is_noticed_by_fsck() {
    for lost in [keys::RECEIPT, keys::QUEUE, keys::PENDING, keys::NEEDS, keys::LANE] {
        let directory = tempfile::tempdir().unwrap();
        let store = CourierStore::open(directory.path()).unwrap();
        for sender in 0..5 {
            store.submit(staged(&store, b"bundle"), &receipt(b"bundle", sender, 1_000)).unwrap();
        }
        store.check_records(|| false).unwrap();
        let (key, _) = store.database.prefixed(&[lost]).next().unwrap().unwrap();
        let mut batch = Batch::default();
        batch.remove(key);
        store.database.apply(batch).unwrap();
        assert!(matches!(store.check_records(|| false), Err(StoreError::CourierDamaged { .. })), "{}", lost as char);
        drop(store);
        let report = CourierStore::fsck(directory.path()).unwrap();
        assert_eq!((report.receipts, report.is_sound()), (5, true), "{report:?}");
        assert!(!report.done.is_empty());
    }
}

/// Checks run while three threads change the records. No check reports a false problem, and a real
/// loss is found.
#[test]
fn a_store_that_is_in_use_is_found_sound_and_one_that_has_lost_something_is_not() {
    const CHECKS: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    let store = CourierStore::open(directory.path()).unwrap();
    let add = |sender: u64| {
        let bundle = sender.to_le_bytes();
        let new = receipt(&bundle, sender, 1_000 + sender);
        store.submit(staged(&store, &bundle), &new).unwrap();
        new
    };
    // More records than one group of the scan, of either kind.
    let ids: Vec<ReceiptId> = (0..600).map(|sender| add(sender).id).collect();
    let is_over = AtomicBool::new(false);
    let (sound, lossy) = std::thread::scope(|scope| {
        for thread in 1..4 {
            let (store, is_over, add) = (&store, &is_over, &add);
            scope.spawn(move || {
                for number in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let receipt = add(1_000_000 * thread + number);
                    let model = &mut StoreModel::default();
                    model.receive(store, &receipt);
                    match number % 3 {
                        0 => drop(store.forget(&receipt.id).unwrap()),
                        1 => drop(store.acknowledge(&acknowledgement(&receipt), 1, 2_000, None).unwrap()),
                        _ => store.give_up(&receipt.id, "why").unwrap(),
                    }
                    store.archive().unwrap();
                }
            });
        }
        let sound: Vec<_> = (0..CHECKS).map(|_| store.check(|| false)).collect();
        // A record that sled lost silently.
        let mut batch = Batch::default();
        batch.remove(keys::receipt(&ids[300]));
        let lossy = store.database.apply(batch).and_then(|()| store.check(|| false));
        is_over.store(true, Ordering::Relaxed);
        (sound, lossy.unwrap())
    });
    for report in sound.into_iter().map(Result::unwrap) {
        assert!(report.is_sound() && report.done.is_empty() && report.receipts >= 600, "{report:?}");
    }
    assert!(!lossy.is_sound() && lossy.problems[0].contains("when the node has stopped"), "{lossy:?}");
}

#[test]
fn a_bundle_that_was_removed_while_it_was_looked_at_is_not_missed() {
    let directory = tempfile::tempdir().unwrap();
    let store = CourierStore::open(directory.path()).unwrap();
    let gone = receipt(b"bundle", 1, 1_000);
    for (is_here, sound, problems) in [(false, None, 0), (true, Some(false), 1)] {
        let mut report = FsckReport::default();
        let found = store.is_sound(&store.bundles, &gone.bundle, ("receipt", &gone.id), || Ok(is_here), &mut report);
        assert_eq!((found.unwrap(), report.problems_count), (sound, problems));
    }
}

#[test]
fn credit_is_found_in_sealed_segments_and_given_no_second_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = CourierStore::open(directory.path()).unwrap();
    let of = receipt(b"bundle", 1, 1_000);
    store.submit(staged(&store, b"bundle"), &of).unwrap();
    assert!(store.acknowledge(&acknowledgement(&of), 5, 2_000, None).unwrap());
    store.archive().unwrap();
    {
        let mut archive = lock(&store.archive);
        archive.seal().unwrap();
        store.forget_sealed(&archive).unwrap();
    }
    assert_eq!(store.database.prefixed(&[keys::LEDGER]).count(), 0);
    assert_eq!(store.credit(&of.id).unwrap().map(|credit| credit.credit), Some(5));
    let again = store.submit(staged(&store, b"bundle"), &of).unwrap();
    assert!(matches!(
        again,
        SubmitResult::Credited(Credit { credit: 5, place: Some(ArchiveOffset { segment: 1, .. }), .. })
    ));
    assert!(!store.acknowledge(&acknowledgement(&of), 5, 2_000, None).unwrap());
    drop(store);
    let store = CourierStore::open(directory.path()).unwrap();
    assert_eq!(store.acknowledged_named(&of.id.into(), 2).unwrap().len(), 1);
    assert_eq!(store.tally().credit, 5);
}

#[test]
fn a_store_of_a_newer_version_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue");
    drop(Database::open(&path, VERSION + 1).unwrap());
    for _ in 0..2 {
        assert!(matches!(CourierStore::open(directory.path()), Err(StoreError::Version { .. })));
        assert!(matches!(CourierStore::fsck(directory.path()), Err(StoreError::Version { .. })));
    }
    drop(Database::open(&path, VERSION + 1).unwrap());
}
