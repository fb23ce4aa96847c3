//! Replies of the courier to a command. They are the same for the command line, as text or JSON,
//! and over the running node's socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Courier, Event, Peer, Summary};
use crate::key::{KeyName, PublicKey};
use crate::proof::Blob;
use crate::receipt::{Receipt, ReceiptId, Sender};
use crate::store::{ArchivedAck, CreditTotals, FsckReport, Received, StoreError};

/// One reply to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum CourierEvent {
    Sent {
        id: ReceiptId,
        bytes: u64,
        was: SendStatus,
    },
    Flush(Event),
    Flushed(Summary),
    Receipt(Receipt),
    Acknowledged(Acknowledged),
    Received(ReceivedBundle),
    Revived {
        id: ReceiptId,
        expires_ms: u64,
    },
    Dropped {
        id: ReceiptId,
    },
    /// A bundle was imported from a directory.
    Imported {
        id: ReceiptId,
        sender: Sender,
        bytes: u64,
        is_new: bool,
    },
    Credited {
        id: ReceiptId,
        credit: u64,
    },
    Problem {
        what: String,
    },
    /// The bytes of an acknowledgement, as hexadecimal digits.
    AcknowledgementBytes {
        hex: String,
    },
    Rewards(Rewards),
    Checked(FsckReport),
    Peer(PeerLine),
    PeerRemoved(PeerLine),
    /// The command failed at this point. The effects of earlier replies stay.
    Error {
        message: String,
    },
}

/// State of a bundle before it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendStatus {
    New,
    Pending,
    Dead,
    Acknowledged,
}

/// Fields of an acknowledgement, and the credit for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    pub id: ReceiptId,
    pub bundle: Blob,
    pub sender: Sender,
    pub destination: String,
    pub carrier: String,
    pub hops: u8,
    pub stored_ms: u64,
    pub credit: u64,
    pub credited_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceivedBundle {
    pub id: ReceiptId,
    pub carrier: String,
    /// This node's name for the carrier.
    pub carrier_name: Option<KeyName>,
    pub bundle: Blob,
    pub sender: Sender,
    pub hops: u8,
    pub stored_ms: u64,
    pub expires_ms: u64,
    pub is_kept: bool,
    /// Path of the bundle's file.
    pub path: PathBuf,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewards {
    pub credit: u64,
    pub receipts: u64,
    pub bytes: u64,
    pub destinations: Vec<DestinationRewards>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationRewards {
    pub destination: String,
    pub name: Option<KeyName>,
    pub credit: u64,
    pub receipts: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLine {
    pub name: KeyName,
    pub public_key: String,
    pub address: Option<String>,
    pub is_default: bool,
}

pub(super) fn rewards(courier: &Courier) -> Result<Rewards, StoreError> {
    let (tally, peers) = (courier.store.tally(), courier.peers());
    let of_one = |(key, totals): (PublicKey, CreditTotals)| DestinationRewards {
        destination: key.to_string(),
        name: peers.of_key(&key).map(|peer| peer.name.clone()),
        credit: totals.credit,
        receipts: totals.receipts,
        bytes: totals.bytes,
    };
    let destinations = courier.store.totals()?.into_iter().map(of_one).collect();
    Ok(Rewards { credit: tally.credit, receipts: tally.credited, bytes: tally.credited_bytes, destinations })
}

pub(super) fn acknowledged(entry: &ArchivedAck) -> Acknowledged {
    let delivery = entry.acknowledgement.delivery();
    Acknowledged {
        id: delivery.receipt,
        bundle: delivery.bundle,
        sender: delivery.sender.clone(),
        destination: delivery.destination.to_string(),
        carrier: delivery.carrier.to_string(),
        hops: delivery.hops,
        stored_ms: entry.acknowledgement.stored_ms(),
        credit: entry.credit,
        credited_ms: entry.credited_ms,
    }
}

pub(super) fn received_bundle(
    courier: &Courier,
    carrier: PublicKey,
    id: ReceiptId,
    received: Received,
) -> ReceivedBundle {
    let Received { bundle, sender, hops, expires_ms, stored_ms, acknowledgement: _, is_kept } = received;
    ReceivedBundle {
        id,
        carrier: carrier.to_string(),
        carrier_name: courier.peers().of_key(&carrier).map(|peer| peer.name.clone()),
        path: courier.store.received_path(&bundle),
        bundle,
        sender,
        hops,
        stored_ms,
        expires_ms,
        is_kept,
    }
}

pub(super) fn peer_line(peer: &Peer, default: Option<&KeyName>) -> PeerLine {
    PeerLine {
        name: peer.name.clone(),
        public_key: peer.public_key.to_string(),
        address: peer.address.as_ref().map(ToString::to_string),
        is_default: default == Some(&peer.name),
    }
}
