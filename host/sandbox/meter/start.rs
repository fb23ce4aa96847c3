//! Start of a guest. The start function becomes an ordinary function that the host calls. The
//! host's work before the guest's first function also has a price.

use wasm_encoder::{ExportKind, ExportSection};
use wasmparser::{DataKind, DataSectionReader, ElementItems, ElementKind, ElementSectionReader, MemorySectionReader};
use wasmparser::{Payload, TableSectionReader};

use super::MeterError;
use super::schedule::{BYTES_PER_UNIT, ELEMENT, PAGE, START_ELEMENT, START_GLOBAL, START_SEGMENT};

/// Version of the rule about what runs, and is charged, before `run`.
pub const START_RULE_VERSION: u16 = 1;

/// Export name of the guest's start function in a metered module.
pub const START: &str = "compute_start";

/// Export name that reactors use for the function to call first.
pub const INITIALIZE: &str = "_initialize";

/// Exports of a metered module that the host calls before `run`, in this order. Each takes the
/// state and returns it.
pub const STARTS: [&str; 2] = [START, INITIALIZE];

/// Prefix of the export name that carries the gas cost of the start; the number follows. Engines
/// can list export names before they create an instance.
const START_GAS: &str = "compute_start_gas_";

/// Findings about a module's start.
#[derive(Default)]
pub struct StartFindings {
    function: Option<u32>,
    gas: u64,
    has_memory: bool,
}

impl StartFindings {
    /// Adds the cost of one section.
    pub fn read(&mut self, payload: &Payload<'_>) -> Result<(), MeterError> {
        let more = match payload {
            Payload::MemorySection(section) => self.memories(section.clone())?,
            Payload::TableSection(section) => tables(section.clone())?,
            Payload::GlobalSection(section) => u64::from(section.count()) * START_GLOBAL,
            Payload::ElementSection(section) => elements(section.clone())?,
            Payload::DataSection(section) => data(section.clone())?,
            Payload::StartSection { func, .. } => {
                self.function = Some(*func);
                0
            }
            _ => 0,
        };
        self.gas = self.gas.saturating_add(more);
        Ok(())
    }

    /// Returns the cost of the initial memory: the same as growing the memory by as many pages.
    fn memories(&mut self, section: MemorySectionReader<'_>) -> Result<u64, MeterError> {
        let mut gas = 0_u64;
        for memory in section {
            self.has_memory = true;
            gas = gas.saturating_add(memory?.initial.saturating_mul(PAGE.unsigned_abs()));
        }
        Ok(gas)
    }

    /// Adds the exports that the host reads. `at` maps a function's index to its index in the
    /// metered module.
    pub fn export(&self, exports: &mut ExportSection, at: impl Fn(u32) -> u32) {
        if let Some(function) = self.function {
            exports.export(START, ExportKind::Func, at(function));
        }
        if self.has_memory {
            exports.export(&format!("{START_GAS}{}", self.gas), ExportKind::Memory, 0);
        }
    }
}

/// Returns the gas cost of the start of a metered module, from the names of its exports.
pub fn start_gas<'a>(mut exports: impl Iterator<Item = &'a str>) -> u64 {
    exports.find_map(|name| name.strip_prefix(START_GAS)?.parse().ok()).unwrap_or(0)
}

fn tables(section: TableSectionReader<'_>) -> Result<u64, MeterError> {
    let mut gas = 0_u64;
    for table in section {
        gas = gas.saturating_add(table?.ty.initial.saturating_mul(ELEMENT.unsigned_abs()));
    }
    Ok(gas)
}

fn elements(section: ElementSectionReader<'_>) -> Result<u64, MeterError> {
    let mut gas = 0;
    for element in section {
        let element = element?;
        if let ElementKind::Active { .. } = element.kind {
            let count = match &element.items {
                ElementItems::Functions(items) => items.count(),
                ElementItems::Expressions(_, items) => items.count(),
            };
            gas += START_SEGMENT + u64::from(count) * START_ELEMENT;
        }
    }
    Ok(gas)
}

fn data(section: DataSectionReader<'_>) -> Result<u64, MeterError> {
    let mut gas = 0;
    for data in section {
        let data = data?;
        if let DataKind::Active { .. } = data.kind {
            gas += START_SEGMENT + data.data.len() as u64 / BYTES_PER_UNIT;
        }
    }
    Ok(gas)
}
