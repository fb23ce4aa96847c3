//! Exact quantiles: which quantile, and its value.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::sorted::SortedPrices;

/// A quantile between 0 and 1, in whole billionths, so up to nine decimals are exact. Parsed from
/// `0.25` or `p25`, and displayed as the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantile(u32);

/// The value 1 in billionths.
const BILLION: u32 = 1_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a quantile is written as a part, from `0` to `1` with up to 9 decimals, or in percent, from `p0` to `p100` with \
     up to 7; `0.999` and `p99.9` are the same"
)]
pub struct NotAQuantile;

impl Quantile {
    pub const P25: Self = Self(BILLION / 4);
    pub const MEDIAN: Self = Self(BILLION / 2);
    pub const P75: Self = Self(BILLION / 4 * 3);

    /// Returns the quantile of these prices, as [`PriceBoard`](super::PriceBoard) computes it for a
    /// window; `None` if there are none.
    pub fn of_prices(self, prices: impl IntoIterator<Item = u64>) -> Option<Rational> {
        let mut sorted = SortedPrices::default();
        prices.into_iter().for_each(|price| sorted.insert(price));
        self.of(&sorted)
    }

    /// Returns the quantile of the samples by type 7 of Hyndman and Fan ("Sample quantiles in
    /// statistical packages", The American Statistician 50, 1996), which is numpy's default. It
    /// interpolates linearly between the two samples around the index (n - 1) p, counted from 0.
    /// `None` if there are none.
    pub(super) fn of(self, prices: &SortedPrices) -> Option<Rational> {
        let place = (prices.len() as u64).checked_sub(1)? * u64::from(self.0);
        let (rank, part) = ((place / u64::from(BILLION)) as usize, place % u64::from(BILLION));
        let below = prices.at(rank)?;
        let above = if part == 0 { below } else { prices.at(rank + 1)? };
        let numerator = u128::from(below) * u128::from(BILLION) + u128::from(part) * u128::from(above - below);
        Some(Rational::new(numerator, u64::from(BILLION)))
    }
}

impl FromStr for Quantile {
    type Err = NotAQuantile;

    fn from_str(text: &str) -> Result<Self, NotAQuantile> {
        let (text, decimals_max) = text.strip_prefix('p').map_or((text, 9), |percent| (percent, 7));
        let (whole, decimals) = text.split_once('.').map_or((text, None), |(whole, decimals)| (whole, Some(decimals)));
        let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let decimals = match decimals {
            None => "",
            Some(decimals) if is_number(decimals) && decimals.len() <= decimals_max => decimals,
            Some(_) => return Err(NotAQuantile),
        };
        // The longest whole part is 100.
        if !is_number(whole) || whole.len() > 3 {
            return Err(NotAQuantile);
        }
        let billionths: u64 = format!("{whole}{decimals:0<decimals_max$}").parse().map_err(|_| NotAQuantile)?;
        u32::try_from(billionths).ok().filter(|billionths| *billionths <= BILLION).map(Self).ok_or(NotAQuantile)
    }
}

impl fmt::Display for Quantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = BILLION / 100;
        let decimals = format!("{:07}", self.0 % percent);
        let decimals = decimals.trim_end_matches('0');
        let point = if decimals.is_empty() { "" } else { "." };
        write!(f, "p{}{point}{decimals}", self.0 / percent)
    }
}

impl Serialize for Quantile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A fraction in its lowest terms, displayed as `49/4`, or `12` if it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rational {
    numerator: u128,
    denominator: u64,
}

impl Rational {
    /// Creates a fraction.
    ///
    /// # Panics
    /// If the denominator is 0.
    pub(super) fn new(numerator: u128, denominator: u64) -> Self {
        let common = greatest_common_divisor(numerator, u128::from(denominator));
        // The divisor divides the denominator, so it is no larger.
        Self { numerator: numerator / common, denominator: denominator / common as u64 }
    }

    /// Multiplies by `numerator / denominator`. No overflow: a quantile is below 2^83 over at most
    /// 10^9, and the factor is below 2^34 over at most 2^17.
    pub(super) fn times(self, numerator: u64, denominator: u64) -> Self {
        Self::new(self.numerator * u128::from(numerator), self.denominator * denominator)
    }

    pub const fn numerator(self) -> u128 {
        self.numerator
    }

    pub const fn denominator(self) -> u64 {
        self.denominator
    }

    /// Rounds to the nearest whole number, and a half to the even one, as IEEE 754 and numpy's
    /// `rint` do. Rounding a half up would make the median of two samples a little too high on
    /// average.
    pub fn rounded(self) -> u64 {
        let denominator = u128::from(self.denominator);
        let (whole, rest) = (self.numerator / denominator, self.numerator % denominator);
        let is_up = match (2 * rest).cmp(&denominator) {
            Ordering::Less => false,
            Ordering::Equal => whole % 2 == 1,
            Ordering::Greater => true,
        };
        u64::try_from(whole + u128::from(is_up)).unwrap_or(u64::MAX)
    }
}

impl PartialOrd for Rational {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Rational {
    /// Compares whole parts first, then the remainders, so that nothing overflows.
    fn cmp(&self, other: &Self) -> Ordering {
        let parts = |of: &Self| (of.numerator / u128::from(of.denominator), of.numerator % u128::from(of.denominator));
        let ((whole, rest), (other_whole, other_rest)) = (parts(self), parts(other));
        let rests = (rest * u128::from(other.denominator)).cmp(&(other_rest * u128::from(self.denominator)));
        whole.cmp(&other_whole).then(rests)
    }
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fraction is written as two whole numbers in their lowest terms with `/` between them, or as one")]
pub struct NotARational;

impl FromStr for Rational {
    type Err = NotARational;

