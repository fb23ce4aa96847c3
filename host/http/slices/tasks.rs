//! Tasks: slices that were accepted to be run later. Their state, output, cancellation and events.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::{HeaderName, HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::AppState;
use super::super::answer::{ContentLocation, ImmutableContent};
use super::super::auth::Caller;
use super::super::negotiate::BYTES;
use super::super::problem::HttpProblem;
use crate::access::Permission;
use crate::queue::{QueueError, Status, TaskPhase};
use crate::runner::RunResult;
use crate::shares::Share;
use crate::slice::{SliceId, Tenant};
use crate::store::{AcceptError, StoreError, TaskId, TaskOutcome, TaskOutput, TaskWorkload};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Delay until a retry while the queue is full. A task may have ended by then.
const FULL_RETRY: Duration = Duration::from_secs(10);

/// Interval of progress events, counted from the last event of a stream. So the streams of one task
/// are not all written at once.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Returns whether the client prefers an asynchronous answer (RFC 7240).
pub fn is_preferred(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    preferences.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("respond-async"))
}

/// Returns the answer to a client whose slice was accepted: the task's status and its path.
pub async fn accepted(served: &AppState, scope: Tenant, id: TaskId) -> Result<Response, HttpProblem> {
    let status = status_of(served, &scope, &id).await?;
    let location =
        HeaderValue::try_from(path_of(&id)).map_err(|_| HttpProblem::new(500, "internal", "no such header"))?;
    let headers = [
        (LOCATION, location),
        (HeaderName::from_static("preference-applied"), "respond-async".parse().expect("it is a header's value")),
    ];
    Ok((StatusCode::ACCEPTED, headers, Json(shown(&id, &status))).into_response())
}

/// `GET /v1/slices/{task}`
pub async fn status(
    State(served): State<AppState>,
    caller: Caller,
    Path(task): Path<String>,
) -> Result<Json<Value>, HttpProblem> {
    let (scope, id) = asked(&caller, &task)?;
    Ok(Json(shown(&id, &status_of(&served, &scope, &id).await?)))
}

/// `GET /v1/slices/{task}/output`
pub async fn output(
    State(served): State<AppState>,
    caller: Caller,
    Path(task): Path<String>,
    headers: HeaderMap,
) -> Result<Response, HttpProblem> {
    let (scope, id) = asked(&caller, &task)?;
    let status = status_of(&served, &scope, &id).await?;
    let TaskPhase::Ended(TaskOutcome::Done { slice_id, output, .. }) = status.phase else {
        return Err(HttpProblem::new(409, "not_done", "this slice has no output; its status says what became of it"));
    };
    // Once the proof is forgotten, the slice's id may belong to another job.
    let is_it = |finished: &Arc<RunResult>| finished.output.is_some() && finished.proof.output() == output;
    if let Some(finished) = served.node.runner.finished(&scope, &slice_id).filter(is_it) {
        return super::content_of(finished).answer(&headers);
    }
    let queue = served.queue.clone();
    let bytes = match served.rooms.on_disk(&caller.scope, move || queue.output(&scope, &id)).await? {
        Ok(TaskOutput::Held(output)) => ContentLocation::Memory(output.into()),
        Ok(TaskOutput::File { file, bytes }) => ContentLocation::File { file, bytes },
        Ok(TaskOutput::Gone) => return Err(gone("the output is not kept any more")),
        Err(error @ StoreError::OutputDamaged { .. }) => {
            tracing::warn!(task = %id, "{error}");
            return Err(gone("the output was damaged on this node's disk"));
        }
        Err(error) => return Err(HttpProblem::of_host("store", &error)),
    };
    ImmutableContent { media_type: BYTES, digest: output.blake3, bytes }.answer(&headers)
}

fn gone(why: &str) -> HttpProblem {
    HttpProblem::new(410, "output_gone", format!("{why}, only its proof is there; hand the slice in again to have it"))
}

/// `POST /v1/slices/{task}/cancel`
pub async fn cancel(
    State(served): State<AppState>,
    caller: Caller,
    Path(task): Path<String>,
) -> Result<Json<Value>, HttpProblem> {
    let (scope, id) = asked(&caller, &task)?;
    let turn = served.rooms.disk_turn(&scope).await?;
    let cancelled = served.queue.cancel(&scope, &id).await;
    drop(turn);
    cancelled.map_err(|error| HttpProblem::of_host("store", &error))?;
    Ok(Json(shown(&id, &status_of(&served, &scope, &id).await?)))
}

