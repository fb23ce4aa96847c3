//! `node compute proof`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{ExitStatus, print, print_error, printable, timestamp};
use crate::key::{KeyName, KeyOwner, KnownKeys, PublicKey};
use crate::node::Node;
use crate::private_file;
use crate::proof::{DecodeError, JSON_BYTES_MAX, SliceProof};

#[derive(Subcommand)]
pub enum ProofCommand {
    /// Print the content of a proof file
    #[command(after_help = "Examples:\n  node compute proof show proofs/transcode.slice.proof\n  \
        node compute proof show --json proofs/transcode.slice.proof > PROOF.json")]
    Show {
        /// In binary or JSON form
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print the JSON form
        #[arg(long)]
        json: bool,
    },
    /// Check that proofs are well formed and signed, and show the signer; no slice is run
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate {
        /// In binary or JSON form
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The required signer: a public key, the name of a trusted key, or `self` for this node
        #[arg(long, value_name = "KEY|NAME")]
        signer: Option<String>,
        /// Print one JSON object a line instead
        #[arg(long)]
        json: bool,
    },
}

pub const PROOF_EXAMPLES: &str = "\
Examples:
  node compute proof show proofs/transcode.slice.proof
  node compute proof validate proofs/*.proof";

const VALIDATE_EXAMPLES: &str = "\
Examples:
  node compute proof validate proofs/*.proof
  node compute proof validate --signer self proofs/transcode.slice.proof
  node compute proof validate --signer studio-b --json PROOF.json

A valid proof is what its signer has signed, to the bit. Whether its claim is true is another
question: to answer it, run the slice again and compare the claims.

Exit codes: 0 all valid, 1 some are not, 2 an error.";

pub fn main(command: ProofCommand, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    match command {
        ProofCommand::Show { file, json } => show(&file, json),
        ProofCommand::Validate { files, signer, json } => validate(&files, signer.as_deref(), json, data_dir),
    }
}

fn show(file: &Path, json: bool) -> anyhow::Result<ExitStatus> {
    let proof = read(file).map_err(anyhow::Error::from).and_then(|proof| Ok(proof?));
    let proof = proof.with_context(|| format!("cannot read proof `{}`", file.display()))?;
    let shown = if json { format!("{:#}\n", proof.to_json()) } else { describe(&proof) };
    print(shown.as_bytes())?;
    Ok(ExitStatus::Done)
}

pub fn read(file: &Path) -> std::io::Result<Result<SliceProof, DecodeError>> {
    Ok(SliceProof::read(&private_file::read_shared(file, JSON_BYTES_MAX as u64)?))
}

fn validate(files: &[PathBuf], signer: Option<&str>, json: bool, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let owners = Node::known_keys(data_dir).owners()?;
    let wanted = signer.map(|signer| RequiredSigner::find(signer, &owners)).transpose()?;
    let mut end = ExitStatus::Done;
    for file in files {
        let checked = match read(file) {
            Err(error) => {
                print_error("error", &format_args!("cannot read proof `{}`: {error}", file.display()));
                FileVerdict::Unreadable(error.to_string())
            }
            Ok(Err(error)) => FileVerdict::NotValid { code: error.code(), why: error.to_string() },
            Ok(Ok(proof)) => FileVerdict::of(proof, &owners, wanted.as_ref()),
        };
        let line = if json { checked.json(file).to_string() } else { checked.text(file) };
        if !line.is_empty() {
            print(format!("{line}\n").as_bytes())?;
        }
        end = end.max(checked.end());
    }
    Ok(end)
}

/// The required signer.
struct RequiredSigner<'a> {
    said: &'a str,
    keys: Vec<PublicKey>,
}

impl<'a> RequiredSigner<'a> {
    fn find(said: &'a str, owners: &KnownKeys) -> anyhow::Result<Self> {
        let keys = if said == "self" {
            owners.own.iter().chain(&owners.former).copied().collect()
        } else if let Ok(key) = said.parse::<PublicKey>() {
            vec![key]
        } else if let Some(trusted) = said.parse::<KeyName>().ok().and_then(|name| owners.trusted.named(&name)) {
            trusted.keys().copied().collect()
        } else {
            bail!(
                "`{said}` is neither a public key (64 lowercase hexadecimal digits) nor the name of a trusted one; \
                 `node key trust list` shows those that are"
            )
        };
        Ok(Self { said, keys })
    }
}

/// Result of checking one file.
enum FileVerdict {
    Valid { proof: Box<SliceProof>, owner: KeyOwner },
    NotValid { code: &'static str, why: String },
    Unreadable(String),
}

impl FileVerdict {
    fn of(proof: SliceProof, owners: &KnownKeys, wanted: Option<&RequiredSigner<'_>>) -> Self {
        let (signer, owner) = (proof.signer(), owners.of(&proof.signer()));
        match wanted {
            Some(wanted) if !wanted.keys.contains(&signer) => {
                let why = format!("it is signed by {signer} ({}), not by `{}`", words(&owner), wanted.said);
                Self::NotValid { code: "other_signer", why }
            }
            _ => Self::Valid { proof: Box::new(proof), owner },
        }
    }

    fn end(&self) -> ExitStatus {
        match self {
            Self::Valid { .. } => ExitStatus::Done,
            Self::NotValid { .. } => ExitStatus::No,
            Self::Unreadable(_) => ExitStatus::Error,
        }
    }

    /// Formats the result. An unreadable file has no result, so its text is empty.
    fn text(&self, file: &Path) -> String {
        let said = match self {
            Self::Valid { proof, owner } => format!("valid, signed by {} ({})", proof.signer(), words(owner)),
            Self::NotValid { why, .. } => format!("not valid: {why}"),
            Self::Unreadable(_) => return String::new(),
        };
        printable(&format!("{}: {said}", file.display()))
    }

    fn json(&self, file: &Path) -> Value {
        let file = file.to_string_lossy();
        match self {
            Self::Valid { proof, owner } => {
                let (owner, name) = match owner {
                    KeyOwner::ThisNode => ("this_node", None),
                    KeyOwner::ThisNodeFormerly => ("this_node_formerly", None),
                    KeyOwner::Trusted(name) => ("trusted", Some(name)),
                    KeyOwner::TrustedFormerly(name) => ("trusted_formerly", Some(name)),
                    KeyOwner::Unknown => ("unknown", None),
                };
                let (signer, claim) = (proof.signer(), proof.claim_digest());
                json!({ "file": file, "valid": true, "signer": signer, "owner": owner, "name": name, "claim": claim })
            }
            Self::NotValid { code, why } => json!({ "file": file, "valid": false, "code": code, "message": why }),
            Self::Unreadable(why) => json!({ "file": file, "error": { "code": "proof_unreadable", "message": why } }),
        }
    }
}

fn words(owner: &KeyOwner) -> String {
    match owner {
        KeyOwner::ThisNode => "this node".to_owned(),
        KeyOwner::ThisNodeFormerly => "this node, with a former key".to_owned(),
        KeyOwner::Trusted(name) => format!("trusted as {name}"),
        KeyOwner::TrustedFormerly(name) => format!("trusted as {name}, with a former key"),
        KeyOwner::Unknown => "an unknown key".to_owned(),
    }
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
    lines.extend([
        ("profile", job.profile.to_string()),
        (
            "limits",
            format!("gas {}, memory {} bytes, output {} bytes", limits.gas, limits.memory_bytes, limits.output_bytes),
        ),
        ("outcome", proof.outcome().to_string()),
        ("proof", proof.proof().map_or_else(|| "none".to_owned(), |hash| hash.to_string())),
        ("output", format!("{}, {} bytes", proof.output().blake3, proof.output().bytes)),
        ("gas", proof.claim().gas().to_string()),
        ("claim", proof.claim_digest().to_string()),
        ("observed", format!("{} us, memory {} bytes", observed.duration_us, observed.memory_bytes)),
        ("engine", observed.engine.clone()),
        ("started", timestamp(observed.started_unix_ms)),
        ("signer", proof.signer().to_string()),
    ]);
    lines.into_iter().map(|(name, value)| format!("{name:<10}{}\n", printable(&value))).collect()
}
