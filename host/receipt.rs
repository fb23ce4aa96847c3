//! Receipts of the courier, and the signed statements about them. A `Receipt` is a bundle that is
//! to be delivered. A `Delivery` is signed by its carrier and says what is delivered. An
//! `Acknowledgement` is signed by the destination and says that it has stored the bundle durably. A
//! `SignedRefusal` is signed by the destination and says that it will not store the bundle.

mod delivery;
mod statement;
mod acknowledgement;
mod refusal;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::acknowledgement::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement};
pub use self::delivery::{Delivery, NotADelivery};
pub use self::refusal::{REFUSAL_BYTES_MAX, SignedRefusal, is_refusal_code};
pub use self::statement::NotAStatement;
use crate::digest::Digest;
use crate::key::KeyName;
use crate::proof::Blob;

const ID_DOMAIN: &str = "compute-host courier receipt id v1";

/// 2025-01-01T00:00:00Z. No node ran before that. An earlier time comes from a clock that was never
/// set.
pub const CLOCK_SET_MS: u64 = 1_735_689_600_000;

/// Name of a bundle's sender: 1 to 128 printable ASCII characters. Spaces are not allowed, so that
/// a name is one word in a list and in a header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sender(String);

/// Error of a text that cannot be a sender's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sender's name has 1 to {} printable ASCII characters, and no space", Sender::CHARS_MAX)]
pub struct NotASender;

