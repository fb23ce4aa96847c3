//! OpenAPI description: compared with the routes here, and with the node's behaviour in
//! `tests/openapi/run.sh`.

use serde_json::Value;

use super::Service;
use crate::common::root;

/// Replaces each path parameter by an example.
fn example(path: &str) -> String {
    path.replace("{module}", "none").replace("{task}", &"0".repeat(32)).replace("{slice_id}", "none")
}

/// The OpenAPI description, from its file.
fn description() -> Value {
    serde_json::from_slice(&std::fs::read(root().join("host/http/openapi.json")).unwrap()).unwrap()
}

#[test]
fn each_request_that_is_described_is_answered_and_no_other() {
    let service = Service::start();
    let described = service.get("/v1/openapi.json").json();
    assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    for (path, item) in described["paths"].as_object().unwrap() {
        for method in ["get", "post", "delete", "put", "patch"] {
            let answer = service.ask(&format!("{} {}", method.to_uppercase(), example(path)), &[], b"");
            let said = (answer.said(), item[method]["responses"][answer.status().to_string()].is_object());
            assert_eq!(answer.headers["x-content-type-options"], "nosniff");
            let is_route = !matches!(&*answer.code(), "not_found" | "method_not_allowed");
            assert_eq!(is_route, item[method].is_object(), "{method} {path}: {answer:?}");
            assert!(!is_route || said.1, "{method} {path}: {said:?} is not described");
        }
    }
}

#[test]
fn each_request_that_is_described_stands_in_the_documents() {
    let text = std::fs::read_to_string(root().join("docs/service.md")).unwrap();
    let described = description();
    for (path, item) in described["paths"].as_object().unwrap() {
        let path = path.replace("{module}", "MODULE").replace("{task}", "TASK").replace("{slice_id}", "SLICE_ID");
        for method in item.as_object().unwrap().keys().filter(|method| *method != "parameters") {
            // The document lists a path with several methods once for each, or with the methods
            // separated by commas.
            let line = text.lines().find(|line| line.contains(&format!("`{} {path}", method.to_uppercase())));
            assert!(line.is_some(), "docs/service.md has no {method} {path}");
        }
    }
}

/// Adds each description and summary below `value` to `found`, with its place in the file.
fn collect_texts(value: &Value, place: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let place = format!("{place}/{name}");
                match member.as_str().filter(|_| name == "description" || name == "summary") {
                    Some(text) => found.push((place, text.to_owned())),
                    None => collect_texts(member, &place, found),
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect_texts(item, &format!("{place}/{i}"), found);
            }
        }
        _ => {}
    }
}

/// A description is read without the summary above it, so `They.` or `It does.` says nothing.
#[test]
fn each_description_has_three_words_or_more() {
    let mut found = Vec::new();
    collect_texts(&description(), "", &mut found);
    assert!(found.len() >= 200, "only {} descriptions were found", found.len());
    for (place, text) in found {
        assert!(text.split_whitespace().count() >= 3, "{place}: {text:?} does not stand alone");
    }
}
