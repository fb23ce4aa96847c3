//! Label of a bundle in a directory: the name of its files, and the `.delivery` file. The integers
//! of that file are little-endian:
//!
//! | field     | type     |                                |
//! |-----------|----------|--------------------------------|
//! | magic     | 8 bytes  | `COURDELI`                     |
//! | version   | u16      | 1                              |
//! | delivery  |          | as its carrier has signed it   |
//! | signature | 64 bytes | the carrier's, of the delivery |
//! | checksum  | 32 bytes | BLAKE3 of all bytes before it  |

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::Digest;
use crate::key::Signature;
use crate::receipt::{Delivery, ReceiptId};

const MAGIC: &[u8; 8] = b"COURDELI";
const VERSION: u16 = 1;
const CHECKSUM_BYTES: usize = 32;

pub const BYTES_MAX: usize = 10 + Delivery::BYTES_MAX + Signature::BYTES + CHECKSUM_BYTES;

/// Number of hexadecimal digits of the carrier's key.
const CARRIER_DIGITS: usize = 16;

/// Common file name of one bundle's files, without the extension: `<carrier>-<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExportName(String);

/// Error of a text that is not such a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a carried bundle's files are named by 16 hexadecimal digits of its carrier, `-`, and the 32 of its receipt's id"
)]
pub struct NotACarriedName;

impl ExportName {
    pub fn of(delivery: &Delivery) -> Self {
        Self(format!("{}-{}", delivery.carrier.short(), delivery.receipt))
    }

    pub(super) fn of_file(file: &OsStr, extension: &str) -> Option<Self> {
        file.to_str()?.strip_suffix(extension)?.strip_suffix('.')?.parse().ok()
    }

    pub(super) fn path(&self, directory: &Path, extension: &str) -> PathBuf {
        directory.join(format!("{self}.{extension}"))
    }
}

impl FromStr for ExportName {
    type Err = NotACarriedName;

    fn from_str(text: &str) -> Result<Self, NotACarriedName> {
        let (carrier, receipt) = text.split_once('-').ok_or(NotACarriedName)?;
        let is_hex = carrier.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let ok = is_hex && carrier.len() == CARRIER_DIGITS && receipt.parse::<ReceiptId>().is_ok();
        if ok { Ok(Self(text.to_owned())) } else { Err(NotACarriedName) }
    }
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub fn to_bytes(delivery: &Delivery, signature: &Signature) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(delivery.to_bytes());
    bytes.extend(signature.as_bytes());
    bytes.extend(Digest::of(&bytes).as_bytes());
    bytes
}

/// Decodes a label. `Err` is the reason why the bytes are not one. The signature is not verified.
pub fn from_bytes(bytes: &[u8]) -> Result<(Delivery, Signature), &'static str> {
    const ENDS_EARLY: &str = "it ends early";
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin with `COURDELI`")?;
    let (version, _) = rest.split_first_chunk().ok_or(ENDS_EARLY)?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err("it is of another version than 1, which this program reads");
    }
    let (before, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(ENDS_EARLY)?;
    if Digest::of(before).as_bytes() != checksum {
        return Err("its checksum does not fit its content");
    }
    let (before, signature) = before.split_last_chunk::<{ Signature::BYTES }>().ok_or(ENDS_EARLY)?;
    let delivery = before.get(MAGIC.len() + 2..).ok_or(ENDS_EARLY)?;
    let delivery = Delivery::from_bytes(delivery).map_err(|_| "its fields are not those of a delivery")?;
    Ok((delivery, (*signature).into()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{carrier, delivery};
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let delivery = delivery(b"bundle");
        let signature = delivery.sign(&carrier());
        let bytes = to_bytes(&delivery, &signature);
        assert_eq!(from_bytes(&bytes), Ok((delivery, signature)));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(from_bytes(&flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_checksum_that_fits_makes_no_delivery_of_what_is_none() {
        let whole = to_bytes(&delivery(b"bundle"), &[0; 64].into());
        for length in 0..whole.len() {
            let mut bytes = whole[..length].to_vec();
            bytes.extend(Digest::of(&bytes).as_bytes());
            assert_eq!(from_bytes(&bytes).is_ok(), length == whole.len() - CHECKSUM_BYTES, "{length}");
        }
    }

    #[test]
    fn a_name_has_one_form_and_no_way_out_of_the_directory() {
        let name = ExportName::of(&delivery(b"bundle"));
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        let of_file = |file: &str| ExportName::of_file(OsStr::new(file), "ack");
        assert_eq!(of_file(&format!("{name}.ack")), Some(name.clone()));
        let text = name.to_string();
        for wrong in [
            format!("{name}.bundle"),
            format!("{name}ack"),
            format!("{name}..ack"),
            format!(".{name}.ack"),
            format!("{}.ack", text.to_uppercase()),
            format!("{}.ack", &text[1..]),
            format!("{}.ack", &text[..48]),
            format!("{text}0.ack"),
            format!("../{}.ack", &text[3..]),
            ".ack".to_owned(),
            "ack".to_owned(),
        ] {
            assert_eq!(of_file(&wrong), None, "{wrong}");
        }
    }
}
