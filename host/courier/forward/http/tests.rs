use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use super::super::BundleContent;
use super::*;
use crate::digest::Digest;
use crate::key::NodeKey;
use crate::proof::Blob;
use crate::receipt::Receipt;

/// Request that a server received: the lines of the head without their line ends, and the body.
struct ReceivedRequest {
    head: Vec<String>,
    body: Vec<u8>,
}

/// Starts a server that handles connections one after the other.
fn server(mut handle: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| handle(stream.unwrap())));
    address
}

/// Returns `None` if the connection ends before the request does.
fn request(stream: &TcpStream) -> Option<ReceivedRequest> {
    let mut from = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).ok().filter(|length| *length > 0)?;
        match line.trim_end_matches("\r\n") {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "))?.parse().unwrap();
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    Some(ReceivedRequest { head, body })
}

/// Starts a server that gives one fixed reply, closes the connection, and reports the requests.
fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, mpsc::Receiver<ReceivedRequest>) {
    let ((asked, requests), answer) = (mpsc::channel(), answer.into());
    let address = server(move |mut stream| {
        if let Some(request) = request(&stream) {
            stream.write_all(&answer).unwrap();
            let _ = asked.send(request);
        }
    });
    (address, requests)
}

fn delivery(bundle: &[u8]) -> Delivery {
    Delivery {
        receipt: [7; 16].into(),
        bundle: Blob { blake3: Digest::of(bundle), bytes: bundle.len() as u64 },
        sender: "alice@example.org".parse().unwrap(),
        destination: NodeKey::from_secret([2; 32]).public(),
        carrier: NodeKey::from_secret([1; 32]).public(),
        hops: 3,
        expires_ms: 2_000_000_000_000,
    }
}

fn parcel(to: impl std::fmt::Display, delivery: Delivery, content: BundleContent) -> OutboundBundle {
    let address = Some(format!("http://{to}").parse().unwrap());
    let to = Peer { name: "bob".parse().unwrap(), address, public_key: delivery.destination };
    let signature = delivery.sign(&NodeKey::from_secret([1; 32]));
    OutboundBundle { to, delivery, signature, content }
}

fn in_memory(to: impl std::fmt::Display, bundle: &'static [u8]) -> OutboundBundle {
    parcel(to, delivery(bundle), BundleContent::Bytes(bundle.into()))
}

