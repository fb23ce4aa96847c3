//! Table of all metrics.

use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts};

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
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
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub meaning: &'static str,
}

macro_rules! table {
    ($($constant:ident: $kind:ident $name:literal $labels:expr, $meaning:literal;)*) => {
        $(pub const $constant: Family =
            Family { name: $name, kind: Kind::$kind, labels: &$labels, meaning: $meaning };)*

        /// All metrics. docs/metrics.md documents them.
        pub static TABLE: &[Family] = &[$($constant),*];
    };
}

table! {
    SLICES: Counter "node_slices_total" ["workload", "outcome", "source"],
        "slices that were asked for, by how they ended: an outcome's code, or that of an error, which has no source";
    SLICE_SECONDS: Histogram "node_slice_duration_seconds" ["workload"],
        "from when a slice that was run was asked for until its proof was kept, all waiting included";
    GUEST_SECONDS: Histogram "node_guest_duration_seconds" ["workload"], "how long the guest itself ran";
    GAS: Histogram "node_slice_gas" ["workload"], "gas that a run used";
    CACHE_HITS: Counter "node_cache_hits_total" ["cache"], "answers from memory, and from the proof store";
    CACHE_MISSES: Counter "node_cache_misses_total" [], "answers for which a guest was run";
    GUESTS_RUNNING: Gauge "node_guests_running" [], "requests that have a thread for guests";
    GUESTS_WAITING: Gauge "node_guests_waiting" [], "requests that wait for one";
    QUEUE_WAITING: Gauge "node_queue_waiting" [], "accepted slices that wait for their turn";
    QUEUE_RUNNING: Gauge "node_queue_running" [], "accepted slices that are under way";
    QUEUE_BYTES: Gauge "node_queue_bytes" [], "bytes of both, and of what is being handed in";
    QUEUE_OUTPUT_BYTES: Gauge "node_queue_output_bytes" [],
        "bytes that guests put out, as they are kept of accepted slices that have ended";
    COMPILATIONS: Counter "node_compilations_total" ["result"],
        "modules that the compiler was given: `compiled`, or the code of its error";
    COMPILE_SECONDS: Histogram "node_compile_duration_seconds" [], "how long it took over one, whatever came of it";
    CONFINED: Gauge "node_compiler_confined" ["by"],
        "1 where the kernel confines the compiler by this, 0 where it cannot; nothing until a compiler was started";
    COMPILES_WAITING: Gauge "node_compiles_waiting" [], "modules that wait for a compiler";
    REFUSALS: Counter "node_gate_refusals_total" ["rule"], "modules that the gate refused, by the first rule that they broke";
    MODULES: Gauge "node_modules" [], "stored modules";
    MODULE_BYTES: Gauge "node_modules_bytes" [], "their bytes";
    REQUESTS: Counter "node_http_requests_total" ["route", "method", "status"],
        "requests, by the pattern of their path and the class of their status";
    REQUEST_SECONDS: Histogram "node_http_request_duration_seconds" ["route", "method"],
        "from a request's head until the head of its answer";
    BUSY: Counter "node_http_too_many_requests_total" ["route"], "requests that were answered with 429";
    CONNECTIONS_REFUSED: Counter "node_connections_refused_total" [],
        "connections that were closed at once, because their address had as many as one may have";
    TOKEN_RUNS: Counter "node_token_runs_total" ["token"],
        "runs of guests, by whose token asked for them; `owner` for the node's owner, `other` beyond 100 tokens";
    TOKEN_GAS: Counter "node_token_gas_total" ["token"], "gas that these were granted, also where their caller left";
    TOKEN_BYTES: Counter "node_token_bytes_total" ["token"], "bytes of slices that were read and hashed for them";
    TOKEN_REFUSALS: Counter "node_token_refusals_total" ["token", "status"],
        "requests of a token that were refused: with 429, with 503, or with another status from 400 on";
    LOG_DROPPED: Counter "node_log_dropped_lines_total" [], "lines of the log that its reader did not take in time";
    BAND_P25: Gauge "price_band_p25" ["lane"], "a quarter of the prices that count in a lane are at most this";
    BAND_MEDIAN: Gauge "price_band_median" ["lane"], "half of them are";
    BAND_P75: Gauge "price_band_p75" ["lane"], "three quarters of them are";
    BAND_SAMPLES: Gauge "price_band_samples" ["lane"], "offers that count in a lane";
    BAND_PROVIDERS: Gauge "price_band_providers" ["lane"], "who made them";
    BOARD_LOADS: Counter "price_board_load_total" ["result"], "what came of loading the price board's file";
    ATTEMPTS: Counter "courier_flush_attempt_total" [], "tries of one receipt";
    FAILURES: Counter "courier_flush_failure_total" [], "tries that did not end in a verified acknowledgement";
    INVALID: Counter "courier_invalid_acknowledgement_total" [],
        "those of them that were answered by what is no acknowledgement of what was sent";
    CREDITED: Counter "courier_credited_total" [], "receipts acknowledged and credited";
    CREDITED_BYTES: Counter "courier_credited_bytes_total" [], "their bundles' bytes";
    CREDIT: Counter "courier_credit_total" [], "units of credit";
    STORAGE: Counter "courier_storage_failures_total" [],
        "faults of the courier's store that this process met; each is in the log";
    PENDING: Gauge "courier_pending" [], "receipts that are to be forwarded";
    PENDING_BYTES: Gauge "courier_pending_bytes" [], "their bundles' bytes";
    OLDEST: Gauge "courier_oldest_pending_seconds" [], "since the oldest of them was sent";
    DEAD: Gauge "courier_dead" [], "receipts that are tried no more";
    RECEIVED: Gauge "courier_received" [], "received bundles that are here";
    RECEIVED_BYTES: Gauge "courier_received_bytes" [], "their bytes";
    ATTEMPT_SECONDS: Histogram "courier_attempt_duration_seconds" [], "how long one try took, by this process";
    START: Gauge "node_start_time_seconds" [], "when this process began to serve, in seconds since 1970-01-01 UTC";
    BUILD: Gauge "node_build_info" ["version"], "1, with the version as a label";
}

/// Panic message for an entry that Prometheus rejects; a test builds all entries.
const VALID: &str = "the table holds what Prometheus takes";

impl Family {
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
                Kind::Counter => drop(family.counter()),
                Kind::Gauge => drop(family.gauge()),
                Kind::Histogram => drop(family.histogram(&[1.0])),
            }
            assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        }
    }
}
