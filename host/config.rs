//! What the node's owner has set: the file `config.toml` in the data directory, checked once, when it is read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::courier::Settings;
use crate::limits::Limits;
use crate::modules::Quota;
use crate::prices;
use crate::runner::Capacity;
use crate::sandbox::{GateLimits, LIMITS};

/// The file as a new data directory gets it: every key with what it means, all commented out.
pub const COMMENTED: &str = include_str!("../node-data/config.toml");

/// Each job is a thread and reserves 4 GiB of address space, of which a process has 128 TiB.
pub const JOBS_MAX: usize = 1024;

/// A larger file is not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub compute: Compute,
    pub limits: Limits,
    pub results: Results,
    pub store: Store,
    pub modules: Modules,
    pub serve: Serve,
    pub courier: Settings,
    pub prices: prices::Settings,
    pub gate: GateLimits,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compute {
    pub jobs: Option<usize>,
    pub slice_bytes_max: u64,
    pub timeout_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Results {
    pub entries_max: u64,
    pub bytes_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    pub proofs_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Serve {
    pub listen: SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Modules {
    pub modules_max: u64,
    pub bytes_max: u64,
    pub code_bytes_max: u64,
}

impl Default for Compute {
    fn default() -> Self {
        Self { jobs: None, slice_bytes_max: 64 << 30, timeout_ms: None }
    }
}

impl Default for Results {
    fn default() -> Self {
        Self { entries_max: Capacity::RESULTS_MAX, bytes_max: Capacity::RESULTS_BYTES_MAX }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self { proofs_max: 100_000 }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 7700).into() }
    }
}

impl Default for Modules {
    fn default() -> Self {
        Self { modules_max: 10_000, bytes_max: 4 << 30, code_bytes_max: 4 << 30 }
    }
}

/// The keys that there are, a table each, but for those of the gate, which are [`LIMITS`]; a test holds this to the
/// structs above.
const KEYS: &[(&str, &[&str])] = &[
    ("compute", &["jobs", "slice_bytes_max", "timeout_ms"]),
    ("limits", &["gas", "memory_bytes", "output_bytes", "log_bytes"]),
    ("results", &["entries_max", "bytes_max"]),
    ("store", &["proofs_max"]),
    ("modules", &["modules_max", "bytes_max", "code_bytes_max"]),
    ("serve", &["listen"]),
    (
        "courier",
        &[
            "destination",
            "bundle_bytes_max",
            "pending_max",
            "pending_bytes_max",
            "received_max",
            "received_bytes_max",
            "expires_ms",
            "concurrency",
            "timeout_ms",
            "credit_per_mib",
            "credit_per_hop",
        ],
    ),
    ("prices", &["window", "file", "provider_share_percent"]),
];

const GATE: &str = "gate";

fn keys() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let gate = (GATE, LIMITS.iter().map(|limit| limit.key).collect());
    KEYS.iter().map(|(table, keys)| (*table, keys.to_vec())).chain([gate])
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read `{}`: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{}:{line}: {message}", path.display())]
    Invalid { path: PathBuf, line: usize, message: String },
}

