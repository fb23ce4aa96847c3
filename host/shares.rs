//! Shares of a resource of fixed size that several owners use concurrently, such as memory, slots
//! or disk space.
//!
//! An owner may hold `TIMES_WHAT_IS_FREE` times the amount that it leaves free. So a single owner
//! holds at most nine tenths, a second one nine tenths of the rest, and so on. While `n` owners
//! hold something, a tenth to the power of `n` is free, whatever the order of their reservations.
//! (Dynamic thresholds: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory
//! packet switches", 1998.)

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ratio between the most that an owner may hold and the amount that it leaves free.
pub const TIMES_WHAT_IS_FREE: u64 = 9;

/// Step in which memory is reserved as bytes arrive. It is small compared to a body's limit, and
/// large compared to a network packet.
pub const STEP_BYTES: u64 = 64 << 10;

/// Holder of shares: a token, a peer, a network address.
pub trait Owner: Clone + Eq + Hash {
    /// Returns whether the rule of shares applies. The node's owner may reserve everything that is
    /// free.
    fn is_bounded(&self) -> bool {
        true
    }
}

/// Accounting of shares, by owner. Each operation is O(1). Memory use is proportional to the number
/// of owners that hold something.
#[derive(Clone, Debug)]
pub struct Shares<K> {
    capacity: u64,
    taken: u64,
    by_owner: HashMap<K, u64>,
}

/// Error of an amount that is not free, or not for this owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the amount is more than this owner's share of what is free")]
pub struct ShareRefused;

impl<K: Owner> Shares<K> {
    pub fn new(capacity: u64) -> Self {
        Self { capacity, taken: 0, by_owner: HashMap::new() }
    }

    /// Reserves `amount` for `owner`. An owner that holds nothing may reserve one unit as long as
    /// one is free.
    pub fn take(&mut self, owner: &K, amount: u64) -> Result<(), ShareRefused> {
        if amount == 0 {
            return Ok(());
        }
        let own = self.of(owner).checked_add(amount).ok_or(ShareRefused)?;
        let taken = self.taken.checked_add(amount).filter(|taken| *taken <= self.capacity).ok_or(ShareRefused)?;
        let free = self.capacity - taken;
        if owner.is_bounded() && own > TIMES_WHAT_IS_FREE.saturating_mul(free).max(1) {
            return Err(ShareRefused);
        }
        self.taken = taken;
        self.by_owner.insert(owner.clone(), own);
        Ok(())
    }

    /// Restores what `owner` held before a restart, even if that exceeds its share.
    pub fn retake(&mut self, owner: &K, amount: u64) {
        if amount > 0 {
            self.taken = self.taken.saturating_add(amount);
            let own = self.by_owner.entry(owner.clone()).or_default();
            *own = own.saturating_add(amount);
        }
    }

    /// Releases `amount` of what `owner` holds.
    pub fn release(&mut self, owner: &K, amount: u64) {
        let Some(own) = self.by_owner.get_mut(owner) else { return };
        let amount = amount.min(*own);
        self.taken -= amount;
        *own -= amount;
        if *own == 0 {
            self.by_owner.remove(owner);
        }
    }

    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Returns the sum over all owners.
    pub const fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the amount that `owner` holds.
    pub fn of(&self, owner: &K) -> u64 {
        self.by_owner.get(owner).copied().unwrap_or(0)
    }
}

/// [`Shares`] for several threads. Dropping a [`Share`] releases it.
pub struct Pool<K: Owner>(Arc<Mutex<Shares<K>>>);

impl<K: Owner> Clone for Pool<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Owner> Pool<K> {
    pub fn new(capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(capacity))))
    }

    pub fn take(&self, owner: &K, amount: u64) -> Result<Share<K>, ShareRefused> {
        self.lock().take(owner, amount)?;
        Ok(Share { pool: self.clone(), owner: owner.clone(), amount })
    }

    /// Restores a share as [`Shares::retake`] does.
    pub fn retake(&self, owner: &K, amount: u64) -> Share<K> {
        self.lock().retake(owner, amount);
        Share { pool: self.clone(), owner: owner.clone(), amount }
    }

    pub fn capacity(&self) -> u64 {
        self.lock().capacity()
    }

    pub fn taken(&self) -> u64 {
        self.lock().taken()
    }

    pub fn of(&self, owner: &K) -> u64 {
        self.lock().of(owner)
    }

    fn lock(&self) -> MutexGuard<'_, Shares<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of a [`Pool`], held by one owner.
pub struct Share<K: Owner> {
    pool: Pool<K>,
    owner: K,
    amount: u64,
}

impl<K: Owner> Share<K> {
    pub const fn amount(&self) -> u64 {
        self.amount
    }

    /// Reserves `more` in addition. On an error, the share stays unchanged.
    pub fn grow(&mut self, more: u64) -> Result<(), ShareRefused> {
        self.pool.lock().take(&self.owner, more)?;
        self.amount += more;
        Ok(())
    }

