//! The measured node, in a process and a directory of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const NODE: &str = env!("CARGO_BIN_EXE_node");

pub struct Node {
    child: Child,
    directory: Option<TempDir>,
    pub address: SocketAddr,
    /// Time that the node before it took to end.
    pub ended_in: Duration,
}

impl Node {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a node with this `config.toml`.
    pub fn start_with(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.toml"), config).unwrap();
        Self::start_in(directory, Duration::ZERO)
    }

    fn start_in(directory: TempDir, ended_in: Duration) -> Self {
        let mut serve = Command::new(NODE);
        serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.path());
        let mut child = serve.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let listening = |line: String| Some(line.split_once("listening on http://")?.1.split('"').next()?.to_owned());
        let address = lines.find_map(listening).unwrap().parse().unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, directory: Some(directory), address, ended_in }
    }

    /// Ends the node as its owner would, and starts another on the same directory.
    pub fn restart(mut self) -> Self {
        let began = Instant::now();
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        let ended_in = began.elapsed();
        Self::start_in(self.directory.take().unwrap(), ended_in)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the node's resident memory.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a small module, a different one for each number.
pub fn module(number: u64) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const {number})))"#
    ))
    .unwrap()
}
