//! The Grafana dashboard queries exactly the exported metrics, and Prometheus accepts its
//! expressions and its configuration.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use compute_host::metrics::{MetricFamily, MetricKind, TABLE};
use serde_json::Value;

use crate::common::{Workplace, root};

/// The expressions of a dashboard, and the queries of its variables.
struct Asked {
    expressions: Vec<String>,
    variables: Vec<String>,
}

fn asked() -> Asked {
    let text = std::fs::read_to_string(root().join("dashboards/node.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let (mut expressions, mut variables) = (Vec::new(), Vec::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let targets = panel["targets"].as_array();
        assert!(panel["type"] == "row" || !targets.unwrap().is_empty(), "{} shows nothing", panel["title"]);
        for target in targets.into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "the owner chooses the data source");
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        variables.extend(variable["definition"].as_str().map(str::to_owned));
    }
    Asked { expressions, variables }
}

/// Returns the words of an expression outside quotes.
fn words(expression: &str) -> Vec<&str> {
    let outside = expression.split('"').step_by(2);
    outside.flat_map(|part| part.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '$')).collect()
}

fn family(name: &str) -> Option<&'static MetricFamily> {
    let of = |name: &str| TABLE.iter().find(|family| family.name == name);
    let part = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
    let histogram = part.and_then(of).filter(|family| family.kind == MetricKind::Histogram);
    histogram.or_else(|| of(name).filter(|family| family.kind != MetricKind::Histogram))
}

#[test]
fn each_name_in_the_dashboard_is_scraped_and_each_that_is_scraped_is_shown() {
    let Asked { expressions, variables } = asked();
    assert!(expressions.len() >= 40, "{}", expressions.len());
    let mut shown = BTreeSet::new();
    for expression in expressions.iter().chain(&variables) {
        let families: Vec<&MetricFamily> = words(expression)
            .into_iter()
            .filter(|word| ["node_", "courier_", "price_"].iter().any(|prefix| word.starts_with(prefix)))
            .map(|word| family(word).unwrap_or_else(|| panic!("`{word}` is in no table: {expression}")))
            .collect();
        assert!(!families.is_empty(), "{expression}");
        shown.extend(families.iter().map(|family| family.name));
        // Labels in `by` clauses must exist.
        for by in expression.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(", ").filter(|label| *label != "le") {
                assert!(families.iter().any(|family| family.labels.contains(&label)), "`{label}`: {expression}");
            }
        }
    }
    let all: BTreeSet<&str> = TABLE.iter().map(|family| family.name).collect();
    assert_eq!(shown, all, "the left are shown, the right are scraped");
}

/// Prometheus parses the expressions as rules, after Grafana's variables are replaced.
#[test]
fn each_expression_of_the_dashboard_is_one() {
    let here = Workplace::new();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (i, expression) in asked().expressions.iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$lane", ".*");
        assert!(!expression.contains('$'), "{expression}");
        rules += &format!("  - record: dashboard:{i}\n    expr: {}\n", Value::from(expression));
    }
    check(&["check", "rules"], &here.file("rules.yml", rules));
}

#[test]
fn the_documents_say_how_prometheus_is_told() {
    let here = Workplace::new();
    let document = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let blocks = document.split("```text\n").skip(1).filter_map(|rest| rest.split("```").next());
    let examples: Vec<&str> = blocks.filter(|block| block.starts_with("scrape_configs:")).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        check(&["check", "config", "--syntax-only"], &here.file("prometheus.yml", example));
    }
}

/// Checks a file with `promtool`, if it is installed.
#[track_caller]
fn check(arguments: &[&str], file: &Path) {
    let Ok(checked) = Command::new("promtool").args(arguments).arg(file).output() else {
        println!("not checked with promtool, which is not here");
        return;
    };
    let (said, complaints) = (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(checked.status.success(), "{said}{complaints}");
}
