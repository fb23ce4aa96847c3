use std::fs;

use super::check::ArchiveCheck;
use super::*;
use crate::digest::Digest;
use crate::key::NodeKey;
use crate::proof::Blob;
use crate::receipt::{Acknowledgement, Delivery};

/// Segment size at which a few entries fill a segment.
const SMALL: u64 = 1_000;

fn entry(n: u32) -> ArchivedAck {
    let (carrier, destination) = (NodeKey::from_secret([1; 32]), NodeKey::from_secret([2; 32]));
    let mut id = [0; 16];
    id[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_be_bytes());
    let delivery = Delivery {
        receipt: id.into(),
        bundle: Blob { blake3: Digest::of(&n.to_le_bytes()), bytes: 4 },
        sender: "x".repeat(1 + n as usize % 128).parse().unwrap(),
        destination: destination.public(),
        carrier: carrier.public(),
        hops: 1,
        expires_ms: 2_000_000_000_000,
    };
    let acknowledgement = Acknowledgement::sign(delivery, 1_700_000_000_000, &destination);
    ArchivedAck { acknowledgement, credit: u64::from(n), credited_ms: 1_700_000_000_001 }
}

fn entries(numbers: std::ops::Range<u32>) -> Vec<ArchivedAck> {
    numbers.map(entry).collect()
}

struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    fn open(&self, end: ArchiveOffset) -> Result<Archive, StoreError> {
        Archive::open_in_segments_of(self.path(), end, SMALL)
    }

    /// Returns an archive with the entries from 0 to `count`, and their positions. Each full
    /// segment is sealed.
    fn with(count: u32) -> (Self, Archive, Vec<ArchiveOffset>) {
        let fixture = Self::new();
        let mut archive = fixture.open(ArchiveOffset::default()).unwrap();
        let mut places = Vec::new();
        for n in 0..count {
            if archive.is_full() {
                archive.seal().unwrap();
            }
            places.extend(archive.append(&[entry(n)]).unwrap());
        }
        (fixture, archive, places)
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let named = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
        let mut files: Vec<_> = fs::read_dir(self.path()).unwrap().map(|entry| named(entry.unwrap())).collect();
        files.sort();
        files
    }
}

fn read(archive: &Archive) -> Vec<ArchivedAck> {
    archive.iter().map(|found| found.unwrap().1).collect()
}

#[test]
fn what_is_appended_is_read_again_from_its_place_and_in_order() {
    let fixture = Fixture::new();
    let mut archive = fixture.open(ArchiveOffset::default()).unwrap();
    let mut places = archive.append(&entries(0..2)).unwrap();
    places.extend(archive.append(&entries(2..5)).unwrap());
    assert_eq!(archive.append(&[]).unwrap(), []);
    let end = archive.end();
    assert!(archive.is_full());
    drop(archive);
    let archive = fixture.open(end).unwrap();
    assert_eq!(archive.end(), end);
    for (n, place) in (0..).zip(&places) {
        assert_eq!(archive.at(*place).unwrap(), entry(n));
    }
    assert_eq!(archive.iter().map(|found| found.unwrap().0).collect::<Vec<_>>(), places);
    assert_eq!(read(&archive), entries(0..5));
    for place in [
        end,
        ArchiveOffset { offset: places[1].offset + 1, ..end },
        ArchiveOffset { segment: 2, ..end },
        ArchiveOffset::default(),
    ] {
        assert!(archive.at(place).is_err(), "{place:?}");
    }
}

#[test]
fn what_the_database_does_not_know_of_is_cut_off() {
    let (fixture, mut archive, places) = Fixture::with(2);
    let end = archive.end();
    let known = fixture.files();
    archive.append(&entries(7..9)).unwrap();
    let unknown = fs::read(&archive.segment.path).unwrap();
    drop(archive);
    for len in end.offset as usize..=unknown.len() {
        fs::write(fixture.path().join("000001.acks"), &unknown[..len]).unwrap();
        fs::write(fixture.path().join(".tmpabcdef"), b"leftover").unwrap();
        let mut archive = fixture.open(end).unwrap();
        assert_eq!(fixture.files(), known, "{len} bytes");
        if len == unknown.len() {
            archive.append(&[entry(2)]).unwrap();
            assert_eq!(read(&archive), entries(0..3));
        }
    }
    let archive = fixture.open(places[1]).unwrap();
    assert_eq!(read(&archive), entries(0..1));
}

