//! Documents: each command in them is run here or by `.ci/run`, and each table and list agrees with
//! the code.

use std::process::Command;

use compute_host::metrics::{MetricFamily, TABLE};
use compute_host::prices::LoadResult;
use compute_host::sandbox::{LIMITS, Limit};

use crate::common::{Ran, Workplace, blake3, root};

/// `docs/tutorial.md` has a test of its own.
const DOCUMENTS: [&str; 13] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benches/README.md",
    "docs/courier.md",
    "docs/limits.md",
    "docs/metrics.md",
    "docs/outcomes.md",
    "docs/prices.md",
    "docs/proofs.md",
    "guest-workloads/README.md",
    "tests/README.md",
];

/// Returns the lines of the `sh` blocks of a document.
fn commands(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(document)).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Returns true for commands that CI runs itself, because they contain this test or take too long
/// for a test.
fn is_run_by_ci(command: &str) -> bool {
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    let with_more = format!("{command} ");
    command == "bash .ci/run" || ci.lines().any(|line| line == command || line.starts_with(&with_more))
}

#[test]
fn every_command_in_the_documents_works() {
    let here = Workplace::new();
    let mut tried = 0;
    for document in DOCUMENTS {
        for command in commands(document) {
            if is_run_by_ci(&command) {
                continue;
            }
            tried += 1;
            let mut shell = Command::new("sh");
            shell.args(["-c", &command]).current_dir(root()).env("NODE_DATA_DIR", here.path("node-data"));
            let ran = Ran::of(shell);
            assert_eq!(ran.code, 0, "{document}: `{command}`\n{}{}", ran.stdout, ran.stderr);
        }
    }
    assert!(tried >= 5, "only {tried} commands were found");
}

/// Runs the steps that README has under `heading`, in the directory `here`, on a free port instead
/// of `port`.
fn follow(heading: &str, port: &str, here: &Workplace) -> Ran {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split(&format!("\n## {heading}\n")).nth(1).unwrap();
    let script = section.split("```bash\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    drop(listener);
    let script = script.replace(port, &own.to_string()).replace("target/", &format!("{}/", here.path("").display()));
    let mut bash = Command::new("bash");
    // If a command fails, the node must not keep running.
    let script = format!("trap 'kill $! 2> /dev/null || true' EXIT\n{script}");
    bash.args(["-e", "-c", &script]).current_dir(root());
    let ran = Ran::of(bash);
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    ran
}

/// README's steps from an empty directory to a bundle on another node.
#[test]
fn the_readme_carries_a_bundle_to_another_node() {
    let here = Workplace::new();
    let ran = follow("Carry a bundle", "7700", &here);
    let received = ran.stdout.lines().last().and_then(|line| line.rsplit("  ").next()).unwrap();
    assert_eq!(std::fs::read(received).unwrap(), std::fs::read(here.path("bundle.bin")).unwrap());
}

/// README's steps to send requests to a serving node.
#[test]
fn the_readme_asks_a_node_that_serves() {
    let here = Workplace::new();
    let ran = follow("Serve others", "7701", &here);
    let data = blake3(std::fs::read(here.path("data.bin")).unwrap());
    let last = ran.stdout.lines().last().unwrap();
    assert!(ran.stdout.contains("\"state\":") && last.starts_with(&data), "{ran:?}");
    let modules = here.path("service/state/modules/names/word-count");
    assert!(modules.exists(), "the module is stored");
}

/// README shows the real output of its first command.
#[test]
fn the_readme_shows_what_comes_out() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let golden = std::fs::read_to_string(root().join("tests/vectors/samples.b3")).unwrap();
    for line in golden.lines() {
        let (hash, name) = line.split_once("  ").unwrap();
        assert!(readme.contains(&format!("{hash}  examples/workloads/{name}\n")), "{name}");
    }
}

