//! `BTreeMap` operations: insertion, lookup, range queries, and removal of half of the entries.

#![no_main]

use std::collections::BTreeMap;

use kernels::{Noise, mixed};

const ENTRIES: u32 = 250_000;
const KEYS: u32 = 1 << 20;
const LOOKUPS: u32 = 200_000;
const RANGES: u32 = 5_000;

fn btree() -> [u8; 8] {
    let mut noise = Noise::new(7);
    let mut map = BTreeMap::new();
    for _ in 0..ENTRIES {
        let (key, value) = (noise.below(KEYS), noise.next_u64());
        *map.entry(key).or_insert(0) ^= value;
    }
    let mut checksum = mixed(0, map.len() as u64);
    for _ in 0..LOOKUPS {
        if let Some(value) = map.get(&noise.below(KEYS)) {
            checksum = mixed(checksum, *value);
        }
    }
    for _ in 0..RANGES {
        let from = noise.below(KEYS);
        for (key, value) in map.range(from..).take(20) {
            checksum = mixed(checksum, u64::from(*key) ^ value);
        }
    }
    let keys: Vec<u32> = map.keys().copied().step_by(2).collect();
    for key in keys {
        checksum = mixed(checksum, map.remove(&key).unwrap_or_default());
    }
    mixed(checksum, map.len() as u64).to_le_bytes()
}

kernels::run!(btree);
