//! Product of square matrices in double precision, one number at a time.

#![no_main]

use kernels::{Noise, mixed};

const SIDE: usize = 600;

fn multiplied(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut product = vec![0.0; SIDE * SIDE];
    for (row_of_product, row_of_a) in product.chunks_exact_mut(SIDE).zip(a.chunks_exact(SIDE)) {
        // Iterates along the rows of `b`, which lie in memory one behind the other.
        for (factor, row_of_b) in row_of_a.iter().zip(b.chunks_exact(SIDE)) {
            for (sum, value) in row_of_product.iter_mut().zip(row_of_b) {
                *sum += factor * value;
            }
        }
    }
    product
}

fn matmul_f64() -> [u8; 8] {
    let mut noise = Noise::new(4);
    let mut matrix = || (0..SIDE * SIDE).map(|_| noise.fraction() - 0.5).collect::<Vec<f64>>();
    let (a, b) = (matrix(), matrix());
    let product = multiplied(&a, &b);
    product.iter().fold(0, |checksum, value| mixed(checksum, value.to_bits())).to_le_bytes()
}

kernels::run!(matmul_f64);
