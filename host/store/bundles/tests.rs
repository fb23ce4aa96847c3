use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use super::*;

fn bundle_files() -> (tempfile::TempDir, BundleFiles) {
    let directory = tempfile::tempdir().unwrap();
    let files = BundleFiles::new(directory.path().join("courier/bundles"));
    (directory, files)
}

fn staged(files: &BundleFiles, bytes: &[u8]) -> StagedBundle {
    let mut staged = files.stage().unwrap();
    bytes.chunks(3).for_each(|part| staged.write(part).unwrap());
    staged
}

/// Sidecar record of a bundle when it is stored.
const FIRST: &[u8] = b"first";

fn kept(files: &BundleFiles, bytes: &[u8]) -> Digest {
    files.keep(staged(files, bytes).finish().unwrap(), FIRST).unwrap().blake3
}

fn records(files: &BundleFiles, digest: &Digest) -> Vec<Vec<u8>> {
    let mut notes = files.notes(digest).unwrap();
    let records = notes.by_ref().map(Result::unwrap).collect();
    assert_eq!(notes.damaged_bytes(), 0);
    records
}

/// Returns the number of files in the staging directory.
fn staged_count(files: &BundleFiles) -> usize {
    entries(&files.directory.join("staged")).unwrap().count()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_bundle_is_kept_under_its_digest_for_its_user_alone() {
    let (_directory, files) = bundle_files();
    assert!(!files.directory.exists(), "nothing is made until it is needed");
    let staged = staged(&files, b"bundle");
    assert_eq!(staged.bytes(), 6);
    let finished = staged.finish().unwrap();
    let blob = finished.blob();
    assert_eq!(blob, Blob { blake3: Digest::of(b"bundle"), bytes: 6 });
    assert!(files.open(&blob.blake3).unwrap().is_none(), "it has no name yet");
    assert_eq!(files.keep(finished, FIRST).unwrap(), blob);
    assert_eq!(records(&files, &blob.blake3), [FIRST]);

    let hex = blob.blake3.to_string();
    let path = files.directory.join(&hex[..2]).join(format!("{hex}.bundle"));
    assert_eq!((files.path(&blob.blake3), std::fs::read(&path).unwrap()), (path.clone(), b"bundle".to_vec()));
    assert_eq!((mode(&path), mode(&path.with_extension("receipts"))), (0o600, 0o600));
    let parents = [path.parent().unwrap(), &files.directory, files.directory.parent().unwrap()];
    assert_eq!(parents.map(mode), [0o700; 3]);
    assert_eq!(staged_count(&files), 0);
}

#[test]
fn what_is_not_kept_disappears_and_so_does_what_a_crash_left() {
    let (_directory, files) = bundle_files();
    assert_eq!(files.remove_staged_leftovers().unwrap(), 0, "there is no directory yet");
    let (first, second) = (staged(&files, b"first"), staged(&files, b"second").finish().unwrap());
    assert_eq!(staged_count(&files), 2);
    drop((first, second));
    assert_eq!(staged_count(&files), 0);

    let crashed = staged(&files, b"third").file.keep().unwrap().1;
    assert_eq!(BundleFiles::new(files.directory.clone()).remove_staged_leftovers().unwrap(), 1);
    assert!(!crashed.exists());
}

#[test]
fn an_error_names_the_file_and_leaves_nothing_staged() {
    let (_directory, files) = bundle_files();
    let mut full = files.stage().unwrap();
    let path = full.file.path().to_owned();
    let device = OpenOptions::new().write(true).open("/dev/full").unwrap();
    full.file = NamedTempFile::from_parts(device, full.file.into_temp_path());
    let error = full.write(b"bundle").unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(matches!(&error, StoreError::File { cause, .. } if cause.kind() == io::ErrorKind::StorageFull), "{error}");
    drop(full);
    assert_eq!(staged_count(&files), 0);

    let mut partly = staged(&files, b"bundle");
    partly.file.write_all(b"more").unwrap();
    assert!(partly.finish().is_err(), "what could not be written whole is not finished");
    assert_eq!(staged_count(&files), 0);

    let digest = Digest::of(b"bundle");
    std::fs::create_dir_all(files.path(&digest).join("occupied")).unwrap();
    let error = files.keep(staged(&files, b"bundle").finish().unwrap(), FIRST).unwrap_err();
    assert!(error.to_string().contains(files.path(&digest).to_str().unwrap()), "{error}");
    assert_eq!(staged_count(&files), 0);
    assert!(files.open(&digest).is_err(), "and a directory is no bundle");
}

/// Runs this test again in a child process with a file size limit of 2,048 bytes, which acts as a
/// full disk.
#[test]
fn a_full_disk_leaves_the_side_file_and_the_bundles_as_they_were() {
    const DIRECTORY: &str = "COMPUTE_HOST_TEST_FULL_DISK";
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        let directory = tempfile::tempdir().unwrap();
        let (_package, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::a_full_disk_leaves_the_side_file_and_the_bundles_as_they_were");
        let shell = "trap '' XFSZ; ulimit -f 4; exec \"$0\" --exact \"$1\" --nocapture";
        let mut again = Command::new("sh");
        again.args(["-c", shell]).arg(std::env::current_exe().unwrap()).arg(name).env(DIRECTORY, directory.path());
        let output = again.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read(directory.path().join("done")).unwrap(), b"done");
        return;
    };
    let directory = PathBuf::from(directory);
    let files = BundleFiles::new(directory.join("bundles"));
    let digest = kept(&files, b"bundle");
    files.note(&digest, &[1; 1_000]).unwrap();
    let error = files.note(&digest, &[2; 3_000]).unwrap_err();
    assert!(error.to_string().contains(files.side_path(&digest).to_str().unwrap()), "{error}");
    assert_eq!(std::fs::metadata(files.side_path(&digest)).unwrap().len(), 1_045);
    files.note(&digest, &[3; 900]).unwrap();
    assert_eq!(records(&files, &digest), [FIRST.to_vec(), vec![1; 1_000], vec![3; 900]]);
    let other = Digest::of(b"other");
    assert!(files.note(&other, &[2; 3_000]).is_err());
    assert!(!files.side_path(&other).exists());

    let mut staged = files.stage().unwrap();
    assert!(staged.write(&[7; 3_000]).is_err());
    assert!(staged.finish().is_err());
    assert_eq!(staged_count(&files), 0);
    assert_eq!(files.all().map(Result::unwrap).collect::<Vec<_>>(), [digest]);
    std::fs::write(directory.join("done"), b"done").unwrap();
}

