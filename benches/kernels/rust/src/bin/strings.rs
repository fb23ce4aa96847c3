//! Words of a text: split, counted in a `HashMap`, and listed with `format!`.

#![no_main]

use std::collections::HashMap;
use std::fmt::Write as _;

use kernels::{Noise, mixed, text};

const BYTES: usize = 6 << 20;

fn strings() -> [u8; 8] {
    let text = text(&mut Noise::new(8), BYTES);
    let mut counts: HashMap<String, u32> = HashMap::new();
    let words = text.lines().flat_map(|line| line.split([' ', ',', '.'])).filter(|word| !word.is_empty());
    for word in words {
        *counts.entry(word.to_uppercase()).or_default() += 1;
    }
    let mut counts: Vec<(String, u32)> = counts.into_iter().collect();
    counts.sort_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then_with(|| a.cmp(b)));
    let mut list = String::new();
    for (rank, (word, count)) in counts.iter().enumerate() {
        let share = f64::from(*count) * 100.0 / text.len() as f64;
        writeln!(list, "{rank:>5}. {word:<20} {count:>7} {share:.4} %").expect("a string takes all");
    }
    list.bytes().fold(list.len() as u64, |checksum, byte| mixed(checksum, u64::from(byte))).to_le_bytes()
}

kernels::run!(strings);