#[test]
fn what_the_database_could_not_note_is_taken_back() {
    let (fixture, mut archive, places) = Fixture::with(1);
    let (end, files) = (archive.end(), fixture.files());
    archive.append(&entries(1..3)).unwrap();
    let later = archive.end();
    archive.take_back(end).unwrap();
    assert_eq!((archive.end(), fixture.files()), (end, files));
    for wrong in [
        later,
        ArchiveOffset { segment: 2, ..end },
        ArchiveOffset { segment: 0, ..end },
        ArchiveOffset { offset: 0, ..end },
    ] {
        assert!(archive.take_back(wrong).is_err(), "{wrong:?}");
    }
    archive.append(&entries(1..2)).unwrap();
    assert_eq!(read(&archive), entries(0..2));
    archive.take_back(places[0]).unwrap();
    assert_eq!(read(&archive), []);
}

#[test]
fn an_archive_that_is_shorter_than_the_database_knows_is_an_error_that_names_file_and_remedy() {
    let (fixture, archive, _) = Fixture::with(8);
    let (end, path) = (archive.end(), archive.segment.path.clone());
    assert!(end.segment > 1);
    drop(archive);
    let files = fixture.files();
    for wrong in [
        ArchiveOffset { offset: end.offset + 1, ..end },
        ArchiveOffset { offset: u64::MAX, ..end },
        ArchiveOffset { offset: HEAD_BYTES - 1, ..end },
        ArchiveOffset { segment: 0, ..end },
        ArchiveOffset { segment: u32::MAX, ..end },
    ] {
        let error = fixture.open(wrong).err().unwrap();
        assert!(matches!(error, StoreError::ArchiveShort { .. }), "{wrong:?}: {error}");
        assert!(error.to_string().contains("node compute courier fsck"), "{error}");
    }
    assert_eq!(fixture.files(), files, "and nothing is changed");
    fs::remove_file(&path).unwrap();
    let error = fixture.open(end).err().unwrap();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn more_than_a_crash_leaves_is_not_cut_off() {
    let (fixture, archive, places) = Fixture::with(14);
    assert!(archive.end().segment > 2);
    drop(archive);
    let files = fixture.files();
    for end in [ArchiveOffset::default(), places[1]] {
        let error = fixture.open(end).err().unwrap();
        assert!(matches!(error, StoreError::ArchiveLong { .. }), "{error}");
    }
    assert_eq!(fixture.files(), files);

    let (fixture, archive, places) = Fixture::with(2);
    archive.segment.file.set_len(places[1].offset + UNRECORDED_BYTES_MAX + 1).unwrap();
    assert!(matches!(fixture.open(places[1]), Err(StoreError::ArchiveLong { .. })));
    archive.segment.file.set_len(places[1].offset + UNRECORDED_BYTES_MAX).unwrap();
    assert_eq!(read(&fixture.open(places[1]).unwrap()), entries(0..1));
}

#[test]
fn a_database_that_knows_of_nothing_destroys_nothing() {
    let (fixture, archive, _) = Fixture::with(2);
    let bytes = fs::read(&archive.segment.path).unwrap();
    assert_eq!(Archive::end_of_files(&fixture.path()).unwrap(), archive.end());
    drop(archive);
    for time in 1..3 {
        let mut archive = fixture.open(ArchiveOffset::default()).unwrap();
        assert_eq!(read(&archive), []);
        archive.append(&entries(0..2)).unwrap();
        assert_eq!(fs::read(fixture.path().join(format!("000001.unrecorded-{time}"))).unwrap(), bytes);
    }
}

#[test]
fn where_the_files_end_is_after_the_last_entry_that_is_whole() {
    let (fixture, archive, places) = Fixture::with(8);
    let path = archive.segment.path.clone();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(Archive::end_of_files(&fixture.path()).unwrap(), archive.end());
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(Archive::end_of_files(&fixture.path()).unwrap(), places[7]);
    assert_eq!(Archive::end_of_files(fixture.directory.path()).unwrap(), ArchiveOffset::default());
}

#[test]
fn each_flipped_bit_of_a_record_is_noticed_and_loses_only_that_record() {
    let (_fixture, archive, places) = Fixture::with(3);
    let bytes = fs::read(&archive.segment.path).unwrap();
    for bit in places[1].offset * 8..places[2].offset * 8 {
        let mut flipped = bytes[bit as usize / 8];
        flipped ^= 1 << (bit % 8);
        archive.segment.file.write_all_at(&[flipped], bit / 8).unwrap();
        assert!(archive.at(places[1]).is_err(), "bit {bit}");
        let found: Vec<Result<(ArchiveOffset, ArchivedAck), StoreError>> = archive.iter().collect();
        assert_eq!(found.len(), 3, "bit {bit}");
        assert_eq!(found[0].as_ref().unwrap().1, entry(0));
        let Err(StoreError::Damaged(damage)) = &found[1] else { panic!("bit {bit} is not noticed") };
        assert_eq!((&damage.path, damage.offset), (&archive.segment.path, places[1].offset));
        assert_eq!(found[2].as_ref().unwrap().1, entry(2));
        archive.segment.file.write_all_at(&bytes[bit as usize / 8..][..1], bit / 8).unwrap();
    }
    assert_eq!(read(&archive), entries(0..3));
}

#[test]
fn a_receipt_is_found_in_each_of_three_sealed_segments() {
    let (_fixture, mut archive, places) = Fixture::with(40);
    archive.append(&[entry(3)]).unwrap();
    archive.seal().unwrap();
    let again = archive.append(&[entry(41)]).unwrap();
    assert!(archive.sealed().len() >= 3, "{:?}", archive.end());
    for (n, place) in (0..40).zip(places) {
        let (found, found_entry) = archive.find(&entry(n).id()).unwrap().unwrap();
        assert_eq!(found_entry, entry(n));
        assert_eq!(found == place, n != 3, "the newest of two is found");
    }
    assert_eq!(archive.find(&entry(41).id()).unwrap(), None, "the last segment is the database's");
    assert_eq!(archive.find(&entry(42).id()).unwrap(), None);
    assert_eq!(archive.at(again[0]).unwrap(), entry(41));

    let prefix: IdPrefix = entry(5).id().to_string()[..1].parse().unwrap();
    let (low, high) = prefix.bounds();
    let begins_so = |entry: &ArchivedAck| (low..=high).contains(entry.id().as_bytes());
    let mut expected: Vec<ReceiptId> =
        entries(0..40).iter().filter(|entry| begins_so(entry)).map(ArchivedAck::id).collect();
    let found = archive.find_prefix(&prefix, 100).unwrap();
    assert!(found.windows(2).all(|pair| pair[0].1.segment >= pair[1].1.segment), "the newest segment first");
    let mut ids: Vec<ReceiptId> = found.iter().map(|(id, _)| *id).collect();
    ids.sort();
    expected.sort();
    assert!(expected.len() > 1);
    assert_eq!(ids, expected);
    assert_eq!(archive.find_prefix(&prefix, 1).unwrap(), found[..1]);
    assert!(found.iter().all(|(id, place)| archive.at(*place).unwrap().id() == *id));
}

#[test]
fn a_crash_between_any_two_steps_of_sealing_changes_nothing() {
    let (fixture, mut archive, _) = Fixture::with(4);
    assert!(archive.is_full());
    let end = archive.end();
    let before = fixture.files();
    archive.seal().unwrap();
    let sealed = fixture.files();
    assert_eq!(archive.end(), ArchiveOffset { segment: 2, offset: HEAD_BYTES });
    archive.append(&entries(4..6)).unwrap();
    let appended = fixture.files();
    drop(archive);
    let without = |name: &str| sealed.iter().filter(|(file, _)| file != name).cloned().collect::<Vec<_>>();
    for left in [before.clone(), without("000002.acks"), without("000001.index"), sealed.clone(), appended] {
        fs::remove_dir_all(fixture.path()).unwrap();
        fs::create_dir(fixture.path()).unwrap();
        for (name, bytes) in &left {
            fs::write(fixture.path().join(name), bytes).unwrap();
        }
        let mut archive = fixture.open(end).unwrap();
        assert_eq!((fixture.files(), archive.end()), (before.clone(), end));
        archive.seal().unwrap();
        assert_eq!(fixture.files(), sealed);
        assert_eq!(archive.find(&entry(2).id()).unwrap().unwrap().1, entry(2));
    }
}

#[test]
fn a_check_names_what_is_damaged_and_makes_indexes_again() {
    let (fixture, archive, places) = Fixture::with(14);
    let count = |checked: &ArchiveCheck| (checked.entries, checked.damages_count, checked.rebuilt.len());
    assert_eq!(count(&archive.extent().check(|| false).unwrap()), (14, 0, 0));
    let files = fixture.files();
    let index = |segment| ArchiveIndex::path(&fixture.path(), segment);
    fs::remove_file(index(1)).unwrap();
    let mut bytes = fs::read(index(2)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(index(2), bytes).unwrap();
    assert!(archive.find(&entry(0).id()).is_err(), "what is damaged does not say that something is not there");
    assert_eq!(archive.extent().check(|| false).unwrap().rebuilt, [index(1), index(2)]);
    assert_eq!(fixture.files(), files);

    // A record with a valid checksum that its destination has not signed.
    let forged = ArchivedAck {
        acknowledgement: Acknowledgement::sign(
            entry(13).acknowledgement.delivery().clone(),
            1,
            &NodeKey::from_secret([3; 32]),
        ),
        ..entry(13)
    };
    let mut bytes = Vec::new();
    forged.write(places[13], &mut bytes);
    archive.segment.file.write_all_at(&bytes, places[13].offset).unwrap();
    let first = Segment::path(&fixture.path(), 1);
    let mut bytes = fs::read(&first).unwrap();
    bytes[0] ^= 1;
    bytes[places[1].offset as usize + 50] ^= 1;
    fs::write(&first, bytes).unwrap();
    let checked = archive.extent().check(|| false).unwrap();
    assert_eq!(count(&checked), (12, 3, 0));
    let found: Vec<_> = checked.damages.iter().map(|damage| (damage.path.clone(), damage.offset)).collect();
    let last = archive.segment.path.clone();
    assert_eq!(found, [(first.clone(), 0), (first.clone(), places[1].offset), (last, places[13].offset)]);

    fs::remove_file(&first).unwrap();
    let checked = archive.extent().check(|| false).unwrap();
    assert_eq!((checked.damages[0].path.clone(), checked.damages[0].reason.as_str()), (first, "it is missing"));
    assert_eq!(archive.iter().filter(Result::is_err).count(), 1);
}

#[test]
fn a_segment_of_a_later_version_is_refused_and_too_much_at_once_as_well() {
    let (fixture, mut archive, _) = Fixture::with(1);
    let error = archive.append(&vec![entry(1); ENTRIES_MAX + 1]).unwrap_err();
    assert!(matches!(error, StoreError::TooManyEntries { .. }), "{error}");
    archive.segment.file.write_all_at(&[2], 8).unwrap();
    let error = fixture.open(archive.end()).err().unwrap();
    assert!(matches!(error, StoreError::Format { found: 2, known: 1, .. }), "{error}");
    archive.segment.file.write_all_at(&[0], 0).unwrap();
    assert!(matches!(fixture.open(archive.end()), Err(StoreError::Damaged(_))));
}

#[test]
fn what_cannot_be_appended_leaves_nothing_behind() {
    let (fixture, mut archive, _) = Fixture::with(2);
    let (end, files) = (archive.end(), fixture.files());
    archive.segment.file = fs::File::open(&archive.segment.path).unwrap();
    let error = archive.append(&[entry(2)]).unwrap_err();
    assert!(error.to_string().contains(archive.segment.path.to_str().unwrap()), "{error}");
    assert_eq!((archive.end(), fixture.files()), (end, files));
    // Bytes after the end do not become part of a sealed segment.
    archive.segment = Segment::open(&fixture.path(), 1).unwrap();
    archive.segment.file.write_all_at(&[7; 5_000], end.offset).unwrap();
    assert_eq!(read(&archive), entries(0..2));
    archive.seal().unwrap();
    assert_eq!(archive.extent().check(|| false).unwrap().damages, []);
}
