//! Trusted keys of others, by the owner's names for them. The file has a title and one line for
//! each name: the name, its key, and the former keys that this one has replaced, newest first.

use std::fmt;
use std::str::FromStr;

use super::{PublicKey, Rotation};

const TITLE: &str = "compute-host trusted keys v1";

/// Maximum number of names that one owner can look after.
pub const TRUSTED_MAX: usize = 1_000;

/// Maximum number of former keys of one name. Beyond it, the oldest is removed.
const FORMER_MAX: usize = 16;

/// Maximum size of the file, rounded up.
pub const TRUSTED_BYTES_MAX: u64 = 2 << 20;

/// Owner's name for a key: up to 64 of `a`-`z`, `0`-`9`, `.`, `_` and `-`, starting with a letter
/// or a digit. A key is not a valid name, nor is `self`, which means this node's own key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct KeyName(String);

const CHARS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key's name has up to {CHARS_MAX} of `a`-`z`, `0`-`9`, `.`, `_` and `-`, begins with a letter or a digit, is no key, and is not `self`"
)]
pub struct NotAKeyName;

impl KeyName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for KeyName {
    type Error = NotAKeyName;

    fn try_from(text: String) -> Result<Self, NotAKeyName> {
        text.parse()
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyName {
    type Err = NotAKeyName;

    fn from_str(text: &str) -> Result<Self, NotAKeyName> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let is_hex = text.len() == 2 * PublicKey::BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let ok = begins && text.len() <= CHARS_MAX && text.chars().all(allowed) && !is_hex && text != "self";
        if ok { Ok(Self(text.to_owned())) } else { Err(NotAKeyName) }
    }
}

/// Reason why a change of the trusted keys is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("`{name}` stands for the key {key} already; remove it first, or use another name")]
    NameTaken { name: KeyName, key: PublicKey },
    #[error("the key {key} is trusted already, as `{name}`")]
    KeyTaken { name: KeyName, key: PublicKey },
    #[error("no trusted key has the name `{0}`; `node key trust list` shows those that are")]
    NoSuchName(KeyName),
    #[error(
        "no trusted key is {0}, which the statement retires; if you trust its successor, `node key trust add` that one"
    )]
    NotTrusted(PublicKey),
    #[error("{TRUSTED_MAX} keys are trusted, and no more can be; remove some")]
    TooMany,
    #[error("line {0} is not a name and its keys, or has what another line has")]
    Line(usize),
    #[error("its first line is not `{TITLE}`, or its last line has no end")]
    Title,
}

/// A name and its keys.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Trusted {
    pub name: KeyName,
    pub public_key: PublicKey,
    /// Former keys, which signed before the rotations: newest first.
    pub former: Vec<PublicKey>,
}

impl Trusted {
    /// Returns all keys of the name.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        [&self.public_key].into_iter().chain(&self.former)
    }
}

/// List of trusted keys. Each name and each key is unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<Trusted>);

impl TrustedKeys {
    pub fn list(&self) -> &[Trusted] {
        &self.0
    }

    pub fn named(&self, name: &KeyName) -> Option<&Trusted> {
        self.0.iter().find(|trusted| trusted.name == *name)
    }

    pub fn of_key(&self, key: &PublicKey) -> Option<&Trusted> {
        self.0.iter().find(|trusted| trusted.keys().any(|other| other == key))
    }

    /// Adds a key. An existing entry with the same name and key stays unchanged.
    pub fn add(&mut self, name: &KeyName, key: PublicKey) -> Result<(), TrustError> {
        match (self.named(name), self.of_key(&key)) {
            (Some(there), _) if there.public_key == key => return Ok(()),
            (Some(there), _) => return Err(TrustError::NameTaken { name: name.clone(), key: there.public_key }),
            (None, Some(there)) => return Err(TrustError::KeyTaken { name: there.name.clone(), key }),
            (None, None) if self.0.len() >= TRUSTED_MAX => return Err(TrustError::TooMany),
            (None, None) => {}
        }
        self.0.push(Trusted { name: name.clone(), public_key: key, former: Vec::new() });
        Ok(())
    }

