//! How a bundle is brought to the peer that it is for: over HTTP, or in a directory that is carried there on a stick.

mod checked;
mod http;
mod directory;

use std::fmt;
use std::fs::File;
use std::time::Duration;

pub use self::directory::{
    Carried, CarriedName, DirectoryError, DirectoryForwarder, NotACarriedName, acknowledgements, clear, deliveries,
    write_acknowledgement,
};
pub use self::http::{HttpForwarder, NoHttp};
use super::Peer;
use crate::key::Signature;
use crate::receipt::{Delivery, Receipt};

/// One way to bring a bundle to where it is for.
pub trait Forwarder: Send + Sync + 'static {
    /// Tries once. A caller that no longer waits has ended the try; what it has come to is then not known, and trying
    /// again is right.
    fn forward(&self, parcel: Parcel) -> impl Future<Output = Result<Handed, ForwardError>> + Send;
}

/// A bundle, what its carrier has signed of it, and the peer that it is for.
#[derive(Debug)]
pub struct Parcel {
    pub to: Peer,
    pub delivery: Delivery,
    /// The carrier's, of `delivery`.
    pub signature: Signature,
    /// `delivery.bundle`'s bytes. They are checked while they are read, so whoever hands them over need not have.
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    /// A small bundle.
    Bytes(bytes::Bytes),
    /// The whole file is the bundle, wherever the handle's position is. It must not be written any more.
    File(File),
}

/// What a try has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handed {
    /// What the other side has answered: at most [`crate::receipt::ACKNOWLEDGEMENT_BYTES_MAX`] bytes, not yet checked.
    Acknowledged(Vec<u8>),
    /// It is on its way. The acknowledgement comes back the same way, and a later try finds it.
    Carried,
}

/// Why a try has not handed the bundle over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.message())]
pub enum ForwardError {
    /// There is no network here: nobody's failure, and no reason to wait longer the next time.
    Offline { message: Message },
    /// The other side has said no.
    Refused {
        message: Message,
        /// The HTTP status.
        status: u16,
        /// Which of the reasons that `POST /v1/courier/bundles` has, if the answer says so: up to 64 of `a`-`z`, `0`-`9`
        /// and `_`.
        code: Option<String>,
        /// What the other side says is its signed refusal: up to [`crate::receipt::REFUSAL_BYTES_MAX`] bytes, not yet
        /// checked.
        signed: Option<Vec<u8>>,
        /// How long the other side asks to be left alone, at most [`super::backoff::RETRY_AFTER_MAX`].
        retry_after: Option<Duration>,
    },
    /// The other side was not reached, or did not answer to the end in time.
    Unreachable { message: Message },
    /// Our own bundle's bytes are not what its digest says. The other side was not given all of it.
    Damaged { message: Message },
    /// The other side says that it has the bundle, and does not acknowledge it.
    Answer { message: Message },
    /// A file on this side cannot be read or written.
    Io { message: Message },
    /// This way does not lead to the peer.
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

/// What people are told of a try: at most [`Receipt::ERROR_BYTES_MAX`] bytes, without any character that a terminal or a
/// list would not show as it is, for part of it is what the other side says.
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

/// `text` in at most `bytes_max` bytes, with an ellipsis where it is cut, and with escapes for what is not printable.
fn plain(text: &str, bytes_max: usize) -> String {
    const CUT: &str = "…";
    let mut plain = String::new();
    // How long it may be for the ellipsis to fit behind.
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
