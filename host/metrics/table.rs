//! Table of all metrics.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// All metrics of one name.
#[derive(Debug)]
pub struct MetricFamily {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    pub meaning: &'static str,
}

macro_rules! table {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $meaning:literal;)*) => {
        $(pub const $constant: MetricFamily =
            MetricFamily { name: $name, kind: MetricKind::$kind, labels: &$labels, meaning: $meaning };)*

        /// All metrics. docs/metrics.md documents them.
        pub static TABLE: &[MetricFamily] = &[$($constant),*];
    };
}

table! {
    SLICES: Counter "node_slices_total" ["workload", "outcome", "source"],
        "slices requested, by outcome: the code of the outcome, or of the error, whose source is `none`";
    SLICE_SECONDS: Histogram "node_slice_duration_seconds" ["workload"],
        "time from the request for a slice that was run until its proof was stored, all waiting included";
    GUEST_SECONDS: Histogram "node_guest_duration_seconds" ["workload"],
        "time that the guest itself ran";
    GAS: Histogram "node_slice_gas" ["workload"], "gas that a run used";
    CACHE_HITS: Counter "node_cache_hits_total" ["cache"],
        "answers from memory, and from the proof store";
    CACHE_MISSES: Counter "node_cache_misses_total" [], "answers for which a guest was run";
    GUESTS_RUNNING: Gauge "node_guests_running" [], "requests that have a thread for guests";
    GUESTS_WAITING: Gauge "node_guests_waiting" [], "requests that wait for a thread for guests";
    QUEUE_WAITING: Gauge "node_queue_waiting" [], "accepted slices that wait for their turn";
    QUEUE_RUNNING: Gauge "node_queue_running" [], "accepted slices that are in progress";
    QUEUE_BYTES: Gauge "node_queue_bytes" [],
        "bytes of the accepted slices that wait or are in progress, and of those being uploaded";
    QUEUE_OUTPUT_BYTES: Gauge "node_queue_output_bytes" [],
        "bytes of the stored outputs of accepted slices that have ended";
    COMPILATIONS: Counter "node_compilations_total" ["result"],
        "modules passed to the compiler, by result: `compiled`, or the code of the error";
    COMPILE_SECONDS: Histogram "node_compile_duration_seconds" [],
        "time to compile one module, whatever the result";
    CONFINED: Gauge "node_compiler_confined" ["by"],
        "1 if the kernel confines the compiler by this mechanism, 0 if it cannot; absent until a compiler has started";
    COMPILES_WAITING: Gauge "node_compiles_waiting" [], "modules that wait for a compiler";
    REFUSALS: Counter "node_gate_refusals_total" ["rule"],
        "modules refused by the gate, by the first rule that they broke";
    MODULES: Gauge "node_modules" [], "stored modules";
    MODULE_BYTES: Gauge "node_modules_bytes" [], "bytes of the stored modules";
    REQUESTS: Counter "node_http_requests_total" ["route", "method", "status"],
        "requests, by the pattern of the path and the class of the status";
    REQUEST_SECONDS: Histogram "node_http_request_duration_seconds" ["route", "method"],
        "time from the head of a request to the head of its response";
    BUSY: Counter "node_http_too_many_requests_total" ["route"], "requests answered with 429";
    CONNECTIONS_REFUSED: Counter "node_connections_refused_total" [],
        "connections closed at once because their address had as many as one address may have";
    TOKEN_RUNS: Counter "node_token_runs_total" ["token"],
        "runs of guests, by the token that requested them; `owner` for the node's owner, `other` beyond 100 tokens";
    TOKEN_GAS: Counter "node_token_gas_total" ["token"],
        "gas granted to the runs of a token, also to runs whose caller left";
    TOKEN_BYTES: Counter "node_token_bytes_total" ["token"],
        "bytes of slices that were read and hashed for the requests of a token";
    TOKEN_REFUSALS: Counter "node_token_refusals_total" ["token", "status"],
        "requests of a token that were refused: with 429, with 503, or with another status from 400 on";
    LOG_DROPPED: Counter "node_log_dropped_lines_total" [],
        "log lines dropped because their reader did not read them in time";
    BAND_P25: Gauge "price_band_p25" ["lane"], "first quartile of the prices that count in a lane";
    BAND_MEDIAN: Gauge "price_band_median" ["lane"], "median of the prices that count in a lane";
    BAND_P75: Gauge "price_band_p75" ["lane"], "third quartile of the prices that count in a lane";
    BAND_SAMPLES: Gauge "price_band_samples" ["lane"], "offers that count in a lane";
    BAND_PROVIDERS: Gauge "price_band_providers" ["lane"],
        "providers of the offers that count in a lane";
    BOARD_LOADS: Counter "price_board_load_total" ["result"],
        "loads of the price board's file, by result";
    ATTEMPTS: Counter "courier_flush_attempt_total" [], "attempts to forward a receipt";
    FAILURES: Counter "courier_flush_failure_total" [],
        "attempts that did not end in a verified acknowledgement";
    INVALID: Counter "courier_invalid_acknowledgement_total" [],
        "failed attempts whose response was not a valid acknowledgement of the bundle sent";
    CREDITED: Counter "courier_credited_total" [], "receipts acknowledged and credited";
    CREDITED_BYTES: Counter "courier_credited_bytes_total" [], "bytes of the credited bundles";
    CREDIT: Counter "courier_credit_total" [], "units of credit earned";
    STORAGE: Counter "courier_storage_failures_total" [],
        "failures of the courier's store in this process; the log has each of them";
    PENDING: Gauge "courier_pending" [], "receipts to be forwarded";
    PENDING_BYTES: Gauge "courier_pending_bytes" [], "bytes of the bundles to be forwarded";
    OLDEST: Gauge "courier_oldest_pending_seconds" [],
        "time since the oldest receipt to be forwarded was sent";
    DEAD: Gauge "courier_dead" [], "receipts that are no longer tried";
    RECEIVED: Gauge "courier_received" [], "received bundles that are stored here";
    RECEIVED_BYTES: Gauge "courier_received_bytes" [], "bytes of the received bundles";
    ATTEMPT_SECONDS: Histogram "courier_attempt_duration_seconds" [],
        "duration of one attempt, in this process";
    START: Gauge "node_start_time_seconds" [],
        "time at which this process began to serve, in seconds since 1970-01-01 UTC";
    BUILD: Gauge "node_build_info" ["version"], "1, with the version as a label";
}

