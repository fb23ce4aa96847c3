//! How a guest starts: its start function, which becomes an ordinary one that the host calls, and what the host does
//! before any function of the guest's runs, which has a price as well.

use wasm_encoder::{ExportKind, ExportSection};
use wasmparser::{DataKind, DataSectionReader, ElementItems, ElementKind, ElementSectionReader, MemorySectionReader};
use wasmparser::{Payload, TableSectionReader};

use super::MeterError;
use super::schedule::{BYTES_PER_UNIT, ELEMENT, PAGE, START_ELEMENT, START_GLOBAL, START_SEGMENT};

/// Of what runs, and is charged, before `run`.
pub const START_RULE_VERSION: u16 = 1;

/// The name under which a metered module exports its guest's start function.
pub const START: &str = "compute_start";

/// The name under which reactors export what is to be called before anything else.
pub const INITIALIZE: &str = "_initialize";

/// What the host calls before `run`, in this order, where a metered module exports it: each takes the state and gives it
/// back.
pub const STARTS: [&str; 2] = [START, INITIALIZE];

/// Begins the name under which a metered module exports what its start costs: the number follows. An engine tells the
/// names of exports before it makes an instance.
const START_GAS: &str = "compute_start_gas_";

/// What is known of a module's start.
#[derive(Default)]
pub struct Start {
    function: Option<u32>,
    gas: u64,
    has_memory: bool,
}

impl Start {
    /// Notes what a section adds.
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

    /// The memory that a guest begins with costs as much as if it had grown it.
    fn memories(&mut self, section: MemorySectionReader<'_>) -> Result<u64, MeterError> {
        let mut gas = 0_u64;
        for memory in section {
            self.has_memory = true;
            gas = gas.saturating_add(memory?.initial.saturating_mul(PAGE.unsigned_abs()));
        }
        Ok(gas)
    }

    /// Adds what the host is to know; `at` gives a function's index in the metered module.
    pub fn export(&self, exports: &mut ExportSection, at: impl Fn(u32) -> u32) {
        if let Some(function) = self.function {
            exports.export(START, ExportKind::Func, at(function));
        }
        if self.has_memory {
            exports.export(&format!("{START_GAS}{}", self.gas), ExportKind::Memory, 0);
        }
    }
}

/// What the start of a metered module costs, by the names of its exports.
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
