//! Slices part: running and waiting slices.

use std::time::SystemTime;

use maud::{Markup, html};

use super::figures::{ago, bar, bytes, count, short};
use crate::access::Permission;
use crate::http::AppState;
use crate::http::auth::Caller;
use crate::http::problem::HttpProblem;
use crate::queue::Status;
use crate::runner::ActiveRun;
use crate::store::TaskWorkload;

/// Limit on shown waiting slices.
const WAITING_MAX: usize = 10;

pub fn render(served: &AppState, caller: &Caller) -> Result<Markup, HttpProblem> {
    let sees_all = caller.may(Permission::Admin);
    let mut running = served.node.runner.running();
    running.retain(|run| sees_all || run.scope == caller.scope);
    running.sort_by_key(|run| run.since);
    let waiting = served.queue.waiting(&caller.scope, WAITING_MAX);
    let (waiting, first) = waiting.map_err(|error| HttpProblem::of_host("store", &error))?;
    let now_ms = served.now_ms();
    Ok(html! {
        @if running.is_empty() {
            p .none { "No slice runs now." }
        } @else {
            (running_table(&running, sees_all, now_ms))
        }
        @if waiting > 0 {
            (waiting_table(waiting, &first, now_ms))
        } @else if !sees_all {
            p .none { "None of yours wait." }
        }
        @if sees_all {
            @let depth = served.queue.depth();
            p .note {
                "Accepted, from all: " (count(depth.waiting)) " waiting, " (count(depth.running)) " begun, "
                (bytes(depth.bytes)) ". Waiting for a thread: " (count(served.node.runner.waiting())) "."
            }
        }
    })
}

fn running_table(running: &[ActiveRun], shows_token: bool, now_ms: u64) -> Markup {
    html! {
        table .stacks {
            caption { "Running: " (count(running.len() as u64)) }
            thead {
                tr {
                    th scope="col" { "Slice" }
                    @if shows_token { th scope="col" { "Token" } }
                    th scope="col" { "Workload" }
                    th scope="col" { "Begun" }
                    th scope="col" { "Gas" }
                    th scope="col" { "Input" }
                }
            }
            tbody {
                @for run in running {
                    @let id = run.id.as_ref().map(|id| id.as_str());
                    @let name = id.unwrap_or("not known yet");
                    tr data-key=(key(run)) {
                        th scope="row" {
                            @match id {
                                Some(id) => (short(id)),
                                // A slice that was submitted without an id gets one only after the
                                // slice is read.
                                None => span .none { (name) }
                            }
                        }
                        @if shows_token { td data-label="Token" { (run.scope.token().unwrap_or("owner")) } }
                        td data-label="Workload" { (workload(run)) }
                        td data-label="Begun" { (ago(unix_ms(run.since), now_ms)) }
                        td data-label="Gas" { (bar(&format!("Gas of {name}"), run.gas_granted, run.gas_max, count)) }
                        td data-label="Input" {
                            @if run.bytes_read < run.input_bytes {
                                (bar(&format!("Input of {name}"), run.bytes_read, run.input_bytes, bytes)) " read"
                            } @else {
                                (bytes(run.input_bytes))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns a key for the row of a run. Two runs with the same start in nanoseconds would have the
/// same key; the script would then confuse their rows.
fn key(run: &ActiveRun) -> String {
    let since = run.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", run.scope.token().unwrap_or_default(), since.as_nanos())
}

fn workload(run: &ActiveRun) -> Markup {
    html! { (run.workload) " " (short(&run.module.to_string())) }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn waiting_table(count_of_all: u64, first: &[Status], now_ms: u64) -> Markup {
    html! {
        table .stacks {
            caption {
                "Waiting: " (count(count_of_all))
                @if count_of_all > first.len() as u64 { ", of which the next " (first.len()) }
            }
            thead {
                tr {
                    th scope="col" { "Task" }
                    th scope="col" { "Workload" }
                    th scope="col" { "Slice" }
                    th scope="col" { "Accepted" }
                }
            }
            tbody {
                @for status in first {
                    @let task = &status.known.task;
                    @let id = task.id.to_string();
                    tr data-key=(id) {
                        th scope="row" { a href={ "/v1/slices/" (id) } { (short(&id)) } }
                        td data-label="Workload" {
                            @match task.workload {
                                TaskWorkload::Transcode => "transcode",
                                TaskWorkload::Inference => "inference",
                                TaskWorkload::Stored(digest) => { "module " (short(&digest.to_string())) }
                            }
                        }
                        td data-label="Slice" { (bytes(status.known.slice_bytes)) }
                        td data-label="Accepted" { (ago(task.accepted_ms, now_ms)) }
                    }
                }
            }
        }
    }
}
