//! Mutations that know the position of operators; the gate admits most of the results.

use super::Random;
use super::anatomy::{Anatomy, Function, Place, leb, signed_leb};
use super::noise::{NOISE, edge};

pub type Change = (&'static str, fn(&Anatomy, &mut Random) -> Option<Vec<u8>>);

/// Changes of one or two functions.
const CHANGES: &[Change] = &[
    ("another operator", another_operator),
    ("another vector operator", another_vector_operator),
    ("another constant", another_constant),
    ("another address", another_address),
    ("another index", another_index),
    ("another local type", another_local_type),
    ("more locals", more_locals),
    ("swapped bodies", swap_bodies),
    ("repeated run", repeat_run),
    ("deleted run", delete_run),
    ("moved run", move_run),
    ("wrapped run", wrap_run),
    ("inserted operator", insert_operator),
];

/// Percentage of mutations that are noise.
const NOISE_PERCENT: usize = 68;

/// Returns a change of `module`, and its kind. A change without effect is replaced by another.
pub fn change(module: &Anatomy, random: &mut Random) -> (&'static str, Vec<u8>) {
    loop {
        let kinds = if random.below(100) < NOISE_PERCENT { NOISE } else { CHANGES };
        let (kind, make) = kinds[random.below(kinds.len())];
        match make(module, random) {
            Some(wasm) if wasm != module.wasm => return (kind, wasm),
            _ => {}
        }
    }
}

/// Picks a function, by its index among those with a body.
fn a_function<'a>(module: &'a Anatomy, random: &mut Random) -> Option<(usize, &'a Function)> {
    let number = random.below(module.functions.len());
    Some((number, module.functions.get(number)?))
}

/// Picks an operator of some function for which `is_meant` returns true.
fn an_operator<'a>(
    module: &'a Anatomy,
    random: &mut Random,
    is_meant: impl Fn(&[u8]) -> bool,
) -> Option<(usize, &'a Function, &'a Place)> {
    let (number, function) = a_function(module, random)?;
    let meant: Vec<&Place> =
        function.operators.iter().filter(|place| is_meant(&function.body[place.bytes.clone()])).collect();
    Some((number, function, *random.pick(&meant)?))
}

/// Returns the module with an operator replaced by other bytes.
fn with(module: &Anatomy, (number, function, place): (usize, &Function, &Place), bytes: &[u8]) -> Vec<u8> {
    let mut body = function.body.clone();
    body.splice(place.bytes.clone(), bytes.iter().copied());
    module.with_body(number, &body)
}

/// Operators of one byte with the same operand and result types, as first and last of a range.
const ALIKE: &[&[(u8, u8)]] = &[
    &[(0x6a, 0x78), (0x46, 0x4f)],
    &[(0x7c, 0x8a)],
    &[(0x51, 0x5a)],
    &[(0x92, 0x98)],
    &[(0xa0, 0xa6)],
    &[(0x5b, 0x60)],
    &[(0x61, 0x66)],
    &[(0x67, 0x69), (0x45, 0x45), (0xc0, 0xc1)],
    &[(0x79, 0x7b), (0xc2, 0xc4)],
    &[(0x8b, 0x91)],
    &[(0x99, 0x9f)],
    &[(0xa8, 0xa9), (0xbc, 0xbc)],
    &[(0xaa, 0xab)],
    &[(0xb2, 0xb3), (0xbe, 0xbe)],
    &[(0xb7, 0xb8)],
    &[(0xac, 0xad)],
    &[(0xb0, 0xb1), (0xbd, 0xbd)],
    &[(0x28, 0x28), (0x2c, 0x2f)],
    &[(0x29, 0x29), (0x30, 0x35)],
    &[(0x36, 0x36), (0x3a, 0x3b)],
    &[(0x37, 0x37), (0x3c, 0x3e)],
];

fn is_memory_access(opcode: u8) -> bool {
    (0x28..=0x3e).contains(&opcode)
}

fn another_operator(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let alike = |opcode: u8| {
        let is_in = |row: &&&[(u8, u8)]| row.iter().any(|(first, last)| (*first..=*last).contains(&opcode));
        ALIKE.iter().find(is_in)
    };
    let found = an_operator(module, random, |bytes| alike(bytes[0]).is_some())?;
    let mut bytes = found.1.body[found.2.bytes.clone()].to_vec();
    let row: Vec<u8> = alike(bytes[0])?.iter().flat_map(|(first, last)| *first..=*last).collect();
    bytes[0] = *random.pick(&row)?;
    if is_memory_access(bytes[0]) {
        // An alignment of one byte is valid for any width.
        bytes[1] = 0;
    }
    Some(with(module, found, &bytes))
}