impl Config {
    /// Reads the file at `path`. One that is not there stands for the defaults.
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
        Self::parse(&text).map_err(|Problem { at, message }| {
            let line = line_at(&text, at);
            ConfigError::Invalid { path: path.to_owned(), line, message }
        })
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let toml = |error: toml::de::Error| Problem {
            at: error.span().map_or(0, |span| span.start),
            message: error.message().replace('\n', "; "),
        };
        let table = DeTable::parse(text).map_err(toml)?;
        check_keys(table.get_ref())?;
        let config: Self = toml::from_str(text).map_err(toml)?;
        config.check(|table_name, key| span_start(table.get_ref(), table_name, key))?;
        Ok(config)
    }

    fn check(&self, at: impl Fn(&str, &str) -> usize) -> Result<(), Problem> {
        let within = |table, key, value: u64, max: u64| match value {
            value if (1..=max).contains(&value) => Ok(()),
            value => Err(Problem {
                at: at(table, key),
                message: format!("`{table}.{key}` is {value}; it must be from 1 to {max}"),
            }),
        };
        let i64_max = i64::MAX as u64;
        within("compute", "jobs", self.compute.jobs.unwrap_or(1) as u64, JOBS_MAX as u64)?;
        within("compute", "slice_bytes_max", self.compute.slice_bytes_max, i64_max)?;
        within("compute", "timeout_ms", self.compute.timeout_ms.unwrap_or(1), i64_max)?;
        within("limits", "gas", self.limits.gas, i64_max)?;
        within("limits", "memory_bytes", self.limits.memory_bytes, Limits::MEMORY_BYTES_MAX)?;
        within("results", "entries_max", self.results.entries_max, i64_max)?;
        within("results", "bytes_max", self.results.bytes_max, i64_max)?;
        within("store", "proofs_max", self.store.proofs_max, i64_max)?;
        within("modules", "modules_max", self.modules.modules_max, i64_max)?;
        within("modules", "bytes_max", self.modules.bytes_max, i64_max)?;
        within("modules", "code_bytes_max", self.modules.code_bytes_max, i64_max)?;
        self.check_courier(&within)?;
        within("prices", "window", self.prices.window, prices::WINDOW_MAX as u64)?;
        within("prices", "provider_share_percent", self.prices.provider_share_percent, 100)?;
        if !self.prices.has_fit_file() {
            let (at, file) = (at("prices", "file"), self.prices.file.display());
            return Err(Problem { at, message: format!("`prices.file` is `{file}`; its name must end in `.bin`") });
        }
        LIMITS.iter().try_for_each(|limit| within(GATE, limit.key, self.gate.of(limit.name), limit.highest))
    }

    fn check_courier(
        &self,
        within: &impl Fn(&'static str, &'static str, u64, u64) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
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

    /// How many modules may be stored.
    pub const fn module_quota(&self) -> Quota {
        Quota { modules_max: self.modules.modules_max, bytes_max: self.modules.bytes_max }
    }

    /// What the runner may use; `jobs` goes before what the file says.
    pub fn capacity(&self, jobs: Option<usize>) -> Capacity {
        let machine = Capacity::of_this_machine();
        Capacity {
            jobs: jobs.or(self.compute.jobs).unwrap_or(machine.jobs),
            results_max: self.results.entries_max,
            results_bytes_max: self.results.bytes_max,
        }
    }
}

/// The number, from 1 on, of the line that holds the byte `at`.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// What is wrong, and at which byte of the file.
#[derive(Debug)]
struct Problem {
    at: usize,
    message: String,
}

fn check_keys(file: &DeTable<'_>) -> Result<(), Problem> {
    for (name, value) in file {
        let Some((_, keys)) = keys().find(|(table, _)| *table == name.get_ref()) else {
            return Err(unknown(name, "", keys().map(|(table, _)| table.to_owned())));
        };
        for key in value.get_ref().as_table().into_iter().flat_map(|table| table.keys()) {
            if !keys.contains(&&**key.get_ref()) {
                return Err(unknown(key, &format!("{}.", name.get_ref()), keys.iter().map(|key| (*key).to_owned())));
            }
        }
    }
    Ok(())
}

/// Names the key as it would be written in full, and the nearest that there is: in the same table, or if none is near,
/// in any.
fn unknown(key: &Spanned<std::borrow::Cow<'_, str>>, table: &str, siblings: impl Iterator<Item = String>) -> Problem {
    let found = key.get_ref();
    let everywhere = keys().flat_map(|(table, keys)| keys.into_iter().map(move |key| (format!("{table}.{key}"), key)));
    let candidates = siblings.map(|key| (format!("{table}{key}"), key));
    let candidates = candidates.chain(everywhere.map(|(full, key)| (full, key.to_owned())));
    let nearest = candidates
        .map(|(full, key)| (strsim::damerau_levenshtein(found, &key), full))
        .min_by_key(|(distance, _)| *distance);
    let hint = match nearest {
        Some((distance, full)) if distance <= 2 + found.len() / 4 => format!("; did you mean `{full}`?"),
        _ => String::new(),
    };
    Problem { at: key.span().start, message: format!("unknown key `{table}{found}`{hint}") }
}

fn span_start(file: &DeTable<'_>, table: &str, key: &str) -> usize {
    let value = file.get(table).map(Spanned::get_ref).and_then(DeValue::as_table).and_then(|table| table.get(key));
    value.map_or(0, |value| value.span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, String) {
        let Problem { at, message } = Config::parse(text).expect_err("the text is wrong");
        (line_at(text, at), message)
    }

    #[test]
    fn the_commented_file_says_the_defaults() {
        assert_eq!(Config::parse(COMMENTED).ok(), Some(Config::default()));
        let is_key = |line: &&str| line.strip_prefix("# ").is_some_and(|rest| rest.split(' ').nth(1) == Some("="));
        let set: Vec<&str> = COMMENTED.lines().map(|line| if is_key(&line) { &line[2..] } else { line }).collect();
        let set = Config::parse(&set.join("\n")).expect("with its keys set, it is valid");
        let compute = Compute::default();
        assert_eq!(
            set,
            Config {
                compute: Compute { jobs: Some(2), timeout_ms: Some(60_000), ..compute },
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