    fn from_str(text: &str) -> Result<Self, NotARational> {
        let (numerator, denominator) = text.split_once('/').unwrap_or((text, "1"));
        let (numerator, denominator) = (numerator.parse(), denominator.parse());
        let (Ok(numerator), Ok(denominator @ 1..)) = (numerator, denominator) else { return Err(NotARational) };
        let rational = Self::new(numerator, denominator);
        if rational.to_string() == text { Ok(rational) } else { Err(NotARational) }
    }
}

impl fmt::Display for Rational {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            denominator => write!(f, "{}/{denominator}", self.numerator),
        }
    }
}

impl Serialize for Rational {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rational {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quantile(text: &str) -> Quantile {
        text.parse().unwrap()
    }

    /// Compares with `numpy.quantile` of numpy 2.4.6, except where a binary64 is not exact.
    #[test]
    fn quantiles_are_those_of_numpy() {
        let at = ["0", "0.1", "0.25", "0.5", "0.75", "0.9", "0.999", "1"];
        for (prices, expected) in [
            (&[10, 20, 30, 40][..], ["10", "13", "35/2", "25", "65/2", "37", "3997/100", "40"]),
            (&[1, 2, 4, 8, 16, 32, 64], ["1", "8/5", "3", "8", "24", "224/5", "7976/125", "64"]),
            (&[7], ["7"; 8]),
            (
                &[3, 3, 5, 9, 11, 1000, 1001, 5000],
                ["3", "3", "9/2", "10", "4001/4", "22007/10", "4972007/1000", "5000"],
            ),
            (&[2, 9007], ["2", "1805/2", "9013/4", "9009/2", "27023/4", "16213/2", "1799599/200", "9007"]),
        ] {
            let found = at.map(|at| quantile(at).of_prices(prices.iter().copied()).unwrap().to_string());
            assert_eq!(found, expected, "{prices:?}");
        }
        assert_eq!(Quantile::MEDIAN.of_prices([]), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_exact(
            mut prices in prop::collection::vec(1..=super::super::Price::MAX, 1..2_000),
            billionths in 0..=BILLION,
        ) {
            let found = Quantile(billionths).of_prices(prices.iter().copied()).unwrap();
            prices.sort_unstable();
            // x[j] + g (x[j+1] - x[j]) with j + g = (n - 1) p, times a billion.
            let place = (prices.len() as u128 - 1) * u128::from(billionths);
            let (j, g) = ((place / 1_000_000_000) as usize, place % 1_000_000_000);
            let (below, above) = (u128::from(prices[j]), u128::from(prices[(j + 1).min(prices.len() - 1)]));
            let expected = below * (1_000_000_000 - g) + above * g;
            prop_assert_eq!(found.numerator() * 1_000_000_000, expected * u128::from(found.denominator()));
            prop_assert!(prices[0] <= found.rounded() && found.rounded() <= *prices.last().unwrap());
            prop_assert_eq!(found.to_string().parse::<Rational>(), Ok(found));
            prop_assert_eq!(Quantile(billionths).to_string().parse(), Ok(Quantile(billionths)));
        }
    }

    #[test]
    fn a_quantile_is_read_exactly() {
        for (text, shown) in [
            ("0.25", "p25"),
            ("p25", "p25"),
            ("p99.9", "p99.9"),
            ("0.999", "p99.9"),
            ("0", "p0"),
            ("1.000", "p100"),
            ("p100", "p100"),
            ("0.000000001", "p0.0000001"),
            ("p33.3333333", "p33.3333333"),
        ] {
            assert_eq!(quantile(text).to_string(), shown, "{text}");
        }
        for wrong in [
            "",
            "p",
            ".5",
            "0.",
            "1.1",
            "2",
            "p101",
            "p100.1",
            "0.0000000001",
            "p0.00000001",
            "-0.1",
            "+0.1",
            "0.5.5",
            "50%",
            "1e-1",
            "P50",
            "0x1",
            "NaN",
            "p-1",
            "0000.5",
            "99999999999999999999",
        ] {
            assert_eq!(wrong.parse::<Quantile>(), Err(NotAQuantile), "{wrong}");
        }
    }

    #[test]
    fn a_half_goes_to_the_even_number() {
        for (fraction, rounded) in
            [("5/2", 2), ("7/2", 4), ("1/2", 0), ("12", 12), ("9/4", 2), ("11/4", 3), ("51/100", 1)]
        {
            assert_eq!(fraction.parse::<Rational>().unwrap().rounded(), rounded, "{fraction}");
        }
        for wrong in ["", "1/0", "2/4", "12/1", "a", "-1", "1/", "/2", "1 /2"] {
            assert_eq!(wrong.parse::<Rational>(), Err(NotARational), "{wrong}");
        }
    }

    #[test]
    fn fractions_are_in_order() {
        let largest = Rational { numerator: u128::MAX, denominator: 1 };
        let in_order =
            ["0", "1/3", "1/2", "2/3", "1", "4/3", "1000000000/3"].map(|text| text.parse::<Rational>().unwrap());
        assert!(in_order.is_sorted() && in_order.iter().all(|fraction| *fraction < largest));
        assert!(in_order.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
