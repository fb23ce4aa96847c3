//! Products of square single-precision matrices. The compiler vectorises the inner loops by four.

#![no_main]

use kernels::{Noise, mixed};

const SIDE: usize = 512;
const ROUNDS: usize = 12;
/// Registers hold the sums of a tile of the product: its rows share the values read of `b`.
const TILE_ROWS: usize = 2;
const TILE_COLUMNS: usize = 16;

#[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
fn multiply(a: &[f32], b: &[f32], product: &mut [f32]) {
    for row in (0..SIDE).step_by(TILE_ROWS) {
        for column in (0..SIDE).step_by(TILE_COLUMNS) {
            let mut sums = [[0.0; TILE_COLUMNS]; TILE_ROWS];
            for k in 0..SIDE {
                let values: &[f32; TILE_COLUMNS] = b[k * SIDE + column..][..TILE_COLUMNS].try_into().unwrap();
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = a[(row + i) * SIDE + k];
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum += factor * value;
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                product[(row + i) * SIDE + column..][..TILE_COLUMNS].copy_from_slice(sums);
            }
        }
    }
}

fn matmul_f32_simd() -> [u8; 8] {
    let mut noise = Noise::new(5);
    let mut matrix = || (0..SIDE * SIDE).map(|_| noise.fraction() as f32 - 0.5).collect::<Vec<f32>>();
    let (mut a, b) = (matrix(), matrix());
    let mut product = vec![0.0; SIDE * SIDE];
    for _ in 0..ROUNDS {
        // SAFETY: an engine that does not know vectors does not load this module.
        #[cfg_attr(not(target_arch = "wasm32"), expect(unused_unsafe))]
        unsafe {
            multiply(&a, &b, &mut product);
        }
        std::mem::swap(&mut a, &mut product);
    }
    a.iter().fold(0, |checksum, value| mixed(checksum, u64::from(value.to_bits()))).to_le_bytes()
}

kernels::run!(matmul_f32_simd);
