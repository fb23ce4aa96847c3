//! Authentication and rights of requests.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{ECHO, Service, head};
use crate::common::{Workplace, root};
use crate::serving::{Message, PATIENCE, Serving, wait_until};

/// Creates a token with the owner's command. Returns the secret, and the lines for the config.
pub fn token(name: &str, rights: &str) -> (String, String) {
    let rights: String = rights.split(' ').map(|right| format!(" --right {right}")).collect();
    let made = Workplace::new().run(&format!("token new {name}{rights}")).output();
    let (secret, lines) = made.split_once("\n\n").unwrap();
    (secret.to_owned(), lines.to_owned())
}

pub fn bearer(secret: &str) -> String {
    format!("Bearer {secret}")
}

#[test]
fn with_tokens_nobody_is_answered_without_one() {
    let (secret, config) = token("alice", "run");
    let service = Service::with(&config);
    for path in ["/v1/modules", "/v1/slices/x", "/v1/proofs/x", "/metrics", "/nothing"] {
        let answer = service.get(path);
        assert_eq!(answer.said(), (401, "unauthorized".to_owned()), "{path}");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    let basic = |secret: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("alice:{secret}")));
    let longer = format!("{secret}x");
    let wrong = ["Bearer", "Bearer x", "Basic x", &bearer(&longer), &basic("x"), &secret, &bearer(&"x".repeat(9000))];
    for authorization in wrong {
        let answer = service.ask("GET /v1/modules", &[("authorization", authorization)], b"");
        assert_eq!(answer.status(), 401, "{authorization}");
    }
    for authorization in [bearer(&secret), basic(&secret), format!("bearer {secret}")] {
        assert_eq!(service.ask("GET /v1/modules", &[("authorization", &authorization)], b"").status(), 200);
    }
    let large = service.post("/v1/slices?workload=transcode", &vec![0; 8 << 20]);
    assert_eq!(large.status(), 401, "who sends much hears the answer too");
    assert_eq!((service.get("/healthz").status(), service.get("/readyz").status()), (200, 200));
}

#[test]
fn a_token_may_do_what_it_has_a_right_to_and_sees_what_is_its_own() {
    let tokens = [("alice", "run upload"), ("bob", "run upload"), ("carol", "price"), ("dora", "admin")]
        .map(|(name, rights)| token(name, rights));
    let service = Service::with(&tokens.each_ref().map(|(_, config)| &**config).join("\n"));
    let [alice, bob, carol, dora] = tokens.map(|(secret, _)| bearer(&secret));
    let ask = |who: &str, line: &str, body: &[u8]| service.ask(line, &[("authorization", who)], body);

    assert_eq!(ask(&carol, "POST /v1/modules", ECHO.as_bytes()).said(), (403, "forbidden".to_owned()));
    assert_eq!(ask(&carol, "POST /v1/slices?workload=transcode", b"").said(), (403, "forbidden".to_owned()));
    assert_eq!(ask(&alice, "POST /v1/modules?name=echo", ECHO.as_bytes()).status(), 201);
    assert_eq!(ask(&alice, "GET /v1/modules/echo", b"").json()["added_by"], "token alice");
    let other = ECHO.replace("i32.const 7", "i32.const 8");
    assert_eq!(ask(&bob, "POST /v1/modules?name=echo", other.as_bytes()).status(), 403, "the name is taken");
    assert_eq!(ask(&bob, "DELETE /v1/modules/echo", b"").said(), (403, "forbidden".to_owned()));

    // Two tokens use the same id for different slices.
    for (who, bytes) in [(&alice, b"one"), (&bob, b"two")] {
        let answer = ask(who, "POST /v1/slices?workload=transcode&id=x", bytes);
        assert_eq!((answer.status(), &answer.json()["source"]), (200, &"run".into()));
    }
    let proof = |who: &str, path: &str| ask(who, &format!("GET /v1/proofs/{path}"), b"").json()["proof"].clone();
    assert_ne!(proof(&alice, "x"), proof(&bob, "x"));
    assert_eq!(ask(&dora, "GET /v1/proofs/x", b"").status(), 404, "she has none herself");
    assert_eq!(proof(&dora, "x?token=bob"), proof(&bob, "x"));
    assert_eq!(ask(&alice, "GET /v1/proofs/x?token=bob", b"").status(), 403);

    let later = [("authorization", &*alice), ("prefer", "respond-async")];
    let path = service.ask("POST /v1/slices?workload=transcode", &later, b"three").headers["location"].clone();
    assert_eq!(ask(&bob, &format!("GET {path}"), b"").said(), (404, "no_such_task".to_owned()));
    assert_eq!(ask(&bob, &format!("POST {path}/cancel"), b"").said(), (404, "no_such_task".to_owned()));
    assert_eq!(ask(&alice, &format!("GET {path}"), b"").status(), 200);
    assert_eq!(ask(&dora, "DELETE /v1/modules/echo", b"").status(), 200);

    assert_eq!(ask(&alice, "GET /v1/courier", b"").said(), (403, "forbidden".to_owned()));
    assert_eq!(ask(&dora, "GET /v1/courier", b"").json()["pending"], 0);
    let above = ask(&alice, "POST /v1/slices?workload=transcode&gas=100000000001", b"");
    assert_eq!(above.said(), (422, "limit_too_high".to_owned()));
}

