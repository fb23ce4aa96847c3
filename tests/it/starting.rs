//! Starts that must fail, and directories that change under the node: each fault is named, or
//! repaired.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{NODE, Ran, Workplace, noise};
use crate::serving::{Message, PATIENCE, Serving};

fn pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Builds a command of the node in a shell that first sets limits.
fn limited(here: &Workplace, limits: &str, arguments: &[&str]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{limits}; exec \"$@\""), "sh", NODE]).args(arguments);
    shell.current_dir(here.path("")).stdin(Stdio::null());
    shell.env_remove("NODE_DATA_DIR").env_remove("NODE_JOBS").env_remove("RUST_BACKTRACE");
    shell
}

/// A pipe, a link or a directory instead of a file in the state makes the start fail at once, and
/// the message names it.
#[test]
fn odd_files_in_the_state_are_refused_by_name() {
    let here = Workplace::new();
    here.file("transcode.slice", "x");
    let node = Serving::start(here.command(["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(node.stop(), 0);
    let state = here.path("node-data/state");
    let places = [
        "lock",
        "cache.key",
        "node.key",
        "odd",
        "courier/journal",
        "accepted/journal",
        "proofs/db",
        "accepted/queue/conf",
    ];
    for place in places {
        let (path, aside) = (state.join(place), here.path("aside"));
        let was_there = fs::rename(&path, &aside).is_ok();
        for kind in ["a pipe", "a link"] {
            match kind {
                "a pipe" => pipe(&path),
                _ => symlink(&aside, &path).unwrap(),
            }
            let ran = here.run("serve --listen 127.0.0.1:0");
            assert_eq!(ran.code, 2, "{place} as {kind}: {ran:?}");
            assert!(ran.stderr.contains(place) && ran.stderr.contains(kind), "{place} as {kind}: {ran:?}");
            fs::remove_file(&path).unwrap();
        }
        if was_there {
            fs::rename(&aside, &path).unwrap();
        }
    }
    here.run("compute run transcode.slice").output();
}

#[test]
fn an_empty_config_of_a_start_that_failed_shows_the_defaults_again() {
    let here = Workplace::new();
    here.file("transcode.slice", "x");
    here.run("compute run transcode.slice").output();
    let config = here.path("node-data/config.toml");
    let whole = fs::read(&config).unwrap();
    assert!(whole.starts_with(b"# Settings"));
    fs::write(&config, "").unwrap();
    here.run("compute run transcode.slice").output();
    assert_eq!(fs::read(&config).unwrap(), whole);
}

#[test]
fn a_cache_that_is_removed_is_made_anew() {
    let here = Workplace::new();
    let node = Serving::start(here.command(["serve", "--listen", "127.0.0.1:0"]));
    let module = |n: u8| {
        format!(
            r#"(module (memory (export "memory") 1) (global i32 (i32.const {n})) (func (export "run") (result i32) (i32.const 0)))"#
        )
    };
    for n in 0..2 {
        let slice = noise(u64::from(n), 3_000_000);
        assert_eq!(ask(&node, "POST /v1/slices?workload=transcode", &slice).status(), 200, "{n}");
        assert_eq!(ask(&node, "POST /v1/modules", module(n).as_bytes()).status(), 201, "{n}");
        let code = fs::read_dir(here.path("node-data/cache")).unwrap();
        assert!(code.flatten().any(|entry| entry.path().extension().is_some_and(|extension| extension == "code")));
        fs::remove_dir_all(here.path("node-data/cache")).unwrap();
    }
    assert_eq!(node.stop(), 0);
}

#[test]
fn connections_leave_the_stores_their_files() {
    let here = Workplace::new();
    let node = Serving::start(limited(&here, "ulimit -n 256", &["serve", "--listen", "127.0.0.1:0"]));
    let mut held = TcpStream::connect(node.address).unwrap();
    held.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask_held = |line: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        write!(held, "{line} HTTP/1.1\r\nhost: localhost\r\n{headers}content-length: {length}\r\n\r\n").unwrap();
        held.write_all(body).unwrap();
        Message::read(&mut held).expect("there is an answer").status()
    };
    assert_eq!(ask_held("POST /v1/slices?workload=transcode", "", b"first"), 200);
    let silent: Vec<TcpStream> = (0..400).map_while(|_| TcpStream::connect(node.address).ok()).collect();
    assert!(silent.len() > 256, "{}", silent.len());
    let module = br#"(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const 0)))"#;
    assert_eq!(ask_held("POST /v1/slices?workload=transcode", "", b"second"), 200);
    assert_eq!(ask_held("POST /v1/slices?workload=transcode", "", &noise(1, 2_000_000)), 200);
    assert_eq!(ask_held("POST /v1/slices?workload=transcode", "prefer: respond-async\r\n", b"third"), 202);
    assert_eq!(ask_held("POST /v1/modules", "", module), 201);
    drop(silent);
    assert_eq!(node.stop(), 0);
}

#[test]
fn too_few_files_or_threads_are_refused_by_name() {
    let here = Workplace::new();
    let ran = Ran::of(limited(&here, "ulimit -n 100", &["serve", "--listen", "127.0.0.1:0"]));
    assert!(ran.code == 2 && ran.stderr.contains("100 files") && ran.stderr.contains("ulimit -Hn"), "{ran:?}");
    let said = "cannot start the threads that this takes";
    here.file("transcode.slice", "x");
    for threads in [1, 2, 4, 8, 12] {
        for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["compute", "run", "transcode.slice"]] {
            // The limit does not apply to root, and a user of its own has no other processes.
            let mut shell = Command::new("unshare");
            let script =
                format!("chown 54321 . && ulimit -u {threads} && exec setpriv --reuid 54321 --clear-groups \"$@\"");
            shell.args(["--fork", "bash", "-c", &script, "sh", NODE]).args(arguments).current_dir(here.path(""));
            shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let Ok(mut child) = shell.spawn() else { return };
            let mut stderr = String::new();
            child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            let code = child.wait().unwrap().code();
            if stderr.contains("setpriv") || stderr.contains("unshare") || stderr.contains("chown") {
                // The tester may not have the right to change users.
                return;
            }
            assert!(code == Some(2) && stderr.contains(said) && stderr.contains("ulimit -u"), "{threads}: {stderr}");
        }
    }
}

fn ask(node: &Serving, line: &str, body: &[u8]) -> Message {
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{line} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len()).unwrap();
    stream.write_all(body).unwrap();
    Message::read(&mut stream).expect("there is an answer")
}
