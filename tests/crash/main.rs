//! Processes killed at any moment. A kill leaves what the system was told to write, so beside it the order of what is
//! written, synced and told is read from a trace of system calls.
//!
//! Who is killed is this program, started again to play a part, or the node itself; who judges is this program, which opens
//! the store that is left and looks for what was promised.

mod books;
mod nodes;
mod order;
mod part;
mod queue_killed;
mod random;
mod receiver_killed;
mod trace;
mod windows;
