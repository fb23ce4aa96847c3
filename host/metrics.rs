//! What is scraped from a node: every name is in the table below, and nowhere else. Numbers that outlive the process are kept
//! with what they count and read at each scrape; the others begin at zero.

use std::time::Duration;

use prometheus::{Encoder as _, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use crate::courier::{Courier, Event};
use crate::store::StoreError;

/// What the text is, as HTTP says it.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Upper bounds of the buckets for attempts, in seconds: loopback to a slow line.
const ATTEMPT_SECONDS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0, 60.0];

/// Counters, by name and what they count; what is current, likewise.
type Line = (&'static str, &'static str);

const ATTEMPTS: Line = ("courier_flush_attempt_total", "Tries of one receipt");
const FAILURES: Line = ("courier_flush_failure_total", "Tries that did not end in a verified acknowledgement");
const INVALID: Line =
    ("courier_invalid_acknowledgement_total", "Tries answered by what is no acknowledgement of what was sent");
const CREDITED: Line = ("courier_credited_total", "Receipts acknowledged and credited");
const CREDITED_BYTES: Line = ("courier_credited_bytes_total", "Bytes of bundles acknowledged and credited");
const CREDIT: Line = ("courier_credit_total", "Units of credit");
const PENDING: Line = ("courier_pending", "Receipts that are to be forwarded");
const PENDING_BYTES: Line = ("courier_pending_bytes", "Bytes of the bundles that are to be forwarded");
const OLDEST: Line = ("courier_oldest_pending_seconds", "Age of the receipt that has been pending for longest");
const DEAD: Line = ("courier_dead", "Receipts that are tried no more");
const RECEIVED: Line = ("courier_received", "Received bundles that are here");
const RECEIVED_BYTES: Line = ("courier_received_bytes", "Their bytes");
const ATTEMPT: Line = ("courier_attempt_duration_seconds", "How long one try took, by this process");
const BUILD: Line = ("node_build_info", "1, with the version as a label");

/// What is counted by this process alone.
pub struct Metrics {
    attempt: Histogram,
}

impl Metrics {
    /// # Panics
    /// If the table above holds a name that Prometheus has no use for; a test makes one.
    pub fn new() -> Self {
        let options = HistogramOpts::new(ATTEMPT.0, ATTEMPT.1).buckets(ATTEMPT_SECONDS.to_vec());
        Self { attempt: Histogram::with_opts(options).expect("the name is a valid one") }
    }

    /// Counts what a flush tells.
    pub fn observe(&self, event: &Event) {
        let took_us = match event {
            Event::Forwarded { took_us, .. } | Event::Failed { took_us, .. } => Some(*took_us),
            Event::Died { took_us, .. } => *took_us,
            _ => None,
        };
        if let Some(took_us) = took_us {
            self.attempt.observe(Duration::from_micros(took_us).as_secs_f64());
        }
    }

    /// The text that is scraped. Reads the store: to be called where that may be waited for.
    pub fn text(&self, courier: &Courier) -> Result<String, StoreError> {
        let tally = courier.tally();
        let registry = Registry::new();
        let register = |collector| registry.register(collector).expect("each name is registered once");
        let counters = [
            (ATTEMPTS, tally.attempts),
            (FAILURES, tally.failures),
            (INVALID, tally.invalid_acknowledgements),
            (CREDITED, tally.credited),
            (CREDITED_BYTES, tally.credited_bytes),
            (CREDIT, tally.credit),
        ];
        for ((name, help), value) in counters {
            let counter = IntCounter::new(name, help).expect("the name is a valid one");
            counter.inc_by(value);
            register(Box::new(counter));
        }
        let gauges = [
            (PENDING, tally.pending),
            (PENDING_BYTES, tally.pending_bytes),
            (DEAD, tally.dead),
            (RECEIVED, tally.received),
            (RECEIVED_BYTES, tally.received_bytes),
        ];
        for ((name, help), value) in gauges {
            let gauge = IntGauge::new(name, help).expect("the name is a valid one");
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            register(Box::new(gauge));
        }
        let oldest_ms = courier.store().oldest_pending_ms()?;
        let age_ms = oldest_ms.map_or(0, |oldest_ms| courier.now_ms().saturating_sub(oldest_ms));
        let oldest = Gauge::new(OLDEST.0, OLDEST.1).expect("the name is a valid one");
        oldest.set(Duration::from_millis(age_ms).as_secs_f64());
        register(Box::new(oldest));
        let build = Opts::new(BUILD.0, BUILD.1).const_label("version", env!("CARGO_PKG_VERSION"));
        let build = IntGauge::with_opts(build).expect("the name is a valid one");
        build.set(1);
        register(Box::new(build));
        register(Box::new(self.attempt.clone()));
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&registry.gather(), &mut text);
        debug_assert!(encoded.is_ok(), "writing to memory does not fail");
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
