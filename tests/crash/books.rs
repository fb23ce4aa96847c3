//! Bookkeeping of the crash tests: compares the promises of a node with its stores.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use compute_host::courier::Courier;
use compute_host::receipt::{Acknowledgement, ReceiptId, ReceiptState};

use crate::nodes;

/// Number of receipts read from a store at a time.
const PAGE: usize = 256;

/// Promises of one carrier and one destination, over all rounds.
#[derive(Default)]
pub struct Books {
    /// Bundles given to a carrier that are neither credited nor confirmed to be unknown to it.
    open: BTreeMap<ReceiptId, u64>,
    /// Receipts whose ids the carrier printed.
    told: BTreeSet<ReceiptId>,
    /// Credit of each receipt.
    credited: BTreeMap<ReceiptId, u64>,
}

/// State of the bundles of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Not there: the process died before their receipts were stored.
    pub unknown: usize,
    pub pending: usize,
    pub credited: usize,
}

impl Books {
    pub fn give(&mut self, number: u64) {
        self.open.insert(nodes::id(number), number);
    }

    pub fn tell(&mut self, id: ReceiptId) {
        self.told.insert(id);
    }

    pub fn told(&self) -> usize {
        self.told.len()
    }

    pub fn credited(&self) -> usize {
        self.credited.len()
    }

    /// Checks the carrier's store, just opened, against all promises, and its credits against the
    /// destination's store.
    pub fn check(&mut self, carrier: &Courier, destination: &Courier) -> Found {
        let mut found = Found::default();
        for (id, number) in self.open.clone() {
            let receipt = carrier.store().receipt(&id).unwrap();
            let credit = carrier.store().credit(&id).unwrap();
            match (receipt, credit) {
                (Some(receipt), None) => {
                    found.pending += 1;
                    assert_eq!(receipt.state, ReceiptState::Pending, "{receipt:?}");
                    let mut bytes = Vec::new();
                    let bundle = carrier.store().bundle(&receipt.bundle).unwrap();
                    bundle.expect("a pending bundle is there").read_to_end(&mut bytes).unwrap();
                    assert_eq!(bytes, nodes::bundle(number), "the bundle of a pending receipt");
                }
                (None, Some(credit)) => {
                    found.credited += 1;
                    self.open.remove(&id);
                    self.credited.insert(id, credit.credit);
                    check_credit(id, number, credit.credit, carrier, destination);
                }
                (None, None) => {
                    found.unknown += 1;
                    assert!(!self.told.contains(&id), "{id} was told, and is lost");
                    self.open.remove(&id);
                }
                (Some(_), Some(_)) => panic!("{id} is credited and pending"),
            }
        }
        let tally = carrier.tally();
        assert_eq!(tally.pending, self.open.len() as u64, "{tally:?}");
        assert_eq!(tally.credited, self.credited.len() as u64, "{tally:?}");
        assert_eq!(tally.credit, self.credited.values().sum::<u64>(), "{tally:?}");
        found
    }

    /// Checks the totals when nothing is pending any more.
    pub fn close(&self, carrier: &Courier, destination: &Courier) {
        assert_eq!(self.open.len(), 0, "all that was known is credited");
        assert!(self.told.iter().all(|id| self.credited.contains_key(id)), "all that was told is credited");
        let (mut archived, mut last) = (BTreeMap::new(), None);
        loop {
            let page = carrier.store().acknowledged_after(last, PAGE).unwrap();
            let Some((place, _)) = page.last() else { break };
            last = Some(*place);
            for (_, entry) in page {
                let former = archived.insert(entry.acknowledgement.delivery().receipt, entry.credit);
                assert_eq!(former, None, "it is in the archive twice");
            }
        }
        assert_eq!(archived, self.credited, "the archive has what was credited, each once");
        let totals = carrier.store().totals().unwrap();
        let [(key, totals)] = totals[..] else { panic!("there is one destination: {totals:?}") };
        assert_eq!(key, nodes::destination_key());
        assert_eq!(totals.receipts, self.credited.len() as u64);
        assert_eq!(totals.credit, self.credited.values().sum::<u64>());
        assert_eq!(destination.tally().received, self.credited.len() as u64, "and nothing was received besides");
    }
}

/// Checks the evidence of one credit, and that the destination still holds what it acknowledged.
fn check_credit(id: ReceiptId, number: u64, credit: u64, carrier: &Courier, destination: &Courier) {
    let entries = carrier.store().acknowledged_named(&id.into(), 2).unwrap();
    let [entry] = &entries[..] else { panic!("{id} has {} acknowledgements", entries.len()) };
    let bytes = entry.acknowledgement.to_bytes();
    let acknowledgement = Acknowledgement::from_bytes(&bytes).expect("it is signed");
    let delivery = acknowledgement.delivery();
    assert_eq!(delivery.destination, nodes::destination_key(), "by the destination");
    assert_eq!((delivery.receipt, delivery.bundle), (id, nodes::blob(&nodes::bundle(number))));
    assert_eq!(entry.credit, credit);
    check_kept(number, &bytes, destination);
}

/// Asserts that the destination has the bundle that it acknowledged with these bytes.
fn check_kept(number: u64, acknowledgement: &[u8], destination: &Courier) {
    let id = nodes::id(number);
    let carrier = nodes::key(nodes::CARRIER).public();
    let received = destination.store().received(&carrier, &id).unwrap();
    let received = received.unwrap_or_else(|| panic!("{id} was acknowledged, and is lost"));
    assert_eq!(received.acknowledgement, acknowledgement, "whoever asks again gets the same");
    let mut bytes = Vec::new();
    let bundle = destination.store().received_bundle(&received.bundle).unwrap();
    bundle.expect("a bundle that was acknowledged is there").read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, nodes::bundle(number), "byte for byte");
}
