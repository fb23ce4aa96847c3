//! Archiving during a flush: credited acknowledgements move to the archive, and their bundles are
//! removed, while attempts continue.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::super::{Courier, CourierError};
use crate::store::ARCHIVED_AT_ONCE;

/// Thresholds for archiving during a flush: waiting acknowledgements, and bytes of their bundles.
/// Below both, archiving runs after the attempts. So attempts do not wait for file removals, which
/// also slow down other users of the disk.
const WAITING_MAX: u64 = 64 * ARCHIVED_AT_ONCE as u64;
const WAITING_BYTES_MAX: u64 = 256 << 20;

/// Number of waiting acknowledgements above which attempts wait for archiving.
const BEHIND_MAX: u64 = WAITING_MAX + 4 * ARCHIVED_AT_ONCE as u64;

#[derive(Default)]
pub struct PendingArchive {
    /// The batch in progress, if any.
    batch: Option<JoinHandle<Result<usize, CourierError>>>,
    /// Upper bound on the bytes of the waiting bundles.
    bytes: u64,
}

impl PendingArchive {
    /// Adds `bytes` of forwarded bundles. Starts the next batch if a threshold is reached and no
    /// batch is in progress.
    pub async fn go_on(&mut self, courier: &Arc<Courier>, bytes: u64) -> Result<(), CourierError> {
        let waiting = courier.store.tally().unarchived;
        self.bytes = if waiting == 0 { 0 } else { self.bytes.saturating_add(bytes) };
        let is_behind = waiting >= BEHIND_MAX;
        if let Some(batch) = self.batch.take_if(|batch| is_behind || batch.is_finished()) {
            batch.await.map_err(CourierError::task)??;
        }
        if self.batch.is_none() && (waiting >= WAITING_MAX || self.bytes >= WAITING_BYTES_MAX) {
            // Estimate: all waiting bundles have the same size.
            self.bytes -= self.bytes / waiting.max(1) * waiting.min(ARCHIVED_AT_ONCE as u64);
            let courier = courier.clone();
            self.batch = Some(tokio::task::spawn_blocking(move || Ok(courier.store.archive()?)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::courier::{Settings, system_clock};
    use crate::key::{NodeKey, Signer};
    use crate::receipt::{Acknowledgement, Delivery};

    #[tokio::test]
    async fn the_archive_waits_for_many_acknowledgements_or_for_large_bundles() {
        let directory = tempfile::tempdir().unwrap();
        let (own, other) = (NodeKey::from_secret([1; 32]), NodeKey::from_secret([2; 32]));
        let signer = Arc::new(Signer::new(own));
        let courier = Courier::open(directory.path(), signer, Settings::default(), system_clock).unwrap();
        let courier = Arc::new(courier);
        let forwarded = |bundle: &[u8]| {
            let mut sending = courier.begin_send("alice".parse().unwrap(), None, None).unwrap();
            sending.write(bundle).unwrap();
            let id = sending.finish().unwrap().id;
            let receipt = courier.store.receipt(&id).unwrap().unwrap();
            let delivery = Delivery::of(&receipt, other.public(), courier.public_key());
            let acknowledgement = Acknowledgement::sign(delivery, 1, &other);
            assert!(courier.store.acknowledge(&acknowledgement, 1, 1, None).unwrap());
        };
        let mut archiving = PendingArchive::default();
        for (bundle, bytes, begins) in [(b"a", 1, false), (b"b", WAITING_BYTES_MAX - 2, false), (b"c", 1, true)] {
            forwarded(bundle);
            archiving.go_on(&courier, bytes).await.unwrap();
            assert_eq!(archiving.batch.is_some(), begins);
        }
        archiving.batch.take().unwrap().await.unwrap().unwrap();
        assert_eq!(courier.store.tally().unarchived, 0);
        // Bundles of the finished batch no longer count.
        forwarded(b"d");
        archiving.go_on(&courier, 1).await.unwrap();
        assert!(archiving.batch.is_none());
    }
}
