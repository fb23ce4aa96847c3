mod lost;
mod outputs;

use std::sync::atomic::AtomicU64;

use super::*;
use crate::digest::{Digest, HashThreads};
use crate::limits::Limits;
use crate::proof::Blob;
use crate::sandbox::{Input as _, Outcome};
use crate::slice::{Slice, SliceError};
use crate::workload::Asset;

const QUOTA: QueueLimits =
    QueueLimits { entries_max: 100, bytes_max: 1 << 30, finished_max: 3, outputs_bytes_max: 1 << 30 };

fn open(directory: &Path) -> OpenedTasks {
    TaskStore::open(directory, QUOTA).expect("it can be opened")
}

fn refused(directory: &Path) -> String {
    match TaskStore::open(directory, QUOTA) {
        Err(error @ StoreError::AcceptedDamaged { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
}

fn task(number: u8) -> Task {
    Task {
        id: TaskId::from_bytes([number; 16]),
        scope: Tenant::OWNER,
        slice_id: None,
        workload: TaskWorkload::Transcode,
        limits: Limits::DEFAULT,
        timeout_ms: None,
        runs_anew: false,
        accepted_ms: u64::from(number),
    }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 7 % 251) as u8).collect()
}

fn accept(store: &Arc<TaskStore>, task: &Task, slice: &[u8]) -> WaitingTask {
    let mut accepting = store.begin(&task.scope).unwrap();
    slice.chunks(5_000).for_each(|piece| accepting.write(piece).unwrap());
    accepting.finish(task, b"", &[]).unwrap()
}

fn read(slice: &Slice) -> Result<Vec<u8>, SliceError> {
    let mut open = slice.open(&HashThreads::new(1), &AtomicU64::new(0))?;
    let mut bytes = vec![0; open.len() as usize];
    open.read(0, &mut bytes).expect("it can be read");
    Ok(bytes)
}

fn done(id: &str) -> TaskOutcome {
    let output = Blob { blake3: Digest::of(b""), bytes: 0 };
    TaskOutcome::Done { slice_id: id.parse().unwrap(), outcome: Outcome::Failed(-7), output }
}

#[test]
fn what_was_accepted_is_there_after_a_restart_just_as_it_was() {
    let here = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 767, 768, 769, 16 << 10, (16 << 10) + 1, 3 << 20];
    let workloads = [TaskWorkload::Transcode, TaskWorkload::Inference, TaskWorkload::Stored(Digest::of(b"module"))];
    let tasks: Vec<Task> = (0..sizes.len() as u8)
        .map(|at| Task {
            scope: if at % 2 == 0 { Tenant::OWNER } else { format!("token-{at}").parse().unwrap() },
            slice_id: if at % 3 == 0 { Some(format!("slice-{at}").parse().unwrap()) } else { None },
            workload: workloads[usize::from(at % 3)],
            limits: Limits { gas: u64::from(at), ..Limits::DEFAULT },
            timeout_ms: Some(u64::from(at)),
            runs_anew: at % 2 == 0,
            ..task(at)
        })
        .collect();
    let assets = |at: usize| (0..at).map(|other| Asset::new(bytes(other * 9_000))).collect::<Vec<_>>();
    let mut expected = Vec::new();
    for (at, task) in tasks.iter().enumerate() {
        let store = open(here.path()).store;
        let mut accepting = store.begin(&task.scope).unwrap();
        bytes(sizes[at]).chunks(1_000).for_each(|piece| accepting.write(piece).unwrap());
        assert_eq!(accepting.bytes(), sizes[at] as u64);
        expected.push(accepting.finish(task, &bytes(at * 100), &assets(at)).unwrap());
    }
    let OpenedTasks { store, waiting } = open(here.path());
    assert_eq!(waiting, expected);
    for (at, task) in tasks.iter().enumerate() {
        let known = TaskInfo { task: task.clone(), slice_bytes: sizes[at] as u64, ending: None };
        assert_eq!(store.task(&task.id).unwrap(), Some(known));
        let content = store.content(&task.id).unwrap();
        assert_eq!((&*content.args, read(&content.slice).unwrap()), (&*bytes(at * 100), bytes(sizes[at])));
        let digests = |assets: &[Asset]| assets.iter().map(Asset::digest).collect::<Vec<_>>();
        assert_eq!(digests(&content.assets), digests(&assets(at)));
    }
    assert_eq!(store.taken().0, tasks.len() as u64);
    assert_eq!(store.task(&TaskId::from_bytes([99; 16])).unwrap(), None);
}

