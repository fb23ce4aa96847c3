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
    assert_eq!(bands("").1["samples"], 6);
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
