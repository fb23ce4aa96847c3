//! Output of a module's report: its facts, its refusals, its nearest limits, and where its gas
//! goes.

use std::path::Path;

use serde_json::{Value, json};

use super::{print_error, printable};
use crate::sandbox::{GateLimits, GateReport, LIMITS, Limit};
use crate::verify::{Profile, ProfileEntry};

/// Number of limits shown: those that the module comes nearest to.
const NEAREST: usize = 4;

/// Formats the whole report for people.
pub fn text(file: &Path, report: &GateReport, limits: &GateLimits) -> String {
    let refused = match report.refusals.len() {
        0 => "admitted".to_owned(),
        1 => "refused, by 1 rule".to_owned(),
        more => format!("refused, by {more} rules"),
    };
    let mut text = format!("{}: {refused}\n", printable(&file.to_string_lossy()));
    for refusal in &report.refusals {
        let (code, hint) = (refusal.code(), refusal.hint());
        text.push_str(&format!("  [{code}] {refusal}\n    {hint}\n"));
    }
    for (name, value) in facts(report, limits) {
        text.push_str(&format!("{name:<11}{}\n", printable(&value)));
    }
    text
}

fn facts(report: &GateReport, limits: &GateLimits) -> Vec<(&'static str, String)> {
    let memory = report.memory_pages.map_or_else(
        || "none".to_owned(),
        |(pages, max)| {
            let max = max.map_or_else(|| "to what the job allows".to_owned(), |max| format!("to {max}"));
            format!("{pages} pages of 64 KiB, may grow {max}")
        },
    );
    let imports: Vec<String> = report.imports.iter().map(|(module, name)| format!("{module}.{name}")).collect();
    let features = report.features.as_ref().map_or_else(|| "unknown".to_owned(), |features| list(features));
    let floats = match report.float_free {
        None => "unknown",
        Some(true) => "none",
        Some(false) => "used",
    };
    vec![
        ("digest", report.digest.to_string()),
        ("kind", report.kind.name().to_owned()),
        ("size", format!("{} bytes, of which code {}, data {}", report.bytes, report.code_bytes, report.data_bytes)),
        ("memory", memory),
        ("imports", list(&imports)),
        ("exports", list(&report.exports)),
        ("features", features),
        ("floats", floats.to_owned()),
        ("nearest", list(&nearest(report, limits))),
    ]
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    const SHOWN_MAX: usize = 20;
    let mut shown: Vec<&str> = items.iter().take(SHOWN_MAX).map(AsRef::as_ref).collect();
    let more = format!("and {} more", items.len().saturating_sub(SHOWN_MAX));
    match items.len() {
        0 => return "none".to_owned(),
        1..=SHOWN_MAX => {}
        _ => shown.push(&more),
    }
    shown.join(", ")
}

/// Returns the limits of which the module uses the largest fraction.
fn nearest(report: &GateReport, limits: &GateLimits) -> Vec<String> {
    let part = |limit: &Limit| report.used.of(limit.name) as f64 / limits.of(limit.name) as f64;
    // A limit of one, such as one memory or one table, is always used fully or not at all.
    let mut by_part: Vec<&Limit> = LIMITS.iter().filter(|limit| limits.of(limit.name) > 1).collect();
    by_part.sort_by(|one, other| part(other).total_cmp(&part(one)));
    let shown = |limit: &&Limit| format!("{} {} of {}", limit.key, report.used.of(limit.name), limits.of(limit.name));
    by_part.iter().take(NEAREST).map(shown).collect()
}

/// Formats the whole report for programs.
pub fn json(file: &Path, report: &GateReport) -> Value {
    let mut object = json!({ "file": file.to_string_lossy() });
    if let (Value::Object(object), Value::Object(report)) = (&mut object, report.to_json()) {
        object.extend(report);
    }
    object
}

/// Prints one message for each refusal of the module.
pub fn complain_of(file: &Path, report: &GateReport) {
    for refusal in &report.refusals {
        let (code, hint) = (refusal.code(), refusal.hint());
        print_error("error", &format_args!("`{}` is refused [{code}]: {refusal}; {hint}", file.display()));
    }
}

/// Formats the functions that used the most gas, each with its gas and its percentage.
pub fn profile_text(profile: &Profile, top: usize) -> String {
    let mut text = String::new();
    let mut line = |gas: u64, what: &str| {
        let share = gas as f64 * 100.0 / profile.gas.max(1) as f64;
        text.push_str(&format!("{gas:>16}  {share:>5.1} %  {what}\n"));
    };
    for part in profile.parts.iter().take(top) {
        line(part.gas, &printable(&what(&part.what)));
    }
    let rest = profile.parts.get(top..).unwrap_or_default();
    if !rest.is_empty() {
        line(rest.iter().map(|part| part.gas).sum(), &format!("{} more", rest.len()));
    }
    line(profile.gas, &format!("in all; {}", profile.outcome));
    text
}

fn what(what: &ProfileEntry) -> String {
    match what {
        ProfileEntry::Function(index, Some(name)) => format!("{name} (function {index})"),
        ProfileEntry::Function(index, None) => format!("function {index}"),
        ProfileEntry::Bulk(name) => (*name).to_owned(),
        ProfileEntry::Host(name, calls) => format!("{name}, {calls} host calls"),
        ProfileEntry::Start => "the start: memory, segments and tables".to_owned(),
        ProfileEntry::Forfeited => "forfeited".to_owned(),
    }
}

/// Returns all parts, the most expensive first.
pub fn profile_json(profile: &Profile) -> Value {
    let parts = profile.parts.iter().map(|part| {
        let gas = part.gas;
        match &part.what {
            ProfileEntry::Function(index, name) => json!({ "gas": gas, "function": index, "name": name }),
            ProfileEntry::Bulk(name) => json!({ "gas": gas, "bulk": name }),
            ProfileEntry::Host(name, calls) => json!({ "gas": gas, "host": name, "calls": calls }),
            ProfileEntry::Start => json!({ "gas": gas, "start": true }),
            ProfileEntry::Forfeited => json!({ "gas": gas, "forfeited": true }),
        }
    });
    json!({ "gas": profile.gas, "outcome": profile.outcome.code().0, "parts": parts.collect::<Vec<_>>() })
}
