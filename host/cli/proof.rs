//! `node compute proof show`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use super::{End, print, printable};
use crate::proof::{PROOF_BYTES_MAX, SliceProof};

pub fn show(file: &Path, json: bool) -> anyhow::Result<End> {
    let proof = read(file).with_context(|| format!("cannot read proof `{}`", file.display()))?;
    let shown = if json { format!("{:#}\n", proof.to_json()) } else { describe(&proof) };
    print(shown.as_bytes())?;
    Ok(End::Done)
}

fn read(file: &Path) -> anyhow::Result<SliceProof> {
    if !std::fs::metadata(file)?.is_file() {
        anyhow::bail!("it is not a regular file");
    }
    let mut bytes = Vec::new();
    File::open(file)?.take(PROOF_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(SliceProof::from_bytes(&bytes)?)
}

fn describe(proof: &SliceProof) -> String {
    let (job, observed) = (proof.job(), proof.observed());
    let limits = job.limits;
    let mut lines = vec![
        ("slice id", proof.slice_id().to_string()),
        ("workload", job.workload.clone()),
        ("module", job.module.to_string()),
        ("input", format!("{}, {} bytes", job.input.blake3, job.input.bytes)),
        ("args", job.args.to_string()),
    ];
    lines.extend(job.assets.iter().map(|asset| ("asset", asset.to_string())));
    let started = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(observed.started_unix_ms));
    lines.extend([
        (
            "limits",
            format!("fuel {}, memory {} bytes, output {} bytes", limits.fuel, limits.memory_bytes, limits.output_bytes),
        ),
        ("outcome", proof.outcome().to_string()),
        ("proof", proof.proof().map_or_else(|| "none".to_owned(), |hash| hash.to_string())),
        ("output", format!("{}, {} bytes", proof.output().blake3, proof.output().bytes)),
        ("claim", proof.claim_digest().to_string()),
        (
            "observed",
            format!("{} us, fuel {}, memory {} bytes", observed.duration_us, observed.fuel, observed.memory_bytes),
        ),
        ("engine", observed.engine.clone()),
        (
            "started",
            started.and_then(timestamp).unwrap_or_else(|| format!("{} ms after 1970", observed.started_unix_ms)),
        ),
    ]);
    lines.into_iter().map(|(name, value)| format!("{name:<10}{}\n", printable(&value))).collect()
}

/// `None` for years that RFC 3339 cannot write.
fn timestamp(time: SystemTime) -> Option<String> {
    let year_10000 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_800);
    (time < year_10000).then(|| humantime::format_rfc3339_millis(time).to_string())
}
