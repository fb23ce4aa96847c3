//! Scrub of the whole store, also while it is in use. Records are scanned in small groups, with
//! changes in between. A bundle file that appears damaged is checked again under a lock that
//! prevents changes to bundle files.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::bundles::{BundleFiles, Health};
use super::super::database::lock;
use super::records::Received;
use super::tally::ScrubCursor;
use super::{CourierStore, DestinationTag, decode, keys};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::proof::Blob;
use crate::receipt::{Receipt, ReceiptId, ReceiptState};

/// Records per group. A scan of one group blocks changes for some 2 ms.
const RECORDS_AT_ONCE: usize = 256;

/// Pause after each group, during which other threads can make changes. Without it, the scan would
/// lock again at once, and they would never get the lock.
const BREATH: Duration = Duration::from_micros(100);

/// Received bundles per read from the database.
const RECEIVED_PAGE: usize = 1_000;

/// Maximum number of listed problems. Further ones are only counted.
const LISTED_MAX: usize = 1_000;

/// Key prefixes of live records, in the order of the scan.
const LIVE: [u8; 2] = [keys::RECEIVED, keys::RECEIPT];

/// Problems that a check found, and repairs that it made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    pub receipts: u64,
    pub received: u64,
    pub acknowledgements: u64,
    /// Losses, one sentence each.
    pub problems: Vec<String>,
    pub problems_count: u64,
    /// Repairs, one sentence each.
    pub done: Vec<String>,
}

impl FsckReport {
    /// Returns whether nothing is lost.
    pub const fn is_sound(&self) -> bool {
        self.problems_count == 0
    }

    pub(super) fn problem(&mut self, what: String) {
        self.problems_count += 1;
        if self.problems.len() < LISTED_MAX {
            self.problems.push(what);
        }
    }
}

impl CourierStore {
    /// Checks the store while it is in use, as [`CourierStore::fsck`] does. Damage that `fsck`
    /// would repair by a rebuild is reported as a problem. Stops early when `is_over` returns true.
    pub fn check(&self, is_over: impl Fn() -> bool) -> Result<FsckReport, StoreError> {
        let mut report = FsckReport::default();
        let checked = self.check_records(&is_over).and_then(|()| self.check_files(&is_over, &mut report));
        match checked {
            Err(error @ StoreError::CourierDamaged { .. }) => {
                report.problem(format!("{error}, when the node has stopped"));
            }
            checked => checked?,
        }
        Ok(report)
    }

