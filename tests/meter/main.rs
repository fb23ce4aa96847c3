//! Tests of the meter. A rewritten module must be valid, behave as before, show the same NaNs, and
//! cost the same, on every engine. These tests use the engines themselves, and only the meter of
//! the sandbox.

mod engines;
mod script;
mod start;
mod crowd;
mod scramble;

mod suite;
mod nan;
mod hostile;
mod endless;
mod way_back;
mod frames;
mod starting;
mod generated;
mod snapshots;
