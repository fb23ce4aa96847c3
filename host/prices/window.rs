//! The last offers of a lane: by age, by price, and by who made them.

use std::collections::BTreeMap;

use super::AGE_MAX_MS;
use super::holders::{HolderId, Holders};
use super::offer::{Price, ProviderName};
use super::quantile::{Quantile, Rational};
use super::sorted::SortedPrices;

/// What one provider may hold of the offers that are there: `percent` of them, or its part if all providers had equal
/// parts, whichever is more; a part of an offer counts as a whole one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    percent: usize,
}

impl Share {
    /// Below 1 % is 1 %, and above 100 % is 100 %, which limits nobody.
    pub fn of_percent(percent: usize) -> Self {
        Self { percent: percent.clamp(1, 100) }
    }

    /// Of that many offers by that many providers. One provider alone may have all.
    pub fn of(self, offers: usize, providers: usize) -> usize {
        (offers * self.percent).div_ceil(100).max(offers.div_ceil(providers.max(1)))
    }
}

/// Up to `capacity` offers. Offers have numbers, in the order in which they came, and times that never decrease in that
/// order.
pub struct Window {
    capacity: usize,
    share: Share,
    next: u64,
    offers: BTreeMap<u64, Entry>,
    prices: SortedPrices,
    holders: Holders,
}

struct Entry {
    price: u64,
    time_ms: u64,
    holder: HolderId,
}

impl Window {
    pub fn new(capacity: usize, share: Share) -> Self {
        let (offers, prices, holders) = Default::default();
        Self { capacity, share, next: 0, offers, prices, holders }
    }

    /// Takes an offer in that is made now. What gives way to it is its provider's own oldest if that holds its share,
    /// and the oldest of all if the window is full.
    pub fn push(&mut self, price: Price, provider: &ProviderName, now_ms: u64) {
        self.settle(now_ms);
        self.append(price, provider, now_ms);
        // In this order: the offers of others must not go first, or a flood would wash them out.
        self.hold_to_shares();
        if self.offers.len() > self.capacity {
            self.remove_oldest();
        }
    }

    /// Takes in the newest of offers that a window like this one held, the oldest first, with times that do not
    /// decrease. They are held to their shares when all are there: the first of them alone may have been made by a few.
    pub fn restore<'a>(&mut self, offers: impl ExactSizeIterator<Item = (Price, &'a ProviderName, u64)>, now_ms: u64) {
        let skipped = offers.len().saturating_sub(self.capacity);
        offers.skip(skipped).for_each(|(price, provider, time_ms)| self.append(price, provider, time_ms));
        self.settle(now_ms);
    }

    fn append(&mut self, price: Price, provider: &ProviderName, time_ms: u64) {
        let number = self.next;
        self.next += 1;
        let holder = self.holders.add(provider, number);
        self.offers.insert(number, Entry { price: price.units(), time_ms, holder });
        self.prices.insert(price.units());
    }

    /// Has the window be what it is at this time. Offers that are too old are gone. Where the clock has been set back,
    /// offers that would be from the future are from now: they could not grow old until the clock is there again.
    pub fn settle(&mut self, now_ms: u64) {
        self.offers
            .values_mut()
            .rev()
            .take_while(|offer| offer.time_ms > now_ms)
            .for_each(|offer| offer.time_ms = now_ms);
        let is_old = |offer: &Entry| now_ms - offer.time_ms > AGE_MAX_MS;
        while self.offers.first_key_value().is_some_and(|(_, oldest)| is_old(oldest)) {
            self.remove_oldest();
        }
        self.hold_to_shares();
    }

    /// Whoever holds more than their share loses their oldest offers, the largest holder first, until nobody does. That
    /// can be almost all of a window when another provider comes; each offer is removed once in its life, so it is the
    /// cost of having taken them in.
    fn hold_to_shares(&mut self) {
        while let Some((holder, held)) = self.holders.largest() {
            if held <= self.share.of(self.offers.len().min(self.capacity), self.holders.len()) {
                break;
            }
            self.remove_oldest_of(holder);
        }
    }

    fn remove_oldest(&mut self) {
        if let Some(holder) = self.offers.first_key_value().map(|(_, oldest)| oldest.holder) {
            self.remove_oldest_of(holder);
        }
    }

    fn remove_oldest_of(&mut self, holder: HolderId) {
        let oldest = self.holders.take_oldest(holder).and_then(|number| self.offers.remove(&number));
        if let Some(Entry { price, .. }) = oldest {
            self.prices.remove(price);
        }
    }

    pub fn len(&self) -> usize {
        self.offers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.offers.is_empty()
    }

    pub fn providers(&self) -> usize {
        self.holders.len()
    }

    /// The times of the oldest and the newest offer.
    pub fn times_ms(&self) -> Option<(u64, u64)> {
        let ((_, oldest), (_, newest)) = (self.offers.first_key_value()?, self.offers.last_key_value()?);
        Some((oldest.time_ms, newest.time_ms))
    }

    pub fn quantile(&self, quantile: Quantile) -> Option<Rational> {
        quantile.of(&self.prices)
    }

    /// Price in units, provider and time of each offer, the oldest first.
    pub fn offers(&self) -> impl DoubleEndedIterator<Item = (u64, &ProviderName, u64)> {
        self.offers.values().map(|offer| (offer.price, self.holders.name(offer.holder), offer.time_ms))
    }
}

#[cfg(test)]
mod tests;
