//! Tests of the record formats in data directories: each kind of record keeps its first version's
//! bytes.

use std::fmt::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::records::SidecarRecord;
use super::tally::CourierTally;
use super::{CircuitBreaker, Credit, CreditTotals, Received, record};
use crate::digest::Digest;
use crate::key::NodeKey;
use crate::proof::Blob;
use crate::receipt::{Acknowledgement, Delivery, Receipt, ReceiptState};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/courier-records-v1.txt");

fn receipt(state: ReceiptState) -> Receipt {
    Receipt {
        id: [7; 16].into(),
        bundle: Blob { blake3: Digest::of(b"bundle"), bytes: 6 },
        sender: "alice".parse().unwrap(),
        destination: (state == ReceiptState::Dead).then(|| "bob".parse().unwrap()),
        hops: 2,
        created_ms: 3,
        expires_ms: 4,
        state,
        attempts: 5,
        attempted_ms: 6,
        due_ms: 7,
        last_error: (state == ReceiptState::Dead).then(|| "no".to_owned()),
    }
}

fn received() -> Received {
    let destination = NodeKey::from_secret([2; 32]);
    let delivery =
        Delivery::of(&receipt(ReceiptState::Pending), destination.public(), NodeKey::from_secret([1; 32]).public());
    let acknowledgement = Acknowledgement::sign(delivery.clone(), 9, &destination).to_bytes();
    let Delivery { bundle, sender, hops, expires_ms, .. } = delivery;
    Received { bundle, sender, hops, expires_ms, stored_ms: 9, acknowledgement, is_kept: true }
}

/// Returns one line of the golden file, after a check that it decodes to this value.
fn line<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) -> String {
    let bytes = record::encode(value);
    assert_eq!(record::decode::<T>(&bytes).as_ref(), Ok(value), "{name}");
    bytes.iter().fold(format!("{name} "), |mut line, byte| {
        let _ = write!(line, "{byte:02x}");
        line
    }) + "\n"
}

/// `BLESS=1` rewrites the golden file. Existing data directories then need a migration.
#[test]
fn records_are_those_of_the_first_version() {
    let lane = CircuitBreaker { destination: Some("bob".parse().unwrap()), failures: 3, not_before_ms: 4 };
    let written = [
        line("receipt-pending", &receipt(ReceiptState::Pending)),
        line("receipt-dead", &receipt(ReceiptState::Dead)),
        line("received", &received()),
        line("lane", &lane),
        line("credit", &Credit { credit: 1, credited_ms: 2, place: None }),
        line("totals", &CreditTotals { credit: 1, receipts: 2, bytes: 3 }),
        line("tally", &CourierTally { changes: 1, live: 2, checksum: 3, pending: 4, ..CourierTally::default() }),
        line("note-submitted", &SidecarRecord::Submitted(receipt(ReceiptState::Pending))),
        line("note-forgotten", &SidecarRecord::Forgotten([7; 16].into())),
        line("note-received", &SidecarRecord::Received(received())),
        line("note-dropped", &SidecarRecord::ReceivedDropped([8; 32], [7; 16].into())),
    ]
    .concat();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(GOLDEN, &written).unwrap();
    }
    assert!(std::fs::read_to_string(GOLDEN).unwrap() == written, "what is written is not {GOLDEN}");
}
