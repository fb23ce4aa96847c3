//! What `node compute courier` can be told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::key::{KeyName, PublicKey};
use crate::receipt::{IdPrefix, Sender};

#[derive(Subcommand)]
pub enum CourierCommand {
    /// Take a bundle in, to be carried to a peer, and print its receipt's id once both are on disk
    Send {
        /// The bundle, or `-` for standard input
        file: PathBuf,
        /// Whose bundle it is
        sender: Sender,
        /// The peer that it is for [default: `courier.destination` in the config]
        #[arg(long, value_name = "PEER")]
        to: Option<KeyName>,
        /// How long to try, such as 12h or 7d [default: `courier.expires_ms` in the config]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        #[arg(long)]
        json: bool,
    },
    /// Carry a bundle that was received on to another peer, and print the id of its new receipt
    Onward {
        id: IdPrefix,
        #[arg(long, value_name = "PEER")]
        to: KeyName,
        #[arg(long)]
        json: bool,
    },
    /// Forward all that is pending, now
    Flush {
        /// How long to try again what fails
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
        retry_for: Duration,
        #[arg(long)]
        json: bool,
    },
    /// Print a line for each receipt, the oldest first
    List {
        /// Those that are to be forwarded (this is the default)
        #[arg(long)]
        pending: bool,
        /// Those that are tried no more, with the reason
        #[arg(long, conflicts_with_all = ["pending"])]
        dead: bool,
        /// Those that were acknowledged, with what was credited
        #[arg(long, conflicts_with_all = ["pending", "dead"])]
        acked: bool,
        /// What was received for this node, with the file that holds it
        #[arg(long, conflicts_with_all = ["pending", "dead", "acked"])]
        received: bool,
        #[arg(long)]
        json: bool,
    },
    /// Print all there is to know of a receipt
    Show {
        /// As `send` printed it; its first digits will do
        id: IdPrefix,
        #[arg(long)]
        json: bool,
    },
    /// Try receipts again now, also dead ones
    Retry {
        #[arg(required_unless_present = "dead")]
        ids: Vec<IdPrefix>,
        /// All that are dead
        #[arg(long, conflicts_with = "ids")]
        dead: bool,
        #[arg(long)]
        json: bool,
    },
    /// Forget receipts with their bundles, or bundles that were received
    Drop {
        #[arg(required = true)]
        ids: Vec<IdPrefix>,
        #[arg(long)]
        json: bool,
    },
    /// Write what is pending to a directory, to be carried on a stick
    Export {
        directory: PathBuf,
        /// Only what is for this peer
        #[arg(long, value_name = "PEER")]
        to: Option<KeyName>,
        #[arg(long)]
        json: bool,
    },
    /// Take in what a directory holds: bundles for this node, and acknowledgements of what it exported
    Import {
        directory: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// The other nodes that bundles go to and come from
    #[command(subcommand, after_help = PEER_EXAMPLES)]
    Peer(PeerCommand),
    /// Print what was earned
    Rewards {
        #[arg(long)]
        json: bool,
    },
    /// Give out acknowledgements, and check those of others
    #[command(subcommand, after_help = ACK_EXAMPLES)]
    Ack(AckCommand),
    /// Check the courier's store, and rebuild it where it is damaged
    Fsck {
        #[arg(long)]
        json: bool,
    },
}

pub const COURIER_EXAMPLES: &str = "\
Examples:
  node compute courier peer add bob PUBLIC_KEY http://192.0.2.7:7700
  node compute courier send bundle.bin alice --to bob    print the id of the receipt
  node compute courier flush                             forward all that is pending
  node compute courier list --dead                       what was given up, and why
  node compute courier rewards                           what was earned

With `destination = \"bob\"` under `[courier]` in config.toml, --to is not needed.
Exit codes: 0 all forwarded, 1 some remain or were given up, 2 an error, 130 interrupted (nothing is lost).";

#[derive(Subcommand)]
pub enum PeerCommand {
    /// Add a node, by what its `node key show` prints; without an address it is reached by directory only
    Add {
        name: KeyName,
        #[arg(value_name = "PUBLIC_KEY")]
        key: PublicKey,
        #[arg(value_name = "ADDRESS")]
        address: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Pin a peer to its new key, by the statement of the rotation that its former key has signed
    Follow {
        /// What its owner was told by `node key rotate`
        statement: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Print a line for each: its key, its name and its address
    List {
        #[arg(long)]
        json: bool,
    },
    /// Forget one; what is pending for it waits until it is added again
    Remove {
        name: KeyName,
        #[arg(long)]
        json: bool,
    },
}

const PEER_EXAMPLES: &str = "\
Examples:
  node compute courier peer add bob d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a http://192.0.2.7:7700
  node compute courier peer list
  node compute courier peer follow bob.rotation     after bob's `node key rotate`
  node compute courier peer remove bob

Bundles are taken only from peers. Only what a peer's very key has signed counts as its acknowledgement.";

#[derive(Subcommand)]
pub enum AckCommand {
    /// Write the acknowledgement of a receipt to a file, as evidence
    Export {
        id: IdPrefix,
        /// What is there already is left alone
        file: PathBuf,
    },
    /// Say whether files are acknowledgements, of what, and signed by whom
    Verify {
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[arg(long)]
        json: bool,
    },
}

const ACK_EXAMPLES: &str = "\
Examples:
  node compute courier ack export 3f9a bundle.ack
  node compute courier ack verify bundle.ack

Exit codes of verify: 0 all are sound, 1 one is not, 2 an error.";