/// Each outcome and error code is documented.
#[test]
fn each_code_of_an_ending_stands_in_the_documents() {
    let documents: String = ["docs/outcomes.md", "docs/limits.md", "docs/proofs.md"]
        .map(|name| std::fs::read_to_string(root().join(name)).unwrap())
        .concat();
    let mut found = 0;
    for source in [
        "sandbox/outcome",
        "sandbox",
        "modules/stored/error",
        "runner/answer",
        "cli/run",
        "cli/proof",
        "proof/codec",
        "sandbox/gate/refusal",
    ] {
        let text = std::fs::read_to_string(root().join(format!("host/{source}.rs"))).unwrap();
        let codes = text.split("=> \"").chain(text.split("code: \"")).skip(1).filter_map(|rest| rest.split_once('"'));
        for (code, _) in
            codes.filter(|(code, _)| code.contains('_') && code.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        {
            found += 1;
            assert!(documents.contains(&format!("`{code}`")), "{source}.rs has the code {code}");
        }
    }
    assert!(found >= 40, "only {found} codes were found");
}

/// Each reason for refusing a delivery is documented.
#[test]
fn each_refusal_of_a_delivery_stands_in_the_documents() {
    let document = std::fs::read_to_string(root().join("docs/courier.md")).unwrap();
    let is_name = |text: &&str| text.contains('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let names_in = |source: &str, after: &str| {
        let text = std::fs::read_to_string(root().join("host").join(source)).unwrap();
        let words: Vec<String> =
            text.split(after).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect();
        words.into_iter().filter(|word| is_name(&word.as_str())).collect::<Vec<_>>()
    };
    let refusals = names_in("courier/receive.rs", "=> (\"");
    assert!(refusals.len() >= 8, "{refusals:?}");
    for name in refusals {
        assert!(document.contains(&format!("`{name}`")), "docs/courier.md lacks `{name}`");
    }
}

/// Each error code of the HTTP service is documented.
#[test]
fn each_problem_stands_in_the_documents() {
    let document = std::fs::read_to_string(root().join("docs/service.md")).unwrap();
    let mut codes = Vec::new();
    for source in crate::tidy::sources(&root().join("host/http")) {
        let text = std::fs::read_to_string(source).unwrap();
        codes.extend(text.split("Problem::new(").skip(1).filter_map(|rest| {
            let (status, rest) = rest.split_once('"')?;
            let is_literal = status.chars().all(|c| c.is_ascii_digit() || c.is_whitespace() || c == ',');
            is_literal.then_some(rest.split_once('"')?.0.to_owned())
        }));
    }
    assert!(codes.len() >= 20, "{codes:?}");
    for code in codes {
        assert!(document.contains(&format!("`{code}`")), "docs/service.md lacks `{code}`");
    }
}

/// Each result of loading a price board is documented.
#[test]
fn each_result_of_loading_a_board_stands_in_the_documents() {
    let document = std::fs::read_to_string(root().join("docs/prices.md")).unwrap();
    for name in LoadResult::NAMES {
        assert!(document.contains(&format!("\n| `{name}` | ")), "docs/prices.md lacks `{name}`");
    }
}

/// Each metric is documented once, with its exact description.
#[test]
fn each_metric_stands_in_the_documents_as_it_is() {
    let document = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for MetricFamily { name, kind, labels, meaning } in TABLE {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let row = format!("| `{name}` | {} | {} | {meaning} |\n", kind.name(), labels.join(", "));
        assert!(document.contains(&row), "docs/metrics.md lacks\n{row}");
    }
    let table = document.split("## Names").nth(1).unwrap().split("\n## ").next().unwrap();
    assert_eq!(table.lines().filter(|line| line.starts_with("| `")).count(), TABLE.len(), "there are others");
}

/// The table of the gate's limits in the document is that of the code.
#[test]
fn each_limit_stands_in_the_documents_as_it_is() {
    let document = std::fs::read_to_string(root().join("docs/limits.md")).unwrap();
    for Limit { key, default, what, reason, .. } in LIMITS {
        let row = format!("| `{key}` | {default} | {what} | {reason} |\n");
        assert!(document.contains(&row), "docs/limits.md lacks\n{row}");
        let value = format!("| `{key}` | {default} | ");
        assert_eq!(document.matches(&value).count(), 2, "beside it stands what real modules use: {value}");
    }
    let rows = document.split("## Rules").next().unwrap().lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, 2 * LIMITS.len() + 1, "there are others");
}
