//! The rules that decide, beside the job, what comes of a run: on which of these two nodes agree, they agree on the rest.
//!
//! | profile                  | type   |                                                                    |
//! |--------------------------|--------|--------------------------------------------------------------------|
//! | ABI                      | u16    | version of the host functions                                      |
//! | gas schedule             | u16    | version                                                            |
//! | gas table                | digest | of the schedule's costs                                            |
//! | stack rule               | u16    | version of how frames are charged                                  |
//! | stack                    | u64    | limit in bytes                                                     |
//! | NaN rule                 | u16    | version of where NaNs are made canonical                           |
//! | quantum                  | u64    | gas that is granted at once, and forfeited by a run that ends badly |
//!
//! Integers are little-endian. BLAKE3 of these 56 bytes, in the domain `compute-host execution profile v1`, names the
//! profile; `tests/vectors/execution-profile.json` pins this node's.

use std::sync::LazyLock;

use serde::Serialize;

use crate::digest::Digest;
use crate::sandbox::meter;

const DOMAIN: &str = "compute-host execution profile v1";

/// The rules of execution, each by its version or value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExecutionProfile {
    pub abi: u16,
    pub gas_schedule: u16,
    pub gas_table: Digest,
    pub stack_rule: u16,
    pub stack_bytes: u64,
    pub nan_rule: u16,
    /// In units of gas.
    pub quantum: u64,
}

/// The profile of this node's runs.
pub fn profile() -> ExecutionProfile {
    static GAS_TABLE: LazyLock<Digest> = LazyLock::new(|| Digest::of(meter::table().as_bytes()));
    ExecutionProfile {
        abi: 1,
        gas_schedule: meter::SCHEDULE_VERSION,
        gas_table: *GAS_TABLE,
        stack_rule: meter::STACK_RULE_VERSION,
        stack_bytes: meter::STACK_BYTES,
        nan_rule: meter::NAN_RULE_VERSION,
        quantum: meter::QUANTUM,
    }
}

impl ExecutionProfile {
    /// Names the profile: equal for equal rules.
    pub fn digest(&self) -> Digest {
        Digest::in_domain(DOMAIN, &self.to_bytes())
    }

    fn to_bytes(self) -> Vec<u8> {
        let Self { abi, gas_schedule, gas_table, stack_rule, stack_bytes, nan_rule, quantum } = self;
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(abi.to_le_bytes());
        bytes.extend(gas_schedule.to_le_bytes());
        bytes.extend(gas_table.as_bytes());
        bytes.extend(stack_rule.to_le_bytes());
        bytes.extend(stack_bytes.to_le_bytes());
        bytes.extend(nan_rule.to_le_bytes());
        bytes.extend(quantum.to_le_bytes());
        bytes
    }

    /// The form for people, with the digest.
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
            ExecutionProfile { stack_rule: it.stack_rule + 1, ..it },
            ExecutionProfile { stack_bytes: it.stack_bytes + 1, ..it },
            ExecutionProfile { nan_rule: it.nan_rule + 1, ..it },
            ExecutionProfile { quantum: it.quantum + 1, ..it },
        ];
        let mut digests: Vec<Digest> = others.iter().chain([&it]).map(ExecutionProfile::digest).collect();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), others.len() + 1);
        assert_eq!(it.to_bytes().len(), 56);
    }
}
