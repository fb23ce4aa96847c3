//! Retry delays. This module has no clock and no randomness: the caller passes both.
//!
//! Full jitter over an exponential bound, as in Marc Brooker's "Exponential Backoff And Jitter"
//! (AWS Architecture Blog, 2015): `random_between(0, min(cap, base * 2 ** attempt))`. It needs the
//! fewest calls of all methods that the article compares. The bound grows with the outage, and
//! retries are spread evenly below it. So they stay spread when the node returns, for any number of
//! waiting nodes.

use std::time::Duration;

use crate::receipt::Receipt;

/// Bound after the first failure.
pub const BASE: Duration = Duration::from_secs(1);

/// Maximum of the bound: a node that was offline for a week is found within an hour of its return.
pub const CAP: Duration = Duration::from_secs(60 * 60);

/// Maximum of a requested pause. A longer one is not a pause.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

// A receipt that is due later than this got its due time from another clock.
const _: () = assert!(RETRY_AFTER_MAX.as_millis() + CAP.as_millis() <= Receipt::WAIT_MS_MAX as u128);

/// Shortest and longest wait without a network. The wait does not grow, because an attempt costs
/// nobody anything. The range is wide: if the network of a thousand nodes returns at once, they do
/// not all contact one node in the same second.
pub const OFFLINE_MIN: Duration = Duration::from_secs(30);
pub const OFFLINE_MAX: Duration = Duration::from_secs(90);

/// Returns the wait after `failures` consecutive failures: a whole number of milliseconds up to the
/// bound, uniformly distributed. Returns 0 for no failure. `random` must be 64 uniform bits that
/// are used for nothing else.
pub fn delay(failures: u32, random: u64) -> Duration {
    spread(bound(failures), random)
}

/// Returns the wait after the other side asked for a pause, with `failures` consecutive failures
/// including this one. The wait is at least the requested pause, capped at [`RETRY_AFTER_MAX`]. A
/// jitter is added, so that nodes that got the same answer do not return together. The jitter's
/// bound is half of the pause, or [`delay`]'s bound if that is greater, at most [`CAP`]. So the
/// number of failures spreads short repeated pauses, and the length of a pause spreads long ones.
pub fn after_retry_after(asked: Duration, failures: u32, random: u64) -> Duration {
    let asked = asked.min(RETRY_AFTER_MAX);
    asked + spread(bound(failures.max(1)).max(asked / 2).min(CAP), random)
}

/// Returns the wait without a network: uniform from [`OFFLINE_MIN`] to [`OFFLINE_MAX`].
pub fn offline(random: u64) -> Duration {
    OFFLINE_MIN + spread(OFFLINE_MAX - OFFLINE_MIN, random)
}

fn bound(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
    let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
    BASE.saturating_mul(factor).min(CAP)
}

