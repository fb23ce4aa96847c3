//! Transports that bring a bundle to its peer: HTTP, or a directory on removable media.

mod checked;
mod http;
mod directory;

use std::fmt;
use std::fs::File;
use std::time::Duration;

pub use self::directory::{
    DirectoryError, DirectoryForwarder, ExportName, ExportedBundle, NotACarriedName, acknowledgements, clear,
    deliveries, write_acknowledgement,
};
pub use self::http::{HttpForwarder, HttpSetupError};
use super::Peer;
use crate::key::Signature;
use crate::receipt::{Delivery, Receipt};

/// A transport for bundles.
pub trait Forwarder: Send + Sync + 'static {
    /// Makes one attempt. Dropping the future ends the attempt. The result is then unknown, and the
    /// caller should try again.
    fn forward(&self, parcel: OutboundBundle) -> impl Future<Output = Result<ForwardOutcome, ForwardError>> + Send;
}

/// A bundle to be sent, with its signed delivery and its peer.
#[derive(Debug)]
pub struct OutboundBundle {
    pub to: Peer,
    pub delivery: Delivery,
    /// The carrier's signature of `delivery`.
    pub signature: Signature,
    /// Bytes of `delivery.bundle`. They are verified while they are read, so the caller need not do
    /// that.
    pub content: BundleContent,
}

#[derive(Debug)]
pub enum BundleContent {
    /// Bytes of a small bundle.
    Bytes(bytes::Bytes),
    /// File of the bundle. The whole file is the bundle, whatever the handle's position. The file
    /// must not be written any more.
    File(File),
}

/// Result of a successful attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardOutcome {
    /// Reply of the peer, not verified yet: at most [`crate::receipt::ACKNOWLEDGEMENT_BYTES_MAX`]
    /// bytes.
    Acknowledged(Vec<u8>),
    /// Exported. The acknowledgement returns by the same transport, and a later attempt finds it.
    Carried,
}

/// Reason why an attempt did not deliver the bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub enum ForwardError {
    /// No network on this side. This is no failure of the peer, and does not lengthen the next
    /// wait.
    Offline { message: Message },
    /// The peer refused the delivery.
    Refused {
        message: Message,
        /// HTTP status code.
        status: u16,
        /// Reason code of `POST /v1/courier/bundles`, if the reply contains one: up to 64 of
        /// `a`-`z`, `0`-`9` and `_`.
        code: Option<String>,
        /// The peer's signed refusal, not verified yet: up to [`crate::receipt::REFUSAL_BYTES_MAX`]
        /// bytes.
        signed: Option<Vec<u8>>,
        /// Pause that the peer requested, at most [`super::backoff::RETRY_AFTER_MAX`].
        retry_after: Option<Duration>,
    },
    /// The peer was not reached, or did not complete its reply in time.
    Unreachable { message: Message },
    /// This node's copy of the bundle does not match its digest. The peer did not get all of it.
    Damaged { message: Message },
    /// The peer reported success without a valid acknowledgement.
    Answer { message: Message },
    /// A local file cannot be read or written.
    Io { message: Message },
    /// The transport does not lead to the peer.
    NoWay { message: Message },
}

impl ForwardError {
    pub fn message(&self) -> &Message {
        match self {
            Self::Offline { message }
            | Self::Refused { message, .. }
            | Self::Unreachable { message }
            | Self::Damaged { message }
            | Self::Answer { message }
            | Self::Io { message }
            | Self::NoWay { message } => message,
        }
    }
}

/// Error message of an attempt, for people: at most [`Receipt::ERROR_BYTES_MAX`] bytes. All
/// characters are printable in a terminal or a list, because part of the text comes from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(String);

impl Message {
    pub fn new(text: &str) -> Self {
        Self(plain(text, Receipt::ERROR_BYTES_MAX))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns `text` in at most `bytes_max` bytes. A truncated text ends with an ellipsis. Characters
/// that are not printable are escaped.
fn plain(text: &str, bytes_max: usize) -> String {
    const CUT: &str = "…";
    let mut plain = String::new();
    // Length at which the ellipsis still fits.
    let mut fits = 0;
    for c in text.chars() {
        match c {
            '"' | '\'' => plain.push(c),
            _ => plain.extend(c.escape_debug()),
        }
        if plain.len() > bytes_max {
            plain.truncate(fits);
            return plain + CUT;
        }
        if plain.len() + CUT.len() <= bytes_max {
            fits = plain.len();
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_bounded_and_printable() {
        for (text, told) in [
            ("it's \"fine\": ä, 大", "it's \"fine\": ä, 大"),
            ("a\nb\u{1b}[2J\u{202e}\0\\n", r"a\nb\u{1b}[2J\u{202e}\0\\n"),
        ] {
            assert_eq!(Message::new(text).as_str(), told);
        }
        for filler in ["x", "ä", "大", "\u{1b}", "x\u{1b}"] {
            for length in 0..600 {
                let text: String = filler.chars().cycle().take(length).collect();
                let told = Message::new(&text);
                let whole: String = text.chars().flat_map(char::escape_debug).collect();
                if whole.len() <= Receipt::ERROR_BYTES_MAX {
                    assert_eq!(told.as_str(), whole);
                } else {
                    let kept = told.as_str().strip_suffix('…').expect("it says that it is cut");
                    assert!(whole.starts_with(kept), "{told}");
                    assert!((500..=Receipt::ERROR_BYTES_MAX).contains(&told.as_str().len()), "{told}");
                }
            }
        }
    }
}
