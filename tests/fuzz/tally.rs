//! Statistics of random modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use wasmparser::{ConstExpr, DataKind, ElementKind, Parser, Payload};

use super::agree::{LITTLE_GAS, Verdict};

/// Sampling interval: the operators of one module in this many are recorded.
const LOOKED_AT: u64 = 8;

#[derive(Default)]
pub struct Tally {
    /// Seeds from which wasm-smith made no module.
    pub unmade: u64,
    /// Refused modules, by the gate's rules.
    refused: BTreeMap<&'static str, u64>,
    /// Modules that ran.
    pub modules: u64,
    pub more_than_little: u64,
    with_start: u64,
    with_initialize: u64,
    /// Modules whose constants are computed.
    with_sums: u64,
    /// Modules on which wasmi showed a known fault.
    wasmi_failed: u64,
    endings: BTreeMap<&'static str, u64>,
    operators: BTreeSet<String>,
}

impl Tally {
    pub fn note(&mut self, verdict: &Verdict, wasm: &[u8]) {
        let facts = match verdict {
            Verdict::Refused(refusal) => {
                *self.refused.entry(refusal.code()).or_default() += 1;
                return;
            }
            Verdict::Differ(_) | Verdict::WasmiDiffers(_) => return,
            Verdict::Agree(facts) => facts,
            Verdict::WasmiFails(facts) => {
                self.wasmi_failed += 1;
                facts
            }
        };
        if self.modules.is_multiple_of(LOOKED_AT) {
            self.look_at(wasm);
        }
        self.modules += 1;
        self.note_kinds(wasm);
        self.more_than_little += u64::from(facts.usage.gas - facts.start_gas > LITTLE_GAS);
        *self.endings.entry(facts.outcome.code().0).or_default() += 1;
    }

    /// Returns the kinds of which a minimum number of modules is required, with their counts.
    pub const fn kinds(&self) -> [(&'static str, u64); 3] {
        [
            ("a start function", self.with_start),
            ("`_initialize`", self.with_initialize),
            ("constants that are computed", self.with_sums),
        ]
    }

    fn note_kinds(&mut self, wasm: &[u8]) {
        let mut has_sums = false;
        let is_sum = |expression: &ConstExpr<'_>| expression.get_operators_reader().into_iter().count() > 2;
        for payload in Parser::new(0).parse_all(wasm).flatten() {
            match payload {
                Payload::StartSection { .. } => self.with_start += 1,
                Payload::ExportSection(section) => {
                    let names = section.into_iter().flatten();
                    self.with_initialize += names.filter(|export| export.name == "_initialize").count() as u64;
                }
                Payload::GlobalSection(section) => {
                    has_sums |= section.into_iter().flatten().any(|global| is_sum(&global.init_expr));
                }
                Payload::ElementSection(section) => {
                    has_sums |= section.into_iter().flatten().any(|element| match element.kind {
                        ElementKind::Active { offset_expr, .. } => is_sum(&offset_expr),
                        _ => false,
                    });
                }
                Payload::DataSection(section) => {
                    has_sums |= section.into_iter().flatten().any(|data| match data.kind {
                        DataKind::Active { offset_expr, .. } => is_sum(&offset_expr),
                        DataKind::Passive => false,
                    });
                }
                _ => {}
            }
        }
        self.with_sums += u64::from(has_sums);
    }

    fn look_at(&mut self, wasm: &[u8]) {
        let payloads = Parser::new(0).parse_all(wasm);
        let bodies = payloads.filter_map(|payload| match payload {
            Ok(Payload::CodeSectionEntry(body)) => body.get_operators_reader().ok(),
            _ => None,
        });
        for operator in bodies.flatten().flatten() {
            let name = format!("{operator:?}");
            self.operators.insert(name.split([' ', '(', '{']).next().unwrap_or_default().to_owned());
        }
    }

    pub fn add(&mut self, other: Self) {
        self.unmade += other.unmade;
        self.modules += other.modules;
        self.more_than_little += other.more_than_little;
        self.with_start += other.with_start;
        self.with_initialize += other.with_initialize;
        self.with_sums += other.with_sums;
        self.wasmi_failed += other.wasmi_failed;
        for (rule, count) in other.refused {
            *self.refused.entry(rule).or_default() += count;
        }
        for (ending, count) in other.endings {
            *self.endings.entry(ending).or_default() += count;
        }
        self.operators.extend(other.operators);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64| 100.0 * part as f64 / self.modules.max(1) as f64;
        writeln!(f, "{} modules ran; {} seeds made none", self.modules, self.unmade)?;
        for (rule, count) in &self.refused {
            writeln!(f, "{count} were refused: {rule}")?;
        }
        writeln!(f, "{:.1} % used more than {LITTLE_GAS} gas beside their start", share(self.more_than_little))?;
        writeln!(f, "{} operators, in one module of {LOOKED_AT}", self.operators.len())?;
        for (what, count) in self.kinds() {
            writeln!(f, "{:.1} % have {what}", share(count))?;
        }
        writeln!(f, "{} on which wasmi failed as it is known to", self.wasmi_failed)?;
        let mut endings: Vec<_> = self.endings.iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (ending, count) in endings {
            writeln!(f, "{:5.1} % {ending}", share(*count))?;
        }
        Ok(())
    }
}
