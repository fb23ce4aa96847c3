//! Courier: deliveries between nodes, their failures, and the reports to the owner.

pub mod wire;
mod proxy;

mod carried;
mod faults;
mod duplicates;
mod refusals;
mod many;
mod serve;
mod damage;
mod full_disk;
mod commands;
mod attacks;
mod backoff;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::SystemTime;

use compute_host::key::{Keyring, NodeKey};
use serde_json::Value;

use crate::common::{Ran, Workplace};
use crate::serving::{PATIENCE, Serving, wait_until};

/// One node, with its files in a directory of its own.
struct Side {
    here: Workplace,
}

impl Side {
    fn new() -> Self {
        Self { here: Workplace::new() }
    }

    /// Creates a node whose config has these lines under `[courier]`.
    fn with(settings: &str) -> Self {
        let side = Self::new();
        side.set(settings);
        side
    }

    fn set(&self, settings: &str) {
        self.here.file("node-data/config.toml", format!("[courier]\n{settings}\n"));
    }

    /// Creates two nodes: the carrier, and its default destination `bob`. The destination knows the
    /// carrier as `alice`.
    fn pair(settings: &str) -> (Self, Self) {
        let (carrier, destination) = (Self::with(&format!("destination = \"bob\"\n{settings}")), Self::new());
        destination.knows("alice", &carrier.key(), "");
        (carrier, destination)
    }

    fn state(&self) -> PathBuf {
        self.here.path("node-data/state")
    }

    fn store(&self) -> PathBuf {
        self.state().join("courier")
    }

    /// Returns the node's secret key, for actions that only its owner could do.
    fn node_key(&self) -> NodeKey {
        self.run("peer list").output();
        Keyring::new(self.state()).node_key(SystemTime::now()).unwrap().0
    }

    fn key(&self) -> String {
        self.here.run("key show --json").json()[0]["public_key"].as_str().unwrap().to_owned()
    }

    /// Runs `node compute courier` with arguments that contain no spaces.
    fn run(&self, line: &str) -> Ran {
        self.here.run(&format!("compute courier {line}"))
    }

    /// Starts a command, and returns when the running node executes it. From then on the command
    /// ends with the node, and does nothing by itself.
    #[track_caller]
    fn asked_of_the_node(&self, line: &str) -> Child {
        let words = ["compute", "courier"].into_iter().chain(line.split_whitespace());
        let mut child = self.here.command(words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "note: the running node does this\n");
        child
    }

    /// Returns the objects that a command prints with `--json`.
    #[track_caller]
    fn json(&self, line: &str) -> Vec<Value> {
        let ran = self.run(&format!("{line} --json"));
        assert!(ran.code < 2, "{line}: {ran:?}");
        ran.json()
    }

    #[track_caller]
    fn knows(&self, name: &str, key: &str, address: &str) {
        self.run(&format!("peer add {name} {key} {address}")).output();
    }

    /// Stores a bundle, and returns the id of its receipt.
    #[track_caller]
    fn send(&self, bundle: &[u8], arguments: &str) -> String {
        self.here.file("bundle.bin", bundle);
        self.run(&format!("send bundle.bin {arguments}")).output().trim_end().to_owned()
    }

    #[track_caller]
    fn ids(&self, which: &str) -> Vec<String> {
        self.json(&format!("list {which}")).iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Returns the credit in units, and the number of credited receipts.
    #[track_caller]
    fn credit(&self) -> (u64, u64) {
        let rewards = &self.json("rewards")[0];
        (rewards["credit"].as_u64().unwrap(), rewards["receipts"].as_u64().unwrap())
    }

    /// Returns the files of the bundles that this node has received.
    #[track_caller]
    fn received(&self) -> Vec<PathBuf> {
        self.json("list --received").iter().map(|line| self.here.path(line["path"].as_str().unwrap())).collect()
    }

    /// Returns the files below a directory of the courier's store, filtered by their extension.
    fn files(&self, directory: &str, extension: &str) -> Vec<PathBuf> {
        let shards = std::fs::read_dir(self.store().join(directory)).into_iter().flatten();
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|path| extension.is_empty() || path.extension().is_some_and(|found| found == extension));
        files.sort();
        files
    }

    /// Returns the files that are being written.
    fn staged(&self) -> Vec<PathBuf> {
        ["bundles", "received"]
            .iter()
            .flat_map(|of| std::fs::read_dir(self.store().join(of).join("staged")).into_iter().flatten())
            .map(|file| file.unwrap().path())
            .collect()
    }

    #[track_caller]
    fn serve(&self) -> Serving {
        Serving::start(self.here.command(["serve", "--listen", "127.0.0.1:0"]))
    }

    /// Returns the courier's counters, from a node that is started on this directory. `bob` is
    /// removed meanwhile, so that the node attempts no delivery.
    #[track_caller]
    fn counters(&self) -> Counters {
        let bob = self.json("peer remove bob").remove(0);
        let node = self.serve();
        let counters = node.counters();
        assert_eq!(node.stop(), 0);
        self.knows("bob", bob["public_key"].as_str().unwrap(), bob["address"].as_str().unwrap_or_default());
        counters
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    attempts: u64,
    failures: u64,
    invalid: u64,
}

impl Serving {
    #[track_caller]
    fn counters(&self) -> Counters {
        Counters {
            attempts: self.count("courier_flush_attempt_total"),
            failures: self.count("courier_flush_failure_total"),
            invalid: self.count("courier_invalid_acknowledgement_total"),
        }
    }
}
