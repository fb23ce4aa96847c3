//! Archive of credited acknowledgements. They move from the database to append-only segments, so
//! that the database stays as large as the pending work.
//!
//! | file                  |                                                                      |
//! |-----------------------|----------------------------------------------------------------------|
//! | `000001.acks`         | a segment: acknowledgements in the order in which they were credited |
//! | `000001.index`        | offsets of the acknowledgements by receipt; only for sealed segments |
//! | `000001.unrecorded-1` | a first segment that the database did not know of, moved aside       |
//!
//! The database defines the end of the archive. It moves that end in the transaction that removes
//! the archived acknowledgements. Bytes after the end come from a process that died before that
//! transaction. The database still has these acknowledgements, so the archive truncates the bytes
//! and appends the acknowledgements again. So no acknowledgement is archived twice.

mod segment;
mod index;
mod check;

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub use self::check::Damage;
use self::index::ArchiveIndex;
pub use self::segment::{ArchiveOffset, ArchivedAck};
use self::segment::{ENTRY_BYTES_MAX, HEAD_BYTES, Segment};
use super::StoreError;
use crate::private_file;
use crate::receipt::{IdPrefix, ReceiptId};

/// Size at which a segment is full, in bytes: a quarter of a million acknowledgements, with an
/// index of 6 MB.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Most entries per append.
pub const ENTRIES_MAX: usize = 16 << 10;

/// Most bytes that a process can have written before it died without recording them in the
/// database: one append, in a segment that it created for that append.
const UNRECORDED_BYTES_MAX: u64 = ENTRIES_MAX as u64 * ENTRY_BYTES_MAX + HEAD_BYTES;

/// The archive in one directory. No other process may change it.
pub struct Archive {
    directory: PathBuf,
    segment_bytes: u64,
    /// The last segment.
    segment: Segment,
    end: ArchiveOffset,
}

impl Archive {
    /// Opens or creates the archive in `directory`, with the end that the database recorded. The
    /// default `ArchiveOffset` means the start of the archive. Bytes after the end are truncated if
    /// they are no more than a crash can leave. An archive that ends earlier has lost entries,
    /// which is an error.
    pub fn open(directory: PathBuf, end: ArchiveOffset) -> Result<Self, StoreError> {
        Self::open_in_segments_of(directory, end, SEGMENT_BYTES)
    }

    fn open_in_segments_of(directory: PathBuf, end: ArchiveOffset, segment_bytes: u64) -> Result<Self, StoreError> {
        private_file::make_directory(&directory).map_err(StoreError::at(&directory))?;
        remove_leftovers(&directory)?;
        let segment =
            if end == ArchiveOffset::default() { begin(&directory)? } else { cut_off_after(end, &directory)? };
        segment.head()?;
        let end = if end == ArchiveOffset::default() { ArchiveOffset { segment: 1, offset: HEAD_BYTES } } else { end };
        Ok(Self { directory, segment_bytes, segment, end })
    }

