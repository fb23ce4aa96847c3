//! OpenAPI description: compared with the routes here, and with the node's behaviour in
//! `tests/openapi/run.sh`.

use serde_json::Value;

use super::Service;
use crate::common::root;

/// Replaces each path parameter by an example.
fn example(path: &str) -> String {
    path.replace("{module}", "none").replace("{task}", &"0".repeat(32)).replace("{slice_id}", "none")
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
    let described: Value =
        serde_json::from_slice(&std::fs::read(root().join("host/http/openapi.json")).unwrap()).unwrap();
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
