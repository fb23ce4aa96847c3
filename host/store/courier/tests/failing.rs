//! Tests of disks that fail for a while.

use super::*;

/// The disk fails once at each of these changes. Afterwards, all reported changes exist, and the
/// store continues.
#[test]
fn a_store_whose_disk_failed_goes_on_with_what_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("courier");
    let store = CourierStore::open(&path).unwrap();
    let new = |sender: u64| receipt(&sender.to_le_bytes(), sender, 1_000 + sender);
    let submit = |sender: u64| store.submit(staged(&store, &sender.to_le_bytes()), &new(sender));
    let failing = |change: &dyn Fn() -> bool| {
        drop(store.database.break_sync());
        assert!(!change() && store.check_open().is_err());
        assert!(!change(), "nothing is taken until it is mended");
        assert!(store.mend().unwrap() && !store.mend().unwrap());
        store.check_records(|| false).unwrap();
        assert!(change(), "and then it is");
    };
    (0..4).for_each(|sender| assert_eq!(submit(sender).unwrap(), SubmitResult::New));
    failing(&|| submit(4).is_ok());
    failing(&|| store.acknowledge(&acknowledgement(&new(0)), 1, 2_000, None).is_ok());
    failing(&|| store.give_up(&new(1).id, "why").is_ok());
    // Each acknowledgement is in the archive once, whether or not the database recorded it as
    // archived.
    failing(&|| store.archive().is_ok());
    assert_eq!(store.archive().unwrap(), 0);
    let acknowledged = store.acknowledged_after(None, usize::MAX).unwrap();
    assert_eq!(acknowledged.len(), 1);
    drop(store);
    let store = CourierStore::open(&path).unwrap();
    store.check_records(|| false).unwrap();
    assert_eq!((store.tally().pending, store.tally().dead, store.tally().credited), (3, 1, 1));
}