/// Vector operators with two operands whose number takes one byte.
const LANES_BINARY: &[(u8, u8)] = &[(0x23, 0x4c), (0x4e, 0x51), (0x0e, 0x0e), (0x65, 0x66), (0x6e, 0x73), (0x76, 0x79)];
/// Vector operators with two operands whose number takes two bytes: the first byte; the second is
/// always 1.
const LANES_BINARY_WIDE: &[(u8, u8)] = &[
    (0x8e, 0x93),
    (0x95, 0x99),
    (0xae, 0xae),
    (0xb1, 0xb1),
    (0xb5, 0xba),
    (0xce, 0xce),
    (0xd1, 0xd1),
    (0xd5, 0xdb),
    (0xe4, 0xeb),
    (0xf0, 0xf7),
];

fn another_vector_operator(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let is_in = |rows: &[(u8, u8)], byte: u8| rows.iter().any(|(first, last)| (*first..=*last).contains(&byte));
    let found = an_operator(module, random, |bytes| match bytes {
        [0xfd, one] => is_in(LANES_BINARY, *one),
        [0xfd, one, 1] => is_in(LANES_BINARY_WIDE, *one),
        _ => false,
    })?;
    let rows = if random.below(2) == 0 { LANES_BINARY } else { LANES_BINARY_WIDE };
    let all: Vec<u8> = rows.iter().flat_map(|(first, last)| *first..=*last).collect();
    let mut bytes = vec![0xfd, *random.pick(&all)?];
    if rows == LANES_BINARY_WIDE {
        bytes.push(1);
    }
    Some(with(module, found, &bytes))
}

fn another_constant(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    const FLOATS: &[u64] = &[0, 1 << 63, 0x3ff << 52, 0x7ff << 52, 0xfff << 52, 0x7ff8 << 48, 0x7ff0_0000_0000_0001, 1];
    let is_constant = |bytes: &[u8]| matches!(bytes, [0x41..=0x44, ..] | [0xfd, 0x0c, ..]);
    let found = an_operator(module, random, is_constant)?;
    let mut bytes = vec![found.1.body[found.2.bytes.start]];
    let float = f64::from_bits(*random.pick(FLOATS)?);
    match bytes[0] {
        0x41 => signed_leb(&mut bytes, i64::from(edge(random) as i32)),
        0x42 => signed_leb(&mut bytes, edge(random).cast_signed()),
        0x43 => bytes.extend((float as f32).to_le_bytes()),
        0x44 => bytes.extend(float.to_le_bytes()),
        _ => {
            bytes.push(0x0c);
            bytes.extend(edge(random).to_le_bytes());
            bytes.extend(float.to_le_bytes());
        }
    }
    Some(with(module, found, &bytes))
}

fn another_address(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let found = an_operator(module, random, |bytes| is_memory_access(bytes[0]))?;
    let mut bytes = vec![found.1.body[found.2.bytes.start], random.below(3) as u8];
    leb(&mut bytes, edge(random) & 0xffff_ffff);
    Some(with(module, found, &bytes))
}

/// Replaces an index: by another local of the same type, function of the same type, global, or
/// branch target.
fn another_index(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let found = an_operator(module, random, |bytes| matches!(bytes[0], 0x0c | 0x0d | 0x10 | 0x20..=0x24))?;
    let (_, function, place) = found;
    let mut bytes = vec![function.body[place.bytes.start]];
    // All of these modules have fewer than 128 of each.
    let index = usize::from(function.body[place.bytes.start + 1]);
    let alike: Vec<usize> = match bytes[0] {
        0x0c | 0x0d => (0..place.depth as usize).collect(),
        0x10 => (0..module.types.len()).filter(|i| module.types.get(*i) == module.types.get(index)).collect(),
        0x20..=0x22 => {
            (0..function.locals.len()).filter(|i| function.locals.get(*i) == function.locals.get(index)).collect()
        }
        _ => (0..module.globals as usize).collect(),
    };
    leb(&mut bytes, *random.pick(&alike)? as u64);
    Some(with(module, found, &bytes))
}