#[test]
fn an_end_is_told_alike_for_ever_and_takes_the_bytes_with_it() {
    let here = tempfile::tempdir().unwrap();
    let (small, large) = (task(1), task(2));
    {
        let store = open(here.path()).store;
        accept(&store, &small, &bytes(10_000));
        accept(&store, &large, &bytes(100_000));
        assert_eq!(content::files_in(&here.path().join("files")).unwrap().count(), 1);
        assert_eq!(store.finish(&small.id, &done("a"), None).unwrap(), done("a"));
        assert_eq!(store.finish(&small.id, &done("b"), None).unwrap(), done("a"), "the first counts");
        let failed = TaskOutcome::failed("deadline", "it was late");
        assert_eq!(store.finish(&large.id, &failed, None).unwrap(), failed);
        assert_eq!(store.taken(), (0, 0));
        assert!(matches!(store.content(&small.id), Err(StoreError::TaskDamaged { .. })));
    }
    let OpenedTasks { store, waiting } = open(here.path());
    assert_eq!(waiting, []);
    assert_eq!(
        store.task(&small.id).unwrap(),
        Some(TaskInfo { slice_bytes: 10_000, ending: Some(done("a")), task: small })
    );
    assert_eq!(store.task(&large.id).unwrap().unwrap().ending, Some(TaskOutcome::failed("deadline", "it was late")));
    assert_eq!(store.database.prefixed(&[SLICE]).count(), 0, "no piece of a slice is left");
    assert_eq!(content::files_in(&here.path().join("files")).unwrap().count(), 0, "nor its file");
}

#[test]
fn what_ended_first_is_forgotten_first() {
    let here = tempfile::tempdir().unwrap();
    for number in 0..6 {
        let store = open(here.path()).store;
        accept(&store, &task(number), b"slice");
    }
    for number in [5, 0, 4, 1, 2] {
        let store = open(here.path()).store;
        store.finish(&task(number).id, &done("a"), None).unwrap();
    }
    let store = open(here.path()).store;
    let known = |number: u8| store.task(&task(number).id).unwrap().map(|known| known.ending.is_some());
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(known),
        [None, Some(true), Some(true), Some(false), Some(true), None],
        "three are kept, and what has not ended"
    );
}

#[test]
fn there_is_an_end_to_what_is_accepted() {
    let here = tempfile::tempdir().unwrap();
    let quota = QueueLimits { entries_max: 3, bytes_max: 50_000, ..QUOTA };
    let store = TaskStore::open(here.path(), quota).unwrap().store;
    let refused = |result: Result<(), AcceptError>| assert!(matches!(result, Err(AcceptError::Full { .. })));
    let mut accepting = store.begin(&Tenant::OWNER).unwrap();
    accepting.write(&bytes(50_000)).unwrap();
    refused(accepting.write(b"x"));
    refused(store.begin(&Tenant::OWNER).unwrap().write(b"x"));
    let others = [store.begin(&Tenant::OWNER).unwrap(), store.begin(&Tenant::OWNER).unwrap()];
    refused(store.begin(&Tenant::OWNER).map(drop));
    drop((accepting, others));
    assert_eq!(store.taken(), (0, 0), "what is given up takes nothing");
    let accepting = store.begin(&Tenant::OWNER).unwrap();
    refused(accepting.finish(&task(1), &bytes(60_000), &[]).map(drop));
    assert_eq!((store.taken(), store.task(&task(1).id).unwrap()), ((0, 0), None));
    accept(&store, &task(2), &bytes(50_000));
    refused(store.begin(&Tenant::OWNER).unwrap().write(b"x"));
    drop(store);
    let store = TaskStore::open(here.path(), quota).unwrap().store;
    assert_eq!(store.taken(), (1, 50_000));
    refused(store.begin(&Tenant::OWNER).unwrap().write(b"x"));
    store.finish(&task(2).id, &done("a"), None).unwrap();
    store.begin(&Tenant::OWNER).unwrap().write(b"x").unwrap();
}

#[test]
fn what_a_process_that_died_left_over_is_removed() {
    let here = tempfile::tempdir().unwrap();
    let files = here.path().join("files");
    accept(&open(here.path()).store, &task(1), &bytes(20_000));
    let kept = files.join(format!("{}.slice", task(1).id));
    let left = [format!("{}.slice", task(2).id), format!("{}.assets", task(2).id), "staged/x".to_owned()];
    left.iter().for_each(|name| std::fs::write(files.join(name), b"left").unwrap());
    let store = open(here.path()).store;
    assert!(left.iter().all(|name| !files.join(name).exists()) && kept.exists());
    assert_eq!(read(&store.content(&task(1).id).unwrap().slice).unwrap(), bytes(20_000));
}

#[test]
fn a_process_that_died_while_it_made_the_database_leaves_nothing_that_is_taken_for_one() {
    let here = tempfile::tempdir().unwrap();
    let making = here.path().join("queue.making");
    std::fs::create_dir(&making).unwrap();
    std::fs::write(making.join("db"), b"a part of one").unwrap();
    accept(&open(here.path()).store, &task(1), b"slice");
    assert!(!making.exists());
    assert_eq!(open(here.path()).waiting.len(), 1);
}

