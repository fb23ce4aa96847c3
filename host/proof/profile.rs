//! Execution profile: the rules that decide, beside the job, the result of a run. Two nodes with
//! the same profile get the same result for the same job.
//!
//! | profile      | type   |                                                             |
//! |--------------|--------|-------------------------------------------------------------|
//! | ABI          | u16    | version of the host functions                               |
//! | gas schedule | u16    | version                                                     |
//! | gas table    | digest | of costs, prices of host calls and a start, constants below |
//! | quantum      | u64    | gas granted at once, and forfeited by a run that ends badly |
//! | unchecked    | u64    | gas that a frame spends without a check of the rest         |
//! | small        | u64    | gas that a function spends which never checks the rest      |
//! | return       | u64    | gas that a frame spends without a check behind a deep call  |
//! | call height  | u64    | levels of calls below a function that are not deep          |
//! | stack rule   | u16    | version of how frames are charged                           |
//! | stack        | u64    | limit in bytes                                              |
//! | NaN rule     | u16    | version of where NaNs are made canonical                    |
//! | start rule   | u16    | version of what runs, and is charged, before `run`          |
//! | table        | u64    | limit in elements                                           |
//! | held         | u64    | bytes of a slice beyond which reads are charged by groups   |
//! | group        | u64    | bytes of a group                                            |
//!
//! Integers are little-endian. BLAKE3 of these 114 bytes, in the domain `compute-host execution
//! profile v2`, names the profile. `tests/vectors/execution-profile.json` pins this node's.

use std::sync::LazyLock;

use serde::Serialize;

use crate::digest::{Digest, GROUP_BYTES};
use crate::sandbox::{GateLimits, meter};
use crate::slice::HELD_BYTES_MAX;

const DOMAIN: &str = "compute-host execution profile v2";

/// Rules of execution, each as its version or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExecutionProfile {
    pub abi: u16,
    pub gas_schedule: u16,
    pub gas_table: Digest,
    /// In units of gas, as the four that follow, except `call_height`.
    pub quantum: u64,
    pub unchecked: u64,
    pub small: u64,
    pub after_deep_call: u64,
    pub call_height: u64,
    pub stack_rule: u16,
    pub stack_bytes: u64,
    pub nan_rule: u16,
    pub start_rule: u16,
    pub table_elements: u64,
    pub held_bytes: u64,
    pub group_bytes: u64,
}

/// Returns the profile of this node's runs.
pub fn profile() -> ExecutionProfile {
    static GAS_TABLE: LazyLock<Digest> = LazyLock::new(|| Digest::of(meter::table().as_bytes()));
    ExecutionProfile {
        abi: 1,
        gas_schedule: meter::SCHEDULE_VERSION,
        gas_table: *GAS_TABLE,
        quantum: meter::QUANTUM,
        unchecked: meter::UNCHECKED_MAX,
        small: meter::SMALL_MAX,
        after_deep_call: meter::RETURN_MAX,
        call_height: meter::CALL_HEIGHT_MAX.into(),
        stack_rule: meter::STACK_RULE_VERSION,
        stack_bytes: meter::STACK_BYTES,
        nan_rule: meter::NAN_RULE_VERSION,
        start_rule: meter::START_RULE_VERSION,
        table_elements: GateLimits::DEFAULT.table_elements,
        held_bytes: HELD_BYTES_MAX,
        group_bytes: GROUP_BYTES as u64,
    }
}

/// Digest of the former profile, with gas schedule 1. No run uses it any more.
pub const FORMER_PROFILE: &str = "a53ac167f76ed5a044a0abf5b47ae24394f8485490c4778d8c339aca8f9d30ce";

impl ExecutionProfile {
    /// Returns the digest that names the profile. Equal rules have equal digests.
    pub fn digest(&self) -> Digest {
        Digest::in_domain(DOMAIN, &self.to_bytes())
    }

    fn to_bytes(self) -> Vec<u8> {
        let Self { abi, gas_schedule, gas_table, quantum, unchecked, small, after_deep_call, call_height, .. } = self;
        let Self { stack_rule, stack_bytes, nan_rule, start_rule, table_elements, held_bytes, group_bytes, .. } = self;
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(abi.to_le_bytes());
        bytes.extend(gas_schedule.to_le_bytes());
        bytes.extend(gas_table.as_bytes());
        for number in [quantum, unchecked, small, after_deep_call, call_height] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(stack_rule.to_le_bytes());
        bytes.extend(stack_bytes.to_le_bytes());
        bytes.extend(nan_rule.to_le_bytes());
        bytes.extend(start_rule.to_le_bytes());
        for number in [table_elements, held_bytes, group_bytes] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    /// Returns the profile in readable form, with the digest.
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::json!(self);
        object["digest"] = serde_json::json!(self.digest());
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_in_the_digest() {
        let it = profile();
        let others = [
            ExecutionProfile { abi: it.abi + 1, ..it },
            ExecutionProfile { gas_schedule: it.gas_schedule + 1, ..it },
            ExecutionProfile { gas_table: Digest::of(b"another"), ..it },
            ExecutionProfile { quantum: it.quantum + 1, ..it },
            ExecutionProfile { unchecked: it.unchecked + 1, ..it },
            ExecutionProfile { small: it.small + 1, ..it },
            ExecutionProfile { after_deep_call: it.after_deep_call + 1, ..it },
            ExecutionProfile { call_height: it.call_height + 1, ..it },
            ExecutionProfile { stack_rule: it.stack_rule + 1, ..it },
            ExecutionProfile { stack_bytes: it.stack_bytes + 1, ..it },
            ExecutionProfile { nan_rule: it.nan_rule + 1, ..it },
            ExecutionProfile { start_rule: it.start_rule + 1, ..it },
            ExecutionProfile { table_elements: it.table_elements + 1, ..it },
            ExecutionProfile { held_bytes: it.held_bytes + 1, ..it },
            ExecutionProfile { group_bytes: it.group_bytes + 1, ..it },
        ];
        let mut digests: Vec<Digest> = others.iter().chain([&it]).map(ExecutionProfile::digest).collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), others.len() + 1);
        assert_eq!(it.to_bytes().len(), 114);
        // One other profile for each field.
        assert_eq!(others.len(), serde_json::json!(it).as_object().map_or(0, serde_json::Map::len));
    }
}
