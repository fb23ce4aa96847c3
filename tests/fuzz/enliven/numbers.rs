//! Critical numbers for arithmetic: zeros, infinities, quiet and signalling NaNs, of both signs,
//! the smallest and the largest.

pub const SINGLES: [u32; 10] = [
    0,
    0x8000_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0xffc0_1234,
    0x7fa0_0001,
    0x0000_0001,
    0x7f7f_ffff,
    0x3fc0_0000,
];

pub const DOUBLES: [u64; 10] = [
    0,
    0x8000_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0123,
    0x7ff4_0000_0000_0001,
    0x0000_0000_0000_0001,
    0x7fef_ffff_ffff_ffff,
    0x4005_0000_0000_0000,
];

pub const INTEGERS: [i64; 8] = [0, 1, -1, i64::MIN, i64::MAX, 0x8000_0000, 0xffff_ffff, 63];

/// Returns a vector of single floats. Four bits of `which` choose a lane.
pub fn singles(which: u32) -> i128 {
    let lane = |at: u32| u128::from(SINGLES[(which >> (4 * at)) as usize % SINGLES.len()]) << (32 * at);
    (0..4).map(lane).sum::<u128>() as i128
}

/// Returns a vector of double floats, chosen in the same way.
pub fn doubles(which: u32) -> i128 {
    let lane = |at: u32| u128::from(DOUBLES[(which >> (4 * at)) as usize % DOUBLES.len()]) << (64 * at);
    (0..2).map(lane).sum::<u128>() as i128
}