    /// Grows the share to at least `bytes`, in whole steps of [`STEP_BYTES`].
    pub fn cover(&mut self, bytes: u64) -> Result<(), ShareRefused> {
        if bytes <= self.amount {
            return Ok(());
        }
        let needed = bytes.checked_next_multiple_of(STEP_BYTES).ok_or(ShareRefused)?;
        self.grow(needed - self.amount)
    }

    /// Releases the amount above `amount`.
    pub fn shrink_to(&mut self, amount: u64) {
        if let Some(less) = self.amount.checked_sub(amount) {
            self.pool.lock().release(&self.owner, less);
            self.amount = amount;
        }
    }
}

impl<K: Owner> Drop for Share<K> {
    fn drop(&mut self) {
        self.pool.lock().release(&self.owner, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Owner 0 is the node's owner.
    impl Owner for u8 {
        fn is_bounded(&self) -> bool {
            *self != 0
        }
    }

    #[test]
    fn owners_in_turn_take_nine_tenths_of_the_rest() {
        let mut shares = Shares::new(10_000);
        let mut fill = |owner: u8| (0..).take_while(|_| shares.take(&owner, 1).is_ok()).count();
        assert_eq!([fill(1), fill(2), fill(3), fill(0)], [9_000, 900, 90, 10]);
        assert_eq!((fill(1), fill(0)), (0, 0));
    }

    #[test]
    fn a_single_unit_goes_to_whoever_asks_first() {
        let mut shares = Shares::new(1);
        assert_eq!((shares.take(&1, 1), shares.take(&2, 1)), (Ok(()), Err(ShareRefused)));
        shares.release(&1, 1);
        assert_eq!(shares.take(&2, 1), Ok(()));
    }

    #[test]
    fn amounts_beyond_any_capacity_are_refused() {
        let mut shares = Shares::new(u64::MAX);
        assert_eq!(shares.take(&0, u64::MAX), Ok(()));
        assert_eq!((shares.take(&0, 1), shares.take(&0, u64::MAX)), (Err(ShareRefused), Err(ShareRefused)));
        let pool = Pool::new(100);
        let mut share = pool.take(&0, 1).unwrap();
        assert_eq!(
            (share.grow(u64::MAX), share.cover(u64::MAX), share.amount()),
            (Err(ShareRefused), Err(ShareRefused), 1)
        );
    }

    #[test]
    fn a_share_grows_in_steps_and_frees_itself() {
        let pool = Pool::new(100 * STEP_BYTES);
        let mut share = pool.take(&1, 0).unwrap();
        share.cover(1).unwrap();
        share.cover(STEP_BYTES).unwrap();
        assert_eq!((share.amount(), pool.of(&1)), (STEP_BYTES, STEP_BYTES));
        share.cover(STEP_BYTES + 1).unwrap();
        assert_eq!(pool.taken(), 2 * STEP_BYTES);
        assert_eq!(share.cover(91 * STEP_BYTES), Err(ShareRefused));
        share.shrink_to(7);
        assert_eq!((share.amount(), pool.taken()), (7, 7));
        drop(share);
        assert_eq!((pool.taken(), pool.lock().by_owner.len()), (0, 0), "an owner that holds nothing is forgotten");
    }

    #[test]
    fn what_was_held_before_a_restart_counts_even_beyond_the_share() {
        let mut shares = Shares::new(10);
        shares.retake(&1, 15);
        assert_eq!((shares.taken(), shares.take(&2, 1)), (15, Err(ShareRefused)));
        shares.release(&1, 15);
        assert_eq!(shares.take(&2, 9), Ok(()));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take(u8, u64),
        Release(u8, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (1..5u8, 0..600u64, any::<bool>()).prop_map(|(owner, amount, is_take)| {
            if is_take { Step::Take(owner, amount) } else { Step::Release(owner, amount) }
        });
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// The guaranteed part: after any operations of `n` owners, one more owner can reserve nine
        /// tenths of a tenth to the power of `n`. A released amount is free at once.
        #[test]
        fn no_owners_keep_another_from_its_part(capacity in 1..100_000u64, steps in steps()) {
            let mut shares = Shares::new(capacity);
            let mut model: HashMap<u8, u64> = HashMap::new();
            for step in steps {
                match step {
                    Step::Take(owner, amount) => {
                        if shares.take(&owner, amount).is_ok() {
                            *model.entry(owner).or_default() += amount;
                        }
                    }
                    Step::Release(owner, amount) => {
                        let own = model.entry(owner).or_default();
                        let amount = amount.min(*own);
                        *own -= amount;
                        shares.release(&owner, amount);
                    }
                }
                let holding: Vec<u64> = model.values().copied().filter(|own| *own > 0).collect();
                prop_assert_eq!(shares.taken(), holding.iter().sum::<u64>());
                prop_assert_eq!(shares.by_owner.len(), holding.len());
                let free = capacity - shares.taken();
                let stated = capacity / 10u64.pow(u32::try_from(holding.len()).unwrap());
                prop_assert!(free >= stated, "{free} of {capacity} with {} owners", holding.len());
                let part = stated * 9 / 10;
                let mut late = shares.clone();
                prop_assert_eq!(late.take(&9, part), Ok(()));
                prop_assert_eq!(late.take(&0, free - part), Ok(()), "the node's owner may have the rest");
            }
        }
    }
}