/// Numbers of the value types.
const TYPES: &[u8] = &[0x7f, 0x7e, 0x7d, 0x7c, 0x7b, 0x70];

fn another_local_type(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let (number, function) = a_function(module, random)?;
    let groups = usize::from(*function.body.first()?);
    let mut body = function.body.clone();
    // A count and a type for each group; all take one byte in these modules.
    let at = 2 + 2 * random.below(groups);
    *body.get_mut(at).filter(|_| groups > 0)? = *random.pick(TYPES)?;
    Some(module.with_body(number, &body))
}

fn more_locals(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let (number, function) = a_function(module, random)?;
    let groups = usize::from(*function.body.first()?);
    let mut body = function.body.clone();
    let mut group = Vec::new();
    leb(&mut group, random.next() % 200);
    group.push(*random.pick(TYPES)?);
    // New locals go after the existing ones, so that the indices stay the same.
    let at = function.operators.first()?.bytes.start;
    body.splice(at..at, group);
    body[0] = groups as u8 + 1;
    Some(module.with_body(number, &body))
}

fn swap_bodies(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let (one, function) = a_function(module, random)?;
    let alike: Vec<usize> = (0..module.functions.len())
        .filter(|other| *other != one && module.functions[*other].ty == function.ty)
        .collect();
    let other = *random.pick(&alike)?;
    let swapped = |i: usize| {
        if i == one {
            other
        } else if i == other {
            one
        } else {
            i
        }
    };
    Some(module.with_bodies((0..module.functions.len()).map(|i| &module.functions[swapped(i)].body[..])))
}

/// Picks a function and a neutral run of its operators.
fn a_run<'a>(module: &'a Anatomy, random: &mut Random) -> Option<(usize, &'a Function, std::ops::Range<usize>)> {
    let (number, function) = a_function(module, random)?;
    Some((number, function, random.pick(&function.neutral)?.clone()))
}

fn repeat_run(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let (number, function, run) = a_run(module, random)?;
    let mut body = function.body.clone();
    body.splice(run.end..run.end, function.body[run].repeat(1 + random.below(3)));
    Some(module.with_body(number, &body))
}

fn delete_run(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let (number, function, run) = a_run(module, random)?;
    let mut body = function.body.clone();
    body.drain(run);
    Some(module.with_body(number, &body))
}

/// Inserts a copy of a run before any operator of its function.
fn move_run(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    let (number, function, run) = a_run(module, random)?;
    let at = random.pick(&function.operators)?.bytes.start;
    let mut body = function.body.clone();
    body.splice(at..at, function.body[run].iter().copied());
    Some(module.with_body(number, &body))
}

/// Wraps a run in a block, a loop, or a condition.
fn wrap_run(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    const OPENINGS: &[&[u8]] =
        &[b"\x02\x40", b"\x03\x40", b"\x41\x01\x04\x40", b"\x41\x00\x04\x40", b"\x3f\x00\x04\x40"];
    let (number, function, run) = a_run(module, random)?;
    let mut body = function.body.clone();
    body.insert(run.end, 0x0b);
    body.splice(run.start..run.start, random.pick(OPENINGS)?.iter().copied());
    Some(module.with_body(number, &body))
}

fn insert_operator(module: &Anatomy, random: &mut Random) -> Option<Vec<u8>> {
    // nop; unreachable; return; grow by a page; the memory size; a load; a division by zero; a
    // branch; a fill; a copy
    const INSERTED: &[&[u8]] = &[
        b"\x01",
        b"\x00",
        b"\x0f",
        b"\x41\x01\x40\x00\x1a",
        b"\x3f\x00\x1a",
        b"\x41\x7f\x28\x00\x00\x1a",
        b"\x41\x01\x41\x00\x6d\x1a",
        b"\x0c\x00",
        b"\x41\x00\x0d\x00",
        b"\x41\x10\x41\x07\x41\x80\x20\xfc\x0b\x00",
        b"\x41\x10\x41\x00\x41\x80\x20\xfc\x0a\x00\x00",
    ];
    let (number, function) = a_function(module, random)?;
    let at = random.pick(&function.operators)?.bytes.start;
    let mut body = function.body.clone();
    body.splice(at..at, random.pick(INSERTED)?.iter().copied());
    Some(module.with_body(number, &body))
}