    /// Adds the successor to the name of the former key. Only the current key of a name can appoint
    /// a successor: a key that was rotated earlier cannot appoint another one.
    pub fn follow(&mut self, rotation: &Rotation) -> Result<KeyName, TrustError> {
        let (former, successor) = (rotation.former(), rotation.successor());
        let there = self.of_key(&successor).map(|there| (there.name.clone(), there.former.contains(&former)));
        match there {
            Some((name, true)) => return Ok(name),
            Some((name, false)) => return Err(TrustError::KeyTaken { name, key: successor }),
            None => {}
        }
        let trusted = self.0.iter_mut().find(|trusted| trusted.public_key == former);
        let trusted = trusted.ok_or(TrustError::NotTrusted(former))?;
        trusted.public_key = successor;
        trusted.former.insert(0, former);
        trusted.former.truncate(FORMER_MAX);
        Ok(trusted.name.clone())
    }

    pub fn remove(&mut self, name: &KeyName) -> Result<Trusted, TrustError> {
        let at = self.0.iter().position(|trusted| trusted.name == *name);
        Ok(self.0.remove(at.ok_or_else(|| TrustError::NoSuchName(name.clone()))?))
    }

    pub fn read(bytes: &[u8]) -> Result<Self, TrustError> {
        let text = std::str::from_utf8(bytes).map_err(|_| TrustError::Title)?;
        let lines = text.strip_prefix(TITLE).and_then(|rest| rest.strip_prefix('\n')).ok_or(TrustError::Title)?;
        if !(lines.is_empty() || lines.ends_with('\n')) {
            return Err(TrustError::Title);
        }
        let mut keys = Self::default();
        // `lines` would also accept a line that ends in `\r\n`.
        for (line, number) in lines.split_terminator('\n').zip(2..) {
            let trusted = trusted(line).ok_or(TrustError::Line(number))?;
            keys.push(trusted).ok_or(TrustError::Line(number))?;
        }
        Ok(keys)
    }

    /// Appends an entry. Returns `None` if its name or a key exists already, or a limit is
    /// exceeded.
    fn push(&mut self, trusted: Trusted) -> Option<()> {
        let is_new = self.named(&trusted.name).is_none() && trusted.keys().all(|key| self.of_key(key).is_none());
        let fits = trusted.former.len() <= FORMER_MAX && self.0.len() < TRUSTED_MAX;
        (is_new && fits).then(|| self.0.push(trusted))
    }

    pub fn to_text(&self) -> String {
        let line = |trusted: &Trusted| {
            let keys: String = trusted.keys().map(|key| format!(" {key}")).collect();
            format!("{}{keys}\n", trusted.name)
        };
        format!("{TITLE}\n{}", self.0.iter().map(line).collect::<String>())
    }
}

