//! What is asked of the runner.

use std::sync::Arc;
use std::time::Duration;

use super::answer::RunError;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::proof::{ASSETS_MAX, Blob, Job, profile};
use crate::sandbox::Input as _;
use crate::slice::{OpenSlice, Scope, Slice, SliceId};
use crate::workload::{Asset, Workload};

/// Arguments are hashed for each slice, and what is larger is better brought as an asset.
pub const ARGS_BYTES_MAX: u64 = 1 << 20;
/// Assets are held in memory, all of a job's at once.
pub const ASSETS_BYTES_MAX: u64 = 1 << 30;

/// What to run on what, and under which name.
#[derive(Clone)]
pub struct Request {
    /// Whose the id is: results and proofs are found again in the scope that they were asked for in.
    pub scope: Scope,
    /// Without one, the digest of all that decides the result.
    pub id: Option<SliceId>,
    pub workload: Workload,
    pub slice: Slice,
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub limits: Limits,
    pub reuse: Reuse,
    /// How long the guest may run; without one, until its gas is spent. What ends by it proves nothing.
    pub timeout: Option<Duration>,
}

impl Request {
    pub fn new(workload: Workload, slice: Slice) -> Self {
        Self {
            scope: Scope::OWNER,
            id: None,
            workload,
            slice,
            args: Arc::default(),
            assets: Vec::new(),
            limits: Limits::DEFAULT,
            reuse: Reuse::Allowed,
            timeout: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), RunError> {
        check_brought(&self.args, &self.assets)
    }

    /// All that decides the result.
    pub(super) fn job(&self, slice: &OpenSlice) -> Job {
        Job {
            workload: self.workload.name().to_owned(),
            module: self.workload.digest(),
            input: Blob { blake3: slice.digest(), bytes: slice.len() },
            args: Digest::of(&self.args),
            limits: self.limits.into(),
            assets: self.assets.iter().map(Asset::digest).collect(),
            profile: profile().digest(),
        }
    }
}

/// Whether a job may bring so much beside its slice.
pub fn check_brought(args: &[u8], assets: &[Asset]) -> Result<(), RunError> {
    if assets.len() > ASSETS_MAX {
        return Err(RunError::TooManyAssets(assets.len()));
    }
    let within = |what, bytes: u64, max: u64| match bytes {
        bytes if bytes <= max => Ok(()),
        bytes => Err(RunError::TooLong { what, bytes, max }),
    };
    within("arguments", args.len() as u64, ARGS_BYTES_MAX)?;
    within("assets", assets.iter().map(|asset| asset.bytes().len() as u64).sum(), ASSETS_BYTES_MAX)
}

/// Whether an earlier result will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// Runs anew, unless another caller is running it at this moment. An id that stands for other content is refused
    /// all the same, and a result that differs from the earlier one is an error.
    Never,
}
