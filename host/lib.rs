//! A host for untrusted WebAssembly: a module and a slice of data in, a proof that anyone can check again out.
//!
//! The modules below stand in reading order, and each uses only those above it; `tests/it/tidy.rs` holds them to that.

/// The BLAKE3 name of some bytes.
pub mod digest;
/// Bytes where JSON is written.
pub mod binary;
/// Text for people: what strangers bring, unable to steer; times.
pub mod text;
/// What a run may use, and what it did use.
pub mod limits;
/// What several owners share, and how much of it each may hold.
pub mod shares;
/// The line in front of what is scarce, by turns of owners.
pub mod turns;
/// What the system lets this process have: files and threads.
pub mod process;
/// Files that are their user's alone, written whole or not at all.
pub mod private_file;
/// Who says so: the node's key, and the keys that it trusts.
pub mod key;
/// Bytes in, bytes out: everything that touches a guest.
pub mod sandbox;
/// `Slice`, `SliceId`; slice files.
pub mod slice;
/// `Workload`: Transcode, Inference, Module; the reference guests.
pub mod workload;
/// `SliceProof`: what came out, signed; its canonical bytes.
pub mod proof;
/// What the courier promises: `Receipt`; what it is promised: `Acknowledgement`.
pub mod receipt;
/// What must last: proofs, and what the courier has promised.
pub mod store;
/// Compiled modules, in memory and as files.
pub mod modules;
/// `WorkloadRunner`: cache, single flight, dispatch.
pub mod runner;
/// `Queue`: accepted slices, each run to an end, across restarts.
pub mod queue;
/// What was run, run again: on each engine, in a process of its own.
pub mod verify;
/// `PriceBoard`: what work is offered at lately, in exact quantiles; its file.
pub mod prices;
/// Bundles carried to whom they are for, and who was paid for it.
pub mod courier;
/// What is scraped from a node.
pub mod metrics;
/// Who may ask what over the network.
pub mod access;
/// The settings file, parsed once, checked once.
pub mod config;
/// Owns the parts and wires them.
pub mod node;
/// Files of slices, as the command line has them run.
pub mod batch;
/// What the command line asks of the running node.
pub mod orders;
/// The door for HTTP: routes, limits, status codes.
pub mod http;
/// The command line: one short function a command.
pub mod cli;
