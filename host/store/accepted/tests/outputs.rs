//! Tests of stored outputs and their eviction.

use std::io::Read as _;

use super::*;

/// Small limits: finished tasks, and bytes of outputs.
const SMALL: QueueLimits = QueueLimits { finished_max: 6, outputs_bytes_max: 100_000, ..QUOTA };

fn open_with(directory: &Path, quota: QueueLimits) -> Arc<TaskStore> {
    TaskStore::open(directory, quota).unwrap().store
}

pub fn done_with(output: &[u8]) -> TaskOutcome {
    let output = Blob { blake3: Digest::of(output), bytes: output.len() as u64 };
    TaskOutcome::Done { slice_id: "a".parse().unwrap(), outcome: Outcome::Done, output }
}

/// Accepts a task of this token, and ends it with this output.
fn end(store: &Arc<TaskStore>, token: &str, number: u8, output: &[u8]) {
    let task = Task { scope: token.parse().unwrap(), ..task(number) };
    accept(store, &task, b"slice");
    assert_eq!(store.finish(&task.id, &done_with(output), Some(output)).unwrap(), done_with(output));
}

/// Returns the output if it is stored.
fn output(store: &TaskStore, number: u8) -> Option<Vec<u8>> {
    match store.output(&task(number).id).unwrap() {
        TaskOutput::Held(bytes) => Some(bytes),
        TaskOutput::File { mut file, bytes } => {
            let mut all = Vec::new();
            file.read_to_end(&mut all).unwrap();
            assert_eq!(all.len() as u64, bytes);
            Some(all)
        }
        TaskOutput::Gone => None,
    }
}

/// Returns the tasks below `count` whose outputs are stored.
fn kept(store: &TaskStore, count: u8) -> Vec<u8> {
    (0..count).filter(|number| output(store, *number).is_some()).collect()
}

fn known(store: &TaskStore, count: u8) -> Vec<u8> {
    (0..count).filter(|number| store.task(&task(*number).id).unwrap().is_some()).collect()
}

/// Returns the number of outputs on disk: pieces in the database, and files.
fn on_disk(store: &TaskStore) -> (usize, usize) {
    let files = content::files_in(&store.files_directory()).unwrap();
    (store.database.prefixed(&[OUTPUT]).count(), files.filter(|(_, what)| *what == OUTPUT).count())
}

#[test]
fn what_a_guest_put_out_is_there_after_a_restart_just_as_it_was() {
    let here = tempfile::tempdir().unwrap();
    let sizes = [0, 1, 768, 769, 16 << 10, (16 << 10) + 1, 3 << 20];
    let quota = QueueLimits { finished_max: 100, ..QUOTA };
    {
        let store = open_with(here.path(), quota);
        (0..).zip(sizes).for_each(|(number, size)| end(&store, "a", number, &bytes(size)));
        let other = bytes(5);
        let again = store.finish(&task(6).id, &done_with(&other), Some(&other)).unwrap();
        assert_eq!(again, done_with(&bytes(3 << 20)), "the first counts");
    }
    let store = open_with(here.path(), quota);
    for (number, size) in (0..).zip(sizes) {
        assert!(output(&store, number) == Some(bytes(size)), "{size} bytes");
        let known = store.task(&task(number).id).unwrap().unwrap();
        assert_eq!(known.ending, Some(done_with(&bytes(size))));
    }
    assert_eq!(store.output_bytes(), sizes.iter().sum::<usize>() as u64);
    assert_eq!(on_disk(&store), (1 + 1 + 2 + 22, 2), "an empty one takes nothing");
}

#[test]
fn outputs_that_are_too_much_go_and_what_ended_stays_known() {
    let here = tempfile::tempdir().unwrap();
    let store = open_with(here.path(), SMALL);
    end(&store, "modest", 0, &bytes(10_000));
    end(&store, "modest", 1, &bytes(20_000));
    end(&store, "greedy", 2, &bytes(10_000));
    end(&store, "greedy", 3, &bytes(50_000));
    assert_eq!((kept(&store, 4), on_disk(&store)), (vec![0, 1, 2, 3], (14 + 14, 2)));
    end(&store, "greedy", 4, &bytes(40_000));
    let is_left = |store: &TaskStore| {
        assert_eq!((kept(store, 5), known(store, 5)), (vec![0, 1, 4], vec![0, 1, 2, 3, 4]));
        assert_eq!((store.output_bytes(), on_disk(store)), (70_000, (14, 2)));
        assert_eq!(store.task(&task(3).id).unwrap().unwrap().ending, Some(done_with(&bytes(50_000))));
    };
    is_left(&store);
    drop(store);
    is_left(&open_with(here.path(), SMALL));
}

#[test]
fn a_forgotten_task_takes_its_output_along() {
    let here = tempfile::tempdir().unwrap();
    let store = open_with(here.path(), SMALL);
    end(&store, "modest", 0, &bytes(10_000));
    for number in 1..10 {
        end(&store, "greedy", number, &bytes(if number % 2 == 0 { 1_000 } else { 17_000 }));
    }
    let is_left = |store: &TaskStore| {
        assert_eq!((known(store, 10), kept(store, 10)), (vec![0, 5, 6, 7, 8, 9], vec![0, 5, 6, 7, 8, 9]));
        assert_eq!((store.output_bytes(), on_disk(store)), (63_000, (14 + 2 + 2, 3)));
    };
    is_left(&store);
    drop(store);
    is_left(&open_with(here.path(), SMALL));
}

