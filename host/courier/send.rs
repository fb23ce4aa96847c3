//! Sending of a bundle: its bytes are staged as they arrive, and the receipt is reported when both
//! are on disk.

use std::sync::Arc;

use super::Courier;
use crate::key::KeyName;
use crate::receipt::{CLOCK_SET_MS, Receipt, ReceiptId, ReceiptState, Sender};
use crate::store::{Received, StagedBundle, StoreError, SubmitResult};

/// Reason why a bundle is not accepted. Nothing of it is stored then.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(
        "no peer has the name `{0}`; `node compute courier peer add {0} KEY ADDRESS` adds it, `peer list` shows those that there are"
    )]
    UnknownPeer(KeyName),
    #[error("the bundle has more than {max} bytes; the limit is `courier.bundle_bytes_max` in config.toml")]
    TooLarge { max: u64 },
    #[error(
        "{receipts} receipts with {bytes} bytes are pending or dead, and there is room for no more; flush, `drop` what is dead, or raise \
         `courier.pending_max` or `courier.pending_bytes_max` in config.toml"
    )]
    Full { receipts: u64, bytes: u64 },
    #[error("it would have expired already")]
    Expired,
    #[error("it was carried by {} nodes already, and is carried no further: it may go in circles", Receipt::HOPS_MAX)]
    TooManyHops,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A bundle that is being accepted. Dropping it discards everything that was staged.
pub struct BundleUpload {
    courier: Arc<Courier>,
    staged: StagedBundle,
    sender: Sender,
    to: Option<KeyName>,
    hops: u8,
    expires_ms: u64,
}

/// The receipt of an accepted bundle, and its state before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBundle {
    pub id: ReceiptId,
    pub bytes: u64,
    pub submitted: SubmitResult,
}

impl Courier {
    /// Starts to accept a bundle from `sender` for the peer `to`, or for the default destination.
    /// Its receipt expires after `expires_in_ms` milliseconds.
    pub fn begin_send(
        self: &Arc<Self>,
        sender: Sender,
        to: Option<KeyName>,
        expires_in_ms: Option<u64>,
    ) -> Result<BundleUpload, SendError> {
        let expires_in_ms = expires_in_ms.unwrap_or(self.settings.expires_ms);
        self.begin(sender, to, 0, self.now_ms().saturating_add(expires_in_ms))
    }

    /// Starts to accept a received bundle for relay to the peer `to`.
    pub fn begin_onward(self: &Arc<Self>, received: &Received, to: KeyName) -> Result<BundleUpload, SendError> {
        if received.hops >= Receipt::HOPS_MAX {
            return Err(SendError::TooManyHops);
        }
        // The expiry time of a carrier whose clock was never set means nothing.
        let expires_ms = match received.expires_ms {
            unset if unset < CLOCK_SET_MS => self.now_ms().saturating_add(self.settings.expires_ms),
            expires_ms => expires_ms,
        };
        self.begin(received.sender.clone(), Some(to), received.hops, expires_ms)
    }

    fn begin(
        self: &Arc<Self>,
        sender: Sender,
        to: Option<KeyName>,
        hops: u8,
        expires_ms: u64,
    ) -> Result<BundleUpload, SendError> {
        if let Some(to) = to.as_ref().filter(|to| self.peers().named(to).is_none()) {
            return Err(SendError::UnknownPeer(to.clone()));
        }
        if expires_ms <= self.now_ms() {
            return Err(SendError::Expired);
        }
        self.room_to_send(0)?;
        Ok(BundleUpload { courier: self.clone(), staged: self.store.stage()?, sender, to, hops, expires_ms })
    }

    fn room_to_send(&self, more: u64) -> Result<(), SendError> {
        let tally = self.store.tally();
        let (receipts, bytes) = (tally.pending + tally.dead, tally.pending_bytes.saturating_add(tally.dead_bytes));
        let settings = &self.settings;
        if receipts >= settings.pending_max || bytes.saturating_add(more) > settings.pending_bytes_max {
            return Err(SendError::Full { receipts, bytes });
        }
        Ok(())
    }

    /// Returns the receipt's id. A bundle that was sent before the default destination had a name
    /// keeps its id, so it is not sent again.
    fn id_of(&self, receipt: &Receipt) -> Result<ReceiptId, StoreError> {
        let (bundle, sender) = (&receipt.bundle, &receipt.sender);
        let destination = receipt.destination.as_ref();
        if destination.is_some() && destination == self.settings.destination.as_ref() {
            let unnamed = ReceiptId::of(bundle, sender, None);
            if self.store.receipt(&unnamed)?.is_some() || self.store.credit(&unnamed)?.is_some() {
                return Ok(unnamed);
            }
        }
        Ok(ReceiptId::of(bundle, sender, destination))
    }
}

impl BundleUpload {
    /// Appends bytes to the bundle. Writes to disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SendError> {
        let max = self.courier.settings.bundle_bytes_max;
        if self.staged.bytes().saturating_add(bytes.len() as u64) > max {
            return Err(SendError::TooLarge { max });
        }
        Ok(self.staged.write(bytes)?)
    }

    /// Returns when the bundle and its receipt are on disk.
    pub fn finish(self) -> Result<SentBundle, SendError> {
        let Self { courier, staged, sender, to, hops, expires_ms } = self;
        courier.room_to_send(staged.bytes())?;
        let finished = staged.finish()?;
        let (bundle, now_ms) = (finished.blob(), courier.now_ms());
        let destination = to.or_else(|| courier.settings.destination.clone());
        let mut receipt = Receipt {
            id: ReceiptId::of(&bundle, &sender, None),
            bundle,
            sender,
            destination,
            hops,
            created_ms: now_ms,
            expires_ms,
            state: ReceiptState::Pending,
            attempts: 0,
            attempted_ms: 0,
            due_ms: now_ms,
            last_error: None,
        };
        receipt.id = courier.id_of(&receipt)?;
        let submitted = courier.store.submit(finished, &receipt)?;
        courier.new_work.send_replace(());
        Ok(SentBundle { id: receipt.id, bytes: bundle.bytes, submitted })
    }
}
