//! Integration tests: the real binary as a user starts it, the library as a program uses it, and the rules that the
//! code keeps.

mod common;

mod bad_input;
mod command_line;
mod docs;
mod gate;
mod generator;
mod hostile;
mod mutations;
mod proofs;
mod runner;
mod store;
mod tidy;
mod under_way;
