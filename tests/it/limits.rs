//! Source checks: each shared limit has an owner for each part or says why not, and request bodies
//! are read in one place only.

use std::path::Path;

use crate::common::root;
use crate::tidy::sources;

/// Constructors of limits that several callers share without a rule about owners.
const OWNERLESS: [&str; 8] = [
    "Semaphore::new(",
    "mpsc::channel",
    "sync_channel(",
    "unbounded(",
    "unbounded_channel(",
    "Cache::builder(",
    "Cache::new(",
    "JoinSet::new(",
];

/// Start of the comment that gives the reason, within this many lines above the constructor.
const REASON: &str = "// No owner: ";
const REASON_LINES: usize = 4;

/// Constructors whose reason is in this list.
const KNOWN: [(&str, &str, &str); 4] = [
    ("modules.rs", "Cache::", "what is not in memory any more is read from its token's part of `cache/`"),
    ("sandbox/compiler.rs", "mpsc::channel", "it is one compilation's"),
    ("serve/signals.rs", "mpsc::channel", "signals come from the node's owner alone"),
    ("serve/log.rs", "channel", "the log is the node's; what does not fit is dropped and counted"),
];

/// Returns the numbered lines of a source that are neither comments nor tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Returns true for sources that only one user reaches: test files and commands.
fn is_nobodys(path: &Path) -> bool {
    let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
    has("tests") || path.ends_with("tests.rs") || has("cli") && !has("serve") && !path.ends_with("serve.rs")
}

#[test]
fn each_shared_limit_has_an_owner_or_says_why_not() {
    let mut found = 0;
    for path in sources(&root().join("host")).into_iter().filter(|path| !is_nobodys(path)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text) {
            let Some(limit) = OWNERLESS.iter().find(|limit| line.contains(**limit)) else { continue };
            found += 1;
            let above = &lines[number.saturating_sub(REASON_LINES)..number];
            if KNOWN.iter().any(|(file, what, _)| path.ends_with(file) && limit.contains(what)) {
                continue;
            }
            let has_reason = above.iter().any(|line| line.trim_start().starts_with(REASON));
            assert!(
                has_reason,
                "{}:{}: `{limit}` has no owner; use `Pool`, `Shares` or `Turns`, or say `{REASON}` and why",
                path.display(),
                number + 1
            );
        }
    }
    assert!(found >= 5, "{found}: the sources are not written as this test thinks");
}

/// Handler parameters with which axum would read the body, without a minimum rate and without a
/// memory limit.
const EXTRACTORS: [&str; 8] = ["Json<", ": Bytes", "Multipart", "Form<", "RawForm", ": String", ": Body", "Either<"];

/// Files that read a body, and why.
const READERS: [(&str, &str); 4] = [
    ("http/body.rs", "the one place"),
    ("http/body/drain.rs", "it is thrown away"),
    ("http/answer.rs", "an answer's body, not a request's"),
    ("http/local.rs", "the same user's command line, over a socket"),
];

#[test]
fn no_handler_has_its_body_read_by_an_extractor() {
    let mut handlers = 0;
    for path in sources(&root().join("host/http")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let text: String = code(&text).flat_map(|(_, line)| [line, "\n"]).collect();
        for function in text.split("pub async fn ").skip(1) {
            let (name, rest) = function.split_once('(').unwrap();
            let parameters = rest.split(") -> ").next().unwrap();
            if !parameters.contains("State(") {
                continue;
            }
            handlers += 1;
            let reads = EXTRACTORS.iter().find(|extractor| parameters.contains(**extractor));
            assert!(reads.is_none(), "{}: `{name}` has `{}` read its body", path.display(), reads.unwrap());
        }
        let is_reader = READERS.iter().any(|(reader, _)| path.ends_with(reader));
        let reads = ["into_data_stream(", ".extract::<", "body::to_bytes(", "FromRequest::", "Multipart", "RequestExt"];
        let read = reads.iter().find(|read| text.contains(**read));
        assert!(is_reader || read.is_none(), "{}: `{}` reads a body", path.display(), read.unwrap());
    }
    assert!(handlers >= 20, "{handlers}: the sources are not written as this test thinks");
}
