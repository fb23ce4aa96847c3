//! Prices over HTTP.

use super::Service;
use super::access::{bearer, token};

#[test]
fn an_offer_is_its_tokens_and_counts_in_its_lane() {
    let tokens = ["alice", "bob", "carol"].map(|name| token(name, "price"));
    let service = Service::with(&tokens.each_ref().map(|(_, config)| &**config).join("\n"));
    let secrets = tokens.map(|(secret, _)| bearer(&secret));
    let offer = |who: &str, body: &str| {
        service.ask("POST /v1/prices", &[("authorization", who), ("content-type", "application/json")], body.as_bytes())
    };
    let bands = |query: &str| {
        let answer = service.ask(&format!("GET /v1/prices/bands{query}"), &[("authorization", &secrets[0])], b"");
        (answer.status(), answer.json())
    };
    for (i, price) in [10, 20, 30, 40, 50].into_iter().enumerate() {
        let answer = offer(&secrets[i % 3], &format!(r#"{{"price":{price},"lane":"transcode"}}"#));
        assert_eq!((answer.status(), &answer.json()["price"]), (201, &price.into()));
    }
    assert_eq!(offer(&secrets[0], r#"{"price":60}"#).json()["provider"], "alice");
    let (_, transcode) = bands("?lane=transcode&quantile=0.9");
    assert_eq!((&transcode["samples"], &transcode["providers"]), (&5.into(), &3.into()));
    // Alice's oldest offer was removed: with three providers, each may hold a third.
    assert_eq!(bands("").1["samples"], 5);
    assert_eq!(bands("?lane=inference").1["insufficient"], true);

    for body in ["", "{}", r#"{"price":0}"#, r#"{"price":-1}"#, r#"{"price":1.5}"#, r#"{"price":1,"lane":"x"}"#] {
        assert_eq!(offer(&secrets[0], body).said(), (422, "malformed".to_owned()), "{body}");
    }
    for body in [r#"{"price":1,"provider":"bob"}"#, r#"{"price":1,"time_ms":1}"#] {
        assert_eq!(offer(&secrets[0], body).said(), (422, "malformed".to_owned()), "whose it is, the token says");
    }
    assert_eq!(offer(&secrets[0], &" ".repeat(3_000_000)).said(), (413, "too_large".to_owned()));
    for query in ["?lane=x", "?quantile=2", "?lane=all&lane=all", "?other=1"] {
        assert_eq!(bands(query).0, 422, "{query}");
    }
}

#[test]
fn an_offer_that_was_answered_outlives_a_kill() {
    let service = Service::start();
    let offer = |service: &Service, price: u64| {
        let json = [("content-type", "application/json")];
        let body = format!(r#"{{"price":{price},"provider":"p{price}"}}"#);
        assert_eq!(service.ask("POST /v1/prices", &json, body.as_bytes()).status(), 201);
    };
    (1..=5).for_each(|price| offer(&service, price));
    let mut service = service;
    for told in 5..8_u64 {
        let Service { mut node, here } = service;
        node.child.kill().unwrap();
        node.child.wait().unwrap();
        service = Service::again(here);
        let bands = service.get("/v1/prices/bands").json();
        assert_eq!((&bands["samples"], &bands["providers"]), (&told.into(), &told.into()));
        offer(&service, told + 1);
    }
}
