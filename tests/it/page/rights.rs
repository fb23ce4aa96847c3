//! Access to the page: each token sees the parts that it has a right to, and only its own data in
//! them.

use std::fmt::Write as _;

use compute_host::access::Secret;
use serde_json::Value;

use super::markup::Markup;
use super::{PARTS, Site, read};
use crate::serving::{Message, wait_until};

const ENDLESS: &str = r#"(module (memory (export "memory") 1)
    (func (export "run") (result i32) (loop $again (br $again)) (i32.const 0)))"#;

impl Site {
    /// Starts a node with a token for each of these names, with these rights. The secret is the
    /// name.
    fn with_tokens(tokens: &[(&str, &str)]) -> Self {
        let mut config = String::new();
        for (name, rights) in tokens {
            let _ = writeln!(config, "[tokens.{name}]\nhash = \"{}\"\nrights = [{rights}]", Secret::hash(name));
        }
        Self::with(&config)
    }

    fn get_as(&self, token: &str, path: &str) -> Message {
        self.ask(&format!("GET {path}"), &bearer(token), b"")
    }

    #[track_caller]
    fn page_as(&self, token: &str, path: &str) -> Markup {
        read(&self.get_as(token, path))
    }
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

#[test]
fn each_token_sees_what_it_has_a_right_to() {
    let site = Site::with_tokens(&[
        ("alice", "\"run\""),
        ("bob", "\"run\", \"upload\""),
        ("carol", "\"courier\""),
        ("dave", "\"admin\""),
        ("erin", "\"upload\""),
        ("frank", "\"price\""),
    ]);
    let refused = site.get("/");
    assert_eq!(refused.status(), 401);
    // The header with `Basic` comes last: browsers do not understand one header with both schemes.
    assert_eq!(refused.headers["www-authenticate"], "Basic realm=\"node\", charset=\"UTF-8\"");
    assert_eq!(site.get("/page/slices").status(), 401);
    let basic = "authorization: Basic d2hvZXZlcjphbGljZQ==\r\n";
    assert_eq!(site.ask("GET /", basic, b"").status(), 200);
    for (token, seen) in [
        ("alice", &["overview", "slices", "proofs", "modules", "prices"][..]),
        ("bob", &["overview", "slices", "proofs", "modules", "prices"]),
        ("carol", &["overview", "courier"]),
        ("dave", &PARTS),
        ("erin", &["overview", "modules"]),
        ("frank", &["overview", "prices"]),
    ] {
        let page = site.page_as(token, "/");
        for part in PARTS {
            let is_shown = page.elements.iter().any(|element| element.is("data-part", part) || element.is("id", part));
            assert_eq!(is_shown, seen.contains(&part), "{token}: {part}");
            let status = site.get_as(token, &format!("/page/{part}")).status();
            assert_eq!(status, if is_shown { 200 } else { 404 }, "{token}: {part}");
        }
        let may_upload = ["bob", "dave", "erin"].contains(&token);
        assert_eq!(page.elements.iter().any(|element| element.is("id", "upload-file")), may_upload, "{token}");
    }
    assert_eq!(site.get_as("carol", "/proofs/any").status(), 403);
}

#[test]
fn what_is_anothers_is_neither_shown_nor_offered() {
    let site =
        Site::with_tokens(&[("alice", "\"run\", \"upload\""), ("bob", "\"run\", \"upload\""), ("dave", "\"admin\"")]);
    site.run_as(&bearer("alice"), "workload=transcode&id=hers", b"slice");
    let digest = site.add_as(&bearer("alice"), ENDLESS);
    assert!(site.page_as("alice", "/page/proofs").text.contains("/proofs/hers"));
    for other in ["bob", "dave"] {
        assert!(!site.page_as(other, "/").text.contains("hers"), "{other}");
        assert_eq!(site.get_as(other, "/proofs/hers").status(), 404);
    }
    for (token, may) in [("alice", true), ("bob", false), ("dave", true)] {
        let page = site.page_as(token, "/page/modules");
        assert_eq!(page.elements.iter().any(|element| element.attribute("data-remove").is_some()), may, "{token}");
    }

    let query = format!("POST /v1/slices?module={digest}&id=running");
    let headers = format!("{}prefer: respond-async\r\n", bearer("alice"));
    let accepted: Vec<Value> = (0..4_u8)
        .map(|at| site.ask(&query.replace("running", &format!("running-{at}")), &headers, &[at]))
        .map(|answer| serde_json::from_slice(&answer.body).unwrap())
        .collect();
    let has = |token: &str, text: &str| site.page_as(token, "/page/slices").text.contains(text);
    wait_until("one to run", || has("alice", "<code>running-"));
    let page = site.page_as("alice", "/page/slices");
    let bars = page.elements.iter().filter(|element| element.name == "progress");
    assert!(bars.clone().count() >= 1 && bars.clone().all(|bar| bar.attribute("max") != Some("0")), "{}", page.text);
    assert!(!has("bob", "running-") && !has("bob", "alice"), "another's is not shown");
    assert!(has("dave", "running-") && has("dave", "<td data-label=\"Token\">alice</td>"), "but for who administers");
    assert!(!has("alice", "data-label=\"Token\""));
    for task in accepted {
        let path = format!("POST /v1/slices/{}/cancel", task["task"].as_str().unwrap());
        assert_eq!(site.ask(&path, &bearer("alice"), b"").status(), 200);
    }
    wait_until("none to run", || has("alice", "No slice runs now.") && has("alice", "None of yours wait."));
}
