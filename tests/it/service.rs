//! HTTP service: requests of module authors and buyers, and the responses.

mod access;
mod compilers;
mod confined;
mod ending;
mod heads;
mod local;
mod log;
mod metrics;
mod modules;
mod openapi;
mod prices;
mod shares;
mod signals;
mod slices;
mod tasks;
mod unread;

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::Value;

use crate::common::Workplace;
use crate::serving::{Message, PATIENCE, Serving};

/// A serving node, with its files in a directory of its own.
struct Service {
    node: Serving,
    here: Workplace,
}

impl Service {
    fn start() -> Self {
        Self::with("")
    }

    /// Starts a node with this config.
    fn with(config: &str) -> Self {
        let here = Workplace::new();
        here.file("node-data/config.toml", config);
        Self::again(here)
    }

    fn again(here: Workplace) -> Self {
        Self { node: Serving::start(here.command(["serve", "--listen", "127.0.0.1:0"])), here }
    }

    fn ask(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Message {
        let mut stream = TcpStream::connect(self.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&head(line, headers, body.len())).unwrap();
        stream.write_all(body).unwrap();
        Message::read(&mut stream).expect("there is an answer")
    }

    fn get(&self, path: &str) -> Message {
        self.ask(&format!("GET {path}"), &[], b"")
    }

    fn post(&self, path: &str, body: &[u8]) -> Message {
        self.ask(&format!("POST {path}"), &[], body)
    }

    /// Runs a slice with `transcode`, and returns the JSON response.
    fn transcode(&self, bytes: &[u8]) -> Value {
        let answer = self.post("/v1/slices?workload=transcode", bytes);
        assert_eq!(answer.status(), 200, "{answer:?}");
        answer.json()
    }
}

/// Builds the head of a request.
fn head(line: &str, headers: &[(&str, &str)], body_bytes: usize) -> Vec<u8> {
    let has_host = headers.iter().any(|(name, _)| *name == "host");
    let host = if has_host { "" } else { "host: localhost\r\n" };
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{line} HTTP/1.1\r\n{host}{lines}content-length: {body_bytes}\r\n\r\n").into_bytes()
}

impl Message {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Returns the status and, for an error, its code.
    fn said(&self) -> (u16, String) {
        (self.status(), self.code())
    }
}

/// A module that outputs its arguments, or fails with 7 if there are none.
const ECHO: &str = r#"(module
    (import "compute" "args_len" (func $args_len (result i64)))
    (import "compute" "args_read" (func $args_read (param i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 1)
    (func (export "run") (result i32)
        (if (i64.eqz (call $args_len)) (then (return (i32.const 7))))
        (call $output_write (i32.const 0) (call $args_read (i32.const 0) (i64.const 0) (i32.wrap_i64 (call $args_len))))
        (i32.const 0)))"#;
