//! Uploads that wait for a compiler.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use compute_host::sandbox::COMPILE_COMMAND;

use super::access::{bearer, token};
use super::{Service, head};
use crate::serving::{PATIENCE, wait_for, wait_until};

/// Of a line of 256, one token gets nine times as many places as it leaves free.
const WAITING_MAX: usize = 230;

fn upload(service: &Service, who: &str, wasm: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(service.node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&head("POST /v1/modules", &[("authorization", who)], wasm.len())).unwrap();
    stream.write_all(wasm).unwrap();
    stream
}

/// Returns a module, a different one for each number. Many `functions` take the compiler a long
/// time.
fn module(number: usize, functions: usize) -> Vec<u8> {
    let work = "(local.set 0 (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 77))))".repeat(100);
    let functions = format!("(func (param i32) (result i32) {work} (local.get 0))").repeat(functions);
    let text = format!(
        r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const {number})) {functions})"#
    );
    let mut wasm = wat::parse_str(text).unwrap();
    // Larger modules get more time: a custom section of 3 MiB, its length as LEB128, with a name of
    // no bytes.
    if !functions.is_empty() {
        wasm.extend([0, 0x81, 0x80, 0xc0, 0x01, 0]);
        wasm.extend(vec![0; 3 << 20]);
    }
    wasm
}

/// A compiler that is suspended. A compiler that was suspended early might outlive its node.
struct Stopped(String);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.0]).status();
    }
}

/// Suspends the next compiler that this node starts, if it is still alive by then.
fn stop_a_compiler(service: &Service) -> Option<Stopped> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", service.node.child.id())).unwrap().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<String> =
        children.flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let is_compiler = |pid: &&String| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(COMPILE_COMMAND))
    };
    let compiler = children.iter().find(is_compiler)?;
    Command::new("kill").args(["-STOP", compiler]).status().unwrap().success().then_some(())?;
    // A compiler that has already exited cannot be suspended.
    let stands_still = || {
        let stat = std::fs::read_to_string(format!("/proc/{compiler}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
    };
    wait_for("the signal to arrive", || match stands_still() {
        Some('T') => Some(Some(Stopped(compiler.clone()))),
        Some('R' | 'S' | 'D') => None,
        _ => Some(None),
    })
}

#[test]
fn the_line_for_compilers_is_answered_429_where_it_is_long_and_leaves_another_token_its_turn() {
    let [greedy, modest] = ["greedy", "modest"].map(|name| token(name, "run upload"));
    let service = Service::with(&format!("[compute]\njobs = 1\n{}\n{}", greedy.1, modest.1));
    let (greedy, modest) = (bearer(&greedy.0), bearer(&modest.0));
    // The only compiler works for the greedy token, and does not finish.
    let mut held = Vec::new();
    let mut number = 0;
    let stopped = wait_for("a compiler that stands still", || {
        number += 1;
        let large = upload(&service, &greedy, &module(number, 600));
        let answered = || {
            large.set_nonblocking(true).unwrap();
            large.peek(&mut [0]).is_ok()
        };
        let stopped = wait_for("a compiler, or its answer", || {
            stop_a_compiler(&service).map(Some).or_else(|| answered().then_some(None))
        });
        held.push(large);
        stopped
    });

    let text = |who: &str| {
        let scraped = service.ask("GET /metrics", &[("authorization", who)], b"");
        String::from_utf8(scraped.body).unwrap()
    };
    let waiting = || {
        let text = text(&modest);
        text.lines().find_map(|line| line.strip_prefix("node_compiles_waiting ")?.parse::<usize>().ok()).unwrap()
    };
    held.extend((0..WAITING_MAX).map(|at| upload(&service, &greedy, &module(1_000 + at, 0))));
    wait_until("all of them to wait", || waiting() == WAITING_MAX);
    let refused = service.ask("POST /v1/modules", &[("authorization", &*greedy)], &module(5_000, 0));
    assert_eq!(refused.said(), (429, "busy".to_owned()), "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    let added = service.ask("POST /v1/modules", &[("authorization", &*modest)], &module(6_000, 0));
    assert_eq!(added.status(), 201, "{added:?}");
    assert_eq!(waiting(), WAITING_MAX, "nobody else's turn has come");
    // A client that disconnects frees its place in the line.
    drop(held);
    wait_until("those that left to be out of the line", || waiting() == 0);
    drop(stopped);
}
