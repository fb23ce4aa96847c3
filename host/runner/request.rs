//! What is asked of the runner.

use std::sync::Arc;

use super::answer::RunError;
use crate::digest::Digest;
use crate::limits::Limits;
use crate::proof::{ASSETS_MAX, Blob, Job};
use crate::sandbox::Input as _;
use crate::slice::{OpenSlice, Slice, SliceId};
use crate::workload::{Asset, Workload};

/// What to run on what, and under which name.
#[derive(Clone)]
pub struct Request {
    /// Without one, the digest of all that decides the result.
    pub id: Option<SliceId>,
    pub workload: Workload,
    pub slice: Slice,
    pub args: Arc<[u8]>,
    pub assets: Vec<Asset>,
    pub limits: Limits,
    pub reuse: Reuse,
}

impl Request {
    pub fn new(workload: Workload, slice: Slice) -> Self {
        Self {
            id: None,
            workload,
            slice,
            args: Arc::default(),
            assets: Vec::new(),
            limits: Limits::DEFAULT,
            reuse: Reuse::Allowed,
        }
    }

    pub(super) fn check(&self) -> Result<(), RunError> {
        match self.assets.len() {
            0..=ASSETS_MAX => Ok(()),
            more => Err(RunError::TooManyAssets(more)),
        }
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
        }
    }
}

/// Whether an earlier result will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    Allowed,
    /// Runs anew, unless another caller is running it at this moment. An id that stands for other content is refused
    /// all the same, and a result that differs from the earlier one is an error.
    Never,
}
