//! Credit for carrying a bundle, in whole units.

use super::Settings;
use crate::proof::Blob;

const MIB: u128 = 1 << 20;

/// Returns the bytes times the rate per mebibyte, rounded down, plus the hops times the rate per
/// hop.
pub fn credit(bundle: &Blob, hops: u8, settings: &Settings) -> u64 {
    let by_bytes = u128::from(bundle.bytes) * u128::from(settings.credit_per_mib) / MIB;
    let by_hops = u128::from(hops) * u128::from(settings.credit_per_hop);
    u64::try_from(by_bytes + by_hops).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn credit_is_for_bytes_and_hops() {
        let of = |bytes, hops, credit_per_mib, credit_per_hop| {
            let settings = Settings { credit_per_mib, credit_per_hop, ..Settings::default() };
            credit(&Blob { blake3: Digest::of(b""), bytes }, hops, &settings)
        };
        assert_eq!(of(0, 1, 1_000, 0), 0);
        assert_eq!(of(0, 3, 1_000, 7), 21);
        assert_eq!(of(1 << 20, 1, 1_000, 0), 1_000);
        assert_eq!(of((1 << 20) - 1, 1, 1_000, 0), 999);
        assert_eq!(of(1 << 30, 2, 1_000, 5), 1_024_010);
        assert_eq!(of(u64::MAX, 1, u64::MAX, 0), u64::MAX);
    }
}