fn file(bytes: &[u8]) -> BundleContent {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    BundleContent::File(file)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn forward_within(timeout: Duration, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
    let ended = block_on(HttpForwarder::new(timeout).unwrap().forward(parcel));
    if let Err(error) = &ended {
        let told = error.to_string();
        assert!(told.contains("`bob` at http"), "{told}");
        assert!(told.len() <= Receipt::ERROR_BYTES_MAX && !told.contains(char::is_control), "{told:?}");
    }
    ended
}

fn forward(parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
    forward_within(Duration::from_secs(60), parcel)
}

#[test]
fn a_bundle_is_posted_with_all_headers_each_once() {
    let (address, requests) = answering("HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nack");
    let handed = forward(in_memory(format!("{address}/of/bob/"), b"bundle"));
    assert_eq!(handed, Ok(ForwardOutcome::Acknowledged(b"ack".to_vec())));
    let ReceivedRequest { mut head, body } = requests.recv().unwrap();
    assert_eq!(body, b"bundle");
    assert_eq!(head.remove(0), "POST /of/bob/v1/courier/bundles HTTP/1.1");
    head.sort();
    let Delivery { destination, carrier, .. } = delivery(b"bundle");
    let signature = delivery(b"bundle").sign(&NodeKey::from_secret([1; 32]));
    let expected = [
        "accept: */*".to_owned(),
        "content-digest: blake3=:Qe5n0s3doAMJuObnLKw2+BQ50ErZUHeur43BWVeL8oY=:".to_owned(),
        "content-length: 6".to_owned(),
        format!("courier-carrier: {carrier}"),
        format!("courier-destination: {destination}"),
        "courier-expires: 2000000000000".to_owned(),
        "courier-hops: 3".to_owned(),
        "courier-sender: alice@example.org".to_owned(),
        format!("courier-signature: {signature}"),
        format!("host: {address}"),
        "idempotency-key: 07070707070707070707070707070707".to_owned(),
    ];
    assert_eq!(head, expected);
}

#[test]
fn a_bundle_in_a_file_is_streamed_with_its_length() {
    for length in [0, 1, 100_000, 3 << 20] {
        let bundle: Vec<u8> = (0..length).map(|at: u32| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let (address, requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nack");
        let handed = forward(parcel(address, delivery(&bundle), file(&bundle)));
        assert_eq!(handed, Ok(ForwardOutcome::Acknowledged(b"ack".to_vec())), "{length} bytes");
        let ReceivedRequest { head, body } = requests.recv().unwrap();
        assert!(head.contains(&format!("content-length: {length}")) && body == bundle, "{length} bytes: {head:?}");
    }
}

#[test]
fn what_is_damaged_here_is_never_sent_whole() {
    let bundle = vec![7; 3 << 20];
    let mut damaged = bundle.clone();
    damaged[3 << 19] ^= 1;
    let ((asked, requests), mut got) = (mpsc::channel(), Vec::new());
    let address = server(move |mut stream| {
        got.clear();
        let _ = stream.read_to_end(&mut got);
        let _ = asked.send(got.len());
    });
    let error = forward(parcel(address, delivery(&bundle), file(&damaged))).unwrap_err();
    assert!(matches!(error, ForwardError::Damaged { .. }) && error.to_string().contains("fsck"), "{error}");
    assert!(requests.recv().unwrap() < bundle.len());

    for content in [file(&bundle[1..]), file(b""), BundleContent::Bytes(damaged.into())] {
        let error = forward(parcel(address, delivery(&bundle), content)).unwrap_err();
        assert!(matches!(error, ForwardError::Damaged { .. }), "{error}");
    }
    assert!(requests.try_recv().is_err(), "nothing was begun with");
}

/// A carrier whose bundle is too large reads the refusal, too, and need not send the rest.
#[test]
fn an_answer_that_comes_before_the_end_of_the_bundle_is_heard() {
    let bundle = vec![7; 32 << 20];
    for (status, is_refusal) in [("413 Content Too Large", true), ("200 OK", false)] {
        let address = server(move |mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n\r\nack").as_bytes()).unwrap();
            // A server that closes with unread data resets the connection, and its reply is lost.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let handed = forward(parcel(address, delivery(&bundle), file(&bundle)));
        assert_eq!(handed == Ok(ForwardOutcome::Acknowledged(b"ack".to_vec())), !is_refusal, "{handed:?}");
        assert_eq!(matches!(handed, Err(ForwardError::Refused { status: 413, .. })), is_refusal, "{handed:?}");
    }
}

/// Returns the result of a reply with this status line, these headers, and this body.
fn answered(head: &str, body: &str) -> Result<ForwardOutcome, ForwardError> {
    let (address, _) = answering(format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    forward(in_memory(address, b"bundle"))
}

#[test]
fn a_refusal_says_why_and_when_to_ask_again_and_brings_what_is_signed() {
    let minute = Some(Duration::from_secs(60));
    let cases = [
        ("400 Bad Request", None),
        ("410 Gone", None),
        ("413 Content Too Large", None),
        ("422 Unprocessable Content", None),
        ("429 Too Many Requests\r\nretry-after: 60", minute),
        (
            "429 Too Many Requests\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:50:37 GMT",
            minute,
        ),
        ("503 Service Unavailable\r\nretry-after: 60", minute),
        ("503 Service Unavailable\r\nretry-after: when I am back", None),
        ("500 Internal Server Error", None),
        ("502 Bad Gateway", None),
    ];
    for (head, after) in cases {
        let body = r#"{"title":"No","detail":"not today","code":"quota_full","refusal":"YnllcyE="}"#;
        let error = answered(head, body).unwrap_err();
        let ForwardError::Refused { message, status, code, signed, retry_after } = error else { panic!("{error}") };
        assert_eq!((retry_after, status.to_string().as_str()), (after, &head[..3]), "{head}");
        assert_eq!((code.as_deref(), signed.as_deref()), (Some("quota_full"), Some(&b"byes!"[..])));
        let line = head.split("\r\n").next().unwrap();
        let end = format!("answers {line} (quota_full): not today");
        assert!(status == 413 || status == 422 || message.as_str().ends_with(&end), "{message}");
    }
}

#[test]
fn the_reason_of_a_refusal_is_bounded_and_shown_as_it_is() {
    let error = answered("404 Not Found", "{\"detail\":\"\\u001b[2Jgone\\nfor good \u{202e}\"}").unwrap_err();
    assert!(error.to_string().ends_with(r"answers 404 Not Found: \u{1b}[2Jgone\nfor good \u{202e}"), "{error}");
    let long = answered("404 Not Found", &format!(r#"{{"detail":"{}"}}"#, "\\u0007".repeat(2000))).unwrap_err();
    assert!(long.to_string().contains("404") && long.to_string().ends_with('…'), "{long}");
    let longer =
        answered("404 Not Found", &format!(r#"{{"detail":"{}"}}"#, "x".repeat(PROBLEM_BYTES_MAX))).unwrap_err();
    assert!(longer.to_string().ends_with("answers 404 Not Found"), "it is not read to its end: {longer}");
    let nothing = answered("500 Internal Server Error", "<html>oh no</html>").unwrap_err();
    assert!(nothing.to_string().ends_with("answers 500 Internal Server Error"), "{nothing}");
}

#[test]
fn a_redirect_is_not_followed() {
    let (elsewhere, requests) = answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nack");
    for status in
        ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        let error = answered(&format!("{status}\r\nlocation: http://{elsewhere}/"), "").unwrap_err();
        assert!(matches!(error, ForwardError::Refused { signed: None, .. }), "{error}");
        assert!(error.to_string().contains(&elsewhere.to_string()), "{error}");
    }
    assert!(requests.try_recv().is_err());
}

#[test]
fn a_success_without_an_acknowledgement_is_none() {
    for (head, body) in [
        ("200 OK", ""),
        ("201 Created", ""),
        ("202 Accepted", "ack"),
        ("206 Partial Content", "ack"),
        ("200 OK", &"x".repeat(ACKNOWLEDGEMENT_BYTES_MAX + 1)),
    ] {
        let error = answered(head, body).unwrap_err();
        assert!(matches!(error, ForwardError::Answer { .. }) && error.to_string().contains(head), "{error}");
    }
    let (address, _) = answering("HTTP/1.1 204 No Content\r\n\r\n");
    assert!(matches!(forward(in_memory(address, b"bundle")), Err(ForwardError::Answer { .. })));
    let longest = "x".repeat(ACKNOWLEDGEMENT_BYTES_MAX);
    assert_eq!(answered("200 OK", &longest), Ok(ForwardOutcome::Acknowledged(longest.clone().into())));
}

#[test]
fn an_answer_without_end_is_not_read_to_it() {
    for (status, is_refusal) in [("200 OK", false), ("413 Content Too Large", true)] {
        let (done, ended) = mpsc::channel();
        let address = server(move |mut stream| {
            request(&stream).unwrap();
            stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes()).unwrap();
            while stream.write_all(&[b'x'; 1000]).is_ok() {}
            done.send(()).unwrap();
        });
        let error = forward(in_memory(address, b"bundle")).unwrap_err();
        assert_eq!(matches!(error, ForwardError::Refused { .. }), is_refusal, "{error}");
        assert_eq!(matches!(error, ForwardError::Answer { .. }), !is_refusal, "{error}");
        ended.recv().expect("the connection is closed");
    }
}

#[test]
fn an_answer_that_trickles_in_is_given_up() {
    for head in ["", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 413 Content Too Large\r\n\r\n"] {
        let address = server(move |mut stream| {
            request(&stream).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            let byte = if head.is_empty() { b"\n" } else { b"x" };
            while stream.write_all(byte).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let error = forward_within(Duration::from_millis(300), in_memory(address, b"")).unwrap_err();
        assert!(matches!(error, ForwardError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("within 0.3 s"), "{error}");
    }
}

#[test]
fn a_bundle_has_the_time_that_it_takes_at_the_slowest() {
    let forwarder = HttpForwarder::new(Duration::from_secs(30)).unwrap();
    for (bytes, seconds) in [(0, 30), (1, 31), (64 << 10, 31), ((64 << 10) + 1, 32), (64 << 20, 30 + 1024)] {
        let delivery = Delivery { bundle: Blob { bytes, ..delivery(b"").bundle }, ..delivery(b"") };
        assert_eq!(forwarder.bound(&delivery), Duration::from_secs(seconds), "{bytes} bytes");
    }
}

#[test]
fn nobody_there_is_told_from_somebody_who_hangs_up() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = forward(in_memory(gone, b"bundle")).unwrap_err();
    assert!(matches!(error, ForwardError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("cannot be reached: Connection refused"), "{error}");

    let hangs_up = |answer: &'static str| {
        server(move |mut stream| {
            // Unread data resets the connection.
            let _ = stream.read(&mut [0]);
            let _ = stream.write_all(answer.as_bytes());
        })
    };
    for answer in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nack", "nonsense\r\n\r\n"] {
        let error = forward(in_memory(hangs_up(answer), b"bundle")).unwrap_err();
        assert!(matches!(error, ForwardError::Unreachable { .. }), "{answer:?}: {error}");
        assert!(error.to_string().contains("broke off"), "{answer:?}: {error}");
    }
}

#[test]
fn a_connection_serves_for_more_than_one_bundle() {
    let (asked, requests) = mpsc::channel();
    let mut connections = 0;
    let address = server(move |mut stream| {
        connections += 1;
        while request(&stream).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nack").unwrap();
            asked.send(connections).unwrap();
        }
    });
    block_on(async {
        let forwarder = HttpForwarder::new(Duration::from_secs(60)).unwrap();
        for _ in 0..3 {
            forwarder.forward(in_memory(address, b"bundle")).await.unwrap();
            assert_eq!(requests.recv(), Ok(1));
        }
    });
}

#[test]
fn a_peer_with_https_is_spoken_to_in_tls_with_ring_and_without_a_process_wide_provider() {
    let (heard, first) = mpsc::channel();
    let address = server(move |mut stream| {
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes).unwrap();
        heard.send(bytes).unwrap();
    });
    let mut parcel = in_memory(address, b"bundle");
    parcel.to.address = Some(format!("https://{address}").parse().unwrap());
    let error = forward(parcel).unwrap_err();
    assert!(matches!(error, ForwardError::Unreachable { .. }), "{error}");
    assert_eq!(first.recv(), Ok([0x16, 3]), "the record of a handshake");
    assert!(rustls::crypto::CryptoProvider::get_default().is_none());
}

#[test]
fn a_peer_without_an_address_is_for_a_stick() {
    let mut parcel = in_memory("bob", b"bundle");
    parcel.to.address = None;
    let error = block_on(HttpForwarder::new(Duration::from_secs(60)).unwrap().forward(parcel)).unwrap_err();
    assert!(matches!(error, ForwardError::NoWay { .. }), "{error}");
    assert!(
        error.to_string().contains("`bob` has no address") && error.to_string().contains("peer add bob"),
        "{error}"
    );
}
