//! Metrics that are read from other modules at each scrape.

use std::time::Duration;

use prometheus::Registry;

use super::table::{self, MetricFamily};
use crate::courier::Courier;
use crate::modules::{StoredError, StoredModules};
use crate::prices::{Band, Bands, Lane, SharedBoard};
use crate::queue::Queue;
use crate::runner::WorkloadRunner;
use crate::sandbox::Confinement;
use crate::store::StoreError;

/// Limit on modules whose bands are exported: those with the newest offers. Each takes five lines
/// of text and five time series, and the providers choose the modules.
pub const MODULE_LANES_MAX: usize = 16;

/// The parts of a node that keep figures.
#[derive(Clone, Copy)]
pub struct ScrapeSources<'a> {
    pub runner: &'a WorkloadRunner,
    pub queue: &'a Queue,
    pub prices: &'a SharedBoard,
    pub courier: &'a Courier,
}

/// Why a scrape failed: a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Modules(#[from] StoredError),
}

impl ScrapeError {
    /// Returns a stable code for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Store(_) => "storage_failed",
            Self::Modules(error) => error.code(),
        }
    }
}

impl ScrapeSources<'_> {
    pub(super) fn read(&self, registry: &Registry) -> Result<(), ScrapeError> {
        self.read_runner(registry);
        if let Ok(stored) = self.runner.modules().stored() {
            read_modules(stored, registry)?;
        }
        read_bands(self.prices, self.courier.now_ms(), registry);
        Ok(self.read_courier(registry)?)
    }

    fn read_runner(&self, registry: &Registry) {
        let counts = self.runner.counts();
        count(registry, &table::CACHE_HITS, [(&["memory"], counts.from_memory), (&["store"], counts.from_store)]);
        count(registry, &table::CACHE_MISSES, [(&[], counts.runs)]);
        let depth = self.queue.depth();
        for (family, value) in [
            (table::GUESTS_RUNNING, self.runner.running().len() as u64),
            (table::GUESTS_WAITING, self.runner.waiting()),
            (table::QUEUE_WAITING, depth.waiting),
            (table::QUEUE_RUNNING, depth.running),
            (table::QUEUE_BYTES, depth.bytes),
            (table::QUEUE_OUTPUT_BYTES, depth.output_bytes),
        ] {
            show(registry, &family, [(&[], value as f64)]);
        }
        let modules = self.runner.modules();
        show(registry, &table::COMPILES_WAITING, [(&[], modules.waiting() as f64)]);
        if let Some(Confinement { seccomp, landlock }) = modules.confinement() {
            let holds = |holds: bool| f64::from(u8::from(holds));
            show(registry, &table::CONFINED, [(&["seccomp"], holds(seccomp)), (&["landlock"], holds(landlock))]);
        }
    }

    fn read_courier(&self, registry: &Registry) -> Result<(), StoreError> {
        let tally = self.courier.tally();
        for (family, value) in [
            (table::ATTEMPTS, tally.attempts),
            (table::FAILURES, tally.failures),
            (table::INVALID, tally.invalid_acknowledgements),
            (table::CREDITED, tally.credited),
            (table::CREDITED_BYTES, tally.credited_bytes),
            (table::CREDIT, tally.credit),
        ] {
            count(registry, &family, [(&[], value)]);
        }
        count(registry, &table::STORAGE, [(&[], self.courier.storage_failures())]);
        for (family, value) in [
            (table::PENDING, tally.pending),
            (table::PENDING_BYTES, tally.pending_bytes),
            (table::DEAD, tally.dead),
            (table::RECEIVED, tally.received),
            (table::RECEIVED_BYTES, tally.received_bytes),
        ] {
            show(registry, &family, [(&[], value as f64)]);
        }
        let oldest_ms = self.courier.store().oldest_pending_ms()?;
        let age_ms = oldest_ms.map_or(0, |oldest_ms| self.courier.now_ms().saturating_sub(oldest_ms));
        show(registry, &table::OLDEST, [(&[], Duration::from_millis(age_ms).as_secs_f64())]);
        Ok(())
    }
}

fn read_modules(stored: &StoredModules, registry: &Registry) -> Result<(), StoredError> {
    let totals = stored.stored()?;
    show(registry, &table::MODULES, [(&[], totals.modules as f64)]);
    show(registry, &table::MODULE_BYTES, [(&[], totals.bytes as f64)]);
    Ok(())
}

