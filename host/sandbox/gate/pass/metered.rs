//! Second half of the pass: it meters the module, and computes the price of the result for the
//! compiler.

use crate::sandbox::gate::cost;
use crate::sandbox::gate::limits::LimitName;
use crate::sandbox::gate::pass::{Abort, GatePass, PassMode};
use crate::sandbox::gate::price::CompileEstimate;
use crate::sandbox::gate::refusal::{Position, Rule};
use crate::sandbox::meter;

impl GatePass<'_> {
    /// Counts the limits that concern the metered module. A module that is not valid cannot be
    /// metered.
    pub(super) fn price(&mut self, wasm: &[u8]) -> Result<(), Abort> {
        if self.refusals.iter().any(|refusal| matches!(refusal.rule, Rule::Invalid { .. })) {
            return Ok(());
        }
        let metered = match meter::metered(wasm) {
            Ok(metered) => metered,
            Err(error) => return self.end(Rule::Invalid { message: error.to_string() }, Position::default()),
        };
        self.count(LimitName::MeteredBytes, metered.len() as u64, Position::default())?;
        if metered.len() as u64 > self.limits.metered_bytes {
            return Ok(());
        }
        let milli_max = match self.mode {
            PassMode::UpToFirst => cost::budget_milli(self.compiled_bytes, self.limits.compile_cost),
            PassMode::All => u64::MAX,
        };
        let priced = CompileEstimate::up_to(milli_max, &metered, self.limits, &mut self.tally);
        let price = self.readable(priced)?;
        let (function, units) = price.dearest;
        self.recount(LimitName::FunctionCost, units, function)?;
        self.recount(LimitName::CompileCost, cost::percent(price.milli, self.compiled_bytes), None)?;
        self.metered = Some(metered);
        Ok(())
    }

    /// Does [`GatePass::count`], for counts that also exist of the module before metering. A limit
    /// that
    /// was already broken then is not listed again.
    fn recount(&mut self, name: LimitName, found: u64, function: Option<u32>) -> Result<(), Abort> {
        let is_listed = |rule: &Rule| matches!(rule, Rule::Limit { name: listed, .. } if *listed == name);
        if self.refusals.iter().any(|refusal| is_listed(&refusal.rule)) {
            let used = self.used.of_mut(name);
            *used = found.max(*used);
            return Ok(());
        }
        self.count(name, found, Position { offset: None, function: function.map(|index| (index, None)) })
    }
}
