//! Validity period of a certificate, read from its DER encoding (X.509, RFC 5280, 4.1.2.5).

use std::ops::RangeInclusive;

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Returns the validity period in seconds since 1970; `None` if the certificate does not encode it
/// as the standard says.
pub fn validity(certificate: &[u8]) -> Option<RangeInclusive<u64>> {
    let mut certificate = Der(certificate);
    let mut signed = Der(Der(certificate.next(SEQUENCE)?).next(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.next(VERSION)?;
    }
    let (_serial, _algorithm, _issuer) = (signed.next(INTEGER)?, signed.next(SEQUENCE)?, signed.next(SEQUENCE)?);
    let mut validity = Der(signed.next(SEQUENCE)?);
    Some(validity.time()?..=validity.time()?)
}

/// Returns true for a certificate of X.509 version 1, which has no extensions and does not name its
/// version.
pub fn is_version_1(certificate: &[u8]) -> bool {
    let signed = Der(certificate).next(SEQUENCE).and_then(|content| Der(content).next(SEQUENCE));
    signed.is_some_and(|signed| signed.first() == Some(&INTEGER))
}

/// A reader of DER elements; holds the bytes that are not read yet.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Reads the next element, which must have this tag, and returns its content.
    fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, rest) = self.0.split_first()?;
        let (len, rest) = rest.split_first()?;
        let (len, rest) = match *len {
            len @ 0..=0x7f => (usize::from(len), rest),
            bytes @ 0x81..=0x84 => {
                let (len, rest) = rest.split_at_checked(usize::from(bytes - 0x80))?;
                (len.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        (*found == tag).then_some(content)
    }

    /// Reads a time: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
    fn time(&mut self) -> Option<u64> {
        let tag = *self.0.first()?;
        let text = str::from_utf8(self.next(tag)?).ok()?.strip_suffix('Z')?;
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = match (tag, text.len()) {
            (UTC_TIME, 12) => text.split_at_checked(2)?,
            (GENERALIZED_TIME, 14) => text.split_at_checked(4)?,
            _ => return None,
        };
        let year: u64 = year.parse().ok()?;
        let year = match tag {
            UTC_TIME if year < 50 => 2000 + year,
            UTC_TIME => 1900 + year,
            _ => year,
        };
        let part = |at: usize| rest.get(at..at + 2)?.parse::<u64>().ok();
        let (month, day) = (part(0)?, part(2)?);
        let days = days_since_1970(year, month, day)?;
        Some(days * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
    }
}

/// Returns the days since 1970 in the Gregorian calendar; `None` before 1970.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if is_leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month = usize::try_from(month).ok().filter(|month| (1..=months.len()).contains(month))?;
    let before = &months[..month - 1];
    let leap_years = |year: u64| year / 4 - year / 100 + year / 400;
    let years = year.checked_sub(1970)? * 365 + leap_years(year - 1) - leap_years(1969);
    Some(years + before.iter().sum::<u64>() + day.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &len[..], content].concat()
    }

    fn certificate(version: &[u8], start: Vec<u8>, end: Vec<u8>) -> Vec<u8> {
        let parts = [
            version.to_vec(),
            element(INTEGER, &[1]),
            element(SEQUENCE, &[]),
            element(SEQUENCE, b"issuer"),
            element(SEQUENCE, &[start, end].concat()),
        ];
        element(SEQUENCE, &element(SEQUENCE, &parts.concat()))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let times = [
            (element(UTC_TIME, b"700101000000Z"), 0),
            (element(UTC_TIME, b"261130170500Z"), 1_796_058_300),
            (element(UTC_TIME, b"000301000000Z"), 951_868_800),
            (element(GENERALIZED_TIME, b"20240229235959Z"), 1_709_251_199),
            (element(GENERALIZED_TIME, b"21000301000000Z"), 4_107_542_400),
        ];
        for (time, seconds) in times {
            let old = certificate(&[], time.clone(), element(UTC_TIME, b"491231235959Z"));
            assert!(is_version_1(&old) && !is_version_1(b"") && !is_version_1(b"no certificate"));
            assert_eq!(validity(&old), Some(seconds..=2_524_607_999));
            let new = certificate(&element(VERSION, &[2, 1, 2]), time, element(UTC_TIME, b"491231235959Z"));
            assert!(!is_version_1(&new));
            assert_eq!(validity(&new), Some(seconds..=2_524_607_999));
            for len in 0..new.len() {
                assert_eq!(validity(&new[..len]), None, "{len} bytes");
            }
        }
        for wrong in
            ["", "700101000000", "70010100000Z", "701301000000Z", "700001000000Z", "700100000000Z", "+70101000000Z"]
        {
            let wrong = element(UTC_TIME, wrong.as_bytes());
            assert_eq!(validity(&certificate(&[], wrong.clone(), wrong)), None);
        }
    }
}