fn read_bands(prices: &SharedBoard, now_ms: u64, registry: &Registry) {
    let told: Vec<(String, Bands)> =
        told_bands(prices, now_ms).into_iter().map(|bands| (bands.lane.to_string(), bands)).collect();
    type Value = fn(&Bands) -> Option<f64>;
    let values: [(MetricFamily, Value); 5] = [
        (table::BAND_P25, |bands| price(bands.p25)),
        (table::BAND_MEDIAN, |bands| price(bands.median)),
        (table::BAND_P75, |bands| price(bands.p75)),
        (table::BAND_SAMPLES, |bands| Some(bands.samples as f64)),
        (table::BAND_PROVIDERS, |bands| Some(bands.providers as f64)),
    ];
    for (family, value) in values {
        let gauge = family.gauge();
        for (lane, bands) in &told {
            if let Some(value) = value(bands) {
                gauge.with_label_values(&[lane]).set(value);
            }
        }
        register(registry, gauge);
    }
}

fn price(band: Option<Band>) -> Option<f64> {
    // No price is above 2^53 - 1, so each is exact as a binary64.
    band.map(|band| band.price as f64)
}

/// Returns the bands of the built-in lanes, and of the modules with enough offers, those with the
/// newest offers.
fn told_bands(prices: &SharedBoard, now_ms: u64) -> Vec<Bands> {
    let mut told: Vec<Bands> =
        [Lane::All, Lane::Transcode, Lane::Inference].map(|lane| prices.bands(lane, now_ms)).into();
    let lanes = prices.lanes(now_ms).into_iter().filter(|lane| matches!(lane, Lane::Module(_)));
    let mut modules: Vec<Bands> =
        lanes.map(|lane| prices.bands(lane, now_ms)).filter(|bands| !bands.insufficient).collect();
    modules.sort_by_key(|bands| (bands.newest_age_ms, bands.lane));
    modules.truncate(MODULE_LANES_MAX);
    told.extend(modules);
    told
}

pub fn count<const N: usize>(registry: &Registry, family: &MetricFamily, values: [(&[&str], u64); N]) {
    let counter = family.counter();
    for (labels, value) in values {
        counter.with_label_values(labels).inc_by(value);
    }
    register(registry, counter);
}

pub fn show<const N: usize>(registry: &Registry, family: &MetricFamily, values: [(&[&str], f64); N]) {
    let gauge = family.gauge();
    for (labels, value) in values {
        gauge.with_label_values(labels).set(value);
    }
    register(registry, gauge);
}

pub fn register(registry: &Registry, collector: impl prometheus::core::Collector + 'static) {
    registry.register(Box::new(collector)).expect("each name of the table is read in one place");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::prices::{Offer, Price, ProviderName, Settings};

    fn offer(board: &SharedBoard, lane: Lane, providers: u64, time_ms: u64) {
        for i in 0..5 {
            let provider: ProviderName = format!("p{}", i % providers).parse().unwrap();
            board.record(&Offer { price: Price::new(10 + i).unwrap(), lane, provider, time_ms });
        }
    }

    fn module(number: u64) -> Lane {
        Lane::Module(Digest::of(&number.to_le_bytes()))
    }

    /// Anyone who may offer can name any module.
    #[test]
    fn a_flood_of_lanes_shows_the_newest_alone() {
        const FLOOD: u64 = 200;
        let directory = tempfile::tempdir().unwrap();
        let (board, _) = SharedBoard::open(directory.path().join("board"), &Settings::default(), 0);
        for number in 0..FLOOD {
            offer(&board, module(number), 3, number);
        }
        // This lane is newer, but has too few offers for bands.
        offer(&board, module(FLOOD), 2, FLOOD);
        let told: Vec<Lane> = told_bands(&board, FLOOD).iter().map(|bands| bands.lane).collect();
        let newest = (0..MODULE_LANES_MAX as u64).map(|age| module(FLOOD - 1 - age));
        let expected: Vec<Lane> = [Lane::All, Lane::Transcode, Lane::Inference].into_iter().chain(newest).collect();
        assert_eq!(told, expected);
    }
}
