//! Slices that change while they are read, huge slices, and interrupted runs.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{NODE, Ran, Workplace, blake3};

/// BLAKE3 of 4 GiB of zeros (`head -c 4G /dev/zero | b3sum`).
const FOUR_GIB_OF_ZEROS: &str = "7dde7c9fed144013fedbe2b0bbf2d82f004b60b589485851cdec29b27be408d7";

#[test]
fn four_gib_take_less_than_100_mib_of_memory() {
    let here = Workplace::new();
    here.sparse("transcode.slice", 4 << 30);
    let (ran, peak_kib) = with_peak_memory(start(&here, "transcode.slice"));
    ran.is(0, &format!("{FOUR_GIB_OF_ZEROS}  transcode.slice\n"), "");
    assert!((1..100 << 10).contains(&peak_kib), "{peak_kib} KiB");
}

#[test]
fn slices_that_wait_take_no_memory_for_their_bytes() {
    let here = Workplace::new();
    for i in 0..400 {
        here.sparse(&format!("in/transcode-{i}.slice"), 1 << 20);
    }
    let (ran, peak_kib) = with_peak_memory(start(&here, "in"));
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 400), "{}", ran.stderr);
    assert!((1..100 << 10).contains(&peak_kib), "{peak_kib} KiB");
}

const CHANGED: &str =
    "error: slice `transcode.slice` changed while it was read; run it again when nothing writes to it\n";

#[test]
fn a_slice_that_shrinks_while_it_is_read_has_changed() {
    let here = Workplace::new();
    let slice = here.sparse("transcode.slice", 8 << 30);
    let node = start(&here, "transcode.slice");
    wait_until_read(&node, 64 << 20);
    std::fs::OpenOptions::new().write(true).open(slice).unwrap().set_len(1 << 30).unwrap();
    Ran::from(node.wait_with_output().unwrap()).is(2, "", CHANGED);
}

#[test]
fn a_slice_that_is_written_to_while_it_is_read_has_changed() {
    let here = Workplace::new();
    let slice = here.sparse("transcode.slice", 4 << 30);
    let node = start(&here, "transcode.slice");
    wait_until_read(&node, 64 << 20);
    std::fs::OpenOptions::new().write(true).open(slice).unwrap().write_all_at(b"x", 0).unwrap();
    Ran::from(node.wait_with_output().unwrap()).is(2, "", CHANGED);
}

#[test]
fn an_interruption_keeps_what_is_finished() {
    const SLICES: usize = 1000;
    let here = Workplace::new();
    // Names are long, so that the pipe is full long before the last line, and the node cannot
    // finish before it is interrupted.
    let padding = "x".repeat(180);
    for i in 0..SLICES {
        here.file(format!("in/transcode-{i:04}-{padding}.slice"), i.to_string());
    }
    let mut node = here.command(["compute", "run", "in"]);
    let mut node = node.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(node.stdout.take().unwrap());
    let mut printed = String::new();
    stdout.read_line(&mut printed).unwrap();
    interrupt(&node);
    stdout.read_to_string(&mut printed).unwrap();
    let lines = printed.lines().count();
    let mut ran = Ran::from(node.wait_with_output().unwrap());
    ran.stdout = String::new();
    ran.is(130, "", &format!("interrupted: {lines} of {SLICES} slices are done, and their proofs are kept\n"));
    assert!((1..SLICES).contains(&lines));

    let again = here.run("compute run --json in");
    let sources: Vec<_> = again.json().iter().map(|object| object["source"].clone()).collect();
    assert_eq!((again.code, sources.len()), (0, SLICES));
    assert!(sources[..lines].iter().all(|source| source == "store"), "what was printed had been kept");
    assert!(sources.iter().any(|source| source == "run"), "the rest was not run");
}

