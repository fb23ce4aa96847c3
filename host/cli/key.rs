//! `node key`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::bail;
use clap::Subcommand;
use serde_json::{Value, json};

use super::executor::{self, Executor, connect_or_open};
use super::{ExitStatus, print, printable, timestamp};
use crate::commands::{NodeCommand, NodeEvent};
use crate::key::commands::{KeyAnswer, KeyRequest, execute};
use crate::key::{KeyName, Keyring, PublicKey, RetiredKey, read_rotation};
use crate::node::Node;

#[derive(Subcommand)]
pub enum KeyCommand {
    /// Print the node's public key, which is created at first use, and its former keys
    Show {
        #[arg(long)]
        json: bool,
    },
    /// Replace the node's key with a new one, and print the path of the rotation statement
    Rotate {
        #[arg(long)]
        json: bool,
    },
    /// Write the node's secret key to a file, as a backup
    Export {
        /// The file to write; an existing file is left unchanged
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Use the key in a backup as this node's key; a node that has another key keeps it
    Import {
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Manage the trusted keys of other nodes
    #[command(subcommand, after_help = TRUST_EXAMPLES)]
    Trust(TrustCommand),
}

pub const KEY_EXAMPLES: &str = "\
Examples:
  node key show                            the public key, to be given to others
  node key export backup.key               a copy of the secret: whoever has it signs as this node
  node key import backup.key               on another machine, before that has a key
  node key rotate                          a new key, and a statement for others to follow
  node key trust add studio-b PUBLIC_KEY   what another node's `node key show` prints

A proof that was signed with a former key stays valid. Not even this node can sign with it any more.";

#[derive(Subcommand)]
pub enum TrustCommand {
    /// Trust a key, under a name
    Add {
        name: KeyName,
        #[arg(value_name = "PUBLIC_KEY")]
        key: PublicKey,
        #[arg(long)]
        json: bool,
    },
    /// Trust the new key that a trusted key has named as its successor
    Follow {
        /// The statement that the other node's `node key rotate` wrote
        #[arg(value_name = "STATEMENT")]
        statement: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Print one line for each trusted key: the key and its name
    List {
        #[arg(long)]
        json: bool,
    },
    /// Remove a name and its keys from the trusted ones
    Remove {
        name: KeyName,
        #[arg(long)]
        json: bool,
    },
}

const TRUST_EXAMPLES: &str = "\
Examples:
  node key trust add studio-b d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a
  node key trust follow studio-b.rotation
  node key trust list
  node key trust remove studio-b

A name stands for one key, and after `follow` for those before it too. To ask for a proof of
that name's: node compute proof validate --signer NAME PROOF";

pub fn main(command: KeyCommand, data_dir: &Path) -> anyhow::Result<ExitStatus> {
    let now = SystemTime::now();
    match command {
        KeyCommand::Show { json } => show(json, &Node::keys(data_dir)?, now),
        KeyCommand::Rotate { json } => change(KeyRequest::Rotate, json, data_dir, now),
        KeyCommand::Export { file, json } => {
            let key = Node::keys(data_dir)?.export(&file, now)?;
            let object = json!({ "public_key": key, "file": file.to_string_lossy() });
            tell_one(json, &object, &format!("{key}  {}", file.display()))
        }
        KeyCommand::Import { file, json } => change(KeyRequest::Import { file }, json, data_dir, now),
        KeyCommand::Trust(command) => trust(command, &Node::keys(data_dir)?),
    }
}

fn show(json: bool, keyring: &Keyring, now: SystemTime) -> anyhow::Result<ExitStatus> {
    let (key, made_unix_ms) = keyring.node_key(now)?;
    let (key, former, file) = (key.public(), keyring.former()?, keyring.path());
    let object = json!({
        "public_key": key,
        "short": key.short(),
        "file": file.to_string_lossy(),
        "made_unix_ms": made_unix_ms,
        "former": former.iter().map(formerly).collect::<Vec<_>>(),
    });
    let mut lines = vec![
        ("key", key.to_string()),
        ("short", key.short()),
        ("made", timestamp(made_unix_ms)),
        ("file", file.display().to_string()),
    ];
    for RetiredKey { rotation, statement } in &former {
        let (made, retired) = rotation.dates();
        lines.push(("former", rotation.former().to_string()));
        lines.push(("", format!("from {} to {}", timestamp(made), timestamp(retired))));
        lines.push(("", statement.display().to_string()));
    }
    let lines: Vec<String> = lines.into_iter().map(|(name, value)| printable(&format!("{name:<8}{value}"))).collect();
    tell_lines(json, &object, &lines)
}

fn formerly(RetiredKey { rotation, statement }: &RetiredKey) -> Value {
    let (made_unix_ms, retired_unix_ms) = rotation.dates();
    json!({
        "public_key": rotation.former(),
        "short": rotation.former().short(),
        "successor": rotation.successor(),
        "made_unix_ms": made_unix_ms,
        "retired_unix_ms": retired_unix_ms,
        "statement": statement.to_string_lossy(),
    })
}

/// Changes the node's key: through the running node, which signs with it, or else in this process.
fn change(mut order: KeyRequest, json: bool, data_dir: &Path, now: SystemTime) -> anyhow::Result<ExitStatus> {
    let runtime = executor::runtime()?;
    let answer = match runtime.block_on(connect_or_open(data_dir, || Node::try_keys(data_dir)))? {
        Executor::InProcess((keyring, _lock)) => execute(&keyring, None, order, now)?,
        Executor::Daemon(stream) => {
            // The running node may have another working directory.
            if let KeyRequest::Import { file } = &mut order {
                *file = std::path::absolute(&file)?;
            }
            match runtime.block_on(executor::ask_all(stream, &NodeCommand::Key(order)))?.pop() {
                Some(NodeEvent::Key(answer)) => answer,
                _ => bail!("the running node did not answer"),
            }
        }
    };
    let keyring = Node::known_keys(data_dir);
    match answer {
        KeyAnswer::Rotated { public_key, former } => {
            let statement = keyring.statement(&former);
            let object = json!({
                "public_key": public_key,
                "short": public_key.short(),
                "former": former,
                "statement": statement.to_string_lossy(),
            });
            let lines = [
                ("key", public_key.to_string()),
                ("former", former.to_string()),
                ("give", format!("{} to those who trust the former key", statement.display())),
            ];
            let lines = lines.map(|(name, value)| printable(&format!("{name:<8}{value}")));
            tell_lines(json, &object, &lines)
        }
        KeyAnswer::Imported { public_key } => {
            let object = json!({ "public_key": public_key, "file": keyring.path() });
            tell_one(json, &object, &public_key.to_string())
        }
    }
}

fn trust(command: TrustCommand, keyring: &Keyring) -> anyhow::Result<ExitStatus> {
    match command {
        TrustCommand::Add { name, key, json } => {
            keyring.change_trusted(|trusted| trusted.add(&name, key))?;
            tell_one(json, &json!({ "name": name, "public_key": key }), &format!("{key}  {name}"))
        }
        TrustCommand::Follow { statement, json } => {
            let rotation = read_rotation(&statement)?;
            let (key, former) = (rotation.successor(), rotation.former());
            let name = keyring.change_trusted(|trusted| trusted.follow(&rotation))?;
            let object = json!({ "name": name, "public_key": key, "former": former });
            tell_one(json, &object, &format!("{key}  {name}"))
        }
        TrustCommand::List { json } => {
            for trusted in keyring.trusted()?.list() {
                let object = json!(trusted);
                tell_one(json, &object, &format!("{}  {}", trusted.public_key, trusted.name))?;
            }
            Ok(ExitStatus::Done)
        }
        TrustCommand::Remove { name, json } => {
            let removed = keyring.change_trusted(|trusted| trusted.remove(&name))?;
            tell_one(json, &json!(removed), &format!("removed {}  {name}", removed.public_key))
        }
    }
}

fn tell_one(json: bool, object: &Value, line: &str) -> anyhow::Result<ExitStatus> {
    tell_lines(json, object, &[printable(line)])
}

fn tell_lines(json: bool, object: &Value, lines: &[String]) -> anyhow::Result<ExitStatus> {
    let shown = if json { format!("{object}\n") } else { lines.iter().map(|line| format!("{line}\n")).collect() };
    print(shown.as_bytes())?;
    Ok(ExitStatus::Done)
}
