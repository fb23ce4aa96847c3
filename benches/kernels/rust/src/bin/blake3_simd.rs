//! BLAKE3 of 16 MiB, repeatedly, four lanes wide: each round uses the former result as the key.

#![no_main]

use kernels::Noise;

const BYTES: usize = 16 << 20;
const ROUNDS: usize = 6;

fn blake3_simd() -> [u8; 32] {
    let mut noise = Noise::new(1);
    let data: Vec<u8> = (0..BYTES / 8).flat_map(|_| noise.next_u64().to_le_bytes()).collect();
    (0..ROUNDS).fold([0; 32], |key, _| *blake3::keyed_hash(&key, &data).as_bytes())
}

kernels::run!(blake3_simd);
