//! Worker of the queue: runs several tasks at once, until it is stopped.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinError, JoinSet};

use super::{Dequeued, Queue, RunningTask, retry};
use crate::runner::{Reuse, RunAnswer, RunError, RunProgress, RunRequest, RunResult};
use crate::slice::Tenant;
use crate::store::{StoreError, TaskId, TaskOutcome, WaitingTask};

/// Interval at which the watchers of a running task get its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The result of an attempt.
enum Attempt {
    Ended {
        ending: TaskOutcome,
        /// Present if the run has a result.
        finished: Option<Arc<RunResult>>,
    },
    Again,
}

/// Guard of an active task. If it is dropped before the task has ended, the task is requeued. On
/// disk the task never stopped waiting.
struct DequeuedTask {
    queue: Arc<Queue>,
    /// `None` once the task has ended.
    waiting: Option<WaitingTask>,
}

impl Drop for DequeuedTask {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.queue.live().requeue(waiting, Instant::now());
            self.queue.new_work.notify_one();
        }
    }
}

impl Queue {
    /// Runs tasks until `stop` completes. Then it starts no more, and returns when the active tasks
    /// have ended. A caller that cannot wait drops the future; active tasks then start again at the
    /// next start.
    pub async fn work(self: &Arc<Self>, stop: impl Future<Output = ()>) {
        // No owner: each task holds a permit, which has an owner.
        let mut under_way = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            loop {
                let taken = self.live().take(Instant::now(), |scope| self.places.try_take(scope));
                let Some((waiting, running, place)) = taken else { break };
                let queue = self.clone();
                under_way.spawn(async move {
                    queue.run_task(waiting, running).await;
                    drop(place);
                });
            }
            let due = self.live().delayed.first_key_value().map(|((due, _), _)| *due);
            tokio::select! {
                () = &mut stop => break,
                () = self.new_work.notified() => {}
                Some(_) = under_way.join_next() => {}
                () = until(due) => {}
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    /// Cancels a task, which then ends without a result. If the task reaches an outcome first, that
    /// outcome counts. Returns `None` if `scope` has no such task.
    pub async fn cancel(self: &Arc<Self>, scope: &Tenant, id: &TaskId) -> Result<Option<TaskOutcome>, StoreError> {
        loop {
            let taken = self.live().dequeue(scope, id);
            match taken {
                Some(Dequeued::Waited(waiting)) => {
                    let mut taken = DequeuedTask { queue: self.clone(), waiting: Some(waiting.clone()) };
                    let ended = self.end(&waiting, &cancelled(), None).await?;
                    taken.waiting = None;
                    self.live().end(id, &ended);
                    tell(id, &cancelled(), None);
                }
                Some(Dequeued::Runs { cancel, mut changes }) => {
                    cancel.notify_one();
                    // A requeued task is cancelled by the next iteration.
                    if changes.changed().await.is_ok() {
                        continue;
                    }
                }
                None => {}
            }
            break;
        }
        let known = self.store.task(id)?.filter(|known| known.task.scope == *scope);
        Ok(known.and_then(|known| known.ending))
    }

    async fn run_task(self: Arc<Self>, waiting: WaitingTask, running: RunningTask) {
        let mut taken = DequeuedTask { queue: self.clone(), waiting: Some(waiting.clone()) };
        let attempt = tokio::select! {
            attempt = self.attempt(&waiting, &running.progress) => attempt,
            () = running.cancel.notified() => Attempt::failed(cancelled()),
            never = self.tell_progress(&waiting.id, &running.progress) => match never {},
        };
        let Attempt::Ended { ending, finished } = attempt else { return };
        let mut tries = 0;
        let mut kept = finished.clone();
        let ended = loop {
            let error = match self.end(&waiting, &ending, kept.clone()).await {
                Ok(ended) => break ended,
                // The task's record is gone, so there is nothing to store.
                Err(StoreError::TaskDamaged { .. }) => break ending.clone(),
                Err(error) => error,
            };
            // The result must not be reported before it is on disk. The permit that this task holds
            // meanwhile slows the other tasks down.
            tracing::error!(task = %waiting.id, "that a slice has ended cannot be written, and is tried again: {error}");
            tries += 1;
            tokio::time::sleep(retry::delay(tries.min(retry::STORE_ATTEMPTS))).await;
            if tries == retry::ATTEMPTS_MAX {
                // Drop the output: the outcome alone may fit on a full disk. No caller should wait
                // for ever.
                kept = None;
            }
        };
        taken.waiting = None;
        self.live().end(&waiting.id, &ended);
        tell(&waiting.id, &ending, finished.as_deref());
    }

    /// Notifies the watchers of a task about its progress, as long as the future is polled.
    async fn tell_progress(&self, id: &TaskId, progress: &RunProgress) -> Infallible {
        let far = || (progress.gas_granted(), progress.bytes_read());
        let mut told = far();
        loop {
            tokio::time::sleep(PROGRESS_EVERY).await;
            if std::mem::replace(&mut told, far()) != told {
                self.live().tell(id);
            }
        }
    }

    async fn attempt(self: &Arc<Self>, waiting: &WaitingTask, progress: &RunProgress) -> Attempt {
        let (queue, id) = (self.clone(), waiting.id);
        let read = tokio::task::spawn_blocking(move || queue.request(id)).await;
        let request = match read {
            Ok(Ok(request)) => request,
            Ok(Err(StoreError::TaskDamaged { .. })) => return Attempt::failed(retry::damaged(&id)),
            Ok(Err(error)) => return self.failed(waiting, &error.into()),
            Err(_) => return Attempt::Again,
        };
        let answered = match self.runner.run_watched(request.clone(), progress).await {
            Ok(answer) if self.lacks_output(&answer) => self.run_for_output(waiting, request, progress, answer).await,
            answered => answered,
        };
        match answered {
            Ok(RunAnswer { finished, .. }) => {
                let (slice_id, output) = (finished.proof.slice_id().clone(), finished.proof.output());
                let ending = TaskOutcome::Done { slice_id, outcome: finished.outcome, output };
                Attempt::Ended { ending, finished: Some(finished) }
            }
            Err(error) => self.failed(waiting, &error),
        }
    }

    /// Returns whether only the proof is stored, although the output would fit the quota.
    fn lacks_output(&self, answer: &RunAnswer) -> bool {
        let finished = &answer.finished;
        finished.output.is_none() && finished.proof.output().bytes <= self.settings.quota.outputs_bytes_max
    }

    /// Runs a known job again for its output. If that is impossible, for example because its module
    /// is gone, the known proof is still the result.
    async fn run_for_output(
        &self,
        waiting: &WaitingTask,
        request: RunRequest,
        progress: &RunProgress,
        known: RunAnswer,
    ) -> Result<RunAnswer, RunError> {
        match self.runner.run_watched(RunRequest { reuse: Reuse::Never, ..request }, progress).await {
            Err(error) if self.is_tried_again(waiting, &error) || matches!(error, RunError::NotReproduced(_)) => {
                Err(error)
            }
            Err(error) => {
                tracing::warn!(task = %waiting.id, "what its guest put out cannot be had once more: {error}");
                Ok(known)
            }
            answered => answered,
        }
    }

    fn is_tried_again(&self, waiting: &WaitingTask, error: &RunError) -> bool {
        let mut live = self.live();
        let Some(task) = live.tasks.get_mut(&waiting.id) else { return false };
        if retry::is_the_stores(error) {
            task.attempts = task.attempts.min(retry::STORE_ATTEMPTS);
        }
        retry::is_transient(error) && task.attempts < retry::ATTEMPTS_MAX
    }

    fn failed(&self, waiting: &WaitingTask, error: &RunError) -> Attempt {
        if self.is_tried_again(waiting, error) {
            return Attempt::Again;
        }
        Attempt::failed(retry::ending(&waiting.id, error))
    }

    fn request(&self, id: TaskId) -> Result<RunRequest, StoreError> {
        let known = self.store.task(&id)?.ok_or(StoreError::TaskDamaged { id })?;
        let content = self.store.content(&id)?;
        let task = known.task;
        Ok(RunRequest {
            scope: task.scope,
            id: task.slice_id,
            args: content.args,
            assets: content.assets,
            limits: task.limits,
            reuse: if task.runs_anew { Reuse::Never } else { Reuse::Allowed },
            timeout: task.timeout_ms.map(Duration::from_millis),
            ..RunRequest::new(task.workload.into(), content.slice)
        })
    }

    /// Makes the outcome and the guest's output durable.
    async fn end(
        &self,
        waiting: &WaitingTask,
        ending: &TaskOutcome,
        finished: Option<Arc<RunResult>>,
    ) -> Result<TaskOutcome, StoreError> {
        let (store, id, ending) = (self.store.clone(), waiting.id, ending.clone());
        let end = move || {
            let output = finished.as_ref().and_then(|finished| finished.output.as_deref());
            store.finish(&id, &ending, output)
        };
        let ended = tokio::task::spawn_blocking(end).await;
        let stopped =
            |error: JoinError| StoreError::Io { path: self.store.directory().to_owned(), cause: error.into() };
        ended.map_err(stopped)?
    }
}

impl Attempt {
    const fn failed(ending: TaskOutcome) -> Self {
        Self::Ended { ending, finished: None }
    }
}

/// Logs the outcome. The HTTP layer has already logged the task's id with the id of the request
/// that created it.
fn tell(id: &TaskId, ending: &TaskOutcome, finished: Option<&RunResult>) {
    match ending {
        TaskOutcome::Done { slice_id, outcome, .. } => {
            let claim = finished.map(|finished| tracing::field::display(finished.proof.claim_digest()));
            let outcome = outcome.code().0;
            tracing::debug!(task = %id, %slice_id, outcome, claim, "an accepted slice has ended");
        }
        TaskOutcome::Failed { code, .. } => tracing::debug!(task = %id, code, "an accepted slice has failed"),
    }
}

fn cancelled() -> TaskOutcome {
    TaskOutcome::failed("cancelled", "whoever handed it in has cancelled it")
}

/// Waits until `due`, or for ever if there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
