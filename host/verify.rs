//! Verification: runs a job again on each engine, in a confined process for each.

mod order;
mod child;
mod matrix;
mod recheck;
mod diff;
mod doctor;
mod profile;

pub use self::child::{COMMAND as VERIFY_COMMAND, serve_one_order};
pub use self::diff::{Difference, Side, TraceError, TraceFile, diff, trace};
pub use self::doctor::{Diagnosis, doctor};
pub use self::matrix::{Case, Cell, Guest, Matrix, Repeats};
pub use self::order::{Answer, Found, Source};
pub use self::profile::{Part, Profile, What, profile};
pub use self::recheck::{Verdict, recheck};
