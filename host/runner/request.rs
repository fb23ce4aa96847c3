//! Requests to the runner.

use std::sync::Arc;
use std::time::Duration;

use super::answer::RunError;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::proof::{ASSETS_MAX, Blob, Job, profile};
use crate::sandbox::Input as _;
use crate::slice::{OpenSlice, Slice, SliceId, Tenant};
use crate::workload::{Asset, Workload};

/// Maximum bytes of arguments. Arguments are hashed for each slice, so larger data should be an
/// asset.
pub const ARGS_BYTES_MAX: u64 = 1 << 20;
/// Maximum bytes of all assets of a job, which are held in memory together.
pub const ASSETS_BYTES_MAX: u64 = 1 << 30;

/// A request: the workload, its slice, and the slice's id.
#[derive(Clone)]
pub struct RunRequest {
    /// The scope of the id. Results and proofs are found only in the scope that requested them.
    pub scope: Tenant,
    /// If `None`, the id is the digest of everything that decides the result.
    pub id: Option<SliceId>,
    pub workload: Workload,
    pub slice: Slice,
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub limits: Limits,
    pub reuse: Reuse,
    /// Maximum time of the guest; `None` lets it run until its gas is spent. A run that ends by its
    /// timeout proves nothing.
    pub timeout: Option<Duration>,
}

impl RunRequest {
    pub fn new(workload: Workload, slice: Slice) -> Self {
        Self {
            scope: Tenant::OWNER,
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

    /// Returns everything that decides the result.
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

/// Checks the number and size of the arguments and assets of a job.
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

/// Whether an earlier result may be returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// Runs again, unless another caller is running the same slice at this moment. An id that
    /// stands for other content is still refused. A result that differs from the earlier one is an
    /// error.
    Never,
}
