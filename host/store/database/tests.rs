//! Tests of databases on failing disks.

use super::*;

fn flush(database: &Database, sequence: u64) -> Result<(), StoreError> {
    database.flush((sequence, database.epoch()), || (sequence + 1, ()), |()| Ok(()))
}

fn put(database: &Database, key: &[u8]) {
    let mut batch = Batch::default();
    batch.insert(key, b"value");
    database.apply(batch).unwrap();
}

#[test]
fn what_the_disk_has_refused_once_is_never_taken_for_written() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join("database"), 1).unwrap();
    flush(&database, 0).unwrap();
    // `/dev/null` cannot be synced.
    let log = database.break_sync();
    flush(&database, 1).unwrap_err();
    // Linux reports a failed write once. The next sync succeeds.
    database.open.write().unwrap().as_mut().unwrap().log = log;
    let error = flush(&database, 1).unwrap_err();
    assert!(error.to_string().contains("cannot use the store"), "{error}");
    assert!(database.is_flushed(0) && !database.is_flushed(1) && database.has_failed());
    flush(&database, 0).unwrap();
    database.check().unwrap_err();
}

#[test]
fn a_database_that_failed_is_opened_again_and_who_waited_hears_of_no_success() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join("database"), 1).unwrap();
    put(&database, b"before");
    flush(&database, 0).unwrap();
    put(&database, b"unsure");
    let unsure = database.epoch();
    database.break_sync();
    flush(&database, 1).unwrap_err();
    database.apply(Batch::default()).unwrap_err();
    database.reopen().unwrap();
    assert!(!database.has_failed());
    assert_eq!(database.get(b"before").unwrap().as_deref(), Some(&b"value"[..]));
    database.set_flushed(1);
    // The old change is reported lost even if a new change has its number and is on disk.
    put(&database, b"after");
    flush(&database, 1).unwrap();
    let error = database.flush((1, unsure), || (2, ()), |()| Ok(())).unwrap_err();
    assert!(error.to_string().contains("may be lost"), "{error}");
    flush(&database, 0).unwrap();
    drop(database);
    let database = Database::open(&directory.path().join("database"), 1).unwrap();
    assert!(database.get(b"after").unwrap().is_some());
}

#[test]
fn what_cannot_be_noted_after_a_write_is_not_told_until_the_database_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let database = Database::open(&directory.path().join("database"), 1).unwrap();
    let full = |()| Err(StoreError::Failed { path: PathBuf::new(), message: "full".to_owned() });
    database.flush((0, database.epoch()), || (1, ()), full).unwrap_err();
    assert!(!database.is_flushed(0));
    flush(&database, 0).unwrap_err();
    database.reopen().unwrap();
    flush(&database, 0).unwrap();
    assert!(database.is_flushed(0));
}

#[test]
fn a_database_that_cannot_be_opened_again_is_tried_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("database");
    let database = Database::open(&path, 1).unwrap();
    put(&database, b"key");
    flush(&database, 0).unwrap();
    database.break_sync();
    flush(&database, 1).unwrap_err();
    std::fs::rename(&path, directory.path().join("elsewhere")).unwrap();
    std::fs::write(&path, b"in its place").unwrap();
    database.reopen().unwrap_err();
    database.get(b"key").unwrap_err();
    assert!(database.prefixed(b"k").next().unwrap().is_err());
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(directory.path().join("elsewhere"), &path).unwrap();
    lock(&database.failed).as_mut().unwrap().tried = None;
    database.reopen().unwrap();
    assert!(database.get(b"key").unwrap().is_some());
}
