//! Batches of slices for the command line. The running node executes a batch, or the command itself
//! does. A batch is one order, and its answers come in the order of the files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::binary::Binary;
use crate::digest::Digest;
use crate::modules::ModulesError;
use crate::node::Node;
use crate::private_file;
use crate::runner::{ASSETS_BYTES_MAX, Reuse, RunAnswer, RunError, RunRequest, WorkloadRunner};
use crate::slice::{NotASliceId, Slice, SliceId};
use crate::workload::{Asset, REFERENCE_NAMES, Workload};

/// Slices that run or wait for earlier answers. Enough for the proofs of many small slices to share
/// one write to disk. Each costs one handle.
const AHEAD: usize = 256;

/// The files to run, and the parameters that they share. Paths must be absolute if another process
/// reads them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchRequest {
    pub files: Vec<BatchFile>,
    pub guest: GuestSource,
    /// Name of the guest in messages.
    pub guest_name: String,
    pub args: Binary,
    /// Name in messages and source of each asset.
    pub assets: Vec<(String, AssetSource)>,
    pub gas: Option<u64>,
    pub memory_bytes: Option<u64>,
    pub timeout_ms: Option<u64>,
    pub id: Option<String>,
    pub no_cache: bool,
    pub with_output: bool,
}

/// A slice file, under its name in messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchFile {
    pub path: Binary,
    /// File with its bytes, if the slice came through a pipe.
    pub copy: Option<Binary>,
}

/// The source of an asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssetSource {
    File(Binary),
    /// The bytes themselves, for example from a pipe.
    Here(Binary),
}

/// The guest of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestSource {
    /// The name of each file tells the guest.
    OfFile,
    Named(String),
    Stored(Digest),
    Module(Binary),
}

/// The reason why a batch cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error("cannot read asset `{name}`, `{}`: {cause}", path.display())]
    Asset { name: String, path: PathBuf, cause: io::Error },
    #[error("`{name}` is refused [{code}]: {why}")]
    Refused { name: String, code: &'static str, why: String },
    #[error("cannot run `{name}`: {cause}")]
    Module { name: String, cause: Arc<ModulesError> },
    #[error(transparent)]
    Id(#[from] NotASliceId),
}

impl BatchError {
    fn of_module(name: &str, cause: Arc<ModulesError>) -> Self {
        match &*cause {
            ModulesError::Refused(report) if let Some(first) = report.refusals.first() => {
                let (name, code) = (name.to_owned(), first.code());
                Self::Refused { name, code, why: format!("{first}; {}", first.hint()) }
            }
            _ => Self::Module { name: name.to_owned(), cause },
        }
    }

    /// Returns a stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Asset { .. } => "asset_unreadable",
            Self::Refused { code, .. } => code,
            Self::Module { cause, .. } => cause.code(),
            Self::Id(_) => "malformed",
        }
    }
}

/// The reason why a slice has no answer: a stable code for programs, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceFailure {
    pub code: String,
    pub message: String,
}

impl SliceFailure {
    fn of(file: &Path, error: &RunError) -> Self {
        let message = match error {
            RunError::Sandbox(_) => format!("`{}`: {error}", file.display()),
            _ => error.to_string(),
        };
        Self { code: error.code().to_owned(), message }
    }
}

/// A batch that is ready to run.
pub struct Batch {
    runner: WorkloadRunner,
    slices: Vec<(PathBuf, Result<RunRequest, SliceFailure>)>,
    with_output: bool,
}

