//! Decisions from the head of a request.

use std::io::Write as _;
use std::net::TcpStream;

use super::access::{bearer, token};
use super::{ECHO, Service};
use crate::common::{COPY, blake3, noise};
use crate::serving::{Message, PATIENCE, wait_for};

impl Service {
    /// Sends these bytes unchanged, and reads the head of the first response.
    fn raw(&self, bytes: &str) -> Message {
        let mut stream = TcpStream::connect(self.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        let answer = Message::read_head(&mut stream);
        answer.expect("there is an answer")
    }
}

/// A sender that waits for `100 Continue` gets it only if the node wants its body.
#[test]
fn what_the_head_decides_is_refused_before_the_body() {
    let [run, price] = [("run", "run"), ("price", "price")].map(|(name, rights)| token(name, rights));
    let config = format!(
        "[serve]\nslice_bytes_max = 1000000000\nspool_bytes_max = 2000000\n[queue]\nbytes_max = 2000000\n{}\n{}",
        run.1, price.1
    );
    let service = Service::with(&config);
    let first = service.ask("POST /v1/slices?workload=transcode&id=one", &[("authorization", &bearer(&run.0))], b"a");
    assert_eq!(first.status(), 200);
    let later = "prefer: respond-async\r\n";
    for (line, length, headers, status) in [
        ("POST /v1/slices?workload=transcode", 1_000_000, "", 100),
        ("POST /v1/slices?workload=transcode", 1_000_000, later, 100),
        ("POST /v1/slices?module=none", 1_000_000, "", 404),
        ("POST /v1/slices?module=none", 1_000_000, later, 404),
        ("POST /v1/slices?workload=none", 1_000_000, "", 422),
        ("POST /v1/slices?workload=none", 1_000_000, later, 422),
        ("POST /v1/slices?workload=transcode&gas=9000000000000000000", 1_000_000, "", 422),
        ("POST /v1/slices?workload=transcode&id=one", 1_000_000, "", 409),
        ("POST /v1/slices?workload=transcode&id=one&gas=5", 1_000_000, "", 409),
        ("POST /v1/slices?workload=transcode", 1_000_000_001, "", 413),
        ("POST /v1/slices?workload=transcode", 1_000_000_001, later, 413),
        ("POST /v1/slices?workload=transcode", 1_900_000, "", 413),
        ("POST /v1/slices?workload=transcode", 1_900_000, later, 429),
        ("POST /v1/slices?workload=transcode", 1_000_000, "accept: text/html\r\n", 406),
        ("POST /v1/slices?workload=transcode", 1_000_000, "content-encoding: gzip\r\n", 415),
        ("POST /v1/slices?workload=transcode", 1_000_000, "authorization: Bearer other\r\n", 400),
        ("POST /v1/modules", 1_000_000, "", 403),
        ("POST /v1/prices", 1_000, "", 403),
        ("POST /v1/none", 1_000_000, "", 404),
        ("DELETE /v1/slices", 1_000_000, "", 405),
    ] {
        let authorization = bearer(&run.0);
        let answer = service.raw(&format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nauthorization: {authorization}\r\n{headers}content-length: {length}\r\n\
             expect: 100-continue\r\n\r\n"
        ));
        assert_eq!(answer.status(), status, "{line} {length} {headers}");
    }
    let authorization = bearer(&price.0);
    let long = service.raw(&format!(
        "POST /v1/prices HTTP/1.1\r\nhost: localhost\r\nauthorization: {authorization}\r\ncontent-length: 100000\r\n\
         expect: 100-continue\r\n\r\n"
    ));
    assert_eq!(long.status(), 413);
    let unknown =
        service.raw("POST /v1/slices HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(unknown.status(), 401);
}

#[test]
fn the_limits_of_the_config_hold_where_there_are_no_tokens() {
    let service = Service::start();
    let above = service.post("/v1/slices?workload=transcode&gas=9000000000000000000", b"a");
    assert_eq!(above.said(), (422, "limit_too_high".to_owned()));
}

#[test]
fn codings_that_are_not_understood_are_refused() {
    let service = Service::start();
    let line = "POST /v1/slices?workload=transcode HTTP/1.1\r\nhost: localhost\r\n";
    let coded = service.raw(&format!("{line}transfer-encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"));
    assert_eq!(coded.status(), 501);
    let chunked = service.raw(&format!("{line}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"));
    assert_eq!(chunked.status(), 200);
    let encoded = service.ask("POST /v1/slices?workload=transcode", &[("content-encoding", "gzip")], b"a");
    assert_eq!(
        (encoded.said(), &*encoded.headers["accept-encoding"]),
        ((415, "unsupported_media_type".to_owned()), "identity")
    );
    let plain = service.ask("POST /v1/slices?workload=transcode", &[("content-encoding", "identity")], b"a");
    assert_eq!(plain.status(), 200);
}

#[test]
fn probes_are_answered_in_any_version_of_http_and_nothing_else_is() {
    let service = Service::with(&token("alice", "run").1);
    for probe in ["GET /healthz", "HEAD /healthz", "GET /readyz", "HEAD /readyz"] {
        for rest in ["HTTP/1.0\r\n\r\n", "HTTP/1.0\r\nhost: localhost\r\n\r\n", "HTTP/1.1\r\nhost: localhost\r\n\r\n"] {
            assert_eq!(service.raw(&format!("{probe} {rest}")).status(), 200, "{probe} {rest}");
        }
        assert_eq!(service.raw(&format!("{probe} HTTP/1.1\r\n\r\n")).status(), 400, "{probe}");
        let from_a_page = format!("{probe} HTTP/1.0\r\norigin: http://elsewhere\r\n\r\n");
        assert_eq!(service.raw(&from_a_page).status(), 400, "{probe}");
    }
    for other in ["GET /v1/modules", "HEAD /v1/modules", "POST /readyz", "GET /metrics"] {
        assert_eq!(service.raw(&format!("{other} HTTP/1.0\r\n\r\n")).status(), 400, "{other}");
        let answer = service.raw(&format!("{other} HTTP/1.0\r\nhost: localhost\r\n\r\n"));
        assert_eq!(answer.status(), 401, "{other}");
    }
}

#[test]
fn head_says_what_get_would() {
    let service = Service::start();
    assert_eq!(service.post("/v1/modules?name=echo", ECHO.as_bytes()).status(), 201);
    let id = service.transcode(b"a")["slice_id"].as_str().unwrap().to_owned();
    for path in
        ["/healthz", "/v1/modules", "/v1/modules/echo", &format!("/v1/proofs/{id}"), "/v1/openapi.json", "/none"]
    {
        let (get, head) = (service.get(path), service.raw(&format!("HEAD {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")));
        let told =
            |message: &Message| ["content-length", "content-type"].map(|name| message.headers.get(name).cloned());
        assert_eq!((head.status(), told(&head)), (get.status(), told(&get)), "{path}");
    }
}

/// Outputs from memory, and from disk after a restart, short and long.
#[test]
fn an_output_is_resumed_where_it_broke_off() {
    let service = Service::start();
    assert_eq!(service.post("/v1/modules?name=copy", COPY.as_bytes()).status(), 201);
    let slices = [1_000, 100_000, 500_000].map(|bytes| noise(1, bytes));
    let paths = slices.each_ref().map(|slice| {
        let answer = service.ask("POST /v1/slices?module=copy", &[("prefer", "respond-async")], slice);
        let path = answer.headers["location"].clone();
        wait_for("it to end", || (service.get(&path).json()["state"] == "done").then_some(path.clone()))
    });
    let resume = |service: &Service| {
        for (path, slice) in paths.iter().zip(&slices) {
            let line = format!("GET {path}/output");
            let ask = |headers: &[(&str, &str)]| service.ask(&line, headers, b"");
            let whole = ask(&[]);
            assert_eq!((whole.status(), &*whole.headers["accept-ranges"]), (200, "bytes"));
            assert!(whole.body == *slice);
            let tag = &*whole.headers["etag"];
            assert_eq!(tag, format!("\"{}\"", blake3(slice)));
            let half = slice.len() / 2;
            let range = format!("bytes={half}-");
            let rest = ask(&[("range", &range), ("if-range", tag)]);
            assert_eq!(rest.headers["content-range"], format!("bytes {half}-{}/{}", slice.len() - 1, slice.len()));
            assert!(rest.status() == 206 && rest.body == slice[half..]);
            assert!(ask(&[("range", "bytes=-5")]).body == slice[slice.len() - 5..]);
            assert_eq!(ask(&[("range", "bytes=99999999-")]).said(), (416, "range_not_satisfiable".to_owned()));
            assert_eq!(ask(&[("range", &range), ("if-range", "\"other\"")]).status(), 200);
            assert_eq!(ask(&[("if-none-match", tag)]).status(), 304);
        }
    };
    resume(&service);
    let Service { node, here } = service;
    assert_eq!(node.stop(), 0);
    resume(&Service::again(here));
}
