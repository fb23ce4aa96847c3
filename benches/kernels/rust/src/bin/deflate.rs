//! A mebibyte of text, through deflate and back, by `miniz_oxide`.

#![no_main]

use kernels::{Noise, mixed, text};
use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::decompress_to_vec;

const BYTES: usize = 1 << 20;
/// Default level of `gzip` as well.
const LEVEL: u8 = 6;

fn deflate() -> [u8; 8] {
    let plain = text(&mut Noise::new(2), BYTES).into_bytes();
    let packed = compress_to_vec(&plain, LEVEL);
    let unpacked = decompress_to_vec(&packed).expect("it was just packed");
    assert!(unpacked == plain);
    packed.iter().fold(packed.len() as u64, |checksum, byte| mixed(checksum, u64::from(*byte))).to_le_bytes()
}

kernels::run!(deflate);