/// `GET /v1/slices/{task}/events`
pub async fn events(
    State(served): State<AppState>,
    caller: Caller,
    Path(task): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, HttpProblem> {
    let (scope, id) = asked(&caller, &task)?;
    let place = served.rooms.event_streams.take(&scope, 1)?;
    // Subscribes before the status is read, so that no change is missed between the two.
    let changes = served.queue.watch(&scope, &id);
    let status = status_of(&served, &scope, &id).await?;
    let follow = TaskSubscription { stopping: served.stopping, id, status, changes, last: None, _place: place };
    Ok(Sse::new(stream::unfold(Some(follow), TaskSubscription::next)).keep_alive(KeepAlive::default()))
}

/// Subscription to the changes of a task. It needs no read of the disk.
struct TaskSubscription {
    stopping: watch::Receiver<bool>,
    id: TaskId,
    status: Status,
    /// `None` once it has ended.
    changes: Option<watch::Receiver<TaskPhase>>,
    last: Option<Value>,
    _place: Share<Tenant>,
}

impl TaskSubscription {
    /// Returns the next event. The last event is the task's end.
    async fn next(this: Option<Self>) -> Option<(Result<Event, Infallible>, Option<Self>)> {
        let mut this = this?;
        loop {
            let told = shown(&this.id, &this.status);
            let has_ended = matches!(this.status.phase, TaskPhase::Ended(_));
            if has_ended || this.last.as_ref() != Some(&told) {
                let event = Event::default().event("status").data(told.to_string());
                this.last = Some(told);
                return Some((Ok(event), (!has_ended).then_some(this)));
            }
            this.changed().await?;
        }
    }

    /// Waits for a change, or for progress.
    async fn changed(&mut self) -> Option<()> {
        let changes = self.changes.as_mut()?;
        let mut progress_due = pin!(tokio::time::sleep(PROGRESS_EVERY));
        let mut has_progress = false;
        loop {
            tokio::select! {
                changed = changes.changed() => changed.ok()?,
                () = &mut progress_due, if has_progress => return Some(()),
                _ = self.stopping.wait_for(|stopping| *stopping) => return None,
            }
            let phase = changes.borrow_and_update().clone();
            has_progress =
                matches!((&self.status.phase, &phase), (TaskPhase::Running { .. }, TaskPhase::Running { .. }));
            self.status.phase = phase;
            if !has_progress {
                return Some(());
            }
        }
    }
}

fn asked(caller: &Caller, task: &str) -> Result<(Tenant, TaskId), HttpProblem> {
    caller.require(Permission::Run)?;
    Ok((caller.scope.clone(), task.parse().map_err(|_| none())?))
}

async fn status_of(served: &AppState, scope: &Tenant, id: &TaskId) -> Result<Status, HttpProblem> {
    let (queue, owner, id) = (served.queue.clone(), scope.clone(), *id);
    let status = served.rooms.on_disk(scope, move || queue.status(&owner, &id)).await?;
    status.map_err(|error| HttpProblem::of_host("store", &error))?.ok_or_else(none)
}

fn none() -> HttpProblem {
    HttpProblem::new(404, "no_such_task", "this node has accepted no slice under this id, or it has ended long ago")
}

fn path_of(id: &TaskId) -> String {
    format!("/v1/slices/{id}")
}

fn shown(id: &TaskId, status: &Status) -> Value {
    let known = &status.known;
    let state = match &status.phase {
        TaskPhase::Waiting { .. } => "waiting",
        TaskPhase::Running { .. } => "running",
        TaskPhase::Ended(TaskOutcome::Done { .. }) => "done",
        TaskPhase::Ended(TaskOutcome::Failed { .. }) => "failed",
    };
    let workload = match known.task.workload {
        TaskWorkload::Transcode => json!("transcode"),
        TaskWorkload::Inference => json!("inference"),
        TaskWorkload::Stored(digest) => json!(digest),
    };
    let mut object = json!({
        "task": id.to_string(),
        "state": state,
        "workload": workload,
        "slice_bytes": known.slice_bytes,
        "accepted_unix_ms": known.task.accepted_ms,
        "status": path_of(id),
        "events": path_of(id) + "/events",
    });
    match &status.phase {
        TaskPhase::Waiting { ahead, attempts } => {
            object["ahead"] = json!(ahead);
            object["attempts"] = json!(attempts);
        }
        TaskPhase::Running { progress } => {
            object["gas"] = json!(progress.gas_granted());
            object["gas_max"] = json!(known.task.limits.gas);
            object["bytes_read"] = json!(progress.bytes_read());
        }
        TaskPhase::Ended(TaskOutcome::Done { slice_id, outcome, output }) => {
            object["slice_id"] = json!(slice_id.as_str());
            object["outcome"] = json!(outcome.code().0);
            object["proof"] = json!(proof_path(slice_id));
            object["output"] = json!(path_of(id) + "/output");
            object["output_bytes"] = json!(output.bytes);
        }
        TaskPhase::Ended(TaskOutcome::Failed { code, message }) => {
            object["error"] = json!({ "code": code, "message": message });
        }
    }
    object
}

fn proof_path(id: &SliceId) -> String {
    format!("/v1/proofs/{}", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC))
}

impl From<QueueError> for HttpProblem {
    fn from(error: QueueError) -> Self {
        match &error {
            QueueError::Accept(AcceptError::Full { .. }) => {
                Self::new(429, error.code(), error.to_string()).after(Some(FULL_RETRY))
            }
            QueueError::TooLarge { .. } => Self::new(413, error.code(), error.to_string()),
            QueueError::Refused(error) => super::of_run(error),
            QueueError::Accept(AcceptError::Store(_)) | QueueError::Random(_) => Self::of_host(error.code(), &error),
        }
    }
}
