use std::os::unix::fs::{MetadataExt as _, symlink};

use super::*;
use crate::courier::Peer;
use crate::digest::Digest;
use crate::key::NodeKey;
use crate::receipt::Acknowledgement;

pub fn carrier() -> NodeKey {
    NodeKey::from_secret([1; 32])
}

fn destination() -> NodeKey {
    NodeKey::from_secret([2; 32])
}

pub fn delivery(bundle: &[u8]) -> Delivery {
    Delivery {
        receipt: [7; 16].into(),
        bundle: Blob { blake3: Digest::of(bundle), bytes: bundle.len() as u64 },
        sender: "alice".parse().unwrap(),
        destination: destination().public(),
        carrier: carrier().public(),
        hops: 1,
        expires_ms: 2_000_000_000_000,
    }
}

fn parcel(bundle: &[u8], content: &[u8]) -> OutboundBundle {
    let delivery = delivery(bundle);
    let to = Peer { name: "bob".parse().unwrap(), address: None, public_key: delivery.destination };
    let signature = delivery.sign(&carrier());
    OutboundBundle { to, delivery, signature, content: BundleContent::Bytes(content.to_vec().into()) }
}

fn forward(directory: &Path, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(DirectoryForwarder::new(directory.to_owned()).forward(parcel))
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn found(directory: &Path) -> Vec<Result<ExportedBundle, String>> {
    deliveries(directory).unwrap().map(|carried| carried.map_err(|error| error.to_string())).collect()
}

#[test]
fn a_bundle_goes_there_and_its_acknowledgement_comes_back() {
    let stick = tempfile::tempdir().unwrap();
    assert_eq!(forward(stick.path(), parcel(b"bundle", b"bundle")), Ok(ForwardOutcome::Carried));
    let name = ExportName::of(&delivery(b"bundle"));
    assert_eq!(files(stick.path()), [format!("{name}.bundle"), format!("{name}.delivery")]);

    let mut there = found(stick.path());
    let carried = there.pop().unwrap().unwrap();
    assert!(there.is_empty());
    assert_eq!((&carried.name, &carried.delivery), (&name, &delivery(b"bundle")));
    assert!(carried.delivery.is_signed(&carried.signature));
    assert_eq!(io::read_to_string(carried.open_bundle().unwrap()).unwrap(), "bundle");
    let acknowledgement = Acknowledgement::sign(carried.delivery, 5, &destination()).to_bytes();
    write_acknowledgement(stick.path(), &name, &acknowledgement).unwrap();

    let back: Vec<_> = acknowledgements(stick.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(back, [(name.clone(), acknowledgement.clone())]);
    let again = forward(stick.path(), parcel(b"bundle", b"bundle"));
    assert_eq!(again, Ok(ForwardOutcome::Acknowledged(acknowledgement)));
    for _ in 0..2 {
        clear(stick.path(), &name).unwrap();
        assert!(files(stick.path()).is_empty());
    }
}

#[test]
fn what_is_there_and_whole_is_left_and_what_is_not_is_written_again() {
    let stick = tempfile::tempdir().unwrap();
    forward(stick.path(), parcel(b"bundle", b"bundle")).unwrap();
    let name = ExportName::of(&delivery(b"bundle"));
    let paths = [BUNDLE, DELIVERY].map(|extension| name.path(stick.path(), extension));
    let inodes = || paths.each_ref().map(|path| std::fs::metadata(path).unwrap().ino());
    let before = inodes();
    forward(stick.path(), parcel(b"bundle", b"bundle")).unwrap();
    assert_eq!(inodes(), before);

    let whole = paths.each_ref().map(|path| std::fs::read(path).unwrap());
    for (at, path) in paths.iter().enumerate() {
        for damage in [&b""[..], b"bundl", b"bundlf", b"bundle and more"] {
            std::fs::write(path, damage).unwrap();
            assert_eq!(forward(stick.path(), parcel(b"bundle", b"bundle")), Ok(ForwardOutcome::Carried));
            assert_eq!(std::fs::read(path).unwrap(), whole[at], "{damage:?}");
        }
    }
    assert_eq!(files(stick.path()).len(), 2, "nothing is left beside them");
}

#[test]
fn a_bundle_that_is_damaged_here_is_not_carried() {
    let stick = tempfile::tempdir().unwrap();
    let error = forward(stick.path(), parcel(b"bundle", b"bundlf")).unwrap_err();
    assert!(matches!(error, ForwardError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("`bob`") && error.to_string().contains("fsck"), "{error}");
    assert!(files(stick.path()).is_empty());

    let mut file = tempfile::tempfile().unwrap();
    let bundle = vec![7; 1 << 20];
    file.write_all(&bundle[1..]).unwrap();
    file.write_all(b"x").unwrap();
    let parcel = OutboundBundle { content: BundleContent::File(file), ..parcel(&bundle, b"") };
    assert!(matches!(forward(stick.path(), parcel), Err(ForwardError::Damaged { .. })));
    assert!(files(stick.path()).is_empty());
}

#[test]
fn a_stick_that_is_not_there_is_not_made() {
    let stick = tempfile::tempdir().unwrap();
    let gone = stick.path().join("gone");
    assert!(matches!(forward(&gone, parcel(b"bundle", b"bundle")), Err(ForwardError::Io { .. })));
    assert!(!gone.exists());
    assert!(deliveries(&gone).is_err() && acknowledgements(&gone).is_err());
}

#[test]
fn no_link_is_followed_neither_to_read_nor_to_write() {
    let (stick, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = ExportName::of(&delivery(b"bundle"));
    let at = |extension| name.path(stick.path(), extension);
    forward(elsewhere.path(), parcel(b"bundle", b"bundle")).unwrap();
    let mine = elsewhere.path().join("mine");
    std::fs::write(&mine, "mine").unwrap();

    symlink(&mine, at(ACKNOWLEDGEMENT)).unwrap();
    assert!(acknowledgements(stick.path()).unwrap().all(|acknowledgement| acknowledgement.is_err()));
    assert_eq!(forward(stick.path(), parcel(b"bundle", b"bundle")), Ok(ForwardOutcome::Carried));
    clear(stick.path(), &name).unwrap();
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
    write_acknowledgement(stick.path(), &name, b"acknowledged").unwrap();
    assert_eq!(std::fs::read(at(ACKNOWLEDGEMENT)).unwrap(), b"acknowledged");
    std::fs::remove_file(at(ACKNOWLEDGEMENT)).unwrap();

    for extension in [BUNDLE, DELIVERY] {
        symlink(name.path(elsewhere.path(), extension), at(extension)).unwrap();
    }
    let there = found(stick.path());
    assert!(matches!(&there[..], [Err(error)] if error.contains("symbolic link")), "{there:?}");
    forward(stick.path(), parcel(b"bundle", b"bundle")).unwrap();
    for extension in [BUNDLE, DELIVERY] {
        assert!(!std::fs::symlink_metadata(at(extension)).unwrap().is_symlink(), "{extension}");
    }

    std::fs::remove_file(at(BUNDLE)).unwrap();
    symlink(name.path(elsewhere.path(), BUNDLE), at(BUNDLE)).unwrap();
    let carried = found(stick.path()).pop().unwrap().unwrap();
    assert!(matches!(carried.open_bundle(), Err(DirectoryError::NotAFile { .. })));
    symlink(&mine, at(ACKNOWLEDGEMENT)).unwrap();
    clear(stick.path(), &name).unwrap();
    assert_eq!((files(stick.path()).len(), files(elsewhere.path()).len()), (0, 3), "links go, what they lead to stays");
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
}

#[test]
fn what_is_damaged_is_named_and_the_others_are_read() {
    let stick = tempfile::tempdir().unwrap();
    forward(stick.path(), parcel(b"bundle", b"bundle")).unwrap();
    let name = ExportName::of(&delivery(b"bundle")).to_string();
    let good = std::fs::read(stick.path().join(format!("{name}.delivery"))).unwrap();
    let other = |last: u8| format!("{}{last:02x}.delivery", &name[..name.len() - 2]);
    for (last, bytes) in [(1, &good[..]), (2, &good[..good.len() - 1]), (3, b""), (4, &[0; BYTES_TOO_MANY])] {
        std::fs::write(stick.path().join(other(last)), bytes).unwrap();
    }
    std::fs::create_dir(stick.path().join(other(5))).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, stick.path().join(other(6)), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .unwrap();
    for passed_over in
        ["a.delivery", ".delivery", "notes.txt", &format!("x{name}.delivery"), &format!("{name}.delivery~")]
    {
        std::fs::write(stick.path().join(passed_over), &good).unwrap();
    }

    let (read, refused): (Vec<_>, Vec<_>) = found(stick.path()).into_iter().partition(Result::is_ok);
    assert_eq!(read.len(), 1);
    let mut refused: Vec<_> = refused.into_iter().map(Result::unwrap_err).collect();
    refused.sort();
    let reasons = ["not that of what it says", "checksum", "begin with", "longer", "regular", "regular"];
    assert_eq!(refused.len(), reasons.len(), "{refused:?}");
    for ((error, reason), last) in refused.iter().zip(reasons).zip(1..) {
        assert!(error.contains(reason) && error.contains(&other(last)), "{error}");
    }
}

const BYTES_TOO_MANY: usize = label::BYTES_MAX + 1;

#[test]
fn a_bundle_of_another_length_than_its_delivery_says_is_not_opened() {
    let stick = tempfile::tempdir().unwrap();
    forward(stick.path(), parcel(b"bundle", b"bundle")).unwrap();
    let carried = found(stick.path()).pop().unwrap().unwrap();
    for damage in [&b"bundl"[..], b"bundles"] {
        std::fs::write(&carried.bundle, damage).unwrap();
        assert!(matches!(carried.open_bundle(), Err(DirectoryError::Damaged { .. })));
    }
    std::fs::remove_file(&carried.bundle).unwrap();
    assert!(matches!(carried.open_bundle(), Err(DirectoryError::Io { .. })));
}

#[test]
fn what_is_no_acknowledgement_of_it_is_in_nobodys_way() {
    let stick = tempfile::tempdir().unwrap();
    let name = ExportName::of(&delivery(b"bundle"));
    let other = Acknowledgement::sign(Delivery { hops: 2, ..delivery(b"bundle") }, 5, &destination()).to_bytes();
    for false_one in [&[0; ACKNOWLEDGEMENT_BYTES_MAX + 1][..], &[0; ACKNOWLEDGEMENT_BYTES_MAX], b"", &other] {
        write_acknowledgement(stick.path(), &name, false_one).unwrap();
        assert_eq!(forward(stick.path(), parcel(b"bundle", b"bundle")), Ok(ForwardOutcome::Carried));
    }
    write_acknowledgement(stick.path(), &name, &[0; ACKNOWLEDGEMENT_BYTES_MAX + 1]).unwrap();
    assert!(acknowledgements(stick.path()).unwrap().all(|acknowledgement| acknowledgement.is_err()));
}
