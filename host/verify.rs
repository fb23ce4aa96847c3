//! Verification: runs a job again on each engine, in a confined process for each.

mod job;
mod child;
mod matrix;
mod recheck;
mod diff;
mod doctor;
mod profile;

pub use self::child::{COMMAND as VERIFY_COMMAND, serve_one_order};
pub use self::diff::{DiffSide, Difference, TraceError, TraceFile, diff, trace};
pub use self::doctor::{Diagnosis, doctor};
pub use self::job::{EngineResult, EngineRun, SliceSource};
pub use self::matrix::{Case, Cell, Matrix, NamedGuest, RunCount};
pub use self::profile::{FunctionGas, Profile, ProfileEntry, profile};
pub use self::recheck::{Verdict, recheck};
