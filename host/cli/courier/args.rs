//! Arguments of `node compute courier`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::key::{KeyName, PublicKey};
use crate::receipt::{IdPrefix, Sender};

#[derive(Subcommand)]
pub enum CourierCommand {
    /// Accept a bundle for a peer, and print the id of its receipt when both are on disk
    Send {
        /// The bundle, or `-` for standard input
        file: PathBuf,
        /// The sender of the bundle
        sender: Sender,
        /// The peer that receives it [default: `courier.destination` in the config]
        #[arg(long, value_name = "PEER")]
        to: Option<KeyName>,
        /// How long to try to deliver it, such as 12h or 7d [default: `courier.expires_ms` in the
        /// config]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        #[arg(long)]
        json: bool,
    },
    /// Carry a received bundle on to another peer, and print the id of its new receipt
    Onward {
        id: IdPrefix,
        #[arg(long, value_name = "PEER")]
        to: KeyName,
        #[arg(long)]
        json: bool,
    },
    /// Forward all pending bundles now
    Flush {
        /// How long to retry failed attempts
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = humantime::parse_duration)]
        retry_for: Duration,
        #[arg(long)]
        json: bool,
    },
    /// Print one line for each receipt, the oldest first
    List {
        /// Receipts that are still to be forwarded (the default)
        #[arg(long)]
        pending: bool,
        /// Receipts that were given up, with the reason
        #[arg(long, conflicts_with_all = ["pending"])]
        dead: bool,
        /// Receipts that were acknowledged, with the credit
        #[arg(long, conflicts_with_all = ["pending", "dead"])]
        acked: bool,
        /// Bundles that were received for this node, each with the file that holds it
        #[arg(long, conflicts_with_all = ["pending", "dead", "acked"])]
        received: bool,
        #[arg(long)]
        json: bool,
    },
    /// Print all details of a receipt
    Show {
        /// The id that `send` printed; its first digits are enough
        id: IdPrefix,
        #[arg(long)]
        json: bool,
    },
    /// Retry receipts now, also dead ones
    Retry {
        #[arg(required_unless_present = "dead")]
        ids: Vec<IdPrefix>,
        /// All dead receipts
        #[arg(long, conflicts_with = "ids")]
        dead: bool,
        #[arg(long)]
        json: bool,
    },
    /// Delete receipts with their bundles, or received bundles
    Drop {
        #[arg(required = true)]
        ids: Vec<IdPrefix>,
        #[arg(long)]
        json: bool,
    },
    /// Write pending bundles to a directory, to be carried on a removable medium
    Export {
        directory: PathBuf,
        /// Only bundles for this peer
        #[arg(long, value_name = "PEER")]
        to: Option<KeyName>,
        #[arg(long)]
        json: bool,
    },
    /// Import a directory: bundles for this node, and acknowledgements of exported bundles
    Import {
        directory: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Manage the nodes that this node exchanges bundles with
    #[command(subcommand, after_help = PEER_EXAMPLES)]
    Peer(PeerCommand),
    /// Print the credit that was earned
    Rewards {
        #[arg(long)]
        json: bool,
    },
    /// Export acknowledgements, and verify acknowledgements of other nodes
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
    /// Add a peer by the key that its `node key show` prints; without an address, it is reached
    /// through directories only
    Add {
        name: KeyName,
        #[arg(value_name = "PUBLIC_KEY")]
        key: PublicKey,
        #[arg(value_name = "ADDRESS")]
        address: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Replace the pinned key of a peer, as the rotation statement signed by its former key says
    Follow {
        /// The statement that the peer's `node key rotate` wrote
        statement: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Print one line for each peer: its key, its name and its address
    List {
        #[arg(long)]
        json: bool,
    },
    /// Remove a peer; bundles that are pending for it wait until it is added again
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
        /// The file to write; an existing file is left unchanged
        file: PathBuf,
    },
    /// Check whether files are acknowledgements, of which bundle, and signed by whom
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
