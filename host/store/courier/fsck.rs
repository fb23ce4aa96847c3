//! Check of a store that is not in use, and rebuild of a database that is damaged or has lost data.
//! The sources are the bundles' sidecars, which contain the receipts, and the archive, which
//! contains the acknowledgements.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::super::archive::{Archive, ArchiveOffset, ArchivedAck};
use super::super::bundles::BundleFiles;
use super::super::database::{Batch, Database, lock, unused_path};
use super::super::journal::StoreJournal;
use super::super::{StoreError, record};
use super::check::{FsckReport, damaged};
use super::ledger::{Credit, CreditTotals};
use super::records::{Received, SidecarRecord};
use super::tally::CourierTally;
use super::{CourierChange, CourierStore, VERSION, keys};
use crate::key::PublicKey;
use crate::receipt::{Acknowledgement, Receipt, ReceiptId};

/// Records per batch during a rebuild.
const AT_ONCE: usize = 1_000;

impl CourierStore {
    /// Checks the store in `directory`: all records, all bundles' bytes, and all acknowledgements'
    /// signatures. Rebuilds the database if it is damaged or has lost data. No other process may
    /// have the store open.
    pub fn fsck(directory: &Path) -> Result<FsckReport, StoreError> {
        let mut report = FsckReport::default();
        // sled may panic on damage, even during a read.
        let look = || Self::open(directory).and_then(|store| store.check_records(|| false).map(|()| store));
        let panicked = |_| Err(damaged(directory, "its files cannot be read".to_owned()));
        let store = match catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(panicked) {
            Ok(store) => store,
            Err(
                error @ (StoreError::CourierDamaged { .. }
                | StoreError::ArchiveShort { .. }
                | StoreError::ArchiveLong { .. }),
            ) => {
                report.done.push(error.to_string());
                Self::rebuild(directory, &mut report)?
            }
            Err(error) => return Err(error),
        };
        store.check_files(|| false, &mut report)?;
        Ok(report)
    }

    /// Moves the database aside and builds a new one from the files beside it.
    fn rebuild(directory: &Path, report: &mut FsckReport) -> Result<Self, StoreError> {
        let journal = directory.join("journal");
        let before = StoreJournal::<CourierTally>::open(&journal)?.1.unwrap_or_default();
        for name in ["queue", "journal"] {
            let path = directory.join(name);
            if path.exists() {
                let aside = unused_path(&path);
                std::fs::rename(&path, &aside).map_err(|cause| StoreError::Io { path: path.clone(), cause })?;
                report.done.push(format!("moved `{}` to `{}`", path.display(), aside.display()));
            }
        }
        let archive_directory = directory.join("archive");
        let end = if archive_directory.exists() {
            Archive::end_of_files(&archive_directory)?
        } else {
            ArchiveOffset::default()
        };
        let database = Database::open(&directory.join("queue"), VERSION)?;
        // Counts of attempts cannot be rebuilt from the files, so they come from the journal.
        let tally = CourierTally {
            // A count above 0, because this is not a new store.
            changes: 1,
            archive_end: end,
            attempts: before.attempts,
            failures: before.failures,
            invalid_acknowledgements: before.invalid_acknowledgements,
            ..CourierTally::default()
        };
        let mut first = Batch::default();
        first.insert(keys::TALLY, record::encode(&tally));
        database.apply(first)?;
        drop(database);
        let store = Self::open(directory)?;
        store.restore_ledger()?;
        let receipts = store.restore(&store.bundles, report)?;
        let received = store.restore(&store.received, report)?;
        report.done.push(format!("rebuilt the database: {receipts} receipts, {received} received"));
        Ok(store)
    }

    fn restore_ledger(&self) -> Result<(), StoreError> {
        let archive = lock(&self.archive);
        let current = archive.end().segment;
        let mut entries = archive.iter().filter_map(|entry| match entry {
            Err(StoreError::Damaged(_)) => None,
            entry => Some(entry),
        });
        loop {
            let some: Vec<_> = entries.by_ref().take(AT_ONCE).collect::<Result<_, _>>()?;
            if some.is_empty() {
                return Ok(());
            }
            self.change(|change| {
                let mut totals: HashMap<Vec<u8>, CreditTotals> = HashMap::new();
                for (place, ArchivedAck { acknowledgement, credit, credited_ms }) in some {
                    let delivery = acknowledgement.delivery();
                    if place.segment == current {
                        let credit = Credit { credit, credited_ms, place: Some(place) };
                        change.put(keys::ledger(&delivery.receipt), &credit);
                    }
                    let key = keys::totals(&delivery.destination);
                    let before = change.get(&key)?.unwrap_or_default();
                    let total = totals.entry(key).or_insert(before);
                    total.add(delivery.bundle.bytes, credit);
                    change.tally.add_credit(delivery.bundle.bytes, credit);
                }
                totals.into_iter().for_each(|(key, total)| change.put(key, &total));
                Ok(())
            })?;
        }
    }

