//! Crash tests: processes that are killed at any moment. The kernel still writes what a killed
//! process gave it, so a kill does not test durability. Therefore other tests read the order of
//! writes, syncs and replies from a trace of system calls.
//!
//! The victim is this program, started again in another role, or the node itself. This program then
//! opens the store that is left, and checks it against all promises.

mod books;
mod nodes;
mod order;
mod part;
mod queue_killed;
mod random;
mod receiver_killed;
mod trace;
mod windows;
