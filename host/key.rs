//! Keys: the node's ed25519 key, its signatures, and the trusted keys of others.
//!
//! Ed25519 follows RFC 8032 and is verified strictly. A signature has one encoding: its scalar is
//! reduced. A public key has one encoding and is not of small order. So no signature fits two
//! messages or two keys. The signed message is the context's text followed by the BLAKE3 digest of
//! the bytes in the domain of that text. So a signature for one purpose is invalid for any other.

mod text;
mod key_file;
mod rotation;
mod trust;
mod ring;
mod signer;
pub mod commands;

use std::fmt;
use std::io;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

pub use self::ring::{KeyError, KeyOwner, Keyring, KnownKeys, RetiredKey, read_rotation};
pub use self::rotation::{NotARotation, Rotation};
pub use self::signer::Signer;
pub use self::text::NotItsText;
pub use self::trust::{KeyName, NotAKeyName, TRUSTED_MAX, TrustError, Trusted, TrustedKeys};
use crate::digest::Digest;

/// Context of the short names for people ([`PublicKey::short`]).
const SHORT_CONTEXT: &str = "compute-host key id v1";

/// Public key, which verifies signatures and identifies a node. Shown and read as 64 lowercase
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey([u8; PublicKey::BYTES]);

/// Error of a text that is not a public key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a public key: 64 lowercase hexadecimal digits are expected, as `node key show` prints them")]
pub struct NotAPublicKey(String);

impl PublicKey {
    pub const BYTES: usize = 32;

    /// Checks a key. Returns `None` for bytes that are not a point of the curve, or not its
    /// canonical encoding. Also returns `None` for a point of small order, because anybody can sign
    /// for it.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        Self(*bytes).point().map(|_| Self(*bytes))
    }

    /// Creates a key without the check of [`PublicKey::from_bytes`], which takes 7 us, from bytes
    /// that were checked earlier. An invalid key verifies no signature.
    pub(crate) const fn from_kept_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    fn point(&self) -> Option<VerifyingKey> {
        let key = VerifyingKey::from_bytes(&self.0).ok()?;
        let is_canonical = key.to_edwards().compress().as_bytes() == &self.0;
        (is_canonical && !key.is_weak()).then_some(key)
    }

    /// Returns whether `signature` is this key's signature of `bytes` in `context`.
    pub fn verifies(&self, context: &'static str, bytes: &[u8], signature: &Signature) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.point().is_some_and(|key| key.verify_strict(&message(context, bytes), &signature).is_ok())
    }

    /// Returns 16 hexadecimal digits by which people tell keys apart. They are too few to trust a
    /// key by.
    pub fn short(&self) -> String {
        let mut short = Digest::in_domain(SHORT_CONTEXT, self.as_bytes()).to_string();
        short.truncate(16);
        short
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.as_bytes())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = NotAPublicKey;

    fn from_str(text: &str) -> Result<Self, NotAPublicKey> {
        let key = bytes_of_hex(text).and_then(|bytes| Self::from_bytes(&bytes));
        key.ok_or_else(|| NotAPublicKey(text.chars().take(2 * Self::BYTES).collect()))
    }
}

