//! Order of durability: each acknowledged item is on disk before the acknowledgement. The order of
//! writes, syncs, renames and replies is read from a trace of the node. That stands in for a power
//! failure, which a kill does not simulate.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use compute_host::courier::Peer;
use compute_host::digest::Digest;
use rustix::process::{Pid, Signal, kill_process};

use crate::nodes;
use crate::part::{self, Part};
use crate::queue_killed::QueuePart;
use crate::trace::{self, Call};

const NODE: &str = env!("CARGO_BIN_EXE_node");
const BUNDLE: &[u8] = b"a bundle that is to be there when the power comes back";

/// The calls of one run, and the directory of the store that is checked.
struct Run {
    calls: Vec<Call>,
    store: PathBuf,
}

impl Run {
    /// Returns the one call that sends the reply, whose bytes begin with `begins`.
    fn reply(&self, begins: &str) -> &Call {
        let told = |call: &&Call| {
            let tells = matches!(&*call.name, "write" | "writev" | "sendto" | "sendmsg");
            tells && call.arguments.contains(&format!("\"{begins}"))
        };
        let told: Vec<&Call> = self.calls.iter().filter(told).collect();
        assert_eq!(told.len(), 1, "{begins} is told once");
        told[0]
    }

    /// Returns the first sync of `path` that begins after `after`.
    #[track_caller]
    fn synced(&self, path: &Path, after: usize) -> &Call {
        let is_it = |call: &&Call| call.is_sync() && call.file() == Some(path) && call.began > after;
        let found = self.calls.iter().find(is_it);
        found.unwrap_or_else(|| panic!("`{}` is not synced after line {after} of the trace", path.display()))
    }

    #[track_caller]
    fn is_synced(&self, what: &Call, path: &Path, by: &Call) {
        let synced = self.synced(path, what.ended);
        assert!(synced.ended < by.began, "`{}` is synced after it is told: {what:?}", path.display());
    }

    /// Returns the last write to `path` that began before `before`.
    #[track_caller]
    fn written(&self, path: &Path, before: usize) -> &Call {
        let is_it = |call: &&Call| call.is_write() && call.file() == Some(path) && call.began < before;
        let found = self.calls.iter().rfind(is_it);
        found.unwrap_or_else(|| panic!("`{}` is not written", path.display()))
    }

    /// Asserts that all writes, and all created names, are on disk when `reply` begins.
    fn all_is_on_disk(&self, reply: &Call) {
        let before: Vec<&Call> = self.calls.iter().filter(|call| call.began < reply.began).collect();
        let (mut written, mut named) = (0, 0);
        for call in &before {
            if let Some(file) = call.file().filter(|file| call.is_write() && file.starts_with(&self.store)) {
                self.is_synced(call, file, reply);
                written += 1;
            }
            let made = call.made().filter(|made| made.starts_with(&self.store));
            // A name that is renamed later need not be durable.
            let lasts = |name: &&Path| !before.iter().any(|other| other.is_rename() && other.paths()[0] == *name);
            if let Some(made) = made.filter(lasts) {
                self.is_synced(call, made.parent().unwrap(), reply);
                named += 1;
            }
        }
        assert!(written >= 4 && named >= 6, "{written} writes, {named} names: the trace is not read as it should be");
    }

    /// Checks the steps from a submission, whose reply is `reply`, into the queue; `takes_a_file`
    /// if the slice is stored in a file.
    fn queue_has(&self, reply: &Call, takes_a_file: bool) {
        let (database, files) = (self.store.join("queue/db"), self.store.join("files"));
        let inserted = self.written(&database, reply.began);
        let committed = self.synced(&database, inserted.ended);
        assert!(committed.ended < reply.began, "the record is on disk before anybody is told");
        let is_named = |call: &&Call| call.is_rename() && call.made().is_some_and(|made| made.starts_with(&files));
        let renamed: Vec<&Call> = self.calls.iter().filter(is_named).collect();
        assert_eq!(renamed.len(), usize::from(takes_a_file));
        for renamed in renamed {
            let staged = renamed.paths()[0];
            let synced = self.synced(staged, self.written(staged, renamed.began).ended);
            assert!(synced.ended < renamed.began, "the bytes are on disk before they have their name");
            let named = self.synced(&files, renamed.ended);
            assert!(named.ended < inserted.began, "the name is on disk before the database has the record");
        }
    }

    /// Checks the steps of the bundle into `files`.
    fn steps(&self, files: &str, reply: &Call) {
        let digest = Digest::of(BUNDLE).to_string();
        let shard = self.store.join(files).join(&digest[..2]);
        let bundle = shard.join(format!("{digest}.bundle"));
        let renamed = self.calls.iter().find(|call| call.is_rename() && call.made() == Some(&bundle));
        let renamed = renamed.expect("the bundle gets its name");
        let staged = self.synced(renamed.paths()[0], self.written(renamed.paths()[0], renamed.began).ended);
        assert!(staged.ended < renamed.began, "the bundle is on disk before it has its name");
        let named = self.synced(&shard, renamed.ended);
        let side = shard.join(format!("{digest}.receipts"));
        let noted = self.synced(&side, self.written(&side, reply.began).ended);
        let (log, journal) = (self.store.join("queue/db"), self.store.join("journal"));
        let inserted = self.written(&log, reply.began);
        assert!(noted.ended < inserted.began, "the side file is on disk before the database has the record");
        let committed = self.synced(&log, inserted.ended);
        let counted = self.written(&journal, reply.began);
        assert!(committed.ended < counted.began, "the journal is never ahead of the database");
        let counted = self.synced(&journal, counted.ended);
        for (what, step) in [("its name", named), ("the record", committed), ("the journal", counted)] {
            assert!(step.ended < reply.began, "{what} is on disk before anybody is told");
        }
    }
}

