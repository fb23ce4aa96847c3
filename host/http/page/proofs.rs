//! Proofs part: a table of the newest proofs, and a page for one proof with all its fields.

use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::figures::{ago, bytes, count, duration_us, long, short};
use crate::digest::Digest;
use crate::http::AppState;
use crate::http::auth::Caller;
use crate::http::problem::HttpProblem;
use crate::proof::{Blob, SliceProof};
use crate::sandbox::Outcome;
use crate::slice::SliceId;
use crate::text::{printable, timestamp};

const RECENT_MAX: usize = 20;

/// Digits of a digest in a file name; enough to distinguish files.
const FILE_NAME_DIGITS: usize = 16;

pub fn recent(served: &AppState, caller: &Caller) -> Result<Markup, HttpProblem> {
    let proofs = served.node.runner.recent(&caller.scope, RECENT_MAX);
    let proofs = proofs.map_err(|error| HttpProblem::of_host("store", &error))?;
    let now_ms = served.now_ms();
    if proofs.is_empty() {
        return Ok(html! { p .none { "No slice of yours has been proved lately." } });
    }
    Ok(html! {
        table .stacks {
            caption { "The newest first" }
            thead {
                tr {
                    th scope="col" { "Slice" }
                    th scope="col" { "Outcome" }
                    th scope="col" { "Workload" }
                    th scope="col" .number { "Gas" }
                    th scope="col" .number { "Took" }
                    th scope="col" .number { "Input" }
                    th scope="col" .number { "Output" }
                    th scope="col" { "When" }
                }
            }
            tbody {
                @for proof in &proofs {
                    @let (job, observed) = (proof.job(), proof.observed());
                    tr data-key=(proof.claim_digest()) {
                        th scope="row" { (link(proof.slice_id())) }
                        td data-label="Outcome" { (outcome(proof.outcome())) }
                        td data-label="Workload" { (printable(&job.workload)) }
                        td data-label="Gas" .number { (count(proof.claim().gas())) }
                        td data-label="Took" .number { (duration_us(observed.duration_us)) }
                        td data-label="Input" .number { (bytes(job.input.bytes)) }
                        td data-label="Output" .number { (bytes(proof.output().bytes)) }
                        td data-label="When" { (ago(observed.started_unix_ms, now_ms)) }
                    }
                }
            }
        }
    })
}

/// Renders all fields of one proof, in the order of its canonical bytes.
pub fn whole(proof: &SliceProof) -> Markup {
    let (job, observed) = (proof.job(), proof.observed());
    let json = serde_json::to_string_pretty(&proof.to_json()).unwrap_or_default();
    let json = json.lines().map(printable).collect::<Vec<_>>().join("\n");
    let file = format!("proof-{:.FILE_NAME_DIGITS$}", proof.claim_digest().to_string());
    let source = address("/v1/proofs/", proof.slice_id());
    html! {
        header {
            h1 { "Proof of " (long(proof.slice_id().as_str())) }
            nav aria-label="Way back" { ul { li { a href="/#proofs" { "All of the node" } } } }
        }
        main #main tabindex="-1" {
            p .actions.scripted {
                button type="button" data-copy="proof-json" { "Copy the JSON" }
                button type="button" data-download=(source) data-accept="application/vnd.compute-host.proof"
                    data-file={ (file) ".proof" } { "Download the proof" }
                button type="button" data-download=(source) data-accept="application/json"
                    data-file={ (file) ".json" } { "Download the JSON" }
            }
            noscript { p { a href=(source) download={ (file) ".json" } { "Download the JSON" } } }
            p #said .note role="status" {}
            table .record {
                caption { "What is claimed, and signed" }
                tbody {
                    (row("Outcome", &outcome(proof.outcome())))
                    @if let Some(digest) = proof.proof() { (row("Proof", &long(&digest.to_string()))) }
                    (row("Claim", &long(&proof.claim_digest().to_string())))
                    (row("Workload", &html! { (printable(&job.workload)) }))
                    (row("Module", &long(&job.module.to_string())))
                    (row("Input", &blob(&job.input)))
                    (row("Arguments", &arguments(&job.args)))
                    (row("Assets", &assets(proof)))
                    (row("Gas", &html! { (count(proof.claim().gas())) " of " (count(job.limits.gas)) }))
                    (row("Memory limit", &html! { (bytes(job.limits.memory_bytes)) }))
                    (row("Output limit", &html! { (bytes(job.limits.output_bytes)) }))
                    (row("Output", &blob(&proof.output())))
                    (row("Rules", &long(&job.profile.to_string())))
                }
            }
            table .record {
                caption { "What was observed, and signed too" }
                tbody {
                    (row("Begun", &html! { time { (timestamp(observed.started_unix_ms)) } }))
                    (row("Took", &html! { (duration_us(observed.duration_us)) }))
                    (row("Memory", &html! { (bytes(observed.memory_bytes)) }))
                    (row("Engine", &html! { (printable(&observed.engine)) }))
                    (row("Signed by", &long(&proof.signer().to_string())))
                    (row("Signature", &long(&proof.signature().to_string())))
                }
            }
            h2 #json-title { "As JSON" }
            // `tabindex` lets keyboard users focus and scroll this element.
            pre #proof-json tabindex="0" role="region" aria-labelledby="json-title" { (json) }
            p .note {
                "Anybody can check it: " code { "node compute proof validate " (file) ".proof" }
                " says whether it is well formed and signed, and " code { "node compute verify" }
                " runs the slice again."
            }
        }
    }
}

pub fn none() -> Markup {
    html! {
        header {
            h1 { "No such proof" }
            nav aria-label="Way back" { ul { li { a href="/#proofs" { "All of the node" } } } }
        }
        main #main tabindex="-1" {
            p {
                "This node has no proof under this id for you. It may have given way to newer ones: then the slice can be "
                "run again."
            }
        }
    }
}

/// Links to the proof. The ids `.` and `..` get no link, because browsers resolve them as path
/// segments even when they are escaped.
fn link(id: &SliceId) -> Markup {
    let shown = short(id.as_str());
    if matches!(id.as_str(), "." | "..") {
        return shown;
    }
    html! { a href=(address("/proofs/", id)) { (shown) } }
}

/// Returns the address of a slice's proof. Everything but letters and digits is escaped, because an
/// id may be a path.
fn address(path: &str, id: &SliceId) -> String {
    format!("{path}{}", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC))
}

fn row(name: &str, value: &Markup) -> Markup {
    html! { tr { th scope="row" { (name) } td { (value) } } }
}

fn blob(blob: &Blob) -> Markup {
    html! { (count(blob.bytes)) " bytes, " (long(&blob.blake3.to_string())) }
}

fn arguments(args: &Digest) -> Markup {
    html! { @if *args == Digest::of(b"") { "none, " } (long(&args.to_string())) }
}

fn assets(proof: &SliceProof) -> Markup {
    let assets = &proof.job().assets;
    html! {
        @if assets.is_empty() {
            "none"
        } @else {
            details {
                summary { (count(assets.len() as u64)) }
                ol start="0" { @for asset in assets { li { (long(&asset.to_string())) } } }
            }
        }
    }
}

/// Renders the outcome. A guest's failure is a valid result, but it is marked for the guest's
/// author.
fn outcome(outcome: Outcome) -> Markup {
    let (code, failure) = outcome.code();
    html! {
        span .(if outcome == Outcome::Done { "good" } else { "bad" }) {
            (code) @if let Some(failure) = failure { " (" (failure) ")" }
        }
    }
}