#[test]
fn who_asks_too_often_waits_and_is_told_when_to_come_back() {
    let (secret, config) = token("alice", "run");
    let service = Service::with(&format!("{config}requests_per_second = 5\n"));
    let ask = || service.ask("GET /v1/modules", &[("authorization", &bearer(&secret))], b"");
    assert!((0..10).all(|_| ask().status() == 200), "one request after another waits for its turn");
    let answers: Vec<Message> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let late = answers.iter().find(|answer| answer.status() != 200).expect("a hundred at once are more than five");
    assert_eq!(late.said(), (429, "too_many_requests".to_owned()));
    assert_eq!(late.headers["retry-after"], "1");
    assert_eq!(service.get("/healthz").status(), 200);
}

#[test]
fn a_page_from_elsewhere_cannot_ask() {
    let service = Service::with("[serve]\nhosts = [\"node.example\"]\n");
    let with = |name, value| service.ask("GET /v1/modules", &[(name, value)], b"");
    for host in ["localhost", "127.0.0.1:7700", "[::1]:80", "LocalHost:1", "node.example"] {
        assert_eq!(with("host", host).status(), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1"] {
        assert_eq!(with("host", host).said(), (421, "misdirected".to_owned()), "{host}");
    }
    for host in ["", "a b", "local host", "localhost/x"] {
        assert_eq!(with("host", host).status(), 400, "{host}");
    }
    let twice = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(service.ask("GET /v1/modules", &twice, b"").status(), 400);
    for origin in ["http://evil.example", "null", "http://localhost:1", "file://"] {
        assert_eq!(with("origin", origin).said(), (403, "cross_origin".to_owned()), "{origin}");
    }
    assert_eq!(with("origin", "http://localhost").status(), 200);
}

#[test]
fn a_node_that_others_reach_wants_tokens_and_tls() {
    let here = Workplace::new();
    let refused = |here: &Workplace, line: &str, why: &str| {
        let ran = here.run(line);
        assert!(ran.code == 2 && ran.stderr.contains(why), "{line}: {ran:?}");
    };
    refused(&here, "serve --listen 0.0.0.0:0", "no token is configured");
    refused(&here, "serve --listen 127.0.0.1:0 --behind-proxy", "no token is configured");
    let (secret, config) = token("alice", "run");
    here.file("node-data/config.toml", &config);
    refused(&here, "serve --listen 0.0.0.0:0", "`serve.tls_certificate`");

    let tls = "[serve]\ntls_certificate = \"certificate.pem\"\ntls_key = \"key.pem\"\n";
    here.file("node-data/config.toml", format!("{tls}{config}"));
    refused(&here, "serve --listen 0.0.0.0:0", "certificate.pem`, which `serve.tls_certificate` names");
    for file in ["certificate.pem", "key.pem"] {
        here.file(format!("node-data/{file}"), std::fs::read(root().join("tests/vectors/tls").join(file)).unwrap());
    }
    let key = here.path("node-data/key.pem");
    set_mode(&key, 0o644);
    refused(&here, "serve --listen 0.0.0.0:0", "others can read");
    set_mode(&key, 0o600);

    let node = Serving::start(here.command(["serve", "--listen", "0.0.0.0:0"]));
    let asked = head("GET /v1/modules", &[("authorization", &bearer(&secret)), ("connection", "close")], 0);
    assert!(over_tls(connect(&node), &asked).starts_with("HTTP/1.1 200 "));
    let unknown = head("GET /v1/modules", &[("connection", "close")], 0);
    assert!(over_tls(connect(&node), &unknown).starts_with("HTTP/1.1 401 "));
    let mut plain = connect(&node);
    plain.write_all(&asked).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "nothing is said in the clear");
    assert_eq!(node.stop(), 0);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let here = Workplace::new();
    let (secret, config) = token("alice", "run");
    let tls = "[serve]\ntls_certificate = \"certificate.pem\"\ntls_key = \"key.pem\"\nconnections_max = 8\n";
    here.file("node-data/config.toml", format!("{tls}{config}"));
    for file in ["certificate.pem", "key.pem"] {
        here.file(format!("node-data/{file}"), std::fs::read(root().join("tests/vectors/tls").join(file)).unwrap());
    }
    set_mode(&here.path("node-data/key.pem"), 0o600);
    let node = Serving::start(here.command(["serve", "--listen", "0.0.0.0:0"]));
    let asked = head("GET /metrics", &[("authorization", &bearer(&secret)), ("connection", "close")], 0);

    let silent = [connect(&node), connect(&node)];
    for _ in 0..2 {
        let mut more = connect(&node);
        more.set_read_timeout(Some(PATIENCE)).unwrap();
        match more.read(&mut [0]) {
            Ok(bytes) => assert_eq!(bytes, 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    let scraped = over_tls(connect_from("127.0.0.2", &node), &asked);
    assert!(scraped.contains("\nnode_connections_refused_total 2\n"), "{scraped}");
    drop(silent);
    wait_until("it to be let in again", || over_tls(connect(&node), &asked).starts_with("HTTP/1.1 200 "));
    let said = node.logged().iter().filter(|line| line.contains("closed a connection at once")).count();
    assert_eq!(said, 1, "it is not said again within a minute");
    assert_eq!(node.stop(), 0);
}

fn set_mode(path: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn connect(node: &Serving) -> TcpStream {
    TcpStream::connect(("127.0.0.1", node.address.port())).unwrap()
}

/// Connects from another address of this machine.
fn connect_from(address: &str, node: &Serving) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((address.parse::<Ipv4Addr>().unwrap(), 0).into()).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, node.address.port()).into()).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
}

/// Returns the answer, or nothing if the node closed the connection.
fn over_tls(stream: TcpStream, request: &[u8]) -> String {
    let certificate = CertificateDer::from_pem_file(root().join("tests/vectors/tls/certificate.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let client = rustls::ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, stream);
    let mut answer = Vec::new();
    if stream.write_all(request).is_ok() {
        // A server may close a connection without a TLS alert.
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8(answer).unwrap()
}