#[test]
fn an_output_that_is_longer_than_all_that_is_kept_is_not() {
    let here = tempfile::tempdir().unwrap();
    let store = open_with(here.path(), SMALL);
    end(&store, "a", 0, &bytes(10_000));
    end(&store, "a", 1, &bytes(100_001));
    let not_at_hand = task(2);
    accept(&store, &not_at_hand, b"slice");
    store.finish(&not_at_hand.id, &done_with(b"what it was"), None).unwrap();
    assert_eq!((kept(&store, 3), on_disk(&store), store.output_bytes()), (vec![0], (14, 0), 10_000));
}

#[test]
fn what_is_too_much_for_a_lower_quota_goes_when_the_store_is_opened() {
    let here = tempfile::tempdir().unwrap();
    {
        let store = open_with(here.path(), QueueLimits { finished_max: 10, ..QUOTA });
        (0..8).for_each(|number| end(&store, "a", number, &bytes(20_000)));
    }
    let store = open_with(here.path(), SMALL);
    assert_eq!((known(&store, 8), kept(&store, 8)), (vec![2, 3, 4, 5, 6, 7], vec![3, 4, 5, 6, 7]));
    assert_eq!((store.output_bytes(), on_disk(&store)), (100_000, (0, 5)));
}

/// The quota and its accounting hold under concurrent endings.
#[test]
fn many_that_end_at_once_leave_what_there_is_room_for() {
    let here = tempfile::tempdir().unwrap();
    let store = open_with(here.path(), SMALL);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            let ends =
                move |at: u8| end(store, &format!("token-{thread}"), thread * 8 + at, &bytes(9_000 * usize::from(at)));
            scope.spawn(move || (0..8).for_each(ends));
        }
    });
    let (all, outputs) = (known(&store, 32), kept(&store, 32));
    assert!(all.len() == 6 && !outputs.is_empty() && store.output_bytes() <= 100_000, "{all:?}, {outputs:?}");
    drop(store);
    let store = open_with(here.path(), SMALL);
    assert_eq!((known(&store, 32), kept(&store, 32)), (all, outputs));
}

/// A process that died can leave an output whose task has not ended, or one that should have been
/// evicted.
#[test]
fn files_of_outputs_that_nobody_needs_are_removed_when_the_store_is_opened() {
    let here = tempfile::tempdir().unwrap();
    let files = here.path().join("files");
    let named = |number: u8, extension: &str| files.join(format!("{}.{extension}", task(number).id));
    {
        let store = open_with(here.path(), QUOTA);
        end(&store, "a", 0, &bytes(20_000));
        end(&store, "a", 1, &bytes(10));
        accept(&store, &task(2), &bytes(20_000));
    }
    let left = [named(2, "output"), named(3, "output"), named(0, "slice"), named(0, "assets")];
    left.iter().for_each(|path| std::fs::write(path, b"left").unwrap());
    let OpenedTasks { store, waiting } = open(here.path());
    assert_eq!(left.iter().filter(|path| path.exists()).count(), 0);
    assert!(waiting.len() == 1 && named(2, "slice").exists() && named(0, "output").exists());
    store.finish(&task(2).id, &done_with(&bytes(30_000)), Some(&bytes(30_000))).unwrap();
    assert!(output(&store, 0) == Some(bytes(20_000)) && output(&store, 2) == Some(bytes(30_000)));
}

#[test]
fn an_output_that_is_not_what_was_put_out_is_not_told() {
    let here = tempfile::tempdir().unwrap();
    let file = |number: u8| here.path().join(format!("files/{}.output", task(number).id));
    {
        let store = open_with(here.path(), QueueLimits { finished_max: 100, ..QUOTA });
        (0..5).for_each(|number| end(&store, "a", number, &bytes(20_000)));
        (5..8).for_each(|number| end(&store, "a", number, &bytes(2_000)));
    }
    let flipped: Vec<u8> = bytes(20_000).iter().map(|byte| byte ^ 1).collect();
    std::fs::write(file(0), flipped).unwrap();
    std::fs::write(file(1), bytes(19_999)).unwrap();
    std::fs::write(file(2), bytes(20_001)).unwrap();
    std::fs::remove_file(file(3)).unwrap();
    tamper(here.path(), |database, batch| {
        let pieces: Vec<_> = database.prefixed(&[OUTPUT]).map(|piece| piece.unwrap()).collect();
        assert_eq!(pieces.len(), 9);
        batch.remove(pieces[1].0.clone());
        batch.insert(pieces[4].0.clone(), pieces[4].1.iter().rev().copied().collect::<Vec<u8>>());
    });
    let store = open_with(here.path(), QueueLimits { finished_max: 100, ..QUOTA });
    let damaged = |number: u8| match store.output(&task(number).id) {
        Err(StoreError::OutputDamaged { path }) => path,
        read => panic!("{number}: {read:?}"),
    };
    assert_eq!([0, 1, 2, 3].map(damaged), [0, 1, 2, 3].map(file));
    assert_eq!([5, 6].map(damaged), [(); 2].map(|()| here.path().join("queue")));
    assert!(output(&store, 4) == Some(bytes(20_000)) && output(&store, 7) == Some(bytes(2_000)));
    assert!(matches!(store.output(&task(99).id), Ok(TaskOutput::Gone)));
}
