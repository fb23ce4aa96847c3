//! The meter, held to its claim: a module that it has rewritten validates, does what it did, shows the same NaNs, and
//! costs the same, on every engine. These tests use the engines themselves, and nothing of the sandbox but the meter.

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
