//! Price of a metered module. The compiler gets the module that the meter wrote, so the estimate
//! reads that one.

use wasmparser::{
    DataKind, ElementItems, ExternalKind, FuncValidatorAllocations, Parser, Payload, TypeRef, ValidPayload, Validator,
};

use super::body::{self, BodyCounters, CodeForm, Declared};
use super::cost;
use super::limits::{GateLimits, LimitName};

/// Locals that the meter adds to a function: its state, and temporaries of each type.
const METER_LOCALS: u64 = 64;

/// Estimated cost of compiling one module.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompileEstimate {
    /// Price of the whole module, in thousandths of a unit.
    pub milli: u64,
    /// The most expensive function, by its index in the module before metering, and its units. The
    /// function that copies data segments into memory has no index.
    pub dearest: (Option<u32>, u64),
}

impl CompileEstimate {
    /// Returns the price of compiling `module` as it is, metered or not.
    pub fn of(module: &[u8]) -> wasmparser::Result<Self> {
        Self::up_to(u64::MAX, module, &GateLimits::DEFAULT, &mut BodyCounters::default())
    }

    /// Reads `metered` to its end, or until it costs more than `milli_max`.
    pub(super) fn up_to(
        milli_max: u64,
        metered: &[u8],
        limits: &GateLimits,
        tally: &mut BodyCounters,
    ) -> wasmparser::Result<Self> {
        let limits = limits.with(LimitName::Locals, limits.locals.saturating_add(METER_LOCALS));
        let mut validator = Validator::new_with_features(super::features());
        let mut allocations = FuncValidatorAllocations::default();
        let (mut price, mut declared, mut imported) = (Self::default(), Declared::default(), 0);
        for payload in Parser::new(0).parse_all(metered) {
            let payload = payload?;
            match &payload {
                Payload::TypeSection(types) => {
                    for ty in types.clone().into_iter_err_on_gc_types() {
                        let ty = ty?;
                        declared.types.push((ty.params().len() as u32, ty.results().len() as u32));
                    }
                    price.add(declared.types.len() as u64 * cost::TYPE);
                }
                Payload::ImportSection(imports) => {
                    for import in imports.clone().into_imports() {
                        if let TypeRef::Func(ty) = import?.ty {
                            declared.functions.push(ty);
                            imported += 1;
                        }
                    }
                }
                Payload::FunctionSection(functions) => {
                    for ty in functions.clone() {
                        declared.functions.push(ty?);
                    }
                }
                Payload::GlobalSection(globals) => {
                    for global in globals.clone() {
                        declared.constants.push(!global?.ty.mutable);
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports.clone() {
                        price.add(u64::from(export?.kind == ExternalKind::Func) * cost::ESCAPED);
                    }
                }
                Payload::ElementSection(elements) => {
                    for element in elements.clone() {
                        let items = match element?.items {
                            ElementItems::Functions(items) => items.count(),
                            ElementItems::Expressions(_, items) => items.count(),
                        };
                        price.add(u64::from(items) * cost::ESCAPED);
                    }
                }
                Payload::DataSection(data) => {
                    let mut active = 0_u64;
                    for segment in data.clone() {
                        active += u64::from(matches!(segment?.kind, DataKind::Active { .. }));
                    }
                    price.function(None, active.saturating_mul(cost::SEGMENT * cost::MILLI));
                }
                _ => {}
            }
            if let ValidPayload::Func(function, body) = validator.payload(&payload)? {
                // One import, the meter's, precedes the module's own functions.
                let index = function.index.checked_sub(1).filter(|index| *index + 1 >= imported);
                let mut function = function.into_validator(allocations);
                let (_, milli) = body::read(&body, &mut function, &declared, &limits, CodeForm::Compiled, tally)?;
                allocations = function.into_allocations();
                price.function(index, milli);
            }
            if price.milli > milli_max {
                break;
            }
        }
        Ok(price)
    }

    fn add(&mut self, units: u64) {
        self.milli = self.milli.saturating_add(units.saturating_mul(cost::MILLI));
    }

    fn function(&mut self, index: Option<u32>, milli: u64) {
        self.milli = self.milli.saturating_add(milli);
        let units = milli.div_ceil(cost::MILLI);
        if units > self.dearest.1 {
            self.dearest = (index, units);
        }
    }
}
