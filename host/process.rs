//! Limits that the system sets for this process: open files and threads. They are looked at before anything starts, so that a
//! process with too few of them says so and does not fail somewhere later.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that the stores, compilers, guests and the courier hold at once, and those of the process itself.
const FILES_RESERVED: u64 = 96;

/// A node with fewer has no room for connections.
pub const FILES_MIN: u64 = 160;

/// Slices and outputs in files that are under way at once, each of which also takes memory for bodies: that bounds them to some
/// such number. Below it, each connection may have one.
const FILES_OF_BODIES_MAX: u64 = 4_096;

/// One of so many files may be the memory image of a module that stays in memory.
const FILES_PER_PROGRAM: u64 = 8;

/// Threads for work that blocks, beside those that are counted one by one: stores, hashing, the disk.
pub const THREADS_RESERVED: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("this process may have {found} files open, and the node needs {FILES_MIN}; raise the limit (`ulimit -Hn`)")]
    Files { found: u64 },
    #[error(
        "cannot start the threads that this takes: the system gave {found} of {needed} ({cause}); raise the user's limit of \
         processes (`ulimit -u`) or that of the service (`TasksMax`)"
    )]
    Threads { found: usize, needed: usize, cause: io::Error },
}

/// Raises the limit of open files as far as the system lets it, and returns it.
pub fn raise_limit_of_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, what it is counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    files_max()
}

/// The files that this process may have open.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The modules that may stay in memory, each of which may take a file.
pub const fn programs_max(files_max: u64) -> u64 {
    files_max / FILES_PER_PROGRAM
}

/// The connections that leave the stores and the programs their files.
pub fn connections_max(files_max: u64) -> Result<u64, ProcessError> {
    if files_max < FILES_MIN {
        return Err(ProcessError::Files { found: files_max });
    }
    let there = files_max - FILES_RESERVED - programs_max(files_max);
    Ok(there - (there / 2).min(FILES_OF_BODIES_MAX))
}

/// Starts so many threads at once, and ends them. Libraries panic or wait for ever where they cannot start theirs.
pub fn check_threads(needed: usize) -> Result<(), ProcessError> {
    check_threads_with(needed, |work| Builder::new().name("check".to_owned()).spawn(work))
}

type Work = Box<dyn FnOnce() + Send>;

fn check_threads_with(needed: usize, spawn: impl Fn(Work) -> io::Result<JoinHandle<()>>) -> Result<(), ProcessError> {
    let (mut started, mut ends) = (Vec::new(), Vec::new());
    let mut checked = Ok(());
    for found in 0..needed {
        // No owner: each is between this function and one thread.
        let (end, ended) = mpsc::channel::<()>();
        // It ends when its end of the channel goes.
        let work = move || {
            let _ = ended.recv();
        };
        match spawn(Box::new(work)) {
            Ok(thread) => {
                started.push(thread);
                ends.push(end);
            }
            Err(cause) => {
                checked = Err(ProcessError::Threads { found, needed, cause });
                break;
            }
        }
    }
    drop(ends);
    started.into_iter().for_each(|thread| drop(thread.join()));
    checked
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn connections_leave_files_for_everything_else() {
        for files in [FILES_MIN, 256, 1_024, 4_096, 20_000, 1 << 20, u64::MAX] {
            let connections = connections_max(files).unwrap();
            let held = connections + connections.min(FILES_OF_BODIES_MAX);
            assert!(connections > 0 && held + programs_max(files) <= files - FILES_RESERVED, "{files}");
        }
        assert!(connections_max(20_000).unwrap() >= 12_000, "with enough files the config decides");
        let error = connections_max(FILES_MIN - 1).unwrap_err().to_string();
        assert!(error.contains("159 files") && error.contains("ulimit -Hn"), "{error}");
    }

    #[test]
    fn too_few_threads_are_refused_by_name() {
        check_threads(8).unwrap();
        for there in 0..8 {
            let left = Cell::new(there);
            let checked = check_threads_with(8, |work| {
                left.set(left.get() - 1);
                if left.get() < 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Builder::new().spawn(work) }
            });
            let error = checked.unwrap_err().to_string();
            assert!(error.contains(&format!("{there} of 8")) && error.contains("ulimit -u"), "{error}");
        }
    }
}
