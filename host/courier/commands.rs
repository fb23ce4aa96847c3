//! Commands of a node's owner to its courier. A command is one value, and its replies are a stream
//! of values. So the command line gets the same replies, whether it executes the command itself or
//! sends it to the running node.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::events::{CourierEvent, SendStatus, acknowledged, peer_line, received_bundle, rewards};
use super::find::{FindError, MatchedItem, find, find_if};
use super::send::{BundleUpload, SendError};
use super::{AddedPeer, Address, Courier, CourierError, FlushMode, Peer, PeersFileError, removable_media};
use crate::key::{KeyName, NotARotation, PublicKey, Rotation};
use crate::receipt::{IdPrefix, Receipt, ReceiptId, ReceiptState, Sender};
use crate::store::{FsckReport, StoreError, SubmitResult};

/// Bytes of a bundle per write.
const CHUNK_BYTES: usize = 256 << 10;

/// Entries per read from the store, for a list.
const LIST_PAGE: usize = 256;

/// Maximum size of a command. A bundle may follow it.
pub const ORDER_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum CourierRequest {
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
        which: ListFilter,
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
pub enum ListFilter {
    Pending,
    Dead,
    Acknowledged,
    Received,
}

#[derive(Debug, thiserror::Error)]
pub enum CourierRequestError {
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
    #[error(transparent)]
    Find(#[from] FindError),
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
    Carry(#[from] removable_media::CarryError),
}

/// Executes `order`. `body` is the bundle that follows it, if any. Ends early when `interrupted`
/// completes.
pub async fn execute(
    courier: &Arc<Courier>,
    order: CourierRequest,
    body: impl AsyncRead + Unpin,
    mut tell: impl FnMut(CourierEvent),
    interrupted: impl Future<Output = ()>,
) -> Result<(), CourierRequestError> {
    let (peers, settings) = (courier.peers(), courier.settings());
    match order {
        CourierRequest::Send { sender, to, expires_in_ms } => {
            tell(take_in(courier.begin_send(sender, to, expires_in_ms)?, body).await?);
        }
        CourierRequest::Onward { id, to } => {
            let Some(MatchedItem::Received(_, id, received)) = find_if(courier, &id, MatchedItem::is_received)? else {
                return Err(CourierRequestError::NotReceived(id));
            };
            let sending = courier.begin_onward(&received, to)?;
            let bundle = courier.store.received_bundle(&received.bundle)?.ok_or(CourierRequestError::BundleGone(id))?;
            tell(take_in(sending, tokio::fs::File::from_std(bundle)).await?);
        }
        CourierRequest::Flush { retry_for_ms } => {
            let forwarder = courier.http()?;
            let mode = FlushMode::All { retry_for: Duration::from_millis(retry_for_ms) };
            let route = |destination: Option<&KeyName>| courier.peer_over_http(destination).map(Some);
            let summary =
                courier.flush(forwarder, mode, route, |event| tell(CourierEvent::Flush(event)), interrupted).await?;
            tell(CourierEvent::Flushed(summary));
        }
        CourierRequest::List { which } => tokio::select! {
            listed = list(courier, which, &mut tell) => listed?,
            () = interrupted => tell(CourierEvent::Problem { what: CourierRequestError::Interrupted.to_string() }),
        },
        CourierRequest::Show { id } => tell(match find(courier, &id)? {
            MatchedItem::Receipt(receipt) => CourierEvent::Receipt(receipt),
            MatchedItem::Acknowledged(entry) => CourierEvent::Acknowledged(acknowledged(&entry)),
            MatchedItem::Received(carrier, id, received) => {
                CourierEvent::Received(received_bundle(courier, carrier, id, received))
            }
        }),
        CourierRequest::Retry { ids, all_dead } => retry(courier, &ids, all_dead, &mut tell)?,
        CourierRequest::Drop { ids } => {
            for id in ids {
                // Credit is never removed.
                let is_here = |found: &MatchedItem| !matches!(found, MatchedItem::Acknowledged(_));
                let found = find_if(courier, &id, is_here)?.ok_or(FindError::NoSuchReceipt(id))?;
                let id = found.id();
                match found {
                    MatchedItem::Received(carrier, ..) => courier.room.release(&carrier, || {
                        let dropped = courier.store.drop_received(&carrier, &id)?;
                        Ok(dropped.map(|received| received.bundle.bytes))
                    })?,
                    _ => drop(courier.store.forget(&id)?),
                }
                tell(CourierEvent::Dropped { id });
            }
        }
        CourierRequest::Export { directory, to } => {
            removable_media::export(courier, &directory, to.as_ref(), &mut tell, interrupted).await?;
        }
        CourierRequest::Import { directory } => removable_media::import(courier, &directory, &mut tell).await?,
        CourierRequest::ExportAcknowledgement { id } => match find(courier, &id)? {
            MatchedItem::Acknowledged(entry) => {
                let hex = entry.acknowledgement.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                tell(CourierEvent::AcknowledgementBytes { hex });
            }
            other => return Err(CourierRequestError::NotAcknowledged(other.id())),
        },
        CourierRequest::Fsck => tell(CourierEvent::Checked(check(courier, interrupted).await?)),
        CourierRequest::Rewards => tell(CourierEvent::Rewards(rewards(courier)?)),
        CourierRequest::AddPeer { name, public_key, address } => {
            let public_key: PublicKey = public_key.parse()?;
            if public_key == courier.public_key() {
                return Err(CourierRequestError::OwnKey(public_key));
            }
            let address = address.map(|address| address.parse::<Address>()).transpose()?;
            let peer = Peer { name, public_key, address };
            let line = peer_line(&peer, settings.destination.as_ref());
            let _: AddedPeer = courier.change_peers(|peers| peers.add(peer))?;
            tell(CourierEvent::Peer(line));
        }
        CourierRequest::FollowPeer { statement } => {
            let rotation = Rotation::read(statement.as_bytes())?;
            if rotation.successor() == courier.public_key() {
                return Err(CourierRequestError::OwnKey(rotation.successor()));
            }
            let peer = courier.change_peers(|peers| peers.follow(&rotation))?;
            tell(CourierEvent::Peer(peer_line(&peer, settings.destination.as_ref())));
        }
        CourierRequest::ListPeers => {
            for peer in peers.list() {
                tell(CourierEvent::Peer(peer_line(peer, settings.destination.as_ref())));
            }
        }
        CourierRequest::RemovePeer { name } => {
            let removed = courier.change_peers(|peers| peers.remove(&name))?;
            tell(CourierEvent::PeerRemoved(peer_line(&removed, settings.destination.as_ref())));
        }
    }
    Ok(())
}

/// Checks the store until the check is complete or interrupted.
async fn check(
    courier: &Arc<Courier>,
    interrupted: impl Future<Output = ()>,
) -> Result<FsckReport, CourierRequestError> {
    let (courier, is_over) = (courier.clone(), Arc::new(AtomicBool::new(false)));
    let checked = tokio::spawn(blocking({
        let is_over = is_over.clone();
        move || Ok(courier.store.check(|| is_over.load(Ordering::Relaxed))?)
    }));
    tokio::select! {
        checked = checked => checked.map_err(CourierError::task)?,
        () = interrupted => {
            is_over.store(true, Ordering::Relaxed);
            Err(CourierRequestError::Interrupted)
        }
    }
}

/// Accepts a bundle from a stream.
async fn take_in(
    mut sending: BundleUpload,
    mut body: impl AsyncRead + Unpin,
) -> Result<CourierEvent, CourierRequestError> {
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let mut part = (&mut body).take(CHUNK_BYTES as u64);
        part.read_to_end(&mut chunk).await.map_err(CourierRequestError::Body)?;
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
        SubmitResult::New => SendStatus::New,
        SubmitResult::Known(receipt) if receipt.state == ReceiptState::Dead => SendStatus::Dead,
        SubmitResult::Known(_) => SendStatus::Pending,
        SubmitResult::Credited(_) => SendStatus::Acknowledged,
    };
    Ok(CourierEvent::Sent { id: sent.id, bytes: sent.bytes, was })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CourierRequestError> + Send + 'static,
) -> Result<T, CourierRequestError> {
    tokio::task::spawn_blocking(work).await.map_err(CourierError::task)?
}

async fn list(
    courier: &Arc<Courier>,
    which: ListFilter,
    tell: &mut impl FnMut(CourierEvent),
) -> Result<(), CourierRequestError> {
    match which {
        ListFilter::Pending | ListFilter::Dead => {
            let state = if which == ListFilter::Pending { ReceiptState::Pending } else { ReceiptState::Dead };
            let mut last: Option<Receipt> = None;
            loop {
                let (courier, after) = (courier.clone(), last.take());
                let page = blocking(move || Ok(courier.store.receipts_in(state, after.as_ref(), LIST_PAGE)?)).await?;
                let Some(next) = page.last().cloned() else { break };
                last = Some(next);
                page.into_iter().for_each(|receipt| tell(CourierEvent::Receipt(receipt)));
            }
        }
        ListFilter::Acknowledged => {
            let mut last = None;
            loop {
                let (from, courier) = (last.take(), courier.clone());
                let page = blocking(move || Ok(courier.store.acknowledged_after(from, LIST_PAGE)?)).await?;
                let Some((next, _)) = page.last() else { break };
                last = Some(*next);
                page.iter().for_each(|(_, entry)| tell(CourierEvent::Acknowledged(acknowledged(entry))));
            }
        }
        ListFilter::Received => {
            let mut last = None;
            loop {
                let (from, store) = (last.take(), courier.clone());
                let page = blocking(move || Ok(store.store.received_list(from, LIST_PAGE)?)).await?;
                let Some((carrier, id, received)) = page.last() else { break };
                last = Some((received.stored_ms, *carrier, *id));
                for (carrier, id, received) in page {
                    tell(CourierEvent::Received(received_bundle(courier, carrier, id, received)));
                }
            }
        }
    }
    Ok(())
}

fn retry(
    courier: &Courier,
    ids: &[IdPrefix],
    all_dead: bool,
    tell: &mut impl FnMut(CourierEvent),
) -> Result<(), CourierRequestError> {
    let now_ms = courier.now_ms();
    let expires_ms = now_ms.saturating_add(courier.settings().expires_ms);
    let mut revive = |id: &ReceiptId| -> Result<(), CourierRequestError> {
        if let Some(receipt) = courier.store.revive(id, now_ms, expires_ms)? {
            tell(CourierEvent::Revived { id: *id, expires_ms: receipt.expires_ms });
        }
        Ok(())
    };
    for prefix in ids {
        match find_if(courier, prefix, |found| matches!(found, MatchedItem::Receipt(_)))? {
            Some(found) => revive(&found.id())?,
            None => return Err(FindError::NoSuchReceipt(prefix.clone()).into()),
        }
    }
    if all_dead {
        loop {
            // Each page starts with the first dead receipt, because revived ones are no longer
            // dead.
            let dead = courier.store.receipts_in(ReceiptState::Dead, None, LIST_PAGE)?;
            if dead.is_empty() {
                break;
            }
            dead.iter().try_for_each(|receipt| revive(&receipt.id))?;
        }
    }
    courier.new_work.send_replace(());
    Ok(())
}
