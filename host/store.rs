//! Durable storage: proofs, accepted tasks, and the courier's bundles and acknowledgements. This is
//! the only module that uses sled.
//!
//! sled is not maintained. On a damaged disk it can lose or corrupt records, so all access goes
//! through the `database` module. `database` catches sled's panics when it opens a store, and
//! checks what sled returns. Each store decides what happens when it is damaged.

mod reserve;
mod group_commit;
mod database;
mod record;
mod journal;
mod retention;
mod proofs;
mod record_log;
mod bundles;
mod archive;
mod courier;
mod accepted;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::accepted::{
    AcceptError, NotATaskId, OpenedTasks, QueueLimits, StagedTask, Task, TaskId, TaskInfo, TaskInput, TaskOutcome,
    TaskOutput, TaskStore, TaskWorkload, WaitingTask,
};
pub use self::archive::{ArchiveOffset, ArchivedAck, Damage};
pub use self::bundles::{StagedBundle, WrittenBundle};
pub use self::courier::{
    ARCHIVED_AT_ONCE, CircuitBreaker, CourierStore, CourierTally, Credit, CreditTotals, DestinationTag, FailedAttempt,
    FsckReport, Received, SubmitResult,
};
pub use self::proofs::{OpenedProofs, ProofStore};
pub use self::reserve::Reserve;
pub use self::retention::{Evicted, Retention};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use the store `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("the store `{}` was written by a newer version of this program", path.display())]
    Version { path: PathBuf },
    #[error("the store `{}` failed: {message}", path.display())]
    Failed { path: PathBuf, message: String },
    #[error("cannot use `{}`: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
    #[error(
        "the courier's store `{}` is damaged: {message}; `node compute courier fsck` rebuilds it from the bundles and the archive",
        path.display()
    )]
    CourierDamaged { path: PathBuf, message: String },
    #[error(
        "the queue of accepted slices `{}` is damaged: {message}; bring it back from a copy, or move the directory aside: the \
         node then begins an empty queue, and what was accepted and has not ended is lost",
        path.display()
    )]
    AcceptedDamaged { path: PathBuf, message: String },
    #[error(
        "the disk of `{}` has {free} bytes left, and {reserved} are kept for what is under way (`store.reserve_bytes`); make room \
         on it",
        path.display()
    )]
    NoSpace { path: PathBuf, free: u64, reserved: u64 },
    #[error("what was accepted as task `{id}` is damaged; hand it in again")]
    TaskDamaged { id: TaskId },
    #[error("the output that is kept in `{}` is damaged, or was removed; hand the slice in again to have it", path.display())]
    OutputDamaged { path: PathBuf },
    #[error("a record of {bytes} bytes cannot be noted in `{}`: it has 1 to {max} bytes", path.display())]
    RecordLength { path: PathBuf, bytes: usize, max: usize },
    #[error("`{}` is of format {found}, and format {known} is read: use the program that wrote it", path.display())]
    Format { path: PathBuf, found: u16, known: u16 },
    #[error("{0}; `node compute courier fsck` says what is left, and makes again what can be")]
    Damaged(Damage),
    #[error(
        "the archive of acknowledgements ends at byte {bytes} of `{}`, and the database knows of {known} there: some are \
         gone; bring the file back, or `node compute courier fsck` says what is left",
        path.display()
    )]
    ArchiveShort { path: PathBuf, bytes: u64, known: u64 },
    #[error(
        "`{}` holds {bytes} bytes of acknowledgements that the database does not know of, more than a crash leaves: it \
         may be an older one; `node compute courier fsck` has it learn of them",
        path.display()
    )]
    ArchiveLong { path: PathBuf, bytes: u64 },
    #[error("{count} acknowledgements are too many to be added to `{}` at once: up to {max} are", path.display())]
    TooManyEntries { path: PathBuf, count: usize, max: usize },
    /// Failure of a write that several callers share.
    #[error(transparent)]
    Shared(#[from] Arc<StoreError>),
}

impl StoreError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self + Copy + '_ {
        |cause| Self::File { path: path.to_owned(), cause }
    }
}
