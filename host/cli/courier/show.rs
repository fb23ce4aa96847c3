//! Formats the courier's answers for people and for programs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::super::{printable, timestamp};
use super::count;
use crate::courier::events::{Acknowledged, CourierEvent, PeerLine, ReceivedBundle, Rewards, SendStatus};
use crate::courier::{Event, Peers, Summary};
use crate::key::{KeyOwner, KnownKeys, PublicKey};
use crate::receipt::{Acknowledgement, Receipt, ReceiptState};
use crate::store::FsckReport;

pub enum Table {
    /// A line on standard output.
    Line(String),
    /// A message on standard error: its kind and its text.
    Aside(&'static str, String),
    /// Both: a line, and a note on standard error.
    Noted(String, String),
    Nothing,
}

/// Formats an answer for programs: each answer is one line.
pub fn json(answer: &CourierEvent) -> Table {
    serde_json::to_string(answer).map_or(Table::Nothing, Table::Line)
}

pub fn text(answer: &CourierEvent) -> Table {
    let line = match answer {
        CourierEvent::Sent { id, was, .. } => {
            // Standard output has the id alone, for scripts; the former state of the receipt goes
            // to standard error.
            return match was {
                SendStatus::New | SendStatus::Pending => Table::Line(id.to_string()),
                SendStatus::Dead => Table::Noted(
                    id.to_string(),
                    format!("it was given up before; `node compute courier retry {id}` tries it again"),
                ),
                SendStatus::Acknowledged => Table::Noted(id.to_string(), "it was acknowledged before".to_owned()),
            };
        }
        CourierEvent::Flush(event) => return flush(event),
        CourierEvent::Flushed(summary) => summed_up(summary),
        CourierEvent::Receipt(receipt) => receipt_line(receipt),
        CourierEvent::Acknowledged(acknowledged) => acknowledged_line(acknowledged),
        CourierEvent::Received(received) => received_line(received),
        CourierEvent::Revived { id, expires_ms } => format!("{id}  to be tried until {}", timestamp(*expires_ms)),
        CourierEvent::Dropped { id } => format!("{id}  dropped"),
        CourierEvent::Imported { id, sender, bytes, is_new } => {
            let before = if *is_new { "" } else { ", which was here already" };
            format!("{id}  {} from {sender}{before}", HumanBytes(*bytes))
        }
        CourierEvent::Credited { id, credit } => format!("{id}  acknowledged, {credit} credited"),
        CourierEvent::Problem { what } => return Table::Aside("error", what.clone()),
        CourierEvent::Rewards(rewards) => rewards_lines(rewards),
        CourierEvent::Checked(report) => fsck_lines(report),
        CourierEvent::Peer(peer) => peer_line(peer),
        CourierEvent::PeerRemoved(peer) => format!("removed {}", peer_line(peer)),
        CourierEvent::AcknowledgementBytes { .. } | CourierEvent::Error { .. } => return Table::Nothing,
    };
    Table::Line(line)
}

fn flush(event: &Event) -> Table {
    match event {
        Event::Begun { .. } => Table::Nothing,
        Event::Forwarded { id, to, credit, .. } => Table::Line(format!("{id}  forwarded to {to}, {credit} credited")),
        Event::Carried { id, to, bytes } => Table::Line(format!("{id}  {} for {to}", HumanBytes(*bytes))),
        Event::Failed { id, error, due_ms, .. } => {
            Table::Aside("warning", format!("{id}: {error}; to be tried again {}", from_now(*due_ms)))
        }
        Event::Died { id, error, .. } => Table::Aside(
            "error",
            format!("{id} is given up: {error}; `node compute courier retry {id}` tries it again"),
        ),
        Event::NoWay { why, .. } => Table::Aside("error", why.clone()),
    }
}

fn summed_up(summary: &Summary) -> String {
    let Summary { forwarded, forwarded_bytes, credit, carried, attempts, failures, died, pending, dead, .. } = summary;
    let mut parts = vec![];
    if *carried > 0 {
        parts.push(format!("{} written", count(*carried)));
    } else {
        let (forwarded, bytes) = (count(*forwarded), HumanBytes(*forwarded_bytes));
        parts.push(format!("{forwarded} forwarded ({bytes}), {} credited", count(*credit)));
    }
    if *failures > 0 {
        parts.push(format!("{} of {} tries failed", count(*failures), count(*attempts)));
    }
    if *died > 0 {
        parts.push(format!("{} given up", count(*died)));
    }
    if *dead > *died {
        let before = count(*dead - *died);
        parts.push(format!("{before} given up before; `node compute courier retry --dead` tries them again"));
    }
    if *pending > 0 {
        let due = summary.next_due_ms.map_or_else(String::new, |due_ms| format!(", the next due {}", from_now(due_ms)));
        parts.push(format!("{} pending{due}", count(*pending)));
    }
    parts.join("; ")
}

/// Formats a time relative to now.
fn from_now(unix_ms: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    match Duration::from_millis(unix_ms).checked_sub(now) {
        Some(wait) if wait >= Duration::from_secs(1) => {
            format!("in {}", humantime::format_duration(Duration::from_secs(wait.as_secs())))
        }
        Some(_) => "in a moment".to_owned(),
        None => "now".to_owned(),
    }
}

fn receipt_line(receipt: &Receipt) -> String {
    let Receipt { id, bundle, sender, destination, attempts, due_ms, state, last_error, .. } = receipt;
    let to = destination.as_ref().map_or("the default destination", |name| name.as_str());
    let what = match state {
        ReceiptState::Pending => format!("due {}", from_now(*due_ms)),
        ReceiptState::Dead => "given up".to_owned(),
    };
    let tries = if *attempts == 1 { "1 try".to_owned() } else { format!("{attempts} tries") };
    let error = last_error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    printable(&format!("{id}  {}  {sender} to {to}  {tries}, {what}{error}", HumanBytes(bundle.bytes)))
}

fn acknowledged_line(acknowledged: &Acknowledged) -> String {
    let Acknowledged { id, bundle, sender, destination, stored_ms, credit, .. } = acknowledged;
    let (stored, bytes) = (timestamp(*stored_ms), HumanBytes(bundle.bytes));
    format!("{id}  {bytes}  {sender} to {destination}  stored {stored}, {credit} credited")
}

fn received_line(received: &ReceivedBundle) -> String {
    let ReceivedBundle { id, bundle, sender, carrier_name, carrier, stored_ms, is_kept, path, .. } = received;
    let by = carrier_name.as_ref().map_or(carrier.as_str(), |name| name.as_str());
    let place = if *is_kept { path.display().to_string() } else { "dropped".to_owned() };
    let (stored, bytes) = (timestamp(*stored_ms), HumanBytes(bundle.bytes));
    printable(&format!("{id}  {bytes}  {sender} by {by}  {stored}  {place}"))
}

fn rewards_lines(rewards: &Rewards) -> String {
    let line = |credit: u64, receipts: u64, bytes: u64, of: &str| {
        format!("{:>16}  for {} of {}  {of}", count(credit), count(receipts), HumanBytes(bytes))
    };
    let mut lines: Vec<String> = rewards
        .destinations
        .iter()
        .map(|of| {
            let name = of.name.as_ref().map_or(of.destination.as_str(), |name| name.as_str());
            line(of.credit, of.receipts, of.bytes, &format!("to {name}"))
        })
        .collect();
    lines.push(line(rewards.credit, rewards.receipts, rewards.bytes, "in all"));
    lines.join("\n")
}

fn peer_line(peer: &PeerLine) -> String {
    let PeerLine { name, public_key, address, is_default } = peer;
    let address = address.as_deref().unwrap_or("by directory");
    let default = if *is_default { "  (default destination)" } else { "" };
    printable(&format!("{public_key}  {name}  {address}{default}"))
}

/// Describes the content of a file that should be an acknowledgement.
pub fn verified(
    file: &Path,
    found: &Result<Acknowledgement, String>,
    owners: &KnownKeys,
    peers: &Peers,
    json: bool,
) -> String {
    let name = file.to_string_lossy();
    let acknowledgement = match found {
        Ok(acknowledgement) => acknowledgement,
        Err(error) if json => return format!("{}\n", json!({ "file": name, "sound": false, "error": error })),
        Err(error) => return format!("{}: not an acknowledgement: {}\n", printable(&name), printable(error)),
    };
    let delivery = acknowledgement.delivery();
    let who = |key: &PublicKey| match (peers.of_key(key), owners.of(key)) {
        (_, KeyOwner::ThisNode) => "this node".to_owned(),
        (_, KeyOwner::ThisNodeFormerly) => "this node, formerly".to_owned(),
        (Some(peer), _) => peer.name.to_string(),
        (None, KeyOwner::Trusted(name)) => name.to_string(),
        (None, KeyOwner::TrustedFormerly(name)) => format!("{name}, formerly"),
        (None, KeyOwner::Unknown) => "unknown here".to_owned(),
    };
    if json {
        let object: Value = json!({
            "file": name,
            "sound": true,
            "id": delivery.receipt,
            "bundle": delivery.bundle,
            "sender": delivery.sender,
            "destination": delivery.destination,
            "carrier": delivery.carrier,
            "hops": delivery.hops,
            "expires_ms": delivery.expires_ms,
            "stored_ms": acknowledgement.stored_ms(),
            "signature": acknowledgement.signature().to_string(),
        });
        return format!("{object}\n");
    }
    let lines = [
        ("receipt", delivery.receipt.to_string()),
        ("bundle", format!("{}, {} bytes", delivery.bundle.blake3, delivery.bundle.bytes)),
        ("sender", delivery.sender.to_string()),
        ("signed by", format!("{} ({})", delivery.destination, who(&delivery.destination))),
        ("carrier", format!("{} ({})", delivery.carrier, who(&delivery.carrier))),
        ("hops", delivery.hops.to_string()),
        ("stored", timestamp(acknowledgement.stored_ms())),
    ];
    let lines: String = lines.iter().map(|(name, value)| format!("  {name:<11}{}\n", printable(value))).collect();
    format!("{}: sound\n{lines}", printable(&name))
}

pub fn fsck(report: &FsckReport, json: bool) -> String {
    if json {
        return serde_json::to_string(report).unwrap_or_default() + "\n";
    }
    fsck_lines(report) + "\n"
}

fn fsck_lines(report: &FsckReport) -> String {
    let mut lines = vec![format!(
        "{} receipts, {} received, {} acknowledgements",
        count(report.receipts),
        count(report.received),
        count(report.acknowledgements)
    )];
    lines.extend(report.problems.iter().map(|problem| printable(problem)));
    lines.extend(report.done.iter().map(|done| printable(done)));
    lines.push(if report.is_sound() { "sound".to_owned() } else { "damaged; see above".to_owned() });
    lines.join("\n")
}
