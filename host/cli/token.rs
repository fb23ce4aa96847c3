//! `node token`.

use clap::Subcommand;
use serde_json::json;

use super::{ExitStatus, print};
use crate::access::{Permission, Secret};
use crate::slice::Tenant;

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Create a token: print its secret, for its holder, and the lines to add to the config
    New {
        /// The name of the token: 1 to 64 of a-z, 0-9, `.`, `_` and `-`
        name: Tenant,
        /// A right of the token: upload, run, price, courier or admin
        #[arg(long = "right", value_name = "RIGHT", required = true)]
        rights: Vec<Permission>,
        #[arg(long)]
        json: bool,
    },
}

pub const TOKEN_EXAMPLES: &str = "\
Examples:
  node token new alice --right run --right upload
  node token new prometheus --right courier --json

The secret is shown this once and kept nowhere; the config has its hash. To take a token back, remove its lines and start the
node anew.";

pub fn main(command: TokenCommand) -> anyhow::Result<ExitStatus> {
    let TokenCommand::New { name, mut rights, json } = command;
    let secret = Secret::generate()?;
    let (name, hash) = (name.token().unwrap_or_default(), Secret::hash(secret.as_str()));
    rights.sort_unstable();
    rights.dedup();
    let text = if json {
        format!("{}\n", json!({ "name": name, "secret": secret.as_str(), "hash": hash, "rights": rights }))
    } else {
        let rights: Vec<String> = rights.iter().map(|right| format!("\"{right}\"")).collect();
        format!(
            "{}\n\n# for config.toml\n[tokens.\"{name}\"]\nhash = \"{hash}\"\nrights = [{}]\n",
            secret.as_str(),
            rights.join(", ")
        )
    };
    print(text.as_bytes())?;
    Ok(ExitStatus::Done)
}