    /// Returns the end of an archive according to its files: the position after the last valid
    /// entry. Used if the database has lost its record of the end.
    pub fn end_of_files(directory: &Path) -> Result<ArchiveOffset, StoreError> {
        let Some(&last) = segments(directory)?.last() else { return Ok(ArchiveOffset::default()) };
        let segment = Segment::open(directory, last)?;
        let bytes = segment.bytes()?;
        let mut offset = HEAD_BYTES;
        let mut frames = segment.into_entries(HEAD_BYTES, bytes)?;
        while let Some(found) = frames.next() {
            match found {
                Ok(_) => offset = frames.offset(),
                Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ArchiveOffset { segment: last, offset })
    }

    /// Returns the position of the next entry. The database must record it.
    pub const fn end(&self) -> ArchiveOffset {
        self.end
    }

    /// Returns whether the last segment is full and must be sealed.
    pub const fn is_full(&self) -> bool {
        self.end.offset >= self.segment_bytes
    }

    /// Appends `entries`, at most [`ENTRIES_MAX`], durably. Returns the position of each entry.
    /// After an error, none of them is in the archive. The database must record [`Archive::end`]
    /// before the next append.
    pub fn append(&mut self, entries: &[ArchivedAck]) -> Result<Vec<ArchiveOffset>, StoreError> {
        let path = &self.segment.path;
        if entries.len() > ENTRIES_MAX {
            let count = entries.len();
            return Err(StoreError::TooManyEntries { path: path.clone(), count, max: ENTRIES_MAX });
        }
        let (mut bytes, mut places) = (Vec::new(), Vec::with_capacity(entries.len()));
        for entry in entries {
            let place = ArchiveOffset { offset: self.end.offset + bytes.len() as u64, ..self.end };
            entry.write(place, &mut bytes);
            places.push(place);
        }
        let written =
            self.segment.file.write_all_at(&bytes, self.end.offset).and_then(|()| self.segment.file.sync_data());
        if let Err(cause) = written {
            // If this fails too, the next append overwrites the bytes, or opening or sealing the
            // archive truncates them.
            let _ = self.segment.file.set_len(self.end.offset);
            return Err(StoreError::at(path)(cause));
        }
        self.end.offset += bytes.len() as u64;
        Ok(places)
    }

    /// Removes the entries that were appended after `end`, the previous end of the last segment.
    /// The database did not record them as archived, so it still has them.
    pub fn take_back(&mut self, end: ArchiveOffset) -> Result<(), StoreError> {
        let Self { ref segment, end: ArchiveOffset { segment: number, offset: bytes }, .. } = *self;
        if end.segment != number || !(HEAD_BYTES..=bytes).contains(&end.offset) {
            return Err(StoreError::ArchiveShort { path: segment.path.clone(), bytes, known: end.offset });
        }
        self.end = end;
        segment.file.set_len(end.offset).map_err(StoreError::at(&segment.path))
    }

    /// Writes the index of the last segment and creates the next segment, durably. This has no
    /// effect until the database records the next segment's position. After a crash, the same steps
    /// run again with the same result.
    pub fn seal(&mut self) -> Result<(), StoreError> {
        let ArchiveOffset { segment, offset } = self.end;
        let at = StoreError::at(&self.segment.path);
        let next = segment.checked_add(1).ok_or_else(|| at(io::Error::other("there can be no segment after it")))?;
        self.segment.file.set_len(offset).and_then(|()| self.segment.file.sync_all()).map_err(at)?;
        let mut indexed = Vec::new();
        for found in Segment::open(&self.directory, segment)?.into_entries(HEAD_BYTES, offset)? {
            match found {
                Ok((place, entry)) => indexed.push((entry.id(), place.offset)),
                // A damaged entry cannot be indexed; the others can. `check` reports it.
                Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        ArchiveIndex::write(&self.directory, segment, indexed)?;
        self.segment = Segment::create(&self.directory, next)?;
        self.end = ArchiveOffset { segment: next, offset: HEAD_BYTES };
        Ok(())
    }

    /// Returns the entry at a position that [`Archive::append`] returned.
    pub fn at(&self, place: ArchiveOffset) -> Result<ArchivedAck, StoreError> {
        if place.segment == self.end.segment {
            return self.segment.entry(place.offset, self.end.offset);
        }
        let segment = Segment::open(&self.directory, place.segment)?;
        let end = segment.bytes()?;
        segment.entry(place.offset, end)
    }

    /// Returns the newest entry of a receipt in the sealed segments. The database indexes the last
    /// segment.
    pub fn find(&self, id: &ReceiptId) -> Result<Option<(ArchiveOffset, ArchivedAck)>, StoreError> {
        for segment in self.sealed().rev() {
            let found = ArchiveIndex::open(&self.directory, segment)?.between(*id, *id, 1)?;
            if let Some(&(_, offset)) = found.first() {
                let place = ArchiveOffset { segment, offset };
                let entry = self.at(place)?;
                if entry.id() != *id {
                    let path = Segment::path(&self.directory, segment);
                    let reason = format!("its index has {id} there");
                    return Err(StoreError::Damaged(Damage { path, offset, reason }));
                }
                return Ok(Some((place, entry)));
            }
        }
        Ok(None)
    }

    /// Returns up to `max` entries of receipts with this id prefix, from the sealed segments. The
    /// newest segment comes first; within a segment, entries are sorted by id.
    pub fn find_prefix(&self, prefix: &IdPrefix, max: usize) -> Result<Vec<(ReceiptId, ArchiveOffset)>, StoreError> {
        let (low, high) = prefix.bounds();
        let mut all = Vec::new();
        for segment in self.sealed().rev() {
            if all.len() >= max {
                break;
            }
            let found =
                ArchiveIndex::open(&self.directory, segment)?.between(low.into(), high.into(), max - all.len())?;
            all.extend(found.into_iter().map(|(id, offset)| (id, ArchiveOffset { segment, offset })));
        }
        Ok(all)
    }

    /// Iterates over all entries, oldest first. Memory use is that of one read. A damaged or
    /// missing part yields an error, and the iteration continues.
    pub fn iter(&self) -> impl Iterator<Item = Result<(ArchiveOffset, ArchivedAck), StoreError>> + '_ {
        self.iter_from(ArchiveOffset { segment: 1, offset: HEAD_BYTES })
    }

    /// Returns up to `max` entries, oldest first, after the entry at `after` if one is given.
    /// Damaged parts are skipped.
    pub fn after(
        &self,
        after: Option<ArchiveOffset>,
        max: usize,
    ) -> Result<Vec<(ArchiveOffset, ArchivedAck)>, StoreError> {
        let from = after.unwrap_or(ArchiveOffset { segment: 1, offset: HEAD_BYTES });
        let entries = self.iter_from(from).filter(|entry| match entry {
            Ok((place, _)) => Some(*place) != after,
            Err(error) => !matches!(error, StoreError::Damaged(_)),
        });
        entries.take(max).collect()
    }

    fn iter_from(
        &self,
        from: ArchiveOffset,
    ) -> impl Iterator<Item = Result<(ArchiveOffset, ArchivedAck), StoreError>> + '_ {
        (from.segment..=self.end.segment).flat_map(move |segment| {
            let offset = if segment == from.segment { from.offset } else { HEAD_BYTES };
            let (entries, error) = match entries_before(self.end, &self.directory, segment, offset) {
                Ok(entries) => (Some(entries), None),
                Err(error) => (None, Some(Err(error))),
            };
            error.into_iter().chain(entries.into_iter().flatten())
        })
    }

    const fn sealed(&self) -> std::ops::Range<u32> {
        1..self.end.segment
    }
}

/// Returns the entries of one segment, up to the archive's end.
fn entries_before(
    end: ArchiveOffset,
    directory: &Path,
    number: u32,
    offset: u64,
) -> Result<segment::Entries, StoreError> {
    let segment = Segment::open(directory, number)?;
    let bytes = if number == end.segment { end.offset } else { segment.bytes()? };
    segment.into_entries(offset, bytes)
}

/// Creates the first segment for a database without a recorded archive. A first segment with
/// entries means that a process died after its very first append, or that the database belongs to
/// another archive. That segment is moved aside, so that nothing is lost in either case.
fn begin(directory: &Path) -> Result<Segment, StoreError> {
    let path = Segment::path(directory, 1);
    let bytes = match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        metadata => metadata.map_err(StoreError::at(&path))?.len(),
    };
    if bytes > UNRECORDED_BYTES_MAX || segments(directory)?.last() > Some(&1) {
        return Err(StoreError::ArchiveLong { path, bytes });
    }
    if bytes > HEAD_BYTES {
        let named = |n: u32| path.with_extension(format!("unrecorded-{n}"));
        let aside = (1..).map(named).find(|name| !name.exists()).expect("there are fewer than 2^32 of them");
        std::fs::rename(&path, aside).map_err(StoreError::at(&path))?;
    }
    Segment::create(directory, 1)
}

