//! Both sorts of the standard library: unstable for numbers, stable for structures by a key.

#![no_main]

use kernels::{Noise, mixed};

const NUMBERS: usize = 2_000_000;
const RECORDS: usize = 500_000;

struct Record {
    key: u32,
    position: u32,
    payload: [u64; 2],
}

fn sort() -> [u8; 16] {
    let mut noise = Noise::new(3);
    let mut numbers: Vec<u64> = (0..NUMBERS).map(|_| noise.next_u64()).collect();
    numbers.sort_unstable();
    let of_numbers = numbers.iter().step_by(997).fold(0, |checksum, number| mixed(checksum, *number));

    // A tenth as many keys as records, so that stability shows.
    let mut records: Vec<Record> = (0..RECORDS as u32)
        .map(|position| {
            let payload = [noise.next_u64(), noise.next_u64()];
            Record { key: noise.below(RECORDS as u32 / 10), position, payload }
        })
        .collect();
    records.sort_by_key(|record| record.key);
    let of_records = records.iter().fold(0, |checksum, record| {
        mixed(checksum, u64::from(record.position) ^ record.payload[0] ^ record.payload[1])
    });

    let mut checksum = [0; 16];
    checksum[..8].copy_from_slice(&of_numbers.to_le_bytes());
    checksum[8..].copy_from_slice(&of_records.to_le_bytes());
    checksum
}

kernels::run!(sort);