/// The second node gets the directory when the first one ends in any way, and finds its store
/// undamaged.
#[test]
fn a_node_that_waits_goes_on_when_the_other_is_interrupted_or_killed() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let here = Workplace::new();
        here.sparse("transcode.slice", 64 << 30);
        here.file("inference.slice", "a tensor");
        let first = start(&here, "transcode.slice");
        wait_until_read(&first, 64 << 20);
        let mut second = start(&here, "inference.slice");
        let mut note = String::new();
        let mut stderr = BufReader::new(second.stderr.take().unwrap());
        stderr.read_line(&mut note).unwrap();
        assert_eq!(note, "note: waiting for another node to be done with `node-data`\n");
        send(&first, signal);
        first.wait_with_output().unwrap();
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        let ran = Ran::from(second.wait_with_output().unwrap());
        assert_eq!(rest, "", "{signal:?}");
        ran.is(0, &format!("{}  inference.slice\n", blake3("a tensor")), "");
    }
}

#[test]
fn an_interruption_is_heard_also_while_nobody_reads() {
    let here = Workplace::new();
    let padding = "x".repeat(180);
    for i in 0..1000 {
        here.file(format!("in/transcode-{i:04}-{padding}.slice"), i.to_string());
    }
    let mut node = start(&here, "in");
    // A pipe holds 64 KiB. When the next line does not fit, the node blocks in the middle of the
    // write.
    while rustix::io::ioctl_fionread(node.stdout.as_ref().unwrap()).unwrap() < (64 << 10) - 500 {
        pause();
    }
    interrupt(&node);
    assert_eq!(node.wait().unwrap().code(), Some(130));
}

/// The reader of the output may stop early: `node compute run in | head -1`.
#[test]
fn a_reader_who_leaves_is_no_error() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let mut node = here.command(["compute", "run", "transcode.slice"]);
    let mut node = node.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(node.stdout.take());
    Ran::from(node.wait_with_output().unwrap()).is(0, "", "");

    let mut node = here.command(["compute", "run", "transcode-missing.slice", "transcode.slice"]);
    let mut node = node.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(node.stdout.take());
    assert_eq!(Ran::from(node.wait_with_output().unwrap()).code, 2, "what went wrong before is still an error");
}

/// `script` gives the node a terminal.
#[test]
fn what_takes_long_shows_its_progress_on_a_terminal() {
    let here = Workplace::new();
    here.sparse("transcode.slice", 16 << 30);
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &format!("{NODE} compute run transcode.slice"), "log"]);
    script.current_dir(here.path("")).env("TERM", "xterm").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut script = script.spawn().unwrap();
    let mut shown = Vec::new();
    let mut terminal = script.stdout.take().unwrap();
    while !String::from_utf8_lossy(&shown).contains("0/1 slices") {
        let mut some = [0; 4096];
        let count = terminal.read(&mut some).unwrap();
        assert!(count > 0, "it ended without: {}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&some[..count]);
    }
    assert!(String::from_utf8_lossy(&shown).contains("/16.00 GiB"), "{}", String::from_utf8_lossy(&shown));
    script.kill().unwrap();
    script.wait().unwrap();
}

fn start(here: &Workplace, slice: &str) -> Child {
    let mut command = here.command(["compute", "run", slice]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the node to end, and returns its peak memory in KiB.
fn with_peak_memory(mut node: Child) -> (Ran, u64) {
    let mut peak_kib = 0;
    while node.try_wait().unwrap().is_none() {
        // High-water mark of the resident set.
        peak_kib = proc_number(&node, "status", "VmHWM:").unwrap_or(peak_kib);
        pause();
    }
    (node.wait_with_output().unwrap().into(), peak_kib)
}

/// Returns when the node has read this many bytes; only the slice is that long.
fn wait_until_read(node: &Child, bytes: u64) {
    while proc_number(node, "io", "rchar:").expect("the node still reads") < bytes {
        pause();
    }
}

/// Returns a number from the process's files in `/proc`, while it lives.
fn proc_number(node: &Child, file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", node.id())).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Pauses between two polls of another process.
fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

fn interrupt(node: &Child) {
    send(node, rustix::process::Signal::INT);
}

fn send(node: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(node), signal).unwrap();
}
