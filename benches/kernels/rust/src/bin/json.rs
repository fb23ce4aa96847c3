//! JSON of 650 KB, written, parsed into a tree and walked, by `serde_json`.

#![no_main]

use std::fmt::Write as _;

use kernels::{Noise, mixed};
use serde_json::Value;

const RECORDS: u32 = 4000;
const PARSES: usize = 20;

/// Returns records like those of a web service: nested, with integers, floats, escapes, literals.
fn document(noise: &mut Noise) -> String {
    let mut json = String::from("[");
    for id in 0..RECORDS {
        let separator = if id == 0 { "" } else { "," };
        let (latitude, longitude) = (noise.fraction() * 180.0 - 90.0, noise.fraction() * 360.0 - 180.0);
        let (active, tag) = (noise.below(2) == 0, noise.below(1000));
        let note = line(noise);
        write!(
            json,
            r#"{separator}{{"id":{id},"active":{active},"position":[{latitude:.6},{longitude:.6}],"parent":null,
            "tags":["t{tag}","\u00fc\n{tag}"],"note":"{note}"}}"#
        )
        .expect("a string takes all");
    }
    json.push(']');
    json
}

fn line(noise: &mut Noise) -> String {
    (0..6).map(|_| format!("{:x} ", noise.below(1 << 20))).collect()
}

fn walk(value: &Value, checksum: u64) -> u64 {
    match value {
        Value::Null => mixed(checksum, 1),
        Value::Bool(value) => mixed(checksum, 2 + u64::from(*value)),
        Value::Number(number) => mixed(checksum, number.as_f64().unwrap_or_default().to_bits()),
        Value::String(string) => string.bytes().fold(checksum, |checksum, byte| mixed(checksum, u64::from(byte))),
        Value::Array(values) => values.iter().fold(checksum, |checksum, value| walk(value, checksum)),
        Value::Object(fields) => {
            fields.iter().fold(checksum, |checksum, (name, value)| walk(value, mixed(checksum, name.len() as u64)))
        }
    }
}

fn json() -> [u8; 8] {
    let document = document(&mut Noise::new(6));
    let parsed = |_| serde_json::from_str::<Value>(&document).expect("it was just written");
    (0..PARSES).map(parsed).fold(0, |checksum, value| walk(&value, checksum)).to_le_bytes()
}

kernels::run!(json);
