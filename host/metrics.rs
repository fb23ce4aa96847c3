//! Prometheus metrics. `table` lists every metric; `scrape` reads the figures that other modules
//! keep, some of which outlive the process. This module has the counters of this process, which
//! begin at zero.
//!
//! Label values are fixed at compile time, so that a client cannot create time series. The types
//! below accept only such values.

mod table;
mod scrape;
mod tokens;

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Encoder as _, HistogramVec, IntCounterVec, Registry, TextEncoder};

pub use self::scrape::{MODULE_LANES_MAX, ScrapeError, ScrapeSources};
use self::scrape::{count, register, show};
pub use self::table::{MetricFamily, MetricKind, TABLE};
pub use self::tokens::TOKENS_SHOWN_MAX;
use self::tokens::TokenCounters;
use crate::courier::Event;
use crate::modules::ModuleEvent;
use crate::prices::LoadResult;
use crate::runner::{CacheSource, Observation, RequestUsage};
use crate::slice::Tenant;

/// Content type of the text format.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

// Bucket bounds. For slices, in seconds: from 64 bytes in a cache to a guest that runs for an hour.
const SLICE_SECONDS: [f64; 12] = [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0, 3_600.0];
/// From the host's base charges to more than any default.
const GAS: [f64; 10] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12];
/// From some 3 ms, the start of the child alone, to the seconds that a large module takes.
const COMPILE_SECONDS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0];
/// From a health check to a slice whose client waits for the result.
const REQUEST_SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0];
/// From loopback to a slow line.
const ATTEMPT_SECONDS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Source label of a request without a result.
const NO_SOURCE: &str = "none";

/// An HTTP request and its response.
#[derive(Clone, Copy, Debug)]
pub struct HttpExchange {
    /// Pattern of the route.
    pub route: &'static str,
    pub method: &'static str,
    pub status: u16,
    pub duration: Duration,
}

/// Counters of this process.
pub struct Metrics {
    start_ms: u64,
    slices: IntCounterVec,
    slice_seconds: HistogramVec,
    guest_seconds: HistogramVec,
    gas: HistogramVec,
    compilations: IntCounterVec,
    compile_seconds: HistogramVec,
    refusals: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    busy: IntCounterVec,
    connections_refused: IntCounterVec,
    board_loads: IntCounterVec,
    attempt_seconds: HistogramVec,
    tokens: TokenCounters,
    log_dropped: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
}

impl Metrics {
    /// Creates the counters. `start_ms` is the start of the service, in milliseconds since
    /// 1970-01-01 UTC.
    ///
    /// # Panics
    /// If Prometheus rejects an entry of the table; a test builds all of them.
    pub fn new(start_ms: u64) -> Self {
        let metrics = Self {
            start_ms,
            slices: table::SLICES.counter(),
            slice_seconds: table::SLICE_SECONDS.histogram(&SLICE_SECONDS),
            guest_seconds: table::GUEST_SECONDS.histogram(&SLICE_SECONDS),
            gas: table::GAS.histogram(&GAS),
            compilations: table::COMPILATIONS.counter(),
            compile_seconds: table::COMPILE_SECONDS.histogram(&COMPILE_SECONDS),
            refusals: table::REFUSALS.counter(),
            requests: table::REQUESTS.counter(),
            request_seconds: table::REQUEST_SECONDS.histogram(&REQUEST_SECONDS),
            busy: table::BUSY.counter(),
            connections_refused: table::CONNECTIONS_REFUSED.counter(),
            board_loads: table::BOARD_LOADS.counter(),
            attempt_seconds: table::ATTEMPT_SECONDS.histogram(&ATTEMPT_SECONDS),
            tokens: TokenCounters::new(),
            log_dropped: OnceLock::new(),
        };
        // Creates these series at zero: an increase from a missing series would not be visible.
        for result in LoadResult::NAMES {
            metrics.board_loads.with_label_values(&[result]);
        }
        metrics.connections_refused.with_label_values::<&str>(&[]);
        metrics.compile_seconds.with_label_values::<&str>(&[]);
        metrics.attempt_seconds.with_label_values::<&str>(&[]);
        metrics
    }