/// Opens the last segment that the database knows of, and removes everything after it. A crash
/// after any of the steps is safe, because of their order.
fn cut_off_after(end: ArchiveOffset, directory: &Path) -> Result<Segment, StoreError> {
    let path = Segment::path(directory, end.segment);
    let short = |bytes: u64| StoreError::ArchiveShort { path: path.clone(), bytes, known: end.offset };
    let segment = match Segment::open(directory, end.segment) {
        Err(StoreError::File { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => return Err(short(0)),
        segment => segment?,
    };
    let bytes = segment.bytes()?;
    if end.offset < HEAD_BYTES || bytes < end.offset {
        return Err(short(bytes));
    }
    let mut unrecorded = bytes - end.offset;
    let later: Vec<u32> = segments(directory)?.into_iter().filter(|number| *number > end.segment).collect();
    for number in &later {
        unrecorded += Segment::open(directory, *number)?.bytes()?;
    }
    if unrecorded > UNRECORDED_BYTES_MAX || later.len() > 1 {
        return Err(StoreError::ArchiveLong { path, bytes: unrecorded });
    }
    for path in later.iter().map(|number| Segment::path(directory, *number)) {
        std::fs::remove_file(&path).map_err(StoreError::at(&path))?;
    }
    match std::fs::remove_file(ArchiveIndex::path(directory, end.segment)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.map_err(StoreError::at(directory))?,
    }
    let cut = segment.file.set_len(end.offset).and_then(|()| segment.file.sync_all());
    cut.and_then(|()| private_file::sync_directory_of(&path)).map_err(StoreError::at(&path))?;
    Ok(segment)
}

/// Returns the numbers of the existing segments, in ascending order.
fn segments(directory: &Path) -> Result<Vec<u32>, StoreError> {
    let at = StoreError::at(directory);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(at)? {
        let name = entry.map_err(at)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".acks")?.parse().ok());
        numbers.extend(number.filter(|number| Segment::path(directory, *number).ends_with(&name)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Removes the temporary files of a process that died before it renamed them.
fn remove_leftovers(directory: &Path) -> Result<(), StoreError> {
    let at = StoreError::at(directory);
    for entry in std::fs::read_dir(directory).map_err(at)? {
        let entry = entry.map_err(at)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
            std::fs::remove_file(entry.path()).map_err(StoreError::at(&entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
