//! Tests of lost log tails, and of disks that fail for a while.

use super::*;

/// Copies the files of a database.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { assert!(std::fs::copy(entry.path(), to).is_ok()) }
    }
}

#[test]
fn a_queue_that_has_lost_its_latest_changes_is_not_opened() {
    let here = tempfile::tempdir().unwrap();
    let (directory, before) = (here.path().join("accepted"), here.path().join("before"));
    accept(&open(&directory).store, &task(1), b"slice");
    copy(&directory.join("queue"), &before);
    accept(&open(&directory).store, &task(2), b"slice");
    let after = here.path().join("after");
    std::fs::rename(directory.join("queue"), &after).unwrap();
    copy(&before, &directory.join("queue"));
    assert!(refused(&directory).contains("has lost changes"));
    std::fs::remove_dir_all(directory.join("queue")).unwrap();
    assert!(refused(&directory).contains("its records are gone"));
    std::fs::remove_dir_all(directory.join("queue")).unwrap();
    copy(&after, &directory.join("queue"));
    assert_eq!(open(&directory).waiting.len(), 2);
}

/// For every length of the lost tail, the reported tasks exist or the store reports the loss.
#[test]
fn no_truncated_copy_of_a_queue_is_opened_without_a_word() {
    let here = tempfile::tempdir().unwrap();
    let directory = here.path().join("accepted");
    {
        let store = open(&directory).store;
        for number in 0..40 {
            accept(&store, &task(number), &bytes(usize::from(number) * 100));
        }
        for number in (0..40).step_by(3) {
            store.finish(&task(number).id, &done("a"), None).unwrap();
        }
    }
    let log = directory.join("queue/db");
    let whole = std::fs::read(&log).unwrap();
    let end = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for part in 1..=15 {
        let copied = here.path().join(format!("copy-{part}"));
        copy(&directory, &copied);
        let file = std::fs::OpenOptions::new().write(true).open(copied.join("queue/db")).unwrap();
        file.set_len((end * part / 16) as u64).unwrap();
        assert!(TaskStore::open(&copied, QUOTA).is_err(), "{part} of 16");
    }
    assert_eq!(open(&directory).waiting.len(), 26, "the whole is sound");
}

/// A store from before the journal existed: without a journal, and without a count of changes.
#[test]
fn a_queue_without_a_journal_gets_one() {
    let here = tempfile::tempdir().unwrap();
    accept(&open(here.path()).store, &task(1), b"slice");
    tamper(here.path(), |_, batch| batch.remove(CHANGES));
    std::fs::remove_file(here.path().join("journal")).unwrap();
    let opened = open(here.path());
    assert_eq!(opened.waiting.len(), 1);
    accept(&opened.store, &task(2), b"slice");
    drop(opened);
    assert_eq!(open(here.path()).waiting.len(), 2);
    assert!(here.path().join("journal").exists());
}

#[test]
fn a_store_whose_disk_failed_holds_all_that_was_told_and_nothing_that_was_refused() {
    let here = tempfile::tempdir().unwrap();
    let store = open(here.path()).store;
    accept(&store, &task(1), &bytes(20_000));
    accept(&store, &task(2), &bytes(100));
    let mut half = store.begin(&Tenant::OWNER).unwrap();
    half.write(&bytes(30_000)).unwrap();
    let taken = store.taken();

    store.database.break_sync();
    let accepting = store.begin(&Tenant::OWNER).unwrap();
    assert!(accepting.finish(&task(3), b"", &[]).is_err());
    assert!(store.finish(&task(1).id, &done("a"), None).is_err(), "until it is mended");
    assert!(store.check().is_err());

    assert!(store.mend().unwrap() && store.check().is_ok() && !store.mend().unwrap());
    assert_eq!(store.taken(), taken, "what is being handed in has its room, and what was refused has none");
    assert_eq!(store.task(&task(3).id).unwrap(), None);
    assert_eq!(store.finish(&task(1).id, &done("a"), None).unwrap(), done("a"));
    half.finish(&task(4), b"", &[]).unwrap();
    accept(&store, &task(5), b"slice");
    assert_eq!(store.taken(), (3, 30_105));
    drop(store);
    let OpenedTasks { store, waiting } = open(here.path());
    assert_eq!(waiting.iter().map(|waiting| waiting.id).collect::<Vec<_>>(), [2, 4, 5].map(|number| task(number).id));
    assert_eq!(store.task(&task(1).id).unwrap().unwrap().ending, Some(done("a")));
}
