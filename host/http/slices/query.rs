//! Query parameters of a request to run a slice.

use std::sync::Arc;
use std::time::Duration;

use super::super::AppState;
use super::super::auth::Caller;
use super::super::modules::{of_stored, parse_key};
use super::super::problem::HttpProblem;
use crate::access::Permission;
use crate::limits::Limits;
use crate::modules::ModuleKey;
use crate::proof::{self, profile};
use crate::queue::TaskRequest;
use crate::runner::{Reuse, RunRequest};
use crate::slice::{Slice, SliceId, Tenant};
use crate::store::TaskWorkload;
use crate::workload::{Asset, REFERENCE_NAMES, Workload};

const NAMES: [&str; 8] = ["module", "workload", "id", "arg", "gas", "memory_bytes", "timeout_ms", "no_cache"];

#[derive(Default)]
pub struct SliceQuery {
    module: Option<ModuleKey>,
    workload: Option<String>,
    id: Option<SliceId>,
    args: Vec<String>,
    gas: Option<u64>,
    memory_bytes: Option<u64>,
    timeout_ms: Option<u64>,
    no_cache: Option<bool>,
}

/// A job: all settings of a run but the slice itself.
pub struct SliceJob {
    id: Option<SliceId>,
    workload: TaskWorkload,
    /// Arguments of the query. Arguments of the body follow them.
    args: Vec<Vec<u8>>,
    limits: Limits,
    reuse: Reuse,
    timeout: Option<Duration>,
}

impl SliceQuery {
    pub fn parse(query: &str) -> Result<Self, HttpProblem> {
        let mut ask = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "module" => once(&mut ask.module, &name, parse_key(&value)?)?,
                "workload" => once(&mut ask.workload, &name, value.into_owned())?,
                "id" => {
                    let id = value.parse().map_err(|error| HttpProblem::malformed(format!("`id`: {error}")))?;
                    once(&mut ask.id, &name, id)?;
                }
                "arg" => ask.args.push(value.into_owned()),
                "gas" => once(&mut ask.gas, &name, number(&name, &value, i64::MAX as u64)?)?,
                "memory_bytes" => {
                    once(&mut ask.memory_bytes, &name, number(&name, &value, Limits::MEMORY_BYTES_MAX)?)?;
                }
                "timeout_ms" => once(&mut ask.timeout_ms, &name, number(&name, &value, i64::MAX as u64)?)?,
                "no_cache" => {
                    let wrong = |_| HttpProblem::malformed("`no_cache` is `true` or `false`");
                    once(&mut ask.no_cache, &name, value.parse().map_err(wrong)?)?;
                }
                other => {
                    let other: String = other.chars().take(64).collect();
                    let names = NAMES.join(", ");
                    return Err(HttpProblem::malformed(format!("there is no parameter {other:?}; there are {names}")));
                }
            }
        }
        if ask.module.is_some() == ask.workload.is_some() {
            let detail =
                format!("one of `module` and `workload` is to be given; workloads are {}", REFERENCE_NAMES.join(", "));
            return Err(HttpProblem::malformed(detail));
        }
        Ok(ask)
    }

    /// Builds the job that `caller` requests. All decisions that need only the head of the request
    /// are made here.
    pub fn job(self, served: &AppState, caller: &Caller) -> Result<SliceJob, HttpProblem> {
        let workload = self.workload(served)?;
        let config = &served.node.config;
        let mut limits = config.limits;
        limits.gas = lowered(caller, "gas", self.gas, limits.gas)?;
        limits.memory_bytes = lowered(caller, "memory_bytes", self.memory_bytes, limits.memory_bytes)?;
        let timeout_ms = lowered(caller, "timeout_ms", self.timeout_ms, config.compute.timeout_ms)?;
        Ok(SliceJob {
            id: self.id,
            workload,
            args: self.args.into_iter().map(String::into_bytes).collect(),
            limits,
            reuse: if self.no_cache == Some(true) { Reuse::Never } else { Reuse::Allowed },
            timeout: Some(Duration::from_millis(timeout_ms)),
        })
    }

    fn workload(&self, served: &AppState) -> Result<TaskWorkload, HttpProblem> {
        match (&self.module, &self.workload) {
            (Some(key), _) => {
                let found = served.node.runner.modules().find(key);
                Ok(TaskWorkload::Stored(found.map_err(|error| of_stored(&error))?))
            }
            (None, Some(name)) if name == Workload::Transcode.name() => Ok(TaskWorkload::Transcode),
            (None, Some(name)) if name == Workload::Inference.name() => Ok(TaskWorkload::Inference),
            (None, _) => {
                let names = REFERENCE_NAMES.join(", ");
                Err(HttpProblem::new(422, "unknown_workload", format!("there is no such workload; there are {names}")))
            }
        }
    }
}

impl SliceJob {
    pub const fn id(&self) -> Option<&SliceId> {
        self.id.as_ref()
    }

    /// Returns true if `known` may be this job, given the length of its input as far as it is
    /// known.
    pub fn may_be(&self, known: &proof::Job, input_bytes: Option<u64>) -> bool {
        known.module == Workload::from(self.workload).digest()
            && known.limits == self.limits.into()
            && known.profile == profile().digest()
            && input_bytes.is_none_or(|bytes| known.input.bytes == bytes)
    }

    /// Builds the request for an immediate run.
    pub fn request(self, scope: Tenant, slice: Slice, brought: Vec<Vec<u8>>, assets: Vec<Asset>) -> RunRequest {
        let Self { id, workload, args, limits, reuse, timeout } = self;
        let args = joined(args, brought);
        RunRequest { scope, id, args, assets, limits, reuse, timeout, ..RunRequest::new(workload.into(), slice) }
    }

    /// Builds the request for a queued run.
    pub fn task_request(self, brought: Vec<Vec<u8>>, assets: Vec<Asset>) -> TaskRequest {
        let Self { id: slice_id, workload, args, limits, reuse, timeout } = self;
        let args = joined(args, brought);
        TaskRequest { slice_id, workload, args, assets, limits, reuse, timeout }
    }
}

/// Joins arguments as a guest reads them: one after another, separated by a zero byte.
fn joined(mut args: Vec<Vec<u8>>, more: Vec<Vec<u8>>) -> Arc<[u8]> {
    args.extend(more);
    Arc::from(args.join(&0))
}

/// Returns the requested limit. A limit above that of the config needs a token with the admin
/// right.
fn lowered(caller: &Caller, name: &str, asked: Option<u64>, max: u64) -> Result<u64, HttpProblem> {
    match asked {
        Some(asked) if asked > max && !caller.holds(Permission::Admin) => {
            Err(HttpProblem::new(422, "limit_too_high", format!("`{name}` is {asked}; this node allows {max}")))
        }
        asked => Ok(asked.unwrap_or(max)),
    }
}

fn once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), HttpProblem> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(HttpProblem::malformed(format!("`{name}` is given twice"))),
    }
}

fn number(name: &str, text: &str, max: u64) -> Result<u64, HttpProblem> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| is_plain && (1..=max).contains(number));
    number.ok_or_else(|| HttpProblem::malformed(format!("`{name}` is a whole number from 1 to {max}")))
}