impl Batch {
    /// Prepares the shared parameters: reads the assets and compiles the module. May wait for the
    /// disk.
    pub fn open(order: BatchRequest, node: &Node) -> Result<Self, BatchError> {
        let workload = match order.guest {
            GuestSource::OfFile => None,
            GuestSource::Named(name) => Workload::named(&name),
            GuestSource::Stored(digest) => Some(Workload::Stored(digest)),
            GuestSource::Module(wasm) => {
                let prepared = node.runner.modules().prepare(wasm.0);
                let refused = |cause| BatchError::of_module(&order.guest_name, cause);
                Some(Workload::Module(prepared.map_err(refused)?))
            }
        };
        if let Some(workload) = &workload {
            let compiled = node.runner.modules().program(workload.module());
            compiled.map_err(|cause| BatchError::of_module(&order.guest_name, cause))?;
        }
        let assets = order.assets.into_iter().map(|(name, from)| {
            let path = match from {
                AssetSource::Here(bytes) => return Ok(Asset::new(bytes.0)),
                AssetSource::File(path) => path.into_path(),
            };
            let bytes = private_file::read_shared(&path, ASSETS_BYTES_MAX);
            bytes.map(Asset::new).map_err(|cause| BatchError::Asset { name, path, cause })
        });
        let mut limits = node.config.limits;
        limits.gas = order.gas.unwrap_or(limits.gas);
        limits.memory_bytes = order.memory_bytes.unwrap_or(limits.memory_bytes);
        let pattern = RequestTemplate {
            workload,
            id: order.id.map(|id| id.parse::<SliceId>()).transpose()?,
            args: order.args.0.into(),
            assets: assets.collect::<Result<_, _>>()?,
            limits,
            timeout: Some(Duration::from_millis(order.timeout_ms.unwrap_or(node.config.compute.timeout_ms))),
            reuse: if order.no_cache { Reuse::Never } else { Reuse::Allowed },
        };
        let bytes_max = node.config.compute.slice_bytes_max;
        let slices = order.files.into_iter().map(|file| {
            let (file, copy) = (file.path.into_path(), file.copy.map(Binary::into_path));
            let request = pattern.request(&file, copy.as_deref().unwrap_or(&file), bytes_max);
            (file, request)
        });
        Ok(Self { runner: node.runner.clone(), slices: slices.collect(), with_output: order.with_output })
    }

    /// Returns the total bytes of all slices.
    pub fn bytes(&self) -> u64 {
        self.slices.iter().filter_map(|(_, request)| Some(request.as_ref().ok()?.slice.bytes())).sum()
    }

    /// Runs the slices, several at once, and returns the answers in the order of the files.
    pub fn run(self) -> impl Stream<Item = Result<RunAnswer, SliceFailure>> {
        let Self { runner, slices, with_output } = self;
        stream::iter(slices)
            .map(move |(file, request)| {
                let runner = runner.clone();
                async move {
                    let request = request?;
                    let ran =
                        if with_output { runner.run_for_output(request).await } else { runner.run(request).await };
                    ran.map_err(|error| SliceFailure::of(&file, &error))
                }
            })
            .buffered(AHEAD)
    }
}

/// The parameters that all slices share.
struct RequestTemplate {
    /// `None` if the name of each file tells the workload.
    workload: Option<Workload>,
    id: Option<SliceId>,
    args: Arc<[u8]>,
    assets: Vec<Asset>,
    limits: crate::limits::Limits,
    timeout: Option<Duration>,
    reuse: Reuse,
}

impl RequestTemplate {
    /// Creates the request for the slice called `file`, whose bytes are in `content`.
    fn request(&self, file: &Path, content: &Path, bytes_max: u64) -> Result<RunRequest, SliceFailure> {
        let slice = Slice::from_file(content, bytes_max).map_err(|error| SliceFailure::of(file, &error.into()))?;
        let workload = self.workload.clone().or_else(|| Workload::of_file(file));
        let workload = workload.ok_or_else(|| SliceFailure {
            code: "unknown_workload".to_owned(),
            message: format!(
                "cannot tell the workload of `{}` from its name; say --workload {}, or give a --module",
                file.display(),
                REFERENCE_NAMES.join(" or --workload ")
            ),
        })?;
        Ok(RunRequest {
            id: self.id.clone(),
            args: self.args.clone(),
            assets: self.assets.clone(),
            limits: self.limits,
            reuse: self.reuse,
            timeout: self.timeout,
            ..RunRequest::new(workload, slice)
        })
    }
}
