//! Taking a slice in: its bytes as they come, then what is to be done with it; a task's id, when all of that is on disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use crate::limits::Limits;
use crate::runner::{Reuse, RunError, check_brought};
use crate::slice::{Scope, SliceId};
use crate::store::{AcceptError, Accepting, Task, TaskId, TaskWorkload};
use crate::workload::Asset;

/// What is to be done with a slice.
#[derive(Clone)]
pub struct TaskRequest {
    /// Without one, the digest of all that decides the result.
    pub slice_id: Option<SliceId>,
    pub workload: TaskWorkload,
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub limits: Limits,
    pub reuse: Reuse,
    /// How long the guest may run; without one, until its gas is spent.
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

/// Why a slice is not accepted. Nothing of it is kept then.
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
    /// A stable name for programs.
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

/// A slice that is being handed in. If it is dropped, nothing of it is kept.
pub struct Incoming {
    queue: Arc<Queue>,
    accepting: Accepting,
}

impl Queue {
    /// Begins to take in a slice from `scope`.
    pub fn begin(self: &Arc<Self>, scope: &Scope) -> Result<Incoming, QueueError> {
        Ok(Incoming { queue: self.clone(), accepting: self.store.begin(scope)? })
    }
}

impl Incoming {
    /// Refuses a slice of `bytes` for which there is no room now, before any of it is taken in.
    pub fn check_room(&self, bytes: u64) -> Result<(), QueueError> {
        let max = self.queue.settings.slice_bytes_max;
        if bytes > max {
            return Err(QueueError::TooLarge { max });
        }
        Ok(self.accepting.check_room(bytes)?)
    }

    /// Takes more of the slice's bytes. Writes to disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), QueueError> {
        let max = self.queue.settings.slice_bytes_max;
        if self.accepting.bytes().saturating_add(bytes.len() as u64) > max {
            return Err(QueueError::TooLarge { max });
        }
        Ok(self.accepting.write(bytes)?)
    }

    /// Returns when all of it is on disk: from then on the task will have an end, whatever happens to the process.
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
