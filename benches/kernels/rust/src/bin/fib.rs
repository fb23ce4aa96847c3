//! Fibonacci numbers by naive recursion: nothing but calls of a tiny function.

#![no_main]

const N: u32 = 37;

fn fib(n: u32) -> u64 {
    if n < 2 { u64::from(n) } else { fib(n - 1) + fib(n - 2) }
}

fn checksum() -> [u8; 8] {
    fib(N).to_le_bytes()
}

kernels::run!(checksum);