fn trusted(line: &str) -> Option<Trusted> {
    let mut words = line.split(' ');
    let (name, public_key) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(Trusted { name, public_key, former: words.map(|key| key.parse().ok()).collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::super::NodeKey;
    use super::*;

    fn key(secret: u8) -> NodeKey {
        NodeKey::from_secret([secret; 32])
    }

    fn name(text: &str) -> KeyName {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_a_plain_word() {
        let hex = key(1).public().to_string();
        for good in ["a", "studio-b", "v1.2_x", "0", &"x".repeat(64), &hex[1..]] {
            assert!(good.parse::<KeyName>().is_ok(), "{good}");
        }
        for wrong in ["", ".", "-a", "a/b", "A", "ä", "a b", "a\n", &"x".repeat(65), &hex, "self"] {
            assert_eq!(wrong.parse::<KeyName>(), Err(NotAKeyName), "{wrong}");
        }
    }

    #[test]
    fn a_name_stands_for_one_key_and_a_key_for_one_name() {
        let mut keys = TrustedKeys::default();
        keys.add(&name("a"), key(1).public()).unwrap();
        keys.add(&name("a"), key(1).public()).expect("once more the same is nothing new");
        let taken = keys.add(&name("a"), key(2).public());
        assert_eq!(taken, Err(TrustError::NameTaken { name: name("a"), key: key(1).public() }));
        let taken = keys.add(&name("b"), key(1).public());
        assert_eq!(taken, Err(TrustError::KeyTaken { name: name("a"), key: key(1).public() }));
        assert_eq!(keys.list().len(), 1);
        assert_eq!(keys.remove(&name("b")), Err(TrustError::NoSuchName(name("b"))));
        keys.remove(&name("a")).unwrap();
        assert_eq!(keys, TrustedKeys::default());
    }

    #[test]
    fn a_name_follows_its_key_and_nobody_elses() {
        let mut keys = TrustedKeys::default();
        keys.add(&name("a"), key(1).public()).unwrap();
        keys.add(&name("b"), key(5).public()).unwrap();
        let first = Rotation::sign(&key(1), 0, &key(2), 0);
        for _ in 0..2 {
            assert_eq!(keys.follow(&first), Ok(name("a")), "also a second time");
        }
        assert_eq!(keys.of_key(&key(1).public()), keys.of_key(&key(2).public()), "what it has signed stays signed");
        let stranger = Rotation::sign(&key(3), 0, &key(4), 0);
        assert_eq!(keys.follow(&stranger), Err(TrustError::NotTrusted(key(3).public())));
        let again = Rotation::sign(&key(1), 0, &key(4), 0);
        assert_eq!(
            keys.follow(&again),
            Err(TrustError::NotTrusted(key(1).public())),
            "a retired key gives nothing away"
        );
        let taken = Rotation::sign(&key(2), 0, &key(5), 0);
        assert_eq!(keys.follow(&taken), Err(TrustError::KeyTaken { name: name("b"), key: key(5).public() }));
        assert_eq!(TrustedKeys::read(keys.to_text().as_bytes()), Ok(keys));
    }

    #[test]
    fn names_and_what_they_follow_are_bounded() {
        let mut keys = TrustedKeys::default();
        keys.add(&name("a"), key(1).public()).unwrap();
        for secret in 1..100 {
            keys.follow(&Rotation::sign(&key(secret), 0, &key(secret + 1), 0)).unwrap();
        }
        assert_eq!(keys.list()[0].former.len(), FORMER_MAX);
        assert_eq!(TrustedKeys::read(keys.to_text().as_bytes()), Ok(keys));

        let mut keys = TrustedKeys::default();
        let many = |n: usize| {
            let mut secret = [9; 32];
            secret[..8].copy_from_slice(&n.to_le_bytes());
            NodeKey::from_secret(secret).public()
        };
        for n in 0..TRUSTED_MAX {
            keys.add(&name(&n.to_string()), many(n)).unwrap();
        }
        assert_eq!(keys.add(&name("more"), many(TRUSTED_MAX)), Err(TrustError::TooMany));
        let more = format!("{}more {}\n", keys.to_text(), many(TRUSTED_MAX));
        assert_eq!(TrustedKeys::read(more.as_bytes()), Err(TrustError::Line(TRUSTED_MAX + 2)));
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let (one, two) = (key(1).public(), key(2).public());
        let read = |lines: &str| TrustedKeys::read(format!("{TITLE}\n{lines}").as_bytes()).map(|keys| keys.0.len());
        assert_eq!(read(""), Ok(0));
        assert_eq!(read(&format!("a {one}\nb {two}\n")), Ok(2));
        for wrong in [
            format!("a {one}\n\n"),
            format!("a {one}\nb\n"),
            format!("a {one}\na {two}\n"),
            format!("a {one}\nb {one}\n"),
        ] {
            assert_eq!(read(&wrong), Err(TrustError::Line(3)), "{wrong}");
        }
        for wrong in [format!("a  {one}\n"), format!("a {one} \n"), format!("self {one}\n"), format!("a {one} x\n")] {
            assert_eq!(read(&wrong), Err(TrustError::Line(2)), "{wrong}");
        }
        assert_eq!(read(&format!("a {one}")), Err(TrustError::Title));
        assert_eq!(TrustedKeys::read(b"something else\n"), Err(TrustError::Title));
        assert_eq!(TrustedKeys::read(b"\xff"), Err(TrustError::Title));
    }
}
