//! Mutations that know nothing of WebAssembly, or only its sections. The gate refuses most of the
//! results.

use super::Random;
use super::anatomy::{Anatomy, encode, leb};
use super::changes::Change;

pub const NOISE: &[Change] = &[
    ("flipped bits", flip_bits),
    ("inserted bytes", insert_bytes),
    ("deleted bytes", delete_bytes),
    ("repeated bytes", repeat_bytes),
    ("truncated", truncate),
    ("swapped sections", swap_sections),
    ("repeated or dropped section", repeat_or_drop_section),
    ("another length or count", edit_number),
    ("byte of a section", edit_section),
];

/// Returns numbers near the limits of lengths, counts, constants and addresses.
pub fn edge(random: &mut Random) -> u64 {
    const EDGES: &[u64] = &[0, 1, 2, 7, 31, 32, 63, 64, 127, 128, 255, 4096, 65_535, 65_536, 1 << 31, (1 << 31) - 1];
    match random.below(3) {
        0 => random.next() >> random.below(64),
        1 => 0_u64.wrapping_sub(1 + random.next() % 64),
        _ => EDGES[random.below(EDGES.len())],
    }
}

fn flip_bits(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut wasm = module.wasm.clone();
    for _ in 0..=random.below(3) {
        let at = random.below(wasm.len());
        *wasm.get_mut(at)? ^= 1 << random.below(8);
    }
    Some(wasm)
}

fn insert_bytes(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut wasm = module.wasm.clone();
    let at = random.below(wasm.len() + 1);
    let bytes: Vec<u8> = (0..=random.below(8)).map(|_| random.next() as u8).collect();
    wasm.splice(at..at, bytes);
    Some(wasm)
}

fn delete_bytes(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut wasm = module.wasm.clone();
    let at = random.below(wasm.len());
    let end = wasm.len().min(at + 1 + random.below(8));
    wasm.drain(at..end);
    Some(wasm)
}

fn repeat_bytes(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut wasm = module.wasm.clone();
    let from = random.below(wasm.len());
    let end = wasm.len().min(from + 1 + random.below(32));
    let at = random.below(wasm.len());
    wasm.splice(at..at, module.wasm[from..end].iter().copied());
    Some(wasm)
}

fn truncate(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    Some(module.wasm[..random.below(module.wasm.len())].to_vec())
}

fn swap_sections(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut sections = module.sections.clone();
    let (one, other) = (random.below(sections.len()), random.below(sections.len()));
    sections.swap(one, other);
    Some(encode(&sections))
}

fn repeat_or_drop_section(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut sections = module.sections.clone();
    let at = random.below(sections.len());
    if random.below(2) == 0 {
        sections.remove(at);
    } else {
        sections.insert(random.below(sections.len() + 1), sections[at].clone());
    }
    Some(encode(&sections))
}

/// Replaces the length of a section, or the count at its start.
fn edit_number(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let changed = random.below(module.sections.len());
    let of_length = random.below(2) == 0;
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    for (i, (id, content)) in module.sections.iter().enumerate() {
        let mut content = content.clone();
        if i == changed && !of_length && !content.is_empty() {
            let mut number = Vec::new();
            leb(&mut number, edge(random) & 0xffff_ffff);
            content.splice(..1, number);
        }
        wasm.push(*id);
        let near = (content.len() as u64).wrapping_add(random.next() % 5).wrapping_sub(2);
        let length = match (i == changed && of_length, random.below(2)) {
            (false, _) => content.len() as u64,
            (true, 0) => near & 0xffff_ffff,
            (true, _) => edge(random),
        };
        leb(&mut wasm, length);
        wasm.extend(content);
    }
    Some(wasm)
}

fn edit_section(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let mut sections = module.sections.clone();
    let at = random.below(sections.len());
    let content = &mut sections[at].1;
    let byte = random.below(content.len());
    *content.get_mut(byte)? = random.next() as u8;
    Some(encode(&sections))
}
