//! Known config keys, and the error messages for unknown ones.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigProblem;
use crate::sandbox::LIMITS;

/// Known keys, by table. The keys of the gate are in [`LIMITS`]. A test compares this list with the
/// structs above.
const KEYS: &[(&str, &[&str])] = &[
    ("compute", &["jobs", "slice_bytes_max", "timeout_ms"]),
    ("limits", &["gas", "memory_bytes", "output_bytes", "log_bytes"]),
    ("results", &["entries_max", "bytes_max"]),
    ("store", &["proofs_max", "reserve_bytes"]),
    ("queue", &["entries_max", "bytes_max", "finished_max", "outputs_bytes_max"]),
    ("modules", &["modules_max", "bytes_max", "code_bytes_max"]),
    (
        "serve",
        &[
            "listen",
            "hosts",
            "tls_certificate",
            "tls_key",
            "connections_max",
            "slice_bytes_max",
            "body_memory_bytes_max",
            "spool_bytes_max",
        ],
    ),
    ("prices", &["window", "file", "provider_share_percent"]),
    (
        "courier",
        &[
            "destination",
            "bundle_bytes_max",
            "pending_max",
            "pending_bytes_max",
            "received_max",
            "received_bytes_max",
            "expires_ms",
            "concurrency",
            "timeout_ms",
            "credit_per_mib",
            "credit_per_hop",
        ],
    ),
];

pub const GATE: &str = "gate";

/// Table of the tokens: one table each, with the token's name as its key.
const TOKENS: &str = "tokens";
const TOKEN_KEYS: &[&str] = &["hash", "rights", "requests_per_second"];

pub fn keys() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    let gate = (GATE, LIMITS.iter().map(|limit| limit.key).collect());
    KEYS.iter().map(|(table, keys)| (*table, keys.to_vec())).chain([gate])
}

/// Refuses unknown keys.
pub fn check_keys(file: &DeTable<'_>) -> Result<(), ConfigProblem> {
    for (name, value) in file {
        if name.get_ref() == TOKENS {
            check_token_keys(value.get_ref())?;
            continue;
        }
        let Some((_, keys)) = keys().find(|(table, _)| *table == name.get_ref()) else {
            return Err(unknown(name, "", keys().map(|(table, _)| table).chain([TOKENS]).map(str::to_owned)));
        };
        for key in value.get_ref().as_table().into_iter().flat_map(|table| table.keys()) {
            if !keys.contains(&&**key.get_ref()) {
                return Err(unknown(key, &format!("{}.", name.get_ref()), keys.iter().map(|key| (*key).to_owned())));
            }
        }
    }
    Ok(())
}

fn check_token_keys(tokens: &DeValue<'_>) -> Result<(), ConfigProblem> {
    for (name, token) in tokens.as_table().into_iter().flatten() {
        for key in token.get_ref().as_table().into_iter().flat_map(|token| token.keys()) {
            if !TOKEN_KEYS.contains(&&**key.get_ref()) {
                let table = format!("{TOKENS}.{}.", name.get_ref());
                return Err(unknown(key, &table, TOKEN_KEYS.iter().map(|key| (*key).to_owned())));
            }
        }
    }
    Ok(())
}

/// Names the unknown key in full, and suggests the nearest known one: first from the same table,
/// then from any table.
fn unknown(key: &Spanned<Cow<'_, str>>, table: &str, siblings: impl Iterator<Item = String>) -> ConfigProblem {
    let found = key.get_ref();
    let everywhere = keys().flat_map(|(table, keys)| keys.into_iter().map(move |key| (format!("{table}.{key}"), key)));
    let candidates = siblings.map(|key| (format!("{table}{key}"), key));
    let candidates = candidates.chain(everywhere.map(|(full, key)| (full, key.to_owned())));
    let nearest = candidates
        .map(|(full, key)| (strsim::damerau_levenshtein(found, &key), full))
        .min_by_key(|(distance, _)| *distance);
    let hint = match nearest {
        Some((distance, full)) if distance <= 2 + found.len() / 4 => format!("; did you mean `{full}`?"),
        _ => String::new(),
    };
    ConfigProblem { at: key.span().start, message: format!("unknown key `{table}{found}`{hint}") }
}

/// Returns the byte offset of the value of a key.
pub fn span_start(file: &DeTable<'_>, table: &str, key: &str) -> usize {
    let value = file.get(table).map(Spanned::get_ref).and_then(DeValue::as_table).and_then(|table| table.get(key));
    value.map_or(0, |value| value.span().start)
}