    /// Checks that all live records exist unchanged, and that their index entries exist.
    pub(super) fn check_records(&self, is_over: impl Fn() -> bool) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.checking);
        lock(&self.latest).look = Some(ScrubCursor::default());
        let checked = loop {
            match self.check_some() {
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
                Ok(false) if is_over() => break Ok(()),
                Ok(false) => std::thread::sleep(BREATH),
            }
        };
        lock(&self.latest).look = None;
        checked
    }

    /// Scans the next group of records. Returns whether the scan is complete.
    fn check_some(&self) -> Result<bool, StoreError> {
        let latest = &mut *lock(&self.latest);
        let Some(look) = &mut latest.look else { return Ok(true) };
        let Some(&prefix) = LIVE.iter().find(|prefix| *look.before < *keys::after(**prefix)) else { return Ok(true) };
        let from = look.before.clone().max(vec![prefix]);
        let mut count = 0;
        for pair in self.database.between(&from, &keys::after(prefix)).take(RECORDS_AT_ONCE) {
            let (key, value) = pair?;
            self.check_record(&key, &value)?;
            look.add(&key, &value);
            count += 1;
        }
        if count == RECORDS_AT_ONCE {
            return Ok(false);
        }
        look.before = keys::after(prefix);
        if Some(&prefix) != LIVE.last() {
            return Ok(false);
        }
        let (found, tally) = (look.found, latest.tally);
        if (found.live, found.checksum) == (tally.live, tally.checksum) {
            return Ok(true);
        }
        let message = format!("it has {} records where {} were written, or other ones", found.live, tally.live);
        Err(damaged(&self.directory, message))
    }

    /// Checks that a record can be read, and that its index entries exist.
    fn check_record(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let (found_by, bundle) = if key.starts_with(&[keys::RECEIPT]) {
            receipt_is_found_by(&decode(&self.database, value)?)
        } else {
            let Some((carrier, id)) = keys::carrier_and_id_in(key) else { return Ok(()) };
            received_is_found_by(&carrier, &id, &decode(&self.database, value)?)
        };
        for key in found_by {
            if self.database.get(&key)?.is_none() {
                return Err(damaged(&self.directory, format!("an entry for the bundle {bundle} is gone")));
            }
        }
        Ok(())
    }

    /// Checks all files beside the database, and fills in the counts of the report.
    pub(super) fn check_files(&self, is_over: impl Fn() -> bool, report: &mut FsckReport) -> Result<(), StoreError> {
        self.check_bundles(&is_over, report)?;
        let (extent, unarchived) = {
            let archive = lock(&self.archive);
            (archive.extent(), self.tally().unarchived)
        };
        let checked = extent.check(&is_over)?;
        checked.damages.iter().for_each(|damage| report.problem(damage.to_string()));
        report.problems_count += checked.damages_count - checked.damages.len() as u64;
        let rebuilt = checked.rebuilt.iter().map(|path| format!("made the index `{}` again", path.display()));
        report.done.extend(rebuilt);
        let tally = self.tally();
        report.receipts = tally.pending + tally.dead;
        report.received = tally.received;
        report.acknowledgements = checked.entries + unarchived;
        Ok(())
    }

    /// Checks each bundle against its digest. A damaged bundle is moved aside, and its receipts are
    /// given up.
    fn check_bundles(&self, is_over: &impl Fn() -> bool, report: &mut FsckReport) -> Result<(), StoreError> {
        let mut checked: Option<(Blob, bool)> = None;
        for pair in self.database.prefixed(&[keys::NEEDS]) {
            if is_over() {
                return Ok(());
            }
            let Some(id) = keys::id_in(&pair?.0) else { continue };
            let Some(receipt) = self.receipt(&id)? else { continue };
            if checked.is_none_or(|(bundle, _)| bundle != receipt.bundle) {
                let is_here = || Ok(self.receipt(&id)?.is_some());
                let is_sound = self.is_sound(&self.bundles, &receipt.bundle, ("receipt", &id), is_here, report)?;
                checked = is_sound.map(|is_sound| (receipt.bundle, is_sound));
            }
            if checked.is_some_and(|(_, is_sound)| !is_sound) && receipt.state == ReceiptState::Pending {
                self.give_up(&id, "the bundle's bytes are damaged or gone; drop it and send the bundle again")?;
            }
        }
        let mut after = None;
        loop {
            let page = self.received_list(after, RECEIVED_PAGE)?;
            let Some((carrier, id, received)) = page.last() else { return Ok(()) };
            after = Some((received.stored_ms, *carrier, *id));
            for (carrier, id, received) in &page {
                if is_over() {
                    return Ok(());
                }
                let is_here = || Ok(self.received(carrier, id)?.is_some_and(|received| received.is_kept));
                self.is_sound(&self.received, &received.bundle, ("received bundle", id), is_here, report)?;
            }
        }
    }

    /// Checks a bundle, and moves it aside if it is damaged. Returns `None` if no record needs the
    /// bundle any more.
    pub(super) fn is_sound(
        &self,
        files: &BundleFiles,
        bundle: &Blob,
        (what, id): (&str, &ReceiptId),
        is_here: impl Fn() -> Result<bool, StoreError>,
        report: &mut FsckReport,
    ) -> Result<Option<bool>, StoreError> {
        if files.verify(&bundle.blake3, bundle.bytes)? == Health::Sound {
            return Ok(Some(true));
        }
        let _neither_put_nor_removed = self.placing.write().unwrap_or_else(PoisonError::into_inner);
        if !is_here()? {
            return Ok(None);
        }
        match files.verify(&bundle.blake3, bundle.bytes)? {
            Health::Sound => return Ok(Some(true)),
            Health::Missing => report.problem(format!("the bytes of {what} {id} are gone")),
            Health::Damaged => {
                let aside: PathBuf = files.quarantine(&bundle.blake3)?;
                report.problem(format!("the bytes of {what} {id} were damaged: moved to `{}`", aside.display()));
            }
        }
        Ok(Some(false))
    }
}

/// Returns the index keys that a receipt must have, and its bundle's digest.
fn receipt_is_found_by(receipt: &Receipt) -> (Vec<Vec<u8>>, Digest) {
    let lane = DestinationTag::of(receipt.destination.as_ref());
    let mut keys = vec![keys::needs(&receipt.bundle.blake3, &receipt.id)];
    match receipt.state {
        ReceiptState::Pending => {
            keys.push(keys::created(keys::PENDING, receipt));
            keys.push(keys::queue(lane, receipt.due_ms, receipt.id.as_bytes()));
            keys.push(keys::lane(lane));
        }
        ReceiptState::Dead => keys.push(keys::created(keys::DEAD, receipt)),
    }
    (keys, receipt.bundle.blake3)
}

fn received_is_found_by(carrier: &PublicKey, id: &ReceiptId, received: &Received) -> (Vec<Vec<u8>>, Digest) {
    let digest = received.bundle.blake3;
    let keys = match received.is_kept {
        true => vec![keys::stored(received.stored_ms, carrier, id), keys::brought(&digest, carrier, id)],
        false => vec![keys::dropped(received.wanted_until_ms(), carrier, id)],
    };
    (keys, digest)
}

pub(super) fn damaged(directory: &Path, message: String) -> StoreError {
    StoreError::CourierDamaged { path: directory.join("queue"), message }
}