    /// Counts a slice with its outcome, or with the error of the runner.
    pub fn slice(&self, observation: &Observation<'_>) {
        let Observation { workload, duration, result } = *observation;
        let (outcome, source) = match result {
            Ok(answer) => (answer.finished.outcome.code().0, answer.source.name()),
            Err(error) => (error.code(), NO_SOURCE),
        };
        self.slices.with_label_values(&[workload, outcome, source]).inc();
        if let Ok(answer) = result
            && answer.source == CacheSource::Run
        {
            let proof = &answer.finished.proof;
            let guest = Duration::from_micros(proof.observed().duration_us);
            self.slice_seconds.with_label_values(&[workload]).observe(duration.as_secs_f64());
            self.guest_seconds.with_label_values(&[workload]).observe(guest.as_secs_f64());
            self.gas.with_label_values(&[workload]).observe(proof.claim().gas() as f64);
        }
    }

    /// Counts the resources that a request has used.
    pub fn usage(&self, usage: &RequestUsage<'_>) {
        self.tokens.usage(usage);
    }

    /// Counts the response to a request of a token.
    pub fn answer(&self, scope: &Tenant, status: u16) {
        self.tokens.answer(scope, status);
    }

    /// Adds a metric of the dropped log lines; `count` returns their number.
    pub fn show_dropped_lines(&self, count: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.log_dropped.set(Box::new(count));
    }

    /// Counts an event of a module.
    pub fn module(&self, event: &ModuleEvent<'_>) {
        match event {
            ModuleEvent::Refused { rule } => self.refusals.with_label_values(&[*rule]).inc(),
            ModuleEvent::Compiled { duration, result } => {
                let result = result.map_or_else(|error| error.code(), |()| "compiled");
                self.compilations.with_label_values(&[result]).inc();
                self.compile_seconds.with_label_values::<&str>(&[]).observe(duration.as_secs_f64());
            }
        }
    }

    /// Counts a request that was answered.
    pub fn request(&self, exchange: &HttpExchange) {
        let HttpExchange { route, method, status, duration } = *exchange;
        self.requests.with_label_values(&[route, method, class(status)]).inc();
        self.request_seconds.with_label_values(&[route, method]).observe(duration.as_secs_f64());
        if status == 429 {
            self.busy.with_label_values(&[route]).inc();
        }
    }

    /// Counts a connection that was refused because its address has too many.
    pub fn connection_refused(&self) {
        self.connections_refused.with_label_values::<&str>(&[]).inc();
    }

    /// Counts the result of loading the price board.
    pub fn board_loaded(&self, result: &LoadResult) {
        self.board_loads.with_label_values(&[result.name()]).inc();
    }

    /// Counts an event of a flush.
    pub fn flush(&self, event: &Event) {
        let took_us = match event {
            Event::Forwarded { took_us, .. } | Event::Failed { took_us, .. } => Some(*took_us),
            Event::Died { took_us, .. } => *took_us,
            _ => None,
        };
        if let Some(took_us) = took_us {
            let seconds = Duration::from_micros(took_us).as_secs_f64();
            self.attempt_seconds.with_label_values::<&str>(&[]).observe(seconds);
        }
    }

    /// Returns the text for a scrape. Reads the stores, so call it where blocking is allowed.
    pub fn text(&self, scraped: &ScrapeSources<'_>) -> Result<String, ScrapeError> {
        let registry = Registry::new();
        self.register_all(&registry);
        scraped.read(&registry)?;
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&registry.gather(), &mut text);
        debug_assert!(encoded.is_ok(), "writing to memory does not fail");
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn register_all(&self, registry: &Registry) {
        for counter in [
            &self.slices,
            &self.compilations,
            &self.refusals,
            &self.requests,
            &self.busy,
            &self.connections_refused,
            &self.board_loads,
        ] {
            register(registry, counter.clone());
        }
        for histogram in [
            &self.slice_seconds,
            &self.guest_seconds,
            &self.gas,
            &self.compile_seconds,
            &self.request_seconds,
            &self.attempt_seconds,
        ] {
            register(registry, histogram.clone());
        }
        self.tokens.register(registry);
        let log_dropped = self.log_dropped.get().map_or(0, |count| count());
        count(registry, &table::LOG_DROPPED, [(&[], log_dropped)]);
        show(registry, &table::START, [(&[], Duration::from_millis(self.start_ms).as_secs_f64())]);
        show(registry, &table::BUILD, [(&[env!("CARGO_PKG_VERSION")], 1.0)]);
    }
}

const fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