    /// Restores the records of the sidecars. Returns the number of restored records.
    fn restore(&self, files: &BundleFiles, report: &mut FsckReport) -> Result<u64, StoreError> {
        let mut restored = 0;
        for digest in files.all() {
            let mut latest: HashMap<(Vec<u8>, ReceiptId), SidecarRecord> = HashMap::new();
            let digest = digest?;
            let mut notes = files.notes(&digest)?;
            for note in notes.by_ref() {
                if let Ok(note) = record::decode::<SidecarRecord>(&note?) {
                    latest.insert(note.key(), note);
                }
                if latest.len() >= AT_ONCE {
                    restored += self.put_back(latest.drain().map(|(_, note)| note))?;
                }
            }
            restored += self.put_back(latest.drain().map(|(_, note)| note))?;
            let bytes = notes.damaged_bytes();
            if bytes > 0 {
                let of = files.path(&digest);
                report.problem(format!("{bytes} bytes beside `{}` are damaged: receipts may be lost", of.display()));
            }
        }
        Ok(restored)
    }

    fn put_back(&self, notes: impl Iterator<Item = SidecarRecord>) -> Result<u64, StoreError> {
        let mut wanted = Vec::new();
        for note in notes {
            let is_wanted = match &note {
                SidecarRecord::Submitted(receipt) => self.credit(&receipt.id)?.is_none(),
                SidecarRecord::Received(_) | SidecarRecord::Forgotten(_) | SidecarRecord::ReceivedDropped(..) => true,
            };
            wanted.extend(is_wanted.then_some(note));
        }
        self.change(|change| {
            let mut count = 0;
            for note in wanted {
                count += u64::from(change.put_back(note)?);
            }
            Ok(count)
        })
    }
}

impl SidecarRecord {
    /// Returns the carrier's key and the receipt's id. The key is empty for a receipt of this node.
    fn key(&self) -> (Vec<u8>, ReceiptId) {
        match self {
            Self::Submitted(receipt) => (Vec::new(), receipt.id),
            Self::Forgotten(id) => (Vec::new(), *id),
            Self::Received(received) => {
                let carrier = Acknowledgement::from_kept_bytes(&received.acknowledgement);
                let delivery = carrier.map(|acknowledgement| acknowledgement.delivery().clone());
                delivery.map_or((Vec::new(), [0; 16].into()), |delivery| {
                    (delivery.carrier.as_bytes().to_vec(), delivery.receipt)
                })
            }
            Self::ReceivedDropped(carrier, id) => (carrier.to_vec(), *id),
        }
    }
}

impl CourierChange<'_> {
    /// Returns whether a record was restored.
    fn put_back(&mut self, note: SidecarRecord) -> Result<bool, StoreError> {
        match note {
            SidecarRecord::Submitted(receipt) => {
                let former = self.get::<Receipt>(&keys::receipt(&receipt.id))?;
                self.put_receipt(&receipt, former.as_ref());
                self.mark(keys::needs(&receipt.bundle.blake3, &receipt.id));
                self.put_lane_of(&receipt)?;
                Ok(former.is_none())
            }
            SidecarRecord::Received(received) => {
                let Ok(acknowledgement) = Acknowledgement::from_kept_bytes(&received.acknowledgement) else {
                    return Ok(false);
                };
                let (carrier, id) = (acknowledgement.delivery().carrier, acknowledgement.delivery().receipt);
                if self.get::<Received>(&keys::received(&carrier, &id))?.is_some() {
                    return Ok(false);
                }
                self.put_received(&carrier, &id, &received);
                Ok(true)
            }
            SidecarRecord::Forgotten(id) => {
                if let Some(receipt) = self.get::<Receipt>(&keys::receipt(&id))? {
                    self.remove_receipt(&receipt);
                    self.remove(keys::needs(&receipt.bundle.blake3, &id));
                }
                Ok(false)
            }
            SidecarRecord::ReceivedDropped(carrier, id) => {
                let carrier = PublicKey::from_kept_bytes(carrier);
                if let Some(received) =
                    self.get::<Received>(&keys::received(&carrier, &id))?.filter(|received| received.is_kept)
                {
                    self.let_go(&carrier, &id, &received);
                }
                Ok(false)
            }
        }
    }
}
