//! The store looked through from end to end, also while it is in use: records a few at a time, between which changes are made, and
//! files, of which one that is found damaged is looked at again where nobody can put or remove it.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::StoreError;
use super::super::bundles::{BundleFiles, Health};
use super::super::database::lock;
use super::inbox::Received;
use super::tally::Look;
use super::{CourierStore, LaneTag, decode, keys};
use crate::digest::Digest;
use crate::key::PublicKey;
use crate::proof::Blob;
use crate::receipt::{Receipt, ReceiptId, State};

/// Records that are looked at while no change is made: some 2 ms.
const RECORDS_AT_ONCE: usize = 256;

/// How long others have to make changes after that. A lock that is taken again at once they would never get.
const BREATH: Duration = Duration::from_micros(100);

/// What was received is read from the database so many at a time.
const RECEIVED_PAGE: usize = 1_000;

/// More are counted, and not listed.
const LISTED_MAX: usize = 1_000;

/// The records that count as alive, in the order in which they are looked through.
const LIVE: [u8; 2] = [keys::RECEIVED, keys::RECEIPT];

/// What was found, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckReport {
    pub receipts: u64,
    pub received: u64,
    pub acknowledgements: u64,
    /// What is lost, a sentence each.
    pub problems: Vec<String>,
    pub problems_count: u64,
    /// What was mended, a sentence each.
    pub done: Vec<String>,
}

impl FsckReport {
    /// Whether nothing is lost.
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
    /// Looks through the store while it is in use, as [`CourierStore::fsck`] does. What that would rebuild is told of as a
    /// problem. Where `is_over`, the rest is left out.
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

    /// Whether all that was alive is there, just as it was, and can be found.
    pub(super) fn check_records(&self, is_over: impl Fn() -> bool) -> Result<(), StoreError> {
        let _one_at_a_time = lock(&self.checking);
        lock(&self.latest).look = Some(Look::default());
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

    /// Goes on with the look; returns whether it is at its end.
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

    /// Whether a record can be read, and found.
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

    /// Looks at all that lies beside the database, and says how much there is.
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

    /// Whether each bundle is what its name says. One that is not is moved aside, and its receipts are given up.
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
            if checked.is_some_and(|(_, is_sound)| !is_sound) && receipt.state == State::Pending {
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

    /// `None` if it turns out that nobody needs the bundle any more.
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

/// The keys that there must be for a receipt, and its bundle.
fn receipt_is_found_by(receipt: &Receipt) -> (Vec<Vec<u8>>, Digest) {
    let lane = LaneTag::of(receipt.destination.as_ref());
    let mut keys = vec![keys::needs(&receipt.bundle.blake3, &receipt.id)];
    match receipt.state {
        State::Pending => {
            keys.push(keys::created(keys::PENDING, receipt));
            keys.push(keys::queue(lane, receipt.due_ms, receipt.id.as_bytes()));
            keys.push(keys::lane(lane));
        }
        State::Dead => keys.push(keys::created(keys::DEAD, receipt)),
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
