use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const HOUR_MS: u64 = 60 * 60 * 1_000;

fn price(units: u64) -> Price {
    Price::new(units).unwrap()
}

fn provider(number: usize) -> ProviderName {
    format!("p{number}").parse().unwrap()
}

/// Creates a window of which one provider may hold a tenth.
fn window(capacity: usize) -> OfferWindow {
    OfferWindow::new(capacity, ProviderShare::of_percent(10))
}

fn prices(window: &OfferWindow) -> Vec<u64> {
    window.offers().map(|(price, ..)| price).collect()
}

fn held(window: &OfferWindow) -> BTreeMap<String, usize> {
    let mut held = BTreeMap::new();
    window.offers().for_each(|(_, provider, _)| *held.entry(provider.to_string()).or_default() += 1);
    held
}

fn median(window: &OfferWindow) -> u64 {
    window.quantile(Quantile::MEDIAN).unwrap().rounded()
}

#[test]
fn the_oldest_gives_way_where_the_window_is_full() {
    let mut window = window(3);
    for units in 1..=5 {
        window.push(price(units), &provider(0), units);
    }
    assert_eq!((prices(&window), window.times_ms()), (vec![3, 4, 5], Some((3, 5))));
}

#[test]
fn an_offer_counts_for_sixty_hours() {
    let mut window = window(10);
    window.push(price(1), &provider(0), 1_000);
    window.push(price(2), &provider(0), 2_000);
    window.expire(1_000 + 60 * HOUR_MS);
    assert_eq!(prices(&window), [1, 2], "60 hours old is not older than that");
    window.expire(1_001 + 60 * HOUR_MS);
    assert_eq!((prices(&window), window.quantile(Quantile::MEDIAN).map(Rational::rounded)), (vec![2], Some(2)));
    window.expire(u64::MAX);
    assert_eq!((window.len(), window.providers(), window.quantile(Quantile::MEDIAN)), (0, 0, None));
}

#[test]
fn where_the_clock_is_set_back_no_offer_is_from_the_future() {
    let mut window = window(10);
    let (before, year_ahead) = (1_000 * HOUR_MS, 10_000 * HOUR_MS);
    window.push(price(1), &provider(0), year_ahead);
    window.push(price(2), &provider(0), before);
    assert_eq!((prices(&window), window.times_ms()), (vec![1, 2], Some((before, before))));
    window.expire(before + 61 * HOUR_MS);
    assert!(window.is_empty(), "and it grows old from then on");
}

#[test]
fn a_flood_moves_the_median_no_further_than_a_tenth_of_the_window_can() {
    let mut window = window(100);
    for n in 0..100 {
        window.push(price(1_000 + n as u64), &provider(n % 20), 0);
    }
    let honest = prices(&window);
    for _ in 0..10_000 {
        window.push(price(Price::MAX), &provider(777), 0);
        assert!(held(&window)["p777"] <= 10);
    }
    // The flood displaced ten offers of others and no more; after that it displaced its own oldest.
    assert_eq!((window.len(), held(&window)["p777"]), (100, 10));
    assert_eq!(prices(&window)[..90], honest[10..]);
    // Ten of 100 at the upper end move the median by five ranks. The ten displaced offers were the
    // cheapest, for another five.
    assert_eq!((median(&window), honest[49] + honest[50]), (1_060, 2 * 1_049 + 1));
}

#[test]
fn in_a_window_that_is_not_full_a_flood_gets_a_tenth_of_what_is_there() {
    let mut window = window(10_000);
    for n in 0..60 {
        window.push(price(1_000), &provider(n % 12), 0);
    }
    for _ in 0..1_000 {
        window.push(price(1), &provider(777), 0);
    }
    assert_eq!((window.len(), held(&window)["p777"], median(&window)), (67, 7, 1_000));
}

/// A flood by one provider gets at most one equal part, however few providers there are.
#[test]
fn below_ten_providers_each_holds_one_nth_at_most() {
    for others in 1..12 {
        let mut window = window(100);
        for n in 0..60 {
            window.push(price(1_000), &provider(n % others), 0);
        }
        for _ in 0..1_000 {
            window.push(price(1), &provider(777), 0);
            let (held, len) = (held(&window)["p777"], window.len());
            assert!(held <= len.div_ceil(10).max(len.div_ceil(others + 1)), "{held} of {len}, beside {others}");
        }
        assert!(others == 1 || median(&window) == 1_000, "beside {others}");
    }
    // A new provider reduces every larger one to an equal part; the oldest offers go.
    let mut window = window(1_000);
    (1..=900).for_each(|units| window.push(price(units), &provider(0), 0));
    assert_eq!(window.len(), 900, "one alone may have all");
    window.push(price(5_000), &provider(1), 0);
    assert_eq!(prices(&window), [899, 900, 5_000]);
}

