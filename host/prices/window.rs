//! Window of a lane: its last offers, by age, by price, and by provider.

use std::collections::BTreeMap;

use super::AGE_MAX_MS;
use super::holders::{HolderId, Holders};
use super::offer::{Price, ProviderName};
use super::quantile::{Quantile, Rational};
use super::sorted::SortedPrices;

/// Largest share of one provider in a window: `percent` of the offers, or an equal part for each
/// provider, whichever is more. A fraction of an offer is rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProviderShare {
    percent: usize,
}

impl ProviderShare {
    /// Clamps to 1–100 %. At 100 % there is no limit.
    pub fn of_percent(percent: usize) -> Self {
        Self { percent: percent.clamp(1, 100) }
    }

    /// Returns the share in offers, given the number of offers and providers. A single provider may
    /// have all.
    pub fn of(self, offers: usize, providers: usize) -> usize {
        (offers * self.percent).div_ceil(100).max(offers.div_ceil(providers.max(1)))
    }
}

/// Up to `capacity` offers. Each has a number in the order of arrival, and times never decrease in
/// that order.
pub struct OfferWindow {
    capacity: usize,
    share: ProviderShare,
    next: u64,
    offers: BTreeMap<u64, WindowEntry>,
    prices: SortedPrices,
    holders: Holders,
}

struct WindowEntry {
    price: u64,
    time_ms: u64,
    holder: HolderId,
}

impl OfferWindow {
    pub fn new(capacity: usize, share: ProviderShare) -> Self {
        let (offers, prices, holders) = Default::default();
        Self { capacity, share, next: 0, offers, prices, holders }
    }

    /// Adds an offer that is made now. If its provider already has its share, the provider's oldest
    /// offer is removed; else, if the window is full, the oldest of all.
    pub fn push(&mut self, price: Price, provider: &ProviderName, now_ms: u64) {
        self.expire(now_ms);
        self.append(price, provider, now_ms);
        // The order matters: if other providers' offers were removed first, a flood would displace
        // them.
        self.hold_to_shares();
        if self.offers.len() > self.capacity {
            self.remove_oldest();
        }
    }

    /// Restores the newest offers of a window like this one. `offers` are the oldest first, with
    /// times that do not decrease. Shares are applied after all are added, because the first few
    /// may be by few providers.
    pub fn restore<'a>(&mut self, offers: impl ExactSizeIterator<Item = (Price, &'a ProviderName, u64)>, now_ms: u64) {
        let skipped = offers.len().saturating_sub(self.capacity);
        offers.skip(skipped).for_each(|(price, provider, time_ms)| self.append(price, provider, time_ms));
        self.expire(now_ms);
    }

    fn append(&mut self, price: Price, provider: &ProviderName, time_ms: u64) {
        let number = self.next;
        self.next += 1;
        let holder = self.holders.add(provider, number);
        self.offers.insert(number, WindowEntry { price: price.units(), time_ms, holder });
        self.prices.insert(price.units());
    }

    /// Updates the window to `now_ms`: removes expired offers. After the clock was set back, offers
    /// with a later time get the time `now_ms`; otherwise they could not age until the clock
    /// reaches their time again.
    pub fn expire(&mut self, now_ms: u64) {
        self.offers
            .values_mut()
            .rev()
            .take_while(|offer| offer.time_ms > now_ms)
            .for_each(|offer| offer.time_ms = now_ms);
        let is_old = |offer: &WindowEntry| now_ms - offer.time_ms > AGE_MAX_MS;
        while self.offers.first_key_value().is_some_and(|(_, oldest)| is_old(oldest)) {
            self.remove_oldest();
        }
        self.hold_to_shares();
    }

    /// Removes the oldest offers of the largest provider, until no provider is above its share. A
    /// new provider can cause the removal of almost a whole window. Each offer is removed once, so
    /// the cost is that of adding it.
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
        if let Some(WindowEntry { price, .. }) = oldest {
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

    /// Returns the times of the oldest and the newest offer.
    pub fn times_ms(&self) -> Option<(u64, u64)> {
        let ((_, oldest), (_, newest)) = (self.offers.first_key_value()?, self.offers.last_key_value()?);
        Some((oldest.time_ms, newest.time_ms))
    }

    pub fn quantile(&self, quantile: Quantile) -> Option<Rational> {
        quantile.of(&self.prices)
    }

    /// Returns price in units, provider and time of each offer, the oldest first.
    pub fn offers(&self) -> impl DoubleEndedIterator<Item = (u64, &ProviderName, u64)> {
        self.offers.values().map(|offer| (offer.price, self.holders.name(offer.holder), offer.time_ms))
    }
}

#[cfg(test)]
mod tests;
