//! Refusal: the destination's signed statement that it will not store a delivered bundle. The
//! [`Statement`] begins with `COURIREF`, for the purpose `compute-host courier refusal v1`. It
//! contains the reason: a u8 length, and 1 to 64 of `a`-`z`, `0`-`9` and `_`.
//!
//! The delivery contains the time at which it expires. A receipt that its owner retries has
//! another, so an old refusal does not fit it.

use super::Delivery;
use super::statement::{FRAME_BYTES, Statement, StatementFields};
use crate::key::NodeKey;

/// Longest reason.
pub const REFUSAL_CODE_CHARS_MAX: usize = 64;

/// Longest refusal.
pub const REFUSAL_BYTES_MAX: usize = FRAME_BYTES + Delivery::BYTES_MAX + 1 + REFUSAL_CODE_CHARS_MAX;

pub type SignedRefusal = Statement<Refused>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    code: String,
}

/// Returns whether `code` is valid as a reason.
pub fn is_refusal_code(code: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=REFUSAL_CODE_CHARS_MAX).contains(&code.len()) && code.bytes().all(is_allowed)
}

impl StatementFields for Refused {
    const MAGIC: &'static str = "COURIREF";
    const CONTEXT: &'static str = "compute-host courier refusal v1";

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::try_from(self.code.len()).expect("a code has at most 64 bytes"));
        bytes.extend(self.code.as_bytes());
    }

    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[code_len], rest) = bytes.split_first_chunk()?;
        let (code, rest) = rest.split_at_checked(usize::from(code_len))?;
        let code = std::str::from_utf8(code).ok().filter(|code| is_refusal_code(code))?.to_owned();
        Some((Self { code }, rest))
    }
}

impl SignedRefusal {
    /// Code of a refusal because the delivery has expired by the destination's clock.
    pub const EXPIRED: &str = "expired";

    /// Signs a refusal. `key` is the key of `delivery`'s destination.
    ///
    /// # Panics
    /// If `code` is not one that [`is_refusal_code`] allows: codes are compiled in.
    pub fn sign(delivery: Delivery, refused_ms: u64, code: &str, key: &NodeKey) -> Self {
        assert!(is_refusal_code(code), "`{code}` is no code");
        Self::of(delivery, refused_ms, Refused { code: code.to_owned() }, key)
    }

    /// Returns the time of the refusal, by the destination's clock.
    pub const fn refused_ms(&self) -> u64 {
        self.at_ms()
    }

    pub fn code(&self) -> &str {
        &self.said().code
    }
}
