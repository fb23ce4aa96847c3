//! Configuration: the file `config.toml` in the data directory, checked once, when it is read.

mod keys;
mod serve;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::DeTable;

use self::keys::{GATE, check_keys, span_start};
pub use self::serve::{ListenAddress, Serve};
use crate::access::{TokenEntry, Tokens, TokensError};
use crate::courier::Settings;
use crate::limits::Limits;
use crate::modules::Quota;
use crate::prices;
use crate::runner::Capacity;
use crate::sandbox::{GateLimits, LIMITS};
use crate::store::QueueLimits;
use crate::text::explained;

/// Default file of a new data directory: every key with its meaning, all commented out.
pub const COMMENTED: &str = include_str!("../node-data/config.toml");

/// Limit on `compute.jobs`. Each job is a thread and reserves 4 GiB of address space, of which a
/// process has 128 TiB.
pub const JOBS_MAX: usize = 1024;

/// Largest config file. A larger file is refused unread.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub compute: ComputeConfig,
    pub limits: Limits,
    pub results: ResultsConfig,
    pub store: Store,
    pub modules: ModulesConfig,
    pub queue: QueueLimits,
    pub serve: Serve,
    pub courier: Settings,
    pub prices: prices::Settings,
    pub gate: GateLimits,
    /// Tokens by name.
    pub tokens: BTreeMap<String, TokenEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ComputeConfig {
    pub jobs: Option<usize>,
    pub slice_bytes_max: u64,
    pub timeout_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResultsConfig {
    pub entries_max: u64,
    pub bytes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub proofs_max: u64,
    /// Free disk space that new work must leave.
    pub reserve_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModulesConfig {
    pub modules_max: u64,
    pub bytes_max: u64,
    pub code_bytes_max: u64,
}

/// Default timeout: the default gas at a high price of one nanosecond a unit, and a fifth more. The
/// timeout also bounds costs that gas does not cover, such as loads from memory in random order.
const TIMEOUT_MS: u64 = 120_000;

impl Default for ComputeConfig {
    fn default() -> Self {
        Self { jobs: None, slice_bytes_max: 64 << 30, timeout_ms: TIMEOUT_MS }
    }
}

impl Default for ResultsConfig {
    fn default() -> Self {
        Self { entries_max: Capacity::RESULTS_MAX, bytes_max: Capacity::RESULTS_BYTES_MAX }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { proofs_max: 100_000, reserve_bytes: 64 << 20 }
    }
}

impl Default for ModulesConfig {
    fn default() -> Self {
        Self { modules_max: 10_000, bytes_max: 4 << 30, code_bytes_max: 4 << 30 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Invalid { path: PathBuf, line: usize, message: String },
}

impl Config {
    /// Reads the file at `path`. A missing file means the defaults.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |cause| ConfigError::Read { path: path.to_owned(), cause };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                return Err(failed(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))));
            }
            Ok(metadata) if !metadata.is_file() => return Err(failed(io::Error::other("it is not a regular file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            _ => {}
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text).map_err(|ConfigProblem { at, message }| {
            let line = line_at(&text, at);
            ConfigError::Invalid { path: path.to_owned(), line, message }
        })
    }

    fn parse(text: &str) -> Result<Self, ConfigProblem> {
        let toml = |error: toml::de::Error| ConfigProblem {
            at: error.span().map_or(0, |span| span.start),
            message: explained(&error.message().replace('\n', "; ")),
        };
        let table = DeTable::parse(text).map_err(toml)?;
        check_keys(table.get_ref())?;
        let config: Self = toml::from_str(text).map_err(toml)?;
        config.check(|table_name, key| span_start(table.get_ref(), table_name, key))?;
        Ok(config)
    }

    fn check(&self, at: impl Fn(&str, &str) -> usize) -> Result<(), ConfigProblem> {
        let within = |table, key, value: u64, max: u64| match value {
            value if (1..=max).contains(&value) => Ok(()),
            value => Err(ConfigProblem {
                at: at(table, key),
                message: format!("`{table}.{key}` is {value}; it must be from 1 to {max}"),
            }),
        };
        let i64_max = i64::MAX as u64;
        within("compute", "jobs", self.compute.jobs.unwrap_or(1) as u64, JOBS_MAX as u64)?;
        within("compute", "slice_bytes_max", self.compute.slice_bytes_max, i64_max)?;
        within("compute", "timeout_ms", self.compute.timeout_ms, i64_max)?;
        within("limits", "gas", self.limits.gas, i64_max)?;
        within("limits", "memory_bytes", self.limits.memory_bytes, Limits::MEMORY_BYTES_MAX)?;
        within("results", "entries_max", self.results.entries_max, i64_max)?;
        within("results", "bytes_max", self.results.bytes_max, i64_max)?;
        within("store", "proofs_max", self.store.proofs_max, i64_max)?;
        within("store", "reserve_bytes", self.store.reserve_bytes, i64_max)?;
        within("modules", "modules_max", self.modules.modules_max, i64_max)?;
        within("modules", "bytes_max", self.modules.bytes_max, i64_max)?;
        within("modules", "code_bytes_max", self.modules.code_bytes_max, i64_max)?;
        within("serve", "connections_max", self.serve.connections_max, Serve::CONNECTIONS_MAX)?;
        within("serve", "slice_bytes_max", self.serve.slice_bytes_max, i64_max)?;
        within("serve", "body_memory_bytes_max", self.serve.body_memory_bytes_max, Serve::BODY_MEMORY_BYTES_MAX)?;
        within("serve", "spool_bytes_max", self.serve.spool_bytes_max, i64_max)?;
        if self.serve.tls_certificate.is_some() != self.serve.tls_key.is_some() {
            let key = if self.serve.tls_key.is_some() { "tls_key" } else { "tls_certificate" };
            let message = "`serve.tls_certificate` and `serve.tls_key` go together".to_owned();
            return Err(ConfigProblem { at: at("serve", key), message });
        }
        if let Err(error) = self.tokens() {
            let at = error.token().map_or(0, |token| at("tokens", token));
            return Err(ConfigProblem { at, message: error.to_string() });
        }
        within("queue", "entries_max", self.queue.entries_max, QueueLimits::ENTRIES_MAX)?;
        within("queue", "bytes_max", self.queue.bytes_max, i64_max)?;
        within("queue", "finished_max", self.queue.finished_max, QueueLimits::ENTRIES_MAX)?;
        within("queue", "outputs_bytes_max", self.queue.outputs_bytes_max, i64_max)?;
        self.check_courier(&within)?;
        within("prices", "window", self.prices.window, prices::WINDOW_MAX as u64)?;
        within("prices", "provider_share_percent", self.prices.provider_share_percent, 100)?;
        if !self.prices.has_fit_file() {
            let (at, file) = (at("prices", "file"), self.prices.file.display());
            return Err(ConfigProblem {
                at,
                message: format!("`prices.file` is `{file}`; its name must end in `.bin`"),
            });
        }
        LIMITS.iter().try_for_each(|limit| within(GATE, limit.key, self.gate.of(limit.name), limit.highest))
    }

    fn check_courier(
        &self,
        within: &impl Fn(&'static str, &'static str, u64, u64) -> Result<(), ConfigProblem>,
    ) -> Result<(), ConfigProblem> {
        let (courier, i64_max) = (&self.courier, i64::MAX as u64);
        within("courier", "bundle_bytes_max", courier.bundle_bytes_max, i64_max)?;
        within("courier", "pending_max", courier.pending_max, i64_max)?;
        within("courier", "pending_bytes_max", courier.pending_bytes_max, i64_max)?;
        within("courier", "received_max", courier.received_max, i64_max)?;
        within("courier", "received_bytes_max", courier.received_bytes_max, i64_max)?;
        within("courier", "expires_ms", courier.expires_ms, i64_max)?;
        within("courier", "concurrency", courier.concurrency, Settings::CONCURRENCY_MAX)?;
        within("courier", "timeout_ms", courier.timeout_ms, i64_max)
    }

    /// Returns the quota of stored modules.
    pub const fn module_quota(&self) -> Quota {
        Quota { modules_max: self.modules.modules_max, bytes_max: self.modules.bytes_max }
    }

    /// Returns the configured tokens.
    pub fn tokens(&self) -> Result<Tokens, TokensError> {
        Tokens::of(&self.tokens)
    }

    /// Returns the capacity of the runner; `jobs` overrides the file.
    pub fn capacity(&self, jobs: Option<usize>) -> Capacity {
        let machine = Capacity::of_this_machine();
        Capacity {
            jobs: jobs.or(self.compute.jobs).unwrap_or(machine.jobs),
            spare_jobs: 0,
            results_max: self.results.entries_max,
            results_bytes_max: self.results.bytes_max,
        }
    }
}

/// Returns the number of the line, from 1 on, that holds the byte `at`.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// An error, and its byte offset in the file.
#[derive(Debug)]
struct ConfigProblem {
    at: usize,
    message: String,
}

#[cfg(test)]
mod tests {
    use super::keys::keys;
    use super::*;

    fn problem(text: &str) -> (usize, String) {
        let ConfigProblem { at, message } = Config::parse(text).expect_err("the text is wrong");
        (line_at(text, at), message)
    }

    #[test]
    fn the_commented_file_says_the_defaults() {
        assert_eq!(Config::parse(COMMENTED).ok(), Some(Config::default()));
        let is_key = |line: &&str| line.strip_prefix("# ").is_some_and(|rest| rest.split(' ').nth(1) == Some("="));
        let set: Vec<&str> = COMMENTED.lines().map(|line| if is_key(&line) { &line[2..] } else { line }).collect();
        let set = Config::parse(&set.join("\n")).expect("with its keys set, it is valid");
        let compute = ComputeConfig::default();
        assert_eq!(
            set,
            Config {
                compute: ComputeConfig { jobs: Some(2), ..compute },
                serve: Serve {
                    tls_certificate: Some("certificate.pem".into()),
                    tls_key: Some("key.pem".into()),
                    ..Serve::default()
                },
                courier: Settings { destination: "bob".parse().ok(), ..Settings::default() },
                ..Config::default()
            }
        );
        for (table, keys) in keys() {
            assert!(COMMENTED.contains(&format!("[{table}]")));
            assert!(keys.iter().all(|key| COMMENTED.contains(&format!("\n# {key} = "))), "{table}");
        }
    }

    #[test]
    fn a_typo_is_named_with_its_line_and_the_nearest_key() {
        let (line, message) = problem("[compute]\n\njob = 2\n");
        assert_eq!((line, &*message), (3, "unknown key `compute.job`; did you mean `compute.jobs`?"));
        assert_eq!(problem("[compte]\njobs = 2").1, "unknown key `compte`; did you mean `compute`?");
        assert_eq!(problem("jobs = 2").1, "unknown key `jobs`; did you mean `compute.jobs`?");
        assert_eq!(
            problem("[store]\nmemory_byte = 2").1,
            "unknown key `store.memory_byte`; did you mean `limits.memory_bytes`?"
        );
        assert_eq!(problem("[store]\nxyzzy_plugh = 2").1, "unknown key `store.xyzzy_plugh`");
    }

    #[test]
    fn a_value_out_of_range_is_named_with_its_line() {
        assert_eq!(problem("[compute]\njobs = 0"), (2, "`compute.jobs` is 0; it must be from 1 to 1024".to_owned()));
        let queue = "`queue.finished_max` is 1000001; it must be from 1 to 1000000";
        assert_eq!(problem("[queue]\nentries_max = 1\nfinished_max = 1000001"), (3, queue.to_owned()));
        assert_eq!(problem("[limits]\ngas = 1\nmemory_bytes = 4294967297").0, 3);
        assert_eq!(problem("[limits]\ngas = \"much\"").0, 2);
        assert_eq!(problem("[limits]\ngas = 1\ngas = 2").0, 3);
        assert_eq!(problem("[limits\nfuel = 1").0, 1);
        for (window, line) in [("0", 3), ("100001", 3)] {
            assert_eq!(
                problem(&format!("[prices]\n\nwindow = {window}")),
                (line, format!("`prices.window` is {window}; it must be from 1 to 100000"))
            );
        }
        assert_eq!(problem("[prices]\nprovider_share_percent = 101").0, 2);
        let message = "`prices.file` is `state/lock`; its name must end in `.bin`".to_owned();
        assert_eq!(problem("[prices]\nfile = \"state/lock\""), (2, message));
    }
}
