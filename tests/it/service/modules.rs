//! Module upload over HTTP.

use super::{ECHO, Service};
use crate::common::blake3;

const REFUSED: &str = r#"(module (import "env" "exit" (func)) (func (export "run") (result f32) (f32.const 0)))"#;

#[test]
fn a_module_is_stored_shown_and_removed() {
    let service = Service::start();
    let wasm = wat::parse_str(ECHO).unwrap();
    let added = service.post("/v1/modules?name=echo", &wasm);
    assert_eq!(added.status(), 201);
    let digest = blake3(&wasm);
    assert_eq!(added.headers["location"], format!("/v1/modules/{digest}"));
    assert_eq!((&added.json()["digest"], &added.json()["new"]), (&digest.as_str().into(), &true.into()));
    // The same module again, as text.
    let again = service.ask("POST /v1/modules", &[("content-type", "text/plain; charset=utf-8")], ECHO.as_bytes());
    assert_eq!((again.status(), &again.json()["new"]), (200, &false.into()));

    for key in [&*digest, "echo"] {
        let shown = service.get(&format!("/v1/modules/{key}")).json();
        assert_eq!((&shown["names"], &shown["bytes"]), (&serde_json::json!(["echo"]), &wasm.len().into()));
    }
    assert_eq!(service.get("/v1/modules").json()["modules"].as_array().unwrap().len(), 1);
    let bytes = service.ask("GET /v1/modules/echo", &[("accept", "application/wasm")], b"");
    assert_eq!((&*bytes.headers["content-type"], bytes.body), ("application/wasm", wasm));

    let removed = service.ask(&format!("DELETE /v1/modules/{digest}"), &[], b"").json();
    assert_eq!(removed["module_removed"], true);
    for line in ["GET /v1/modules/echo", "DELETE /v1/modules/echo", "GET /v1/modules/0"] {
        assert_eq!(service.ask(line, &[], b"").said(), (404, "no_such_module".to_owned()), "{line}");
    }
}

#[test]
fn a_list_of_modules_comes_in_pages() {
    let service = Service::start();
    let mut added: Vec<String> = (0..5)
        .map(|number| {
            let module = ECHO.replace("i32.const 7", &format!("i32.const {}", 10 + number));
            service.post("/v1/modules", module.as_bytes()).json()["digest"].as_str().unwrap().to_owned()
        })
        .collect();
    let (mut seen, mut path) = (Vec::new(), "/v1/modules?limit=2".to_owned());
    loop {
        let page = service.get(&path).json();
        let modules = page["modules"].as_array().unwrap();
        assert!(modules.len() <= 2);
        seen.extend(modules.iter().map(|module| module["digest"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/modules?limit=2&after={next}");
    }
    added.sort_unstable();
    assert_eq!(seen, added);
    for wrong in ["limit=0", "limit=1001", "limit=x", "after=x", "before=x"] {
        assert_eq!(service.get(&format!("/v1/modules?{wrong}")).said(), (422, "malformed".to_owned()), "{wrong}");
    }
}

#[test]
fn a_refusal_says_all_that_the_command_line_says() {
    let service = Service::start();
    service.here.file("refused.wat", REFUSED);
    let refused = service.post("/v1/modules", REFUSED.as_bytes());
    let said = service.here.run("compute module check refused.wat --json").stdout;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let rules = said["refusals"].as_array().unwrap();
    assert!(rules.len() > 1, "{said}");
    assert_eq!(refused.said(), (422, rules[0]["code"].as_str().unwrap().to_owned()));
    let problem = refused.json();
    assert_eq!(&problem["report"]["refusals"], &said["refusals"]);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert!(problem["detail"].as_str().unwrap().contains(rules[0]["message"].as_str().unwrap()));
    assert_eq!(service.get("/v1/modules").json()["modules"].as_array().unwrap().len(), 0);
}

#[test]
fn what_is_no_module_or_too_much_is_named() {
    let service = Service::start();
    assert_eq!(service.post("/v1/modules", b"(module").said(), (422, "not_a_module".to_owned()));
    assert_eq!(service.post("/v1/modules?name=Upper", b"(module)").said(), (422, "malformed".to_owned()));
    assert_eq!(service.post("/v1/modules?nmae=x", b"(module)").said(), (422, "malformed".to_owned()));
    let json = service.ask("POST /v1/modules", &[("content-type", "application/json")], b"{}");
    assert_eq!(json.said(), (415, "unsupported_media_type".to_owned()));
    let large = vec![0; (64 << 20) + 1];
    assert_eq!(service.post("/v1/modules", &large).said(), (413, "too_large".to_owned()));
    let html = service.ask("GET /v1/modules/echo", &[("accept", "text/html")], b"");
    assert_eq!(html.said(), (406, "not_acceptable".to_owned()));
}

#[test]
fn a_full_module_store_says_so_and_keeps_what_it_has() {
    let service = Service::with("[modules]\nmodules_max = 1\n");
    assert_eq!(service.post("/v1/modules?name=echo", ECHO.as_bytes()).status(), 201);
    let more = ECHO.replace("i32.const 7", "i32.const 8");
    assert_eq!(service.post("/v1/modules?name=more", more.as_bytes()).said(), (507, "module_quota".to_owned()));
    assert_eq!(service.get("/v1/modules/echo").status(), 200);
}
