//! Arguments of a guest, shared by the commands that verify and profile.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::files;
use super::spool::Spool;
use crate::config::Config;
use crate::limits::Limits;
use crate::runner::ASSETS_BYTES_MAX;
use crate::verify::{Case, SliceSource};

/// Path of this very program.
pub const PROGRAM: &str = "/proc/self/exe";

/// Arguments of a guest.
#[derive(Args)]
pub struct CaseArgs {
    /// A parameter for the guest; several are joined with a zero byte between them
    #[arg(long = "arg", value_name = "TEXT", allow_hyphen_values = true)]
    args: Vec<OsString>,
    /// A file that the guest may read beside its slice
    #[arg(long = "asset", value_name = "NAME=FILE", value_parser = parse_asset)]
    assets: Vec<(String, PathBuf)>,
    /// Gas limit of a run [default: `limits.gas` in the config, or the proof's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    gas: Option<u64>,
    /// Memory limit of a run, such as 64MiB [default: `limits.memory_bytes` in the config, or the
    /// proof's]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,
    /// Time limit of each run, such as 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

impl CaseArgs {
    /// Builds the case: the slice in `file` with its arguments. Data from a pipe is copied into
    /// `spool`.
    pub fn case(&self, file: &Path, config: &Config, limits: Limits, spool: &mut Spool) -> anyhow::Result<Case> {
        let assets = self.assets.iter().map(|(name, file)| {
            let bytes = files::read_up_to(file, ASSETS_BYTES_MAX);
            bytes.map(Arc::from).with_context(|| format!("cannot read asset `{name}`, `{}`", file.display()))
        });
        let copy = spool.copy_of(file, config.compute.slice_bytes_max)?;
        let file = std::path::absolute(copy.as_deref().unwrap_or(file))
            .with_context(|| format!("cannot find `{}`", file.display()))?;
        std::fs::metadata(&file).with_context(|| format!("cannot open slice `{}`", file.display()))?;
        let words: Vec<&[u8]> = self.args.iter().map(|word| word.as_encoded_bytes()).collect();
        Ok(Case {
            slice: SliceSource::File(file),
            args: words.join(&0).into(),
            assets: assets.collect::<Result<_, _>>()?,
            limits: Limits {
                gas: self.gas.unwrap_or(limits.gas),
                memory_bytes: self.memory.unwrap_or(limits.memory_bytes),
                ..limits
            },
            timeout_ms: self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}

/// Parses `NAME=FILE`.
pub fn parse_asset(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err("NAME=FILE is expected, such as model=weights.bin".to_owned()),
    }
}

/// Parses a number of bytes, plain or followed by KiB, MiB or GiB.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("the units are KiB, MiB and GiB".to_owned()),
    };
    let bytes = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    match bytes {
        Some(bytes) if (1..=Limits::MEMORY_BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(format!("a number from 1 to {} is expected", Limits::MEMORY_BYTES_MAX)),
    }
}