#[test]
fn a_share_is_a_percentage_or_one_nth_whichever_is_more() {
    for (percent, providers, of_100, of_101) in [
        (10, 1, 100, 101),
        (10, 3, 34, 34),
        (10, 9, 12, 12),
        (10, 10, 10, 11),
        (10, 50, 10, 11),
        (1, 50, 2, 3),
        (34, 2, 50, 51),
        (100, 7, 100, 101),
    ] {
        let share = ProviderShare::of_percent(percent);
        assert_eq!((share.of(100, providers), share.of(101, providers)), (of_100, of_101), "{percent}, {providers}");
    }
    assert_eq!(
        (ProviderShare::of_percent(0), ProviderShare::of_percent(101)),
        (ProviderShare::of_percent(1), ProviderShare::of_percent(100))
    );
}

/// The specification of a window in its simplest form.
struct WindowModel {
    capacity: usize,
    percent: usize,
    offers: Vec<(u64, String, u64)>,
}

impl WindowModel {
    fn push(&mut self, price: u64, provider: usize, now_ms: u64) {
        self.expire(now_ms);
        self.offers.push((price, format!("p{provider}"), now_ms));
        self.hold_to_shares();
        if self.offers.len() > self.capacity {
            self.offers.remove(0);
        }
    }

    fn expire(&mut self, now_ms: u64) {
        self.offers.iter_mut().for_each(|offer| offer.2 = offer.2.min(now_ms));
        self.offers.retain(|offer| offer.2 + AGE_MAX_MS >= now_ms);
        self.hold_to_shares();
    }

    /// Returns the largest share such that it is the share of what is left if no provider has more.
    fn hold_to_shares(&mut self) {
        let mut held: BTreeMap<String, usize> = BTreeMap::new();
        self.offers.iter().for_each(|offer| *held.entry(offer.1.clone()).or_default() += 1);
        let fits = |most: &usize| {
            let left: usize = held.values().map(|held| held.min(most)).sum();
            let left = left.min(self.capacity);
            let share = (left * self.percent).div_ceil(100).max(left.div_ceil(held.len()));
            share >= *most.min(held.values().max().unwrap())
        };
        let Some(most) = (1..=self.offers.len()).rev().find(fits) else { return };
        let mut excess: BTreeMap<String, usize> =
            held.into_iter().map(|(provider, held)| (provider, held.saturating_sub(most))).collect();
        self.offers.retain(|offer| {
            let excess = excess.get_mut(&offer.1).unwrap();
            let stays = *excess == 0;
            *excess = excess.saturating_sub(1);
            stays
        });
    }
}

proptest! {
    #[test]
    fn a_window_is_what_is_said_of_it(
        (capacity, percent) in (1_usize..60, prop::sample::select(vec![5_usize, 10, 30, 50, 100])),
        // Price, provider, and clock steps: mostly forward, sometimes far, sometimes back.
        offers in prop::collection::vec((1_u64..40, 0_usize..26, -3_i64..40), 0..400),
        hour in prop::sample::select(vec![1_000_u64, HOUR_MS]),
    ) {
        let mut window = OfferWindow::new(capacity, ProviderShare::of_percent(percent));
        let mut model = WindowModel { capacity, percent, offers: Vec::new() };
        let mut now_ms = 100 * HOUR_MS;
        for (units, who, hours) in offers {
            now_ms = now_ms.saturating_add_signed(hours * hour as i64);
            // Some providers make far more offers than others.
            let who = if who < 10 { 0 } else { who };
            window.push(price(units), &provider(who), now_ms);
            model.push(units, who, now_ms);
            let found: Vec<_> = window.offers().map(|(p, who, time_ms)| (p, who.to_string(), time_ms)).collect();
            prop_assert_eq!(&found, &model.offers);
            prop_assert_eq!(window.providers(), held(&window).len());
            prop_assert_eq!(window.prices.len(), window.len());
        }
    }
}
