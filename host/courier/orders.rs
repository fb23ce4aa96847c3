//! Commands of a node's owner to its courier. A command is one value, and its replies are a stream
//! of values. So the command line gets the same replies, whether it executes the command itself or
//! sends it to the running node.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::answers::{Answer, Was, acknowledged, peer_line, received_bundle, rewards};
use super::send::{SendError, Sending};
use super::{Added, Address, Courier, CourierError, Mode, Peer, PeersFileError, carry};
use crate::key::{KeyName, NotARotation, PublicKey, Rotation};
use crate::receipt::{IdPrefix, Receipt, ReceiptId, Sender, State};
use crate::store::{Entry, FsckReport, Received, StoreError, Submitted};

/// Bytes of a bundle per write.
const CHUNK_BYTES: usize = 256 << 10;

/// Entries per read from the store, for a list.
const LIST_PAGE: usize = 256;

/// Maximum size of a command. A bundle may follow it.
pub const ORDER_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum Order {
    /// Accept the bundle that follows.
    Send {
        sender: Sender,
        to: Option<KeyName>,
        expires_in_ms: Option<u64>,
    },
    /// Relay a received bundle to another peer.
    Onward {
        id: IdPrefix,
        to: KeyName,
    },
    Flush {
        retry_for_ms: u64,
    },
    List {
        which: Which,
    },
    Show {
        id: IdPrefix,
    },
    /// Retry receipts that are dead or not due: these, and all dead ones if `all_dead`.
    Retry {
        ids: Vec<IdPrefix>,
        all_dead: bool,
    },
    /// Remove receipts and received bundles.
    Drop {
        ids: Vec<IdPrefix>,
    },
    Export {
        directory: PathBuf,
        to: Option<KeyName>,
    },
    Import {
        directory: PathBuf,
    },
    /// Check the store while it is in use.
    Fsck,
    /// Return the acknowledgement of one receipt.
    ExportAcknowledgement {
        id: IdPrefix,
    },
    Rewards,
    AddPeer {
        name: KeyName,
        public_key: String,
        address: Option<String>,
    },
    /// Pin a peer's successor key, by a statement that both keys have signed.
    FollowPeer {
        statement: String,
    },
    ListPeers,
    RemovePeer {
        name: KeyName,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    Pending,
    Dead,
    Acknowledged,
    Received,
}

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error(transparent)]
    Courier(#[from] CourierError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error(transparent)]
    Peers(#[from] PeersFileError),
    #[error("cannot read the bundle: {0}")]
    Body(std::io::Error),
    #[error("no receipt has an id that begins with `{0}`; `node compute courier list` shows those that there are")]
    NoSuchReceipt(IdPrefix),
    #[error("several ids begin with `{prefix}`, {one} and {other} among them; give more of its digits")]
    Ambiguous { prefix: IdPrefix, one: ReceiptId, other: ReceiptId },
    #[error("`{0}` is nothing that was received; `node compute courier list --received` shows what was")]
    NotReceived(IdPrefix),
    #[error("the bytes of the received bundle {0} are not here any more")]
    BundleGone(ReceiptId),
    #[error("the receipt {0} is not acknowledged; there is no acknowledgement to give out")]
    NotAcknowledged(ReceiptId),
    #[error(transparent)]
    NotAPublicKey(#[from] crate::key::NotAPublicKey),
    #[error("the statement does not say that one key takes the place of another: {0}")]
    NotARotation(#[from] NotARotation),
    #[error(transparent)]
    NotAnAddress(#[from] super::NotAnAddress),
    #[error("the key {0} is this node's own; a peer is another node")]
    OwnKey(PublicKey),
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Carry(#[from] carry::CarryError),
}

/// An item that has an id.
enum Found {
    Receipt(Receipt),
    Acknowledged(Entry),
    Received(PublicKey, ReceiptId, Received),
}

impl Found {
    const fn is_received(&self) -> bool {
        matches!(self, Self::Received(..))
    }

    fn id(&self) -> ReceiptId {
        match self {
            Self::Receipt(receipt) => receipt.id,
            Self::Acknowledged(entry) => entry.acknowledgement.delivery().receipt,
            Self::Received(_, id, _) => *id,
        }
    }
}

/// Executes `order`. `body` is the bundle that follows it, if any. Ends early when `interrupted`
/// completes.
pub async fn perform(
    courier: &Arc<Courier>,
    order: Order,
    body: impl AsyncRead + Unpin,
    mut tell: impl FnMut(Answer),
    interrupted: impl Future<Output = ()>,
) -> Result<(), OrderError> {
    let (peers, settings) = (courier.peers(), courier.settings());
    match order {
        Order::Send { sender, to, expires_in_ms } => {
            tell(take_in(courier.begin_send(sender, to, expires_in_ms)?, body).await?);
        }
        Order::Onward { id, to } => {
            let Some(Found::Received(_, id, received)) = find_if(courier, &id, Found::is_received)? else {
                return Err(OrderError::NotReceived(id));
            };
            let sending = courier.begin_onward(&received, to)?;
            let bundle = courier.store.received_bundle(&received.bundle)?.ok_or(OrderError::BundleGone(id))?;
            tell(take_in(sending, tokio::fs::File::from_std(bundle)).await?);
        }
        Order::Flush { retry_for_ms } => {
            let forwarder = courier.http()?;
            let mode = Mode::All { retry_for: Duration::from_millis(retry_for_ms) };
            let route = |destination: Option<&KeyName>| courier.peer_over_http(destination).map(Some);
            let summary =
                courier.flush(forwarder, mode, route, |event| tell(Answer::Flush(event)), interrupted).await?;
            tell(Answer::Flushed(summary));
        }
        Order::List { which } => tokio::select! {
            listed = list(courier, which, &mut tell) => listed?,
            () = interrupted => tell(Answer::Problem { what: OrderError::Interrupted.to_string() }),
        },
        Order::Show { id } => tell(match find(courier, &id)? {
            Found::Receipt(receipt) => Answer::Receipt(receipt),
            Found::Acknowledged(entry) => Answer::Acknowledged(acknowledged(&entry)),
            Found::Received(carrier, id, received) => Answer::Received(received_bundle(courier, carrier, id, received)),
        }),
        Order::Retry { ids, all_dead } => retry(courier, &ids, all_dead, &mut tell)?,
        Order::Drop { ids } => {
            for id in ids {
                // Credit is never removed.
                let is_here = |found: &Found| !matches!(found, Found::Acknowledged(_));
                let found = find_if(courier, &id, is_here)?.ok_or(OrderError::NoSuchReceipt(id))?;
                let id = found.id();
                match found {
                    Found::Received(carrier, ..) => courier.room.release(&carrier, || {
                        let dropped = courier.store.drop_received(&carrier, &id)?;
                        Ok(dropped.map(|received| received.bundle.bytes))
                    })?,
                    _ => drop(courier.store.forget(&id)?),
                }
                tell(Answer::Dropped { id });
            }
        }
        Order::Export { directory, to } => {
            carry::export(courier, &directory, to.as_ref(), &mut tell, interrupted).await?;
        }
        Order::Import { directory } => carry::import(courier, &directory, &mut tell).await?,
        Order::ExportAcknowledgement { id } => match find(courier, &id)? {
            Found::Acknowledged(entry) => {
                let hex = entry.acknowledgement.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                tell(Answer::AcknowledgementBytes { hex });
            }
            other => return Err(OrderError::NotAcknowledged(other.id())),
        },
        Order::Fsck => tell(Answer::Checked(check(courier, interrupted).await?)),
        Order::Rewards => tell(Answer::Rewards(rewards(courier)?)),
        Order::AddPeer { name, public_key, address } => {
            let public_key: PublicKey = public_key.parse()?;
            if public_key == courier.public_key() {
                return Err(OrderError::OwnKey(public_key));
            }
            let address = address.map(|address| address.parse::<Address>()).transpose()?;
            let peer = Peer { name, public_key, address };
            let line = peer_line(&peer, settings.destination.as_ref());
            let _: Added = courier.change_peers(|peers| peers.add(peer))?;
            tell(Answer::Peer(line));
        }
        Order::FollowPeer { statement } => {
            let rotation = Rotation::read(statement.as_bytes())?;
            if rotation.successor() == courier.public_key() {
                return Err(OrderError::OwnKey(rotation.successor()));
            }
            let peer = courier.change_peers(|peers| peers.follow(&rotation))?;
            tell(Answer::Peer(peer_line(&peer, settings.destination.as_ref())));
        }
        Order::ListPeers => {
            for peer in peers.list() {
                tell(Answer::Peer(peer_line(peer, settings.destination.as_ref())));
            }
        }
        Order::RemovePeer { name } => {
            let removed = courier.change_peers(|peers| peers.remove(&name))?;
            tell(Answer::PeerRemoved(peer_line(&removed, settings.destination.as_ref())));
        }
    }
    Ok(())
}

/// Checks the store until the check is complete or interrupted.
async fn check(courier: &Arc<Courier>, interrupted: impl Future<Output = ()>) -> Result<FsckReport, OrderError> {
    let (courier, is_over) = (courier.clone(), Arc::new(AtomicBool::new(false)));
    let checked = tokio::spawn(blocking({
        let is_over = is_over.clone();
        move || Ok(courier.store.check(|| is_over.load(Ordering::Relaxed))?)
    }));
    tokio::select! {
        checked = checked => checked.map_err(CourierError::task)?,
        () = interrupted => {
            is_over.store(true, Ordering::Relaxed);
            Err(OrderError::Interrupted)
        }
    }
}

/// Accepts a bundle from a stream.
async fn take_in(mut sending: Sending, mut body: impl AsyncRead + Unpin) -> Result<Answer, OrderError> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut part = (&mut body).take(CHUNK_BYTES as u64);
        part.read_to_end(&mut chunk).await.map_err(OrderError::Body)?;
        let is_last = chunk.len() < CHUNK_BYTES;
        sending = blocking(move || {
            sending.write(&chunk)?;
            Ok(sending)
        })
        .await?;
        if is_last {
            break;
        }
    }
    let sent = blocking(move || Ok(sending.finish()?)).await?;
    let was = match sent.submitted {
        Submitted::New => Was::New,
        Submitted::Known(receipt) if receipt.state == State::Dead => Was::Dead,
        Submitted::Known(_) => Was::Pending,
        Submitted::Credited(_) => Was::Acknowledged,
    };
    Ok(Answer::Sent { id: sent.id, bytes: sent.bytes, was })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OrderError> + Send + 'static,
) -> Result<T, OrderError> {
    tokio::task::spawn_blocking(work).await.map_err(CourierError::task)?
}

/// Returns the item with this id prefix, of any kind.
fn find(courier: &Courier, prefix: &IdPrefix) -> Result<Found, OrderError> {
    find_if(courier, prefix, |_| true)?.ok_or_else(|| OrderError::NoSuchReceipt(prefix.clone()))
}

/// Returns the item with this id prefix for which `is_wanted` is true. If this node's receipt and a
/// received bundle have the same id, the receipt comes first.
fn find_if(
    courier: &Courier,
    prefix: &IdPrefix,
    is_wanted: impl Fn(&Found) -> bool,
) -> Result<Option<Found>, OrderError> {
    let mut found: Vec<Found> = Vec::new();
    found.extend(courier.store.receipts_named(prefix, 2)?.into_iter().map(Found::Receipt));
    found.extend(courier.store.acknowledged_named(prefix, 2)?.into_iter().map(Found::Acknowledged));
    let received = courier.store.received_named(prefix, 2)?.into_iter();
    found.extend(received.map(|(carrier, id, received)| Found::Received(carrier, id, received)));
    let mut wanted = found.into_iter().filter(|found| is_wanted(found));
    let Some(first) = wanted.next() else { return Ok(None) };
    let one = first.id();
    match wanted.map(|found| found.id()).find(|other| *other != one) {
        Some(other) => Err(OrderError::Ambiguous { prefix: prefix.clone(), one, other }),
        None => Ok(Some(first)),
    }
}

async fn list(courier: &Arc<Courier>, which: Which, tell: &mut impl FnMut(Answer)) -> Result<(), OrderError> {
    match which {
        Which::Pending | Which::Dead => {
            let state = if which == Which::Pending { State::Pending } else { State::Dead };
            let mut last: Option<Receipt> = None;
            loop {
                let (courier, after) = (courier.clone(), last.take());
                let page = blocking(move || Ok(courier.store.receipts_in(state, after.as_ref(), LIST_PAGE)?)).await?;
                let Some(next) = page.last().cloned() else { break };
                last = Some(next);
                page.into_iter().for_each(|receipt| tell(Answer::Receipt(receipt)));
            }
        }
        Which::Acknowledged => {
            let mut last = None;
            loop {
                let (from, courier) = (last.take(), courier.clone());
                let page = blocking(move || Ok(courier.store.acknowledged_after(from, LIST_PAGE)?)).await?;
                let Some((next, _)) = page.last() else { break };
                last = Some(*next);
                page.iter().for_each(|(_, entry)| tell(Answer::Acknowledged(acknowledged(entry))));
            }
        }
        Which::Received => {
            let mut last = None;
            loop {
                let (from, store) = (last.take(), courier.clone());
                let page = blocking(move || Ok(store.store.received_list(from, LIST_PAGE)?)).await?;
                let Some((carrier, id, received)) = page.last() else { break };
                last = Some((received.stored_ms, *carrier, *id));
                for (carrier, id, received) in page {
                    tell(Answer::Received(received_bundle(courier, carrier, id, received)));
                }
            }
        }
    }
    Ok(())
}

fn retry(courier: &Courier, ids: &[IdPrefix], all_dead: bool, tell: &mut impl FnMut(Answer)) -> Result<(), OrderError> {
    let now_ms = courier.now_ms();
    let expires_ms = now_ms.saturating_add(courier.settings().expires_ms);
    let mut revive = |id: &ReceiptId| -> Result<(), OrderError> {
        if let Some(receipt) = courier.store.revive(id, now_ms, expires_ms)? {
            tell(Answer::Revived { id: *id, expires_ms: receipt.expires_ms });
        }
        Ok(())
    };
    for prefix in ids {
        match find_if(courier, prefix, |found| matches!(found, Found::Receipt(_)))? {
            Some(found) => revive(&found.id())?,
            None => return Err(OrderError::NoSuchReceipt(prefix.clone())),
        }
    }
    if all_dead {
        loop {
            // Each page starts with the first dead receipt, because revived ones are no longer
            // dead.
            let dead = courier.store.receipts_in(State::Dead, None, LIST_PAGE)?;
            if dead.is_empty() {
                break;
            }
            dead.iter().try_for_each(|receipt| revive(&receipt.id))?;
        }
    }
    courier.new_work.send_replace(());
    Ok(())
}