/// sled 0.34.7 would treat the file as the latest snapshot, and report corruption.
#[test]
fn a_process_that_died_while_the_database_opened_leaves_it_as_it_was() {
    let here = tempfile::tempdir().unwrap();
    accept(&open(here.path()).store, &task(1), b"slice");
    let half = here.path().join("queue/snap.FFFFFFFFFFFFFFFF.generating");
    std::fs::write(&half, b"a part of a snapshot").unwrap();
    assert_eq!(open(here.path()).waiting.len(), 1);
    assert!(!half.exists());
}

/// Changes the database without the store.
fn tamper(directory: &Path, change: impl FnOnce(&Database, &mut Batch)) {
    let database = Database::open(&directory.join("queue"), VERSION).unwrap();
    let mut batch = Batch::default();
    change(&database, &mut batch);
    database.apply(batch).unwrap();
    database.flush((0, database.epoch()), || (1, ()), |()| Ok(())).unwrap();
}

#[test]
fn a_damaged_store_is_not_begun_anew() {
    let here = tempfile::tempdir().unwrap();
    accept(&open(here.path()).store, &task(1), &bytes(20_000));
    accept(&open(here.path()).store, &task(2), &bytes(100));
    let record = |database: &Database| database.get(&record_key(1)).unwrap().unwrap().to_vec();
    let mut kept = Vec::new();
    tamper(here.path(), |database, batch| {
        kept = record(database);
        let mut flipped = kept.clone();
        flipped[40] ^= 1;
        batch.insert(record_key(1), flipped);
    });
    assert!(refused(here.path()).contains("a record is damaged"));
    tamper(here.path(), |_, batch| batch.remove(record_key(1)));
    assert!(refused(here.path()).contains("records are missing"));
    tamper(here.path(), |_, batch| batch.insert(record_key(1), kept));
    assert_eq!(open(here.path()).waiting.len(), 2, "nothing was done to it");
    std::fs::rename(here.path().join("queue"), here.path().join("elsewhere")).unwrap();
    assert!(refused(here.path()).contains("its records are gone"));
}

#[test]
fn bytes_that_are_not_those_that_were_accepted_are_not_run_on() {
    let here = tempfile::tempdir().unwrap();
    {
        let store = open(here.path()).store;
        accept(&store, &task(1), &bytes(2_000));
        accept(&store, &task(2), &bytes(20_000));
        let accepting = store.begin(&Tenant::OWNER).unwrap();
        accepting.finish(&task(3), &bytes(20_000), &[]).unwrap();
        accept(&store, &task(4), &bytes(20_000));
    }
    tamper(here.path(), |database, batch| {
        let (key, piece) = database.prefixed(&[SLICE]).next().unwrap().unwrap();
        batch.insert(key, piece.iter().rev().copied().collect::<Vec<u8>>());
    });
    let file = |number: u8, extension: &str| here.path().join(format!("files/{}.{extension}", task(number).id));
    std::fs::write(file(2, "slice"), bytes(20_000).iter().map(|byte| byte ^ 1).collect::<Vec<u8>>()).unwrap();
    std::fs::write(file(3, "assets"), bytes(20_000)).unwrap();
    std::fs::remove_file(file(4, "slice")).unwrap();
    let store = open(here.path()).store;
    assert!(matches!(store.content(&task(1).id), Err(StoreError::TaskDamaged { .. })));
    let slice = store.content(&task(2).id).unwrap().slice;
    assert!(matches!(read(&slice), Err(SliceError::Changed { .. })));
    assert!(matches!(store.content(&task(3).id), Err(StoreError::TaskDamaged { .. })));
    assert!(matches!(store.content(&task(4).id), Err(StoreError::File { .. })));
}

/// sled would write a page that is too long to a file of its own, and sync each.
#[test]
fn no_page_of_the_database_becomes_a_file() {
    let here = tempfile::tempdir().unwrap();
    let store = open(here.path()).store;
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let store = &store;
            scope.spawn(move || {
                (0..10).for_each(|number| drop(accept(store, &task(thread * 10 + number), &bytes(16 << 10))));
            });
        }
    });
    let failed = TaskOutcome::failed("x", &"x".repeat(TaskOutcome::MESSAGE_BYTES_MAX));
    (0..50).for_each(|number| drop(store.finish(&task(number).id, &failed, None).unwrap()));
    let output = bytes(16 << 10);
    (50..60)
        .for_each(|number| drop(store.finish(&task(number).id, &outputs::done_with(&output), Some(&output)).unwrap()));
    let blobs = std::fs::read_dir(here.path().join("queue/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0);
    drop(store);
    assert_eq!(open(here.path()).waiting.len(), 40);
}
