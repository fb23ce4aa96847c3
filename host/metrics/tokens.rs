//! Counters per token: resources used, and refusals. The node's owner chooses the names of tokens,
//! so names may be labels. Beyond a limit, tokens share one label.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounterVec, Registry};

use super::scrape::register;
use super::table;
use crate::runner::RequestUsage;
use crate::slice::Tenant;

/// Limit on tokens with a label of their own. Each adds up to six time series.
pub const TOKENS_SHOWN_MAX: usize = 100;

/// Labels of the node's owner, and of the tokens beyond [`TOKENS_SHOWN_MAX`]. A token of the same
/// name counts with them.
const OWNER: &str = "owner";
const OTHER: &str = "other";

pub struct TokenCounters {
    runs: IntCounterVec,
    gas: IntCounterVec,
    bytes: IntCounterVec,
    refusals: IntCounterVec,
    /// The first tokens that made a request.
    shown: Mutex<HashSet<Tenant>>,
}

impl TokenCounters {
    pub fn new() -> Self {
        let (runs, gas, bytes) =
            (table::TOKEN_RUNS.counter(), table::TOKEN_GAS.counter(), table::TOKEN_BYTES.counter());
        let refusals = table::TOKEN_REFUSALS.counter();
        // Creates these series at zero: an increase from a missing series would not be visible.
        [&runs, &gas, &bytes].into_iter().for_each(|counter| drop(counter.with_label_values(&[OWNER])));
        refusals.with_label_values(&[OWNER, "429"]);
        Self { runs, gas, bytes, refusals, shown: Mutex::default() }
    }

    pub fn usage(&self, usage: &RequestUsage<'_>) {
        let label = self.label(usage.scope);
        // A request that used no gas was answered from a cache.
        if usage.gas > 0 {
            self.runs.with_label_values(&[label]).inc();
        }
        self.gas.with_label_values(&[label]).inc_by(usage.gas);
        self.bytes.with_label_values(&[label]).inc_by(usage.bytes);
    }

    /// Counts a response, if it is a refusal.
    pub fn answer(&self, scope: &Tenant, status: u16) {
        let status = match status {
            429 => "429",
            503 => "503",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => return,
        };
        self.refusals.with_label_values(&[self.label(scope), status]).inc();
    }

    pub fn register(&self, registry: &Registry) {
        for counter in [&self.runs, &self.gas, &self.bytes, &self.refusals] {
            register(registry, counter.clone());
        }
    }

    fn label<'a>(&self, scope: &'a Tenant) -> &'a str {
        let Some(name) = scope.token() else { return OWNER };
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.contains(scope) || (shown.len() < TOKENS_SHOWN_MAX && shown.insert(scope.clone())) {
            return name;
        }
        OTHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_a_hundred_tokens_the_rest_share_a_label() {
        let counters = TokenCounters::new();
        let count = 3 * TOKENS_SHOWN_MAX;
        for round in 1..=2 {
            for n in 0..count {
                let scope: Tenant = format!("t{n}").parse().unwrap();
                counters.usage(&RequestUsage { scope: &scope, gas: 10, bytes: 1 });
                counters.answer(&scope, 429);
                counters.answer(&scope, 200);
            }
            counters.usage(&RequestUsage { scope: &Tenant::OWNER, gas: 0, bytes: 5 });
            let gas = |label: &str| counters.gas.with_label_values(&[label]).get();
            let others = (count - TOKENS_SHOWN_MAX) as u64;
            assert_eq!((gas("t0"), gas("other"), gas("owner")), (10 * round, 10 * others * round, 0));
            assert_eq!(counters.refusals.with_label_values(&["other", "429"]).get(), others * round);
            assert_eq!(counters.runs.with_label_values(&["t99"]).get(), round);
            assert_eq!(counters.bytes.with_label_values(&["owner"]).get(), 5 * round);
        }
        let registry = Registry::new();
        counters.register(&registry);
        let series: usize = registry.gather().iter().map(|family| family.get_metric().len()).sum();
        assert!(series <= 4 * (TOKENS_SHOWN_MAX + 2), "{series}");
    }
}
