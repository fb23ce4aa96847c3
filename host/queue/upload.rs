//! Upload of a task: first the bytes of the slice as they arrive, then the request. The task's id
//! is returned when all of it is on disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use crate::limits::Limits;
use crate::runner::{Reuse, RunError, check_brought};
use crate::slice::{SliceId, Tenant};
use crate::store::{AcceptError, StagedTask, Task, TaskId, TaskWorkload};
use crate::workload::Asset;

/// The workload and parameters for a slice.
#[derive(Clone)]
pub struct TaskRequest {
    /// If `None`, the id is the digest of everything that decides the result.
    pub slice_id: Option<SliceId>,
    pub workload: TaskWorkload,
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub limits: Limits,
    pub reuse: Reuse,
    /// Maximum time of the guest; `None` lets it run until its gas is spent.
    pub timeout: Option<Duration>,
}

impl TaskRequest {
    pub fn new(workload: TaskWorkload) -> Self {
        Self {
            slice_id: None,
            workload,
            args: Arc::default(),
            assets: Vec::new(),
            limits: Limits::DEFAULT,
            reuse: Reuse::Allowed,
            timeout: None,
        }
    }
}

/// The reason why a slice is not accepted. Nothing of it is stored then.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error("the slice has more than the {max} bytes that `serve.slice_bytes_max` in config.toml allows")]
    TooLarge { max: u64 },
    #[error(transparent)]
    Refused(RunError),
    #[error("the system gives no random bytes for an id: {0}")]
    Random(io::Error),
}

impl QueueError {
    /// Returns a stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Accept(AcceptError::Full { .. }) => "queue_full",
            Self::Accept(AcceptError::Store(_)) => "store",
            Self::TooLarge { .. } => "slice_too_large",
            Self::Refused(error) => error.code(),
            Self::Random(_) => "no_randomness",
        }
    }
}

/// An upload in progress. If it is dropped, nothing of it is stored.
pub struct TaskUpload {
    queue: Arc<Queue>,
    accepting: StagedTask,
}

impl Queue {
    /// Starts the upload of a slice from `scope`.
    pub fn begin(self: &Arc<Self>, scope: &Tenant) -> Result<TaskUpload, QueueError> {
        Ok(TaskUpload { queue: self.clone(), accepting: self.store.begin(scope)? })
    }
}

impl TaskUpload {
    /// Checks, before any byte is received, that the quota has space for a slice of `bytes`.
    pub fn check_room(&self, bytes: u64) -> Result<(), QueueError> {
        let max = self.queue.settings.slice_bytes_max;
        if bytes > max {
            return Err(QueueError::TooLarge { max });
        }
        Ok(self.accepting.check_room(bytes)?)
    }

    /// Appends bytes to the slice. Writes to disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let max = self.queue.settings.slice_bytes_max;
        if self.accepting.bytes().saturating_add(bytes.len() as u64) > max {
            return Err(QueueError::TooLarge { max });
        }
        Ok(self.accepting.write(bytes)?)
    }

    /// Makes the whole task durable and returns its id. From then on the task will have an outcome,
    /// whatever happens to the process.
    pub fn finish(self, request: TaskRequest) -> Result<TaskId, QueueError> {
        let Self { queue, accepting } = self;
        check_brought(&request.args, &request.assets).map_err(QueueError::Refused)?;
        let TaskRequest { slice_id, workload, args, assets, limits, reuse, timeout } = request;
        let task = Task {
            id: random_id().map_err(QueueError::Random)?,
            scope: accepting.scope().clone(),
            slice_id,
            workload,
            limits,
            timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            runs_anew: reuse == Reuse::Never,
            accepted_ms: (queue.settings.clock)(),
        };
        let waiting = accepting.finish(&task, &args, &assets)?;
        queue.live().add(waiting);
        queue.new_work.notify_one();
        Ok(task.id)
    }
}

fn random_id() -> io::Result<TaskId> {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    if filled == bytes.len() {
        Ok(TaskId::from_bytes(bytes))
    } else {
        Err(io::Error::other("the system gave fewer random bytes than it was asked for"))
    }
}