#[test]
fn a_hundred_threads_that_note_at_once_lose_nothing_of_each_others() {
    let (_directory, files) = bundle_files();
    let digests = [Digest::of(b"first"), Digest::of(b"second")];
    std::thread::scope(|scope| {
        for thread in 0..100_usize {
            let (files, digest) = (&files, digests[thread % 2]);
            scope.spawn(move || files.note(&digest, &vec![thread as u8; 1 + 10 * thread]).unwrap());
        }
    });
    let mut noted: Vec<Vec<u8>> = digests.iter().flat_map(|digest| records(&files, digest)).collect();
    noted.sort();
    assert_eq!(noted, (0..100_usize).map(|thread| vec![thread as u8; 1 + 10 * thread]).collect::<Vec<_>>());
}

#[test]
fn a_flipped_bit_is_found_and_mended_by_keeping_the_bundle_again() {
    let (_directory, files) = bundle_files();
    let bytes: Vec<u8> = (0..3 * READ_BYTES as u32).map(|i| i.wrapping_mul(0x9e37_79b9).to_be_bytes()[0]).collect();
    let digest = kept(&files, &bytes);
    let health = || files.verify(&digest, bytes.len() as u64).unwrap();
    assert_eq!(health(), Health::Sound);
    for at in [0, READ_BYTES, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        std::fs::write(files.path(&digest), &flipped).unwrap();
        assert_eq!(health(), Health::Damaged, "byte {at}");
    }
    std::fs::write(files.path(&digest), &bytes[1..]).unwrap();
    assert_eq!(health(), Health::Damaged);
    assert_eq!(kept(&files, &bytes), digest);
    assert_eq!(health(), Health::Sound);
    assert_eq!(files.verify(&digest, 1).unwrap(), Health::Damaged, "it is not as long as was expected");
    files.remove(&digest).unwrap();
    assert_eq!(health(), Health::Missing);
}

#[test]
fn what_is_quarantined_keeps_its_bytes_and_is_not_served() {
    let (_directory, files) = bundle_files();
    let digest = kept(&files, b"bundle");
    std::fs::write(files.path(&digest), b"bundlf").unwrap();
    let aside = files.quarantine(&digest).unwrap();
    assert_eq!(aside, files.path(&digest).with_extension("damaged"));
    assert_eq!(std::fs::read(&aside).unwrap(), b"bundlf");
    assert!(files.open(&digest).unwrap().is_none());
    assert_eq!(records(&files, &digest), [FIRST]);
    assert!(files.quarantine(&digest).is_err(), "there is none any more");
    kept(&files, b"bundle");
    assert_eq!((files.verify(&digest, 6).unwrap(), aside.exists()), (Health::Sound, true));
}

#[test]
fn all_that_is_there_is_listed_in_order_and_nothing_else() {
    let (_directory, files) = bundle_files();
    assert_eq!(files.all().count(), 0);
    let mut digests: Vec<Digest> = (0..600_u32).map(|i| kept(&files, &i.to_le_bytes())).collect();
    std::fs::remove_file(files.side_path(&digests[7])).unwrap();
    let only_side_file = Digest::of(b"only a side file");
    files.note(&only_side_file, b"record").unwrap();
    let quarantined = digests.swap_remove(9);
    files.quarantine(&quarantined).unwrap();
    std::fs::remove_file(files.side_path(&quarantined)).unwrap();
    let gone = digests.swap_remove(8);
    files.note(&gone, b"record").unwrap();
    files.remove(&gone).unwrap();
    files.remove(&gone).unwrap();
    digests.push(only_side_file);
    digests.sort();
    let first = files.path(&digests[0]);
    for stray in ["note.txt", "ff.bundle", &format!("{}.bundle", digests[0].to_string().to_uppercase())] {
        std::fs::write(first.with_file_name(stray), b"").unwrap();
    }
    let elsewhere = first.with_file_name(files.path(digests.last().unwrap()).file_name().unwrap());
    std::fs::write(elsewhere, b"").unwrap();
    let _staged = staged(&files, b"staged");
    assert_eq!(files.all().collect::<Result<Vec<_>, _>>().unwrap(), digests);
}

#[test]
fn a_link_in_a_bundles_place_is_not_followed() {
    let (directory, files) = bundle_files();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, b"secret").unwrap();
    let digest = kept(&files, b"bundle");
    files.remove(&digest).unwrap();
    for path in [files.path(&digest), files.side_path(&digest)] {
        std::os::unix::fs::symlink(&secret, path).unwrap();
    }
    assert!(files.open(&digest).is_err());
    assert!(files.note(&digest, b"record").is_err());
    assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    std::fs::remove_file(files.side_path(&digest)).unwrap();
    assert_eq!(kept(&files, b"bundle"), digest);
    assert_eq!(
        (files.verify(&digest, 6).unwrap(), std::fs::read(&secret).unwrap()),
        (Health::Sound, b"secret".to_vec())
    );
}
