//! Integration tests: of the real binary as a user starts it, of the library as a program uses it,
//! and of rules about the sources.

mod common;
mod serving;

mod bad_input;
mod data_directory;
mod command_line;
mod compiler;
mod cost;
mod courier;
mod dashboard;
mod docs;
mod full_disk;
mod gate;
mod generator;
mod guests;
mod hostile;
mod job;
mod key;
mod limits;
mod modules;
mod mutations;
mod page;
mod pipes;
mod prices;
mod profile;
mod proofs;
mod queue;
mod runner;
mod running;
mod security;
mod service;
mod starting;
mod store;
mod tidy;
mod tutorial;
mod under_way;
mod verify;
