//! Rate limit of a token. Its requests are spread evenly over time, and refused where too many
//! wait.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Burst after a pause, as the time over which that many requests would be spread.
const BURST: Duration = Duration::from_millis(20);

/// Longest wait of a request. It bounds how many requests of one token wait.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Generic cell rate algorithm, as virtual scheduling (ITU-T I.371, annex A), that delays instead
/// of refusing: an early request waits until it is due. A second's requests that arrive at once
/// would otherwise be served at once, and requests of other tokens would wait behind all of them.
pub struct Rate {
    /// Time between two requests at the full rate.
    interval: Duration,
    began: Instant,
    /// Time at which the next request is due, since `began`.
    next_due: Mutex<Duration>,
}

impl Rate {
    pub fn new(per_second: NonZeroU32) -> Self {
        let interval = Duration::from_secs(1) / per_second.get();
        Self { interval, began: Instant::now(), next_due: Mutex::default() }
    }

    /// Returns how long the request that arrives now has to wait. `Err`: too many wait; the caller
    /// may try again after this time.
    pub fn take(&self) -> Result<Duration, Duration> {
        self.take_at(self.began.elapsed())
    }

    fn take_at(&self, now: Duration) -> Result<Duration, Duration> {
        let mut next_due = self.next_due.lock().unwrap_or_else(PoisonError::into_inner);
        let due = (*next_due).max(now.saturating_sub(BURST));
        let wait = due.saturating_sub(now);
        if wait > WAIT_MAX {
            return Err(wait - WAIT_MAX);
        }
        *next_due = due + self.interval;
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = Duration::from_secs(100);

    fn rate(per_second: u32) -> Rate {
        Rate::new(NonZeroU32::new(per_second).unwrap())
    }

    #[test]
    fn a_burst_is_spread_evenly_and_its_end_is_refused() {
        let rate = rate(1_000);
        let taken: Vec<_> = (0..2_000).map(|_| rate.take_at(START)).collect();
        let at_once = taken.iter().filter(|taken| **taken == Ok(Duration::ZERO)).count();
        assert_eq!(at_once, 21);
        let waits: Vec<Duration> = taken.iter().filter_map(|taken| taken.ok()).collect();
        assert!(waits[20..].windows(2).all(|two| two[1] - two[0] == Duration::from_millis(1)));
        assert_eq!(waits.last(), Some(&WAIT_MAX));
        assert_eq!(taken.last(), Some(&Err(Duration::from_millis(1))));
        assert!(rate.take_at(START + Duration::from_millis(1)).is_ok());
    }

    #[test]
    fn one_request_after_another_is_never_refused() {
        for per_second in [1, 5, 1_000_000] {
            let (rate, mut now) = (rate(per_second), START);
            for _ in 0..1_000 {
                now += rate.take_at(now).unwrap();
            }
        }
    }

    proptest! {
        /// In any interval the rate and one burst bound the number of requests that proceed.
        #[test]
        fn the_rate_holds_in_every_interval(per_second in 1u32..2_000, gaps in prop::collection::vec(0u64..40, 1..400)) {
            let (rate, mut now) = (rate(per_second), START);
            let mut go_on = Vec::new();
            for gap in gaps {
                now += Duration::from_millis(gap);
                go_on.extend(rate.take_at(now).ok().map(|wait| now + wait));
            }
            prop_assert!(go_on.is_sorted());
            for (first, from) in go_on.iter().enumerate() {
                for (more, to) in go_on[first..].iter().enumerate() {
                    let allowed = (*to - *from + BURST).as_secs_f64() * f64::from(per_second) + 1.001;
                    prop_assert!(more as f64 <= allowed, "{more} after the first in {:?}", *to - *from);
                }
            }
        }
    }
}