impl serde::Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Signature: 64 bytes, not verified. [`PublicKey::verifies`] checks them. Shown as 128 lowercase
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    pub const BYTES: usize = 64;

    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl From<[u8; Signature::BYTES]> for Signature {
    fn from(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

/// Error of a text that is not a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signature is 128 lowercase hexadecimal digits")]
pub struct NotASignature;

impl FromStr for Signature {
    type Err = NotASignature;

    fn from_str(text: &str) -> Result<Self, NotASignature> {
        bytes_of_hex(text).map(Self).ok_or(NotASignature)
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Secret key of a node. Wiped from memory on drop, and never shown.
pub struct NodeKey(SigningKey);

impl NodeKey {
    pub const BYTES: usize = 32;

    /// Generates a key from the system's randomness.
    pub fn generate() -> io::Result<Self> {
        let mut secret = [0; Self::BYTES];
        let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        if filled == secret.len() {
            Ok(Self::from_secret(secret))
        } else {
            Err(io::Error::other("the system gave fewer random bytes than it was asked for"))
        }
    }

    /// Creates the key with this secret (RFC 8032's private key).
    pub fn from_secret(secret: [u8; Self::BYTES]) -> Self {
        Self(SigningKey::from_bytes(&secret))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` for the purpose that `context` names. Equal bytes have equal signatures.
    pub fn sign(&self, context: &'static str, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&message(context, bytes)).to_bytes())
    }

    /// Returns the secret, for the key file.
    fn secret(&self) -> &[u8; Self::BYTES] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey of {}", self.public())
    }
}

fn message(context: &'static str, bytes: &[u8]) -> Vec<u8> {
    [context.as_bytes(), Digest::in_domain(context, bytes).as_bytes()].concat()
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Returns the bytes that exactly `2 * N` lowercase hexadecimal digits encode.
fn bytes_of_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 1: the public key of a secret.
    #[test]
    fn a_public_key_is_the_one_that_the_rfc_gives() {
        let secret = bytes_of_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(NodeKey::from_secret(secret).public().to_string(), public);
        assert_eq!(public.parse(), Ok(NodeKey::from_secret(secret).public()));
    }

    #[test]
    fn a_signature_is_for_one_key_one_purpose_and_one_message() {
        let (key, other) = (NodeKey::from_secret([1; 32]), NodeKey::from_secret([2; 32]));
        let signature = key.sign("compute-host a", b"message");
        assert!(key.public().verifies("compute-host a", b"message", &signature));
        assert!(!key.public().verifies("compute-host b", b"message", &signature));
        assert!(!key.public().verifies("compute-host a", b"messagf", &signature));
        assert!(!other.public().verifies("compute-host a", b"message", &signature));
    }

    /// Group order, little-endian. Lax verification would accept a scalar with this number added.
    const GROUP_ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];

    #[test]
    fn a_signature_has_one_form() {
        let key = NodeKey::from_secret([1; 32]);
        let signature = key.sign("compute-host a", b"message");
        let mut other = *signature.as_bytes();
        let mut carry = 0;
        for (byte, add) in other[32..].iter_mut().zip(GROUP_ORDER) {
            let sum = u16::from(*byte) + u16::from(add) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert_eq!(carry, 0);
        assert!(!key.public().verifies("compute-host a", b"message", &Signature(other)));
    }

    /// The eight points of small order, and other encodings of them (Chalkias, Garillot,
    /// Nikolaenko: "Taming the many EdDSAs", 2020, table 6a; the sign bit varied). A signature by
    /// one of these keys would fit any message.
    #[test]
    fn a_key_that_anybody_can_sign_for_is_none() {
        let points = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        for point in points {
            let mut bytes = bytes_of_hex(point).unwrap();
            for sign in [0, 0x80] {
                bytes[31] = bytes[31] & 0x7f | sign;
                assert_eq!(PublicKey::from_bytes(&bytes), None, "{point}, {sign}");
            }
        }
    }

    /// y = p + 3 is a second encoding of y = 3, a point of large order. Only one of the two is a
    /// valid key.
    #[test]
    fn a_key_has_one_form() {
        let mut found = 0;
        for y in 0..=18_u8 {
            let mut short = [0; 32];
            short[0] = y;
            let mut long = [0xff; 32];
            (long[0], long[31]) = (0xed + y, 0x7f);
            found += usize::from(PublicKey::from_bytes(&short).is_some());
            assert_eq!(PublicKey::from_bytes(&long), None, "{y}");
        }
        assert!(found > 3, "{found} of them are keys when they are written as they should be");
    }

    #[test]
    fn hexadecimal_digits_have_one_form_and_length() {
        let key = NodeKey::from_secret([1; 32]).public().to_string();
        for wrong in ["", &key[1..], &format!("{key}0"), &format!("0x{}", &key[2..]), &key.to_uppercase(), "ä"] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
        assert_eq!(bytes_of_hex("0aff"), Some([0x0a, 0xff]));
        assert_eq!(bytes_of_hex::<2>("0aFF"), None);
    }

    #[test]
    fn no_secret_is_shown() {
        let key = NodeKey::from_secret([0xab; 32]);
        assert!(!format!("{key:?}").contains("abababab"));
    }
}