/// Returns true if strace works here; else prints why not.
fn can_trace() -> bool {
    let unavailable = trace::unavailable();
    if let Some(why) = &unavailable {
        println!("NOT RUN: {why}");
    }
    unavailable.is_none()
}

/// Returns a directory for a node, with the path that the kernel reports for it.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    (directory, path)
}

fn node(data: &Path, line: &str) -> String {
    let ran = Command::new(NODE).args(line.split(' ')).arg("--data-dir").arg(data).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn an_id_is_told_when_all_of_it_is_on_disk() {
    if !can_trace() {
        return;
    }
    let (_kept, here) = directory();
    let (data, file, log) = (here.join("data"), here.join("bundle"), here.join("log"));
    std::fs::write(&file, BUNDLE).unwrap();
    let mut send = trace::traced(&log, NODE);
    send.args(["compute", "courier", "send"]).arg(&file).arg("alice").arg("--data-dir").arg(&data);
    let sent = send.output().unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let id = String::from_utf8(sent.stdout).unwrap();
    let calls = trace::calls(&std::fs::read_to_string(&log).unwrap());
    let run = Run { calls, store: data.join("state/courier") };
    let reply = run.reply(id.trim_end());
    run.steps("bundles", reply);
    run.all_is_on_disk(reply);
}

#[test]
fn a_delivery_is_acknowledged_when_all_of_it_is_on_disk() {
    if !can_trace() {
        return;
    }
    let (_kept, here) = directory();
    let (data, log) = (here.join("data"), here.join("log"));
    let shown = node(&data, "key show");
    let key = shown.split_whitespace().nth(1).unwrap().parse().unwrap();
    let mut served = trace::traced(&log, NODE);
    served.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).stderr(Stdio::piped());
    let mut served = served.spawn().unwrap();
    let mut lines = BufReader::new(served.stderr.take().unwrap()).lines();
    let address = lines.find_map(|line| listening(&line.unwrap())).unwrap();
    // Through the running node, because the courier's directory must not exist before the start.
    node(&data, &format!("compute courier peer add carol {}", nodes::key(nodes::CARRIER).public()));
    let carrier = nodes::open(&here.join("carrier"), nodes::CARRIER);
    let mut sending = carrier.begin_send(nodes::sender(), None, None).unwrap();
    sending.write(BUNDLE).unwrap();
    sending.finish().unwrap();
    let peer = Peer { name: nodes::name(), public_key: key, address: Some(address.parse().unwrap()) };
    let summary = nodes::flush(&nodes::runtime(), &carrier, nodes::http(), &peer, |_| {});
    let traced = std::fs::read_to_string(&log).unwrap();
    let process: i32 = traced.split_whitespace().next().unwrap().parse().unwrap();
    kill_process(Pid::from_raw(process).unwrap(), Signal::TERM).unwrap();
    assert!(served.wait().unwrap().success());
    assert_eq!((summary.forwarded, summary.failures), (1, 0), "{summary:?}");
    let calls = trace::calls(&std::fs::read_to_string(&log).unwrap());
    let run = Run { calls, store: data.join("state/courier") };
    let reply = run.reply("HTTP/1.1 201 Created");
    run.steps("received", reply);
    run.all_is_on_disk(reply);
}

/// Returns the address in a log line about listening.
fn listening(line: &str) -> Option<String> {
    Some(line.split_once("listening on ")?.1.split('"').next()?.to_owned())
}

/// Lines with which a queue reports that a slice is accepted, and that it has ended.
const TASK: &str = r"\ntask ";
const ENDED: &str = r"\nended ";

#[test]
fn a_slice_is_told_to_be_accepted_when_all_of_it_is_on_disk() {
    if !can_trace() {
        return;
    }
    // The first is stored in the database, the second in a file.
    for number in [0, 5] {
        let (_kept, here) = directory();
        let run = queue_run(QueuePart { directory: here, hand_in: vec![number], tasks: Vec::new(), kill: None });
        let reply = run.reply(TASK);
        run.queue_has(reply, number == 5);
        run.all_is_on_disk(reply);
    }
}

#[test]
fn a_slice_is_told_to_have_ended_when_what_its_guest_put_out_is_on_disk() {
    if !can_trace() {
        return;
    }
    // The first output is stored in the database, the second in a file.
    for number in [0, 5] {
        let (_kept, here) = directory();
        let part = QueuePart { directory: here, hand_in: vec![number], tasks: Vec::new(), kill: None };
        let told = part::start(&Part::Queue(part.clone())).wait_with_output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let id = told.lines().find_map(|line| line.strip_prefix("task ")?.split(' ').next()).unwrap();
        let run = queue_run(QueuePart { hand_in: Vec::new(), tasks: vec![id.parse().unwrap()], ..part });
        run.queue_has(run.reply(ENDED), number == 5);
    }
}

/// Traces a process with a queue until it ends.
fn queue_run(part: QueuePart) -> Run {
    let (log, accepted) = (part.directory.join("log"), part.directory.join("accepted"));
    let mut traced = trace::traced(&log, part::program());
    let ran = part::given(&mut traced, &Part::Queue(part)).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Run { calls: trace::calls(&std::fs::read_to_string(&log).unwrap()), store: accepted }
}