/// Returns a uniform whole number of milliseconds from 0 to `bound`, both inclusive. The high half
/// of the product is as uniform as 64 bits allow: the probabilities of two values differ by at most
/// 2^-64.
fn spread(bound: Duration, random: u64) -> Duration {
    let values = bound.as_millis() + 1;
    let millis = (u128::from(random) * values) >> 64;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_bound_doubles_up_to_an_hour_and_stays_there() {
        assert_eq!(delay(0, u64::MAX), Duration::ZERO);
        for failures in (1..=100).chain([1000, u32::MAX - 1, u32::MAX]) {
            let seconds = if failures <= 12 { 1 << (failures - 1) } else { 3600 };
            assert_eq!(delay(failures, u64::MAX), Duration::from_secs(seconds), "{failures}");
            assert_eq!(delay(failures, 0), Duration::ZERO, "{failures}");
            let half = delay(failures, 1 << 63);
            assert!(half.as_millis().abs_diff(u128::from(seconds) * 500) <= 1, "{failures}: {half:?}");
        }
    }

    /// Returns the Kolmogorov-Smirnov distance between a sample and the uniform distribution on 0
    /// to 1.
    fn distance(mut sample: Vec<f64>) -> f64 {
        sample.sort_by(f64::total_cmp);
        let n = sample.len() as f64;
        let beside = |(i, &x): (usize, &f64)| (x - i as f64 / n).abs().max((x - (i + 1) as f64 / n).abs());
        sample.iter().enumerate().map(beside).fold(0.0, f64::max)
    }

    /// One uniform sample in a hundred exceeds 1.63 / sqrt(n). The generator's seed is fixed.
    fn is_even(mut draw: impl FnMut(u64) -> f64) -> bool {
        const DRAWS: usize = 20_000;
        let mut random = Random(5);
        distance((0..DRAWS).map(|_| draw(random.next())).collect()) < 1.63 / (DRAWS as f64).sqrt()
    }

    #[test]
    fn jitter_is_full() {
        for failures in [1, 2, 5, 9, 12, 13, 40, u32::MAX] {
            let bound = bound(failures).as_secs_f64();
            assert!(is_even(|random| delay(failures, random).as_secs_f64() / bound), "{failures}");
        }
        assert!(is_even(|random| (offline(random) - OFFLINE_MIN).as_secs_f64() / 60.0));
        let asked = 100 * SECOND;
        assert!(is_even(|random| (after_retry_after(asked, 1, random) - asked).as_secs_f64() / 50.0));
        assert!(!is_even(|random| 0.5 + delay(9, random).as_secs_f64() / 512.0), "half jitter is told apart");
    }

    #[test]
    fn nobody_comes_back_before_the_time_that_was_asked_for() {
        let day = RETRY_AFTER_MAX;
        for failures in [0, 1, 13, u32::MAX] {
            for asked in [Duration::ZERO, SECOND, 7200 * SECOND, day] {
                for random in [0, 1, 1 << 63, u64::MAX] {
                    let wait = after_retry_after(asked, failures, random);
                    assert!((asked..=asked + CAP).contains(&wait), "{asked:?} after {failures}: {wait:?}");
                }
                assert!(after_retry_after(asked, failures, u64::MAX) >= asked + SECOND, "there is always some jitter");
            }
            assert_eq!(after_retry_after(Duration::MAX, failures, u64::MAX), day + CAP, "a day is the most");
        }
    }

    const NODES: usize = 1_000;

    /// Simulates `NODES` nodes with one receipt each. Their common destination fails at one moment
    /// and returns after `outage`. Each node's first attempt after that succeeds. Returns the times
    /// of these attempts in milliseconds, sorted.
    fn returns(outage: Duration, seed: u64, wait: impl Fn(u32, u64) -> Duration) -> Vec<u128> {
        let mut random = Random(seed);
        let mut returns: Vec<u128> = (0..NODES)
            .map(|_| {
                let (mut at, mut failures) = (Duration::ZERO, 0);
                while at < outage {
                    failures += 1;
                    at += wait(failures, random.next());
                }
                at.as_millis()
            })
            .collect();
        returns.sort_unstable();
        returns
    }

    /// Returns the highest number of attempts within any one second.
    fn most_in_a_second(returns: &[u128]) -> usize {
        let within = |from: usize| returns[from..].iter().take_while(|&&at| at < returns[from] + 1000).count();
        (0..returns.len()).map(within).max().unwrap_or(0)
    }

    #[test]
    fn a_thousand_nodes_do_not_come_back_together() {
        let asked = [0, 1, 5, 30, 60, 120, 300, 599, 600, 601, 3600, 7200, 86_400];
        let mut worst = Vec::new();
        for outage in [10 * 60, 60 * 60, 6 * 60 * 60].map(Duration::from_secs) {
            for seed in 0..8 {
                worst.push((most_in_a_second(&returns(outage, seed, delay)), outage, "backoff".to_owned()));
                let back = returns(outage, seed, |_, random| offline(random));
                worst.push((most_in_a_second(&back), outage, "no network".to_owned()));
                for asked in asked {
                    let wait = |failures, random| after_retry_after(Duration::from_secs(asked), failures, random);
                    let back = returns(outage, seed, wait);
                    worst.push((most_in_a_second(&back), outage, format!("Retry-After: {asked}")));
                }
            }
        }
        worst.sort();
        let (most, outage, why) = worst.last().unwrap();
        println!("of {NODES} attempts at most {most} in one second: {why}, after {outage:?}");
        assert!(*most <= NODES / 20, "{most} of {NODES} in one second: {why}, after {outage:?}");
    }

    #[test]
    fn the_simulation_notices_a_backoff_without_jitter() {
        let outage = Duration::from_secs(600);
        assert_eq!(most_in_a_second(&returns(outage, 1, |failures, _| bound(failures))), NODES);
        assert_eq!(most_in_a_second(&returns(outage, 1, |_, _| 60 * SECOND)), NODES);
    }
}
