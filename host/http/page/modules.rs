//! Modules part: the stored modules, and the upload of a new one.

use maud::{Markup, html};

use super::figures::{ago, bytes, counted, short};
use crate::access::Permission;
use crate::http::AppState;
use crate::http::auth::Caller;
use crate::http::modules::of_stored;
use crate::http::problem::HttpProblem;
use crate::modules::{Listed, ModuleName, ModuleRecord};
use crate::text::printable;

/// Limit on shown modules. `/v1/modules` lists all of them.
const MODULES_MAX: usize = 100;

pub fn render(served: &AppState, caller: &Caller) -> Result<Markup, HttpProblem> {
    let look = || {
        let stored = served.node.runner.modules().stored()?;
        Ok((stored.stored()?, stored.newest(MODULES_MAX)?))
    };
    let (all, listed) = look().map_err(|error| of_stored(&error))?;
    if listed.is_empty() {
        return Ok(html! { p .none { "No module is stored." } });
    }
    let now_ms = served.now_ms();
    Ok(html! {
        table .stacks {
            caption {
                (counted(all.modules, "module")) ", " (bytes(all.bytes))
                @if all.modules > MODULES_MAX as u64 { "; the newest " (MODULES_MAX) " of them" }
            }
            thead {
                tr {
                    th scope="col" { "Module" }
                    th scope="col" { "Names" }
                    th scope="col" .number { "Size" }
                    th scope="col" { "Added by" }
                    th scope="col" { "Added" }
                    @if caller.may(Permission::Upload) { th scope="col" { span .unseen { "Actions" } } }
                }
            }
            tbody { @for module in &listed { (row(module, caller, now_ms)) } }
        }
    })
}

fn row(module: &Listed, caller: &Caller, now_ms: u64) -> Markup {
    let digest = module.digest.to_string();
    let names: Vec<&str> = module.names.iter().map(ModuleName::as_str).collect();
    html! {
        tr data-key=(digest) {
            th scope="row" { a href={ "/v1/modules/" (digest) } { (short(&digest)) } }
            td data-label="Names" { @if names.is_empty() { span .none { "none" } } @else { (names.join(", ")) } }
            @match &module.record {
                Ok(record) => {
                    td data-label="Size" .number { (bytes(record.bytes)) }
                    td data-label="Added by" { (printable(&record.added_by)) }
                    td data-label="Added" { (ago(record.added_unix_ms, now_ms)) }
                }
                Err(_) => td colspan="3" .bad { "its record is damaged; remove it and add it again" }
            }
            @if caller.may(Permission::Upload) {
                td .actions {
                    @if module.record.as_ref().is_ok_and(|record| may_remove(caller, record)) {
                        @let name = names.first().copied().unwrap_or(&digest[..16]);
                        button .scripted type="button" data-remove={ "/v1/modules/" (digest) } data-name=(name)
                            { "Remove" span .unseen { " " (name) } }
                    }
                }
            }
        }
    }
}

fn may_remove(caller: &Caller, record: &ModuleRecord) -> bool {
    record.is_added_by(&caller.name()) || caller.may(Permission::Admin)
}

/// Returns the upload form, which also shows the gate's verdict. The form is outside the part, so
/// that a refresh does not reset it.
pub fn upload(caller: &Caller) -> Markup {
    html! {
        @if caller.may(Permission::Upload) {
            div #drop .drop.scripted {
                p {
                    label for="upload-name" { "Name it, if you like " }
                    input #upload-name type="text" maxlength="64"
                        autocomplete="off" autocapitalize="none" spellcheck="false";
                }
                p {
                    button #upload-choose type="button" { "Add a module…" }
                    input #upload-file type="file" hidden
                        accept=".wasm,.wat,application/wasm" aria-label="A module, .wasm or .wat";
                    span .note { " or drop a .wasm or .wat file here" }
                }
            }
            p #upload-said role="status" {}
            div #upload-report {}
        }
    }
}
