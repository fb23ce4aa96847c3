//! Check of the whole archive, and repair of its indexes. The check does not change entries, so
//! appends may run concurrently.

use std::io;
use std::path::PathBuf;

use super::index::{ArchiveIndex, IndexEntry};
use super::{Archive, ArchiveOffset, HEAD_BYTES, Segment, entries_before};
use crate::receipt::Acknowledgement;
use crate::store::StoreError;

/// A damaged file, and the position of the damage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is damaged at byte {offset}: {reason}", path.display())]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    pub reason: String,
}

/// Result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveCheck {
    /// Number of valid entries, with valid signatures.
    pub entries: u64,
    /// Number of damaged parts.
    pub damages_count: u64,
    /// The first [`ArchiveCheck::DAMAGES_MAX`] damaged parts.
    pub damages: Vec<Damage>,
    /// Indexes that were missing or damaged, and were rebuilt.
    pub rebuilt: Vec<PathBuf>,
}

impl ArchiveCheck {
    /// Maximum length of the list. Further damaged parts are only counted.
    pub const DAMAGES_MAX: usize = 1_000;

    fn add(&mut self, damage: Damage) {
        self.damages_count += 1;
        if self.damages.len() < Self::DAMAGES_MAX {
            self.damages.push(damage);
        }
    }
}

/// The archive's extent at one moment.
pub struct ArchiveExtent {
    directory: PathBuf,
    end: ArchiveOffset,
}

impl Archive {
    /// Returns the current extent, for a check.
    pub fn extent(&self) -> ArchiveExtent {
        ArchiveExtent { directory: self.directory.clone(), end: self.end }
    }
}

impl ArchiveExtent {
    /// Reads all entries, checks their checksums and signatures (50 us each), and rebuilds missing
    /// or damaged indexes. Memory use is that of one index. A damaged entry does not affect others.
    /// Stops early when `is_over` returns true.
    pub fn check(&self, is_over: impl Fn() -> bool) -> Result<ArchiveCheck, StoreError> {
        let mut checked = ArchiveCheck::default();
        for segment in 1..=self.end.segment {
            self.check_segment(segment, &is_over, &mut checked)?;
        }
        Ok(checked)
    }

    fn check_segment(
        &self,
        number: u32,
        is_over: &impl Fn() -> bool,
        checked: &mut ArchiveCheck,
    ) -> Result<(), StoreError> {
        let path = Segment::path(&self.directory, number);
        let segment = match Segment::open(&self.directory, number) {
            Err(StoreError::File { path, cause }) if cause.kind() == io::ErrorKind::NotFound => {
                checked.add(Damage { path, offset: 0, reason: "it is missing".to_owned() });
                return Ok(());
            }
            segment => segment?,
        };
        match segment.head() {
            Err(StoreError::Damaged(damage)) => checked.add(damage),
            head => head?,
        }
        let mut indexed: Vec<IndexEntry> = Vec::new();
        for found in entries_before(self.end, &self.directory, number, HEAD_BYTES)? {
            if is_over() {
                return Ok(());
            }
            let (place, entry) = match found {
                Err(StoreError::Damaged(damage)) => {
                    checked.add(damage);
                    continue;
                }
                found => found?,
            };
            indexed.push((entry.id(), place.offset));
            match Acknowledgement::from_bytes(&entry.acknowledgement.to_bytes()) {
                Ok(_) => checked.entries += 1,
                Err(cause) => {
                    checked.add(Damage { path: path.clone(), offset: place.offset, reason: cause.to_string() });
                }
            }
        }
        if number < self.end.segment && !self.is_indexed(number, &indexed)? {
            ArchiveIndex::write(&self.directory, number, indexed)?;
            checked.rebuilt.push(ArchiveIndex::path(&self.directory, number));
        }
        Ok(())
    }

    /// Returns whether the segment's index is valid. The index may have entries that the segment
    /// has lost.
    fn is_indexed(&self, number: u32, entries: &[IndexEntry]) -> Result<bool, StoreError> {
        match ArchiveIndex::open(&self.directory, number).and_then(|index| index.holds(entries)) {
            Err(StoreError::Damaged(_)) => Ok(false),
            held => held,
        }
    }
}
