//! What the courier promises, and what it is promised: a `Receipt` stands for a bundle that is to be carried, a `Delivery`
//! is its carrier's signed word of what is being handed over, and an `Acknowledgement` is its destination's signed word
//! that it has it and will not lose it; a `SignedRefusal` is its word that it will not store it.

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

/// 2025-01-01T00:00:00Z. No node was run before that: a clock that says less was never set, and a time that is earlier
/// was read from such a clock.
pub const CLOCK_SET_MS: u64 = 1_735_689_600_000;

/// Who hands a bundle in: 1 to 128 printable ASCII characters other than the space, so that a name is one word in a list
/// and in a header.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sender(String);

/// `{0}` cannot be the name of a sender.
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

/// Names a receipt: the same bundle from the same sender to the same destination has the same one, whenever it is sent.
/// Another carrier may use it too, so it counts only together with the carrier's key. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptId([u8; ReceiptId::BYTES]);

/// `{0}` is not a receipt's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a receipt's id is 32 lowercase hexadecimal digits, as `node compute courier send` prints it")]
pub struct NotAReceiptId;

impl ReceiptId {
    pub const BYTES: usize = 16;

    /// `destination` is `None` where whatever is the default is meant.
    pub fn of(bundle: &Blob, sender: &Sender, destination: Option<&KeyName>) -> Self {
        let mut bytes = bundle.blake3.as_bytes().to_vec();
        bytes.extend(bundle.bytes.to_le_bytes());
        // Neither of these can hold a zero byte.
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

/// The first digits of an id, which stand for it as long as no other begins so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdPrefix(String);

impl IdPrefix {
    /// The least and the greatest id that begin so.
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

/// A bundle that is to be carried: it is kept, with the bundle's bytes, until its destination has acknowledged it or its
/// owner drops it. Times are in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub id: ReceiptId,
    pub bundle: Blob,
    pub sender: Sender,
    /// A peer's name; `None` where the node's default destination is meant, whichever that is when it is forwarded.
    pub destination: Option<KeyName>,
    /// How many nodes have carried it before this one.
    pub hops: u8,
    pub created_ms: u64,
    /// It is not forwarded after that.
    pub expires_ms: u64,
    pub state: State,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was last tried; 0 if it never was.
    pub attempted_ms: u64,
    /// When it is to be tried next.
    pub due_ms: u64,
    /// What came of the last try.
    pub last_error: Option<String>,
}

impl Receipt {
    /// The longest path that a bundle goes: longer ones go in circles.
    pub const HOPS_MAX: u8 = 32;

    /// What is kept of an error.
    pub const ERROR_BYTES_MAX: usize = 512;

    /// No receipt waits longer than this for its next try: a day that its destination may ask for, and an hour.
    pub const WAIT_MS_MAX: u64 = 25 * 60 * 60 * 1_000;

    /// The receipt with its times counted from `now_ms`, where they were read from another clock than the one that says
    /// `now_ms`: one that was ahead and was set back, or one that had never been set. `None` where they may stand.
    ///
    /// What was never tried is due at once, and what was tried is due again at once.
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
            // Before now: a flush that begins now has not tried it.
            receipt.attempted_ms = self.attempted_ms.min(now_ms.saturating_sub(1));
            receipt.due_ms = self.due_ms.min(now_ms);
        }
        (receipt != *self).then_some(receipt)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is tried when it is due.
    Pending,
    /// It is tried no more, for the reason in `last_error`, unless its owner says so.
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
            state: State::Pending,
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
        // Sent and tried before the clock was set.
        let put_right = receipt(600_000, 601_000, 602_000).on_this_clock(NOW_MS).unwrap();
        assert_eq!(times(&put_right), (NOW_MS, NOW_MS + WEEK_MS, 601_000, 602_000));
        assert_eq!(receipt(600_000, 0, 600_000).on_this_clock(700_000), None, "nothing is known of the time yet");
        let waits =
            |wait_ms| receipt(NOW_MS - 5, NOW_MS - 4, NOW_MS + wait_ms).on_this_clock(NOW_MS).map(|new| new.due_ms);
        assert_eq!((waits(Receipt::WAIT_MS_MAX), waits(Receipt::WAIT_MS_MAX + 1)), (None, Some(NOW_MS)));
        // Put right is right.
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
