//! System limits of this process: open files and threads. They are checked before anything else
//! starts, so that a process with too few reports that clearly and does not fail later.

use std::io;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files for the stores, compilers, guests and the courier, and for the process itself.
const FILES_RESERVED: u64 = 96;

/// Minimum of open files. With fewer, none are left for connections.
pub const FILES_MIN: u64 = 160;

/// Files for slices and outputs that are in use at once. Each of them also takes memory for bodies,
/// which limits them to about this number. With fewer files in total, half of what remains is
/// reserved, so each connection may have one.
const FILES_OF_BODIES_MAX: u64 = 4_096;

/// One in this many files is reserved for the memory images of modules in memory.
const FILES_PER_PROGRAM: u64 = 8;

/// Threads for blocking work: stores, hashing and the disk. Other threads are counted one by one.
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

/// Raises the limit of open files as far as the system allows, and returns it.
pub fn raise_limit_of_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // If it cannot be raised, the current limit applies.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    files_max()
}

/// Returns how many files this process may have open.
pub fn files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns how many modules may stay in memory; each may use one file.
pub const fn programs_max(files_max: u64) -> u64 {
    files_max / FILES_PER_PROGRAM
}

/// Returns how many connections leave enough files for the stores and the modules.
pub fn connections_max(files_max: u64) -> Result<u64, ProcessError> {
    if files_max < FILES_MIN {
        return Err(ProcessError::Files { found: files_max });
    }
    let there = files_max - FILES_RESERVED - programs_max(files_max);
    Ok(there - (there / 2).min(FILES_OF_BODIES_MAX))
}

/// Starts this many threads at once, and ends them. Libraries panic or hang if they cannot start
/// their threads.
pub fn check_threads(needed: usize) -> Result<(), ProcessError> {
    check_threads_with(needed, |work| Builder::new().name("check".to_owned()).spawn(work))
}

type ThreadWork = Box<dyn FnOnce() + Send>;

fn check_threads_with(
    needed: usize,
    spawn: impl Fn(ThreadWork) -> io::Result<JoinHandle<()>>,
) -> Result<(), ProcessError> {
    let (mut started, mut ends) = (Vec::new(), Vec::new());
    let mut checked = Ok(());
    for found in 0..needed {
        // No owner: each channel is between this function and one thread.
        let (end, ended) = mpsc::channel::<()>();
        // The thread ends when its sender is dropped.
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