impl Sender {
    pub const CHARS_MAX: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Sender {
    type Err = NotASender;

    fn from_str(text: &str) -> Result<Self, NotASender> {
        let ok = (1..=Self::CHARS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if ok { Ok(Self(text.to_owned())) } else { Err(NotASender) }
    }
}

impl TryFrom<String> for Sender {
    type Error = NotASender;

    fn try_from(text: String) -> Result<Self, NotASender> {
        text.parse()
    }
}

impl From<Sender> for String {
    fn from(Sender(text): Sender) -> Self {
        text
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of a receipt. The same bundle, sender and destination always give the same id, whenever the
/// bundle is sent. Another carrier may use the id too, so it is unique only together with the
/// carrier's key. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptId([u8; ReceiptId::BYTES]);

/// Error of a text that is not a receipt's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a receipt's id is 32 lowercase hexadecimal digits, as `node compute courier send` prints it")]
pub struct NotAReceiptId;

impl ReceiptId {
    pub const BYTES: usize = 16;

    /// Computes the id. `destination` is `None` for the default destination.
    pub fn of(bundle: &Blob, sender: &Sender, destination: Option<&KeyName>) -> Self {
        let mut bytes = bundle.blake3.as_bytes().to_vec();
        bytes.extend(bundle.bytes.to_le_bytes());
        // The zero byte separates the fields, because neither of them can contain one.
        bytes.extend(sender.as_str().as_bytes());
        bytes.push(0);
        bytes.extend(destination.map(KeyName::as_str).unwrap_or_default().as_bytes());
        let digest = Digest::in_domain(ID_DOMAIN, &bytes);
        Self(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }

    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl From<[u8; ReceiptId::BYTES]> for ReceiptId {
    fn from(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ReceiptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ReceiptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ReceiptId {
    type Err = NotAReceiptId;

    fn from_str(text: &str) -> Result<Self, NotAReceiptId> {
        match IdPrefix::from_str(text)? {
            IdPrefix(digits) if digits.len() == 2 * Self::BYTES => Ok(Self(IdPrefix(digits).bounds().0)),
            _ => Err(NotAReceiptId),
        }
    }
}

impl Serialize for ReceiptId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for ReceiptId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; Self::BYTES]>::deserialize(deserializer).map(Self);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Prefix of an id, in hexadecimal digits. It identifies the id as long as no other id has the same
/// prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Returns the smallest and the greatest id with this prefix.
    pub fn bounds(&self) -> ([u8; ReceiptId::BYTES], [u8; ReceiptId::BYTES]) {
        let filled = |with: u8| {
            let digit = |at: usize| {
                let byte = self.0.as_bytes().get(at).copied();
                byte.map_or(with, |byte| (byte as char).to_digit(16).unwrap_or_default() as u8)
            };
            std::array::from_fn(|at| digit(2 * at) << 4 | digit(2 * at + 1))
        };
        (filled(0), filled(0xf))
    }
}

impl FromStr for IdPrefix {
    type Err = NotAReceiptId;

    fn from_str(text: &str) -> Result<Self, NotAReceiptId> {
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let ok = hex && (1..=2 * ReceiptId::BYTES).contains(&text.len());
        if ok { Ok(Self(text.to_owned())) } else { Err(NotAReceiptId) }
    }
}

impl TryFrom<String> for IdPrefix {
    type Error = NotAReceiptId;

    fn try_from(text: String) -> Result<Self, NotAReceiptId> {
        text.parse()
    }
}

impl From<IdPrefix> for String {
    fn from(IdPrefix(text): IdPrefix) -> Self {
        text
    }
}

impl From<ReceiptId> for IdPrefix {
    fn from(id: ReceiptId) -> Self {
        Self(id.to_string())
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A bundle that is to be delivered. It is stored with the bundle's bytes until its destination has
/// acknowledged it, or its owner drops it. Times are in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub id: ReceiptId,
    pub bundle: Blob,
    pub sender: Sender,
    /// Name of the peer; `None` for the node's default destination at the time of the attempt.
    pub destination: Option<KeyName>,
    /// Number of nodes that carried the bundle before this one.
    pub hops: u8,
    pub created_ms: u64,
    /// Time after which the bundle is not forwarded.
    pub expires_ms: u64,
    pub state: ReceiptState,
    /// Number of attempts.
    pub attempts: u32,
    /// Time of the last attempt; 0 if there was none.
    pub attempted_ms: u64,
    /// Time of the next attempt.
    pub due_ms: u64,
    /// Error of the last attempt.
    pub last_error: Option<String>,
}

impl Receipt {
    /// Maximum number of hops. A longer path is a loop.
    pub const HOPS_MAX: u8 = 32;

    /// Maximum length of a stored error, in bytes.
    pub const ERROR_BYTES_MAX: usize = 512;

    /// Longest wait for the next attempt: the day that a destination may request, plus an hour.
    pub const WAIT_MS_MAX: u64 = 25 * 60 * 60 * 1_000;

    /// Returns a corrected receipt if its times come from another clock than `now_ms`: one that was
    /// ahead and was set back, or one that had never been set. The corrected times count from
    /// `now_ms`. Returns `None` if the times need no correction.
    ///
    /// A corrected receipt is due at once, whether or not it was attempted.
    pub fn on_this_clock(&self, now_ms: u64) -> Option<Self> {
        let was_never_set = self.created_ms < CLOCK_SET_MS && now_ms >= CLOCK_SET_MS;
        let is_made_later = self.created_ms > now_ms;
        let mut receipt = self.clone();
        if was_never_set || is_made_later {
            receipt.created_ms = now_ms;
            receipt.expires_ms = now_ms.saturating_add(self.expires_ms.saturating_sub(self.created_ms));
        }
        let is_due_too_late = self.due_ms > now_ms.saturating_add(Self::WAIT_MS_MAX);
        if is_made_later || self.attempted_ms > now_ms || is_due_too_late {
            // Before now, so that a flush that begins now does not count the receipt as attempted.
            receipt.attempted_ms = self.attempted_ms.min(now_ms.saturating_sub(1));
            receipt.due_ms = self.due_ms.min(now_ms);
        }
        (receipt != *self).then_some(receipt)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// Attempted when it is due.
    Pending,
    /// Dead letter: not attempted again unless the owner asks. `last_error` has the reason.
    Dead,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(bytes: &[u8]) -> Blob {
        Blob { blake3: Digest::of(bytes), bytes: bytes.len() as u64 }
    }

    #[test]
    fn an_id_is_of_bundle_sender_and_destination() {
        let (alice, bob): (Sender, KeyName) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let id = ReceiptId::of(&blob(b"bundle"), &alice, Some(&bob));
        assert_eq!(id, ReceiptId::of(&blob(b"bundle"), &alice, Some(&bob)));
        assert_ne!(id, ReceiptId::of(&blob(b"bundlf"), &alice, Some(&bob)));
        assert_ne!(id, ReceiptId::of(&blob(b"bundle"), &"alicf".parse().unwrap(), Some(&bob)));
        assert_ne!(id, ReceiptId::of(&blob(b"bundle"), &alice, Some(&"boc".parse().unwrap())));
        assert_ne!(id, ReceiptId::of(&blob(b"bundle"), &alice, None));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_senders_name_is_one_word() {
        for name in ["alice", "Alice_2+bundles@example.org", &"x".repeat(128)] {
            assert_eq!(name.parse::<Sender>().map(|sender| sender.to_string()).as_deref(), Ok(name));
        }
        for name in ["", "al ice", "älice", "a\nb", "a\u{1b}[2J", &"x".repeat(129)] {
            assert_eq!(name.parse::<Sender>(), Err(NotASender), "{name}");
        }
    }

    #[test]
    fn times_of_another_clock_count_from_now() {
        const NOW_MS: u64 = CLOCK_SET_MS + 1_000_000_000_000;
        const WEEK_MS: u64 = 604_800_000;
        let receipt = |created_ms: u64, attempted_ms: u64, due_ms: u64| Receipt {
            id: [7; 16].into(),
            bundle: blob(b"bundle"),
            sender: "alice".parse().unwrap(),
            destination: None,
            hops: 0,
            created_ms,
            expires_ms: created_ms + WEEK_MS,
            state: ReceiptState::Pending,
            attempts: u32::from(attempted_ms > 0),
            attempted_ms,
            due_ms,
            last_error: None,
        };
        let times = |receipt: &Receipt| (receipt.created_ms, receipt.expires_ms, receipt.attempted_ms, receipt.due_ms);
        let sound = [
            receipt(NOW_MS, 0, NOW_MS),
            receipt(NOW_MS - 9, NOW_MS, NOW_MS + 3_600_000),
            receipt(CLOCK_SET_MS, CLOCK_SET_MS, CLOCK_SET_MS),
        ];
        for receipt in sound {
            assert_eq!(receipt.on_this_clock(NOW_MS), None, "{receipt:?}");
        }
        for ahead_ms in [1, 3_600_000, 365 * 86_400_000] {
            let then_ms = NOW_MS + ahead_ms;
            for (attempted_ms, due_ms) in [(0, then_ms), (then_ms, then_ms + 5)] {
                let put_right = receipt(then_ms, attempted_ms, due_ms).on_this_clock(NOW_MS).unwrap();
                assert_eq!(times(&put_right), (NOW_MS, NOW_MS + WEEK_MS, attempted_ms.min(NOW_MS - 1), NOW_MS));
            }
            let tried = receipt(NOW_MS - 5, then_ms, then_ms + 5).on_this_clock(NOW_MS).unwrap();
            assert_eq!(times(&tried), (NOW_MS - 5, NOW_MS - 5 + WEEK_MS, NOW_MS - 1, NOW_MS));
        }
        // Sent and attempted before the clock was set.
        let put_right = receipt(600_000, 601_000, 602_000).on_this_clock(NOW_MS).unwrap();
        assert_eq!(times(&put_right), (NOW_MS, NOW_MS + WEEK_MS, 601_000, 602_000));
        assert_eq!(receipt(600_000, 0, 600_000).on_this_clock(700_000), None, "nothing is known of the time yet");
        let waits =
            |wait_ms| receipt(NOW_MS - 5, NOW_MS - 4, NOW_MS + wait_ms).on_this_clock(NOW_MS).map(|new| new.due_ms);
        assert_eq!((waits(Receipt::WAIT_MS_MAX), waits(Receipt::WAIT_MS_MAX + 1)), (None, Some(NOW_MS)));
        // A corrected receipt needs no further correction.
        assert_eq!(put_right.on_this_clock(NOW_MS), None);
    }

    #[test]
    fn a_prefix_stands_for_all_ids_that_begin_so() {
        let (low, high) = "abc".parse::<IdPrefix>().unwrap().bounds();
        assert_eq!((low[..3].to_vec(), high[..3].to_vec()), (vec![0xab, 0xc0, 0], vec![0xab, 0xcf, 0xff]));
        for wrong in ["", "g", "AB", " a", &"a".repeat(33)] {
            assert_eq!(wrong.parse::<IdPrefix>(), Err(NotAReceiptId), "{wrong}");
            assert_eq!(wrong.parse::<ReceiptId>(), Err(NotAReceiptId), "{wrong}");
        }
        assert_eq!("ab".parse::<ReceiptId>(), Err(NotAReceiptId));
    }
}
