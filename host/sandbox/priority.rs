//! Priorities of threads and processes on the cores. Threads that answer requests go first, then
//! short runs, then compilers and long runs.
//!
//! The nice value decides how much of a core a thread gets. The time slice decides how soon another
//! thread gets the core: Linux lets a thread that wakes wait until the running one has used its
//! slice, and looks at that again at the next tick, 4 ms later at 250 Hz (`RUN_TO_PARITY` in
//! `kernel/sched/features.h`). So all threads of a node that serves have a short slice: each other
//! thread, also one of the kernel that serves the disk, gets a core at once. Slices can be set
//! since Linux 6.12 (`sched_setattr(2)`, `sched_runtime`).
//!
//! A failure is ignored: the threads then compete more for the cores.

use std::cell::Cell;
use std::time::Duration;

use rustix::process::getpriority_process;

/// Added to the nice value of a guest thread: it has a third of the weight of one that answers
/// requests.
const NICE_GUEST: i32 = 5;
/// Added to the nice value of a guest thread whose run is long: it has a third of the weight of one
/// with a short run. So short runs of one token slow the long runs of another by no more than that.
const NICE_LONG: i32 = 5;
/// Added to the nice value of a child process, which compiles a stranger's code or runs it again.
const NICE_CHILD: i32 = 10;

/// Time slice of a node's threads: the shortest that the system allows.
const SLICE: Duration = Duration::from_micros(100);

/// Sets the time slice of this process, which serves. Must run before it starts a thread: each
/// thread inherits the priority of the thread that starts it.
pub fn prioritise_server() {
    set_priority(0);
}

thread_local! {
    /// The kind of run that this thread has the priority of, if it belongs to a pool.
    static POOL_THREAD: Cell<Option<RunKind>> = const { Cell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Short,
    Long,
}

/// Lowers the priority of the calling thread, which belongs to a pool that runs guests.
pub fn lower_pool_thread() {
    POOL_THREAD.set(Some(RunKind::Short));
    set_priority(NICE_GUEST);
}

/// Lowers the priority of this pool thread further, because its run is long. Only a privileged
/// process could raise it again.
pub fn run_is_long() {
    if POOL_THREAD.get() == Some(RunKind::Short) {
        POOL_THREAD.set(Some(RunKind::Long));
        set_priority(NICE_LONG);
    }
}

/// Returns whether a run of this pool thread was long.
pub fn had_long_run() -> bool {
    POOL_THREAD.get() == Some(RunKind::Long)
}

/// Lowers the priority of this child process, while it has one thread.
pub fn lower_child() {
    set_priority(NICE_CHILD);
}

/// Adds to the nice value of the calling thread, and shortens its time slice.
fn set_priority(add_nice: i32) {
    let nice = getpriority_process(None).unwrap_or_default().saturating_add(add_nice).min(19);
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE.as_nanos() as u64,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: The kernel reads `size` bytes of `attributes`, which lives longer than the call, and
    // writes nothing unless the size is wrong; then it writes within them.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result != 0 {
        // A service manager may forbid the call. The nice value alone is worth having.
        let _ = rustix::process::nice(add_nice);
    }
}