/// Panic message for an entry that Prometheus rejects; a test builds all entries.
const VALID: &str = "the table holds what Prometheus takes";

impl MetricFamily {
    pub(super) fn counter(&self) -> IntCounterVec {
        IntCounterVec::new(self.options(), self.labels).expect(VALID)
    }

    pub(super) fn gauge(&self) -> GaugeVec {
        GaugeVec::new(self.options(), self.labels).expect(VALID)
    }

    /// Builds a histogram with these upper bounds, in ascending order.
    pub(super) fn histogram(&self, bounds: &[f64]) -> HistogramVec {
        let options = HistogramOpts::from(self.options()).buckets(bounds.to_vec());
        HistogramVec::new(options, self.labels).expect(VALID)
    }

    fn options(&self) -> Opts {
        Opts::new(self.name, self.meaning)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_stands_in_the_table_once_and_is_a_valid_one() {
        let names: BTreeSet<&str> = TABLE.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), TABLE.len());
        for family in TABLE {
            match family.kind {
                MetricKind::Counter => drop(family.counter()),
                MetricKind::Gauge => drop(family.gauge()),
                MetricKind::Histogram => drop(family.histogram(&[1.0])),
            }
            assert_eq!(family.kind == MetricKind::Counter, family.name.ends_with("_total"), "{}", family.name);
        }
    }
}
