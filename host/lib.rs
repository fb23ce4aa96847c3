//! A host for untrusted WebAssembly. The input is a module and a slice of data; the output is a
//! proof that anyone can check again.
//!
//! The modules below are in reading order, and each uses only those above it. `tests/it/tidy.rs`
//! checks that.

/// BLAKE3 digests of bytes, and of long inputs as a tree.
pub mod digest;
/// Bytes as base64 in JSON.
pub mod binary;
/// Text for people: untrusted text made safe for terminals and pages; times.
pub mod text;
/// Limits of a run, and its usage.
pub mod limits;
/// Shares of a common resource, and how much each owner may hold.
pub mod shares;
/// Fair queue in front of a scarce resource, round-robin over owners.
pub mod turns;
/// Resources that the system grants this process: files and threads.
pub mod process;
/// Private files: readable only by their user, and written as a whole or not at all.
pub mod private_file;
/// The node's signing key, and the keys that it trusts.
pub mod key;
/// Sandbox: runs one guest on one input. All code that touches a guest is here.
pub mod sandbox;
/// `Slice` and `SliceId`: input bytes, also in files.
pub mod slice;
/// `Workload`: Transcode, Inference, Module; the reference guests.
pub mod workload;
/// `SliceProof`: the signed result of a run, and its canonical bytes.
pub mod proof;
/// Receipts of the courier: `Receipt` is its own promise, `Acknowledgement` the receiver's.
pub mod receipt;
/// Durable storage: proofs, and the courier's obligations.
pub mod store;
/// Compiled modules, in memory and as files.
pub mod modules;
/// `WorkloadRunner`: cache, single flight, dispatch.
pub mod runner;
/// `Queue`: runs each accepted slice to an end, across restarts.
pub mod queue;
/// Verification: runs a job again on each engine, in its own process.
pub mod verify;
/// `PriceBoard`: recent offers for work, with exact quantiles; its file.
pub mod prices;
/// Courier: delivers bundles to their recipients, and records who was paid.
pub mod courier;
/// Metrics that can be scraped from a node.
pub mod metrics;
/// Permissions of callers over the network.
pub mod access;
/// The configuration file, parsed and checked once.
pub mod config;
/// Node: owns the parts and connects them.
pub mod node;
/// Batches of slice files for the command line.
pub mod batch;
/// Commands from the command line to the running node.
pub mod commands;
/// HTTP interface: routes, limits, status codes.
pub mod http;
/// Command line: one short function for each command.
pub mod cli;
