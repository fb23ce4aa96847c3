//! Dashboard as a browser receives it: its headers, its content, and escaping of strangers' text.
//! `tests/page/click_through.py` uses it in a real browser.

mod markup;
mod rights;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;

use compute_host::access::Secret;
use compute_host::proof::SliceProof;
use serde_json::Value;

use self::markup::{Markup, unescape};
use crate::common::{Workplace, root};
use crate::serving::{Message, PATIENCE, Serving};

const PARTS: [&str; 6] = ["overview", "slices", "proofs", "modules", "prices", "courier"];

const GUEST: &str = r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const 0)))"#;

/// A serving node, and its clients.
struct Site {
    node: Serving,
    here: Workplace,
}

impl Site {
    fn start() -> Self {
        Self::with("")
    }

    /// Starts a node with this config.
    fn with(config: &str) -> Self {
        let here = Workplace::new();
        here.file("node-data/config.toml", config);
        Self { node: Serving::start(here.command(["serve", "--listen", "127.0.0.1:0"])), here }
    }

    fn ask(&self, request: &str, headers: &str, body: &[u8]) -> Message {
        let head = format!("{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        let mut stream = TcpStream::connect(self.node.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        Message::read(&mut stream).expect("there is an answer")
    }

    fn get(&self, path: &str) -> Message {
        self.ask(&format!("GET {path}"), "", b"")
    }

    #[track_caller]
    fn page(&self, path: &str) -> Markup {
        read(&self.get(path))
    }

    /// Runs a slice, and returns its proof.
    #[track_caller]
    fn run_as(&self, headers: &str, query: &str, slice: &[u8]) -> Value {
        let ran = self.ask(&format!("POST /v1/slices?{query}"), headers, slice);
        assert_eq!(ran.status(), 200, "{}", String::from_utf8_lossy(&ran.body));
        serde_json::from_slice(&ran.body).unwrap()
    }

    #[track_caller]
    fn run(&self, query: &str, slice: &[u8]) -> Value {
        self.run_as("", query, slice)
    }

    /// Adds a module, and returns its digest.
    #[track_caller]
    fn add_as(&self, headers: &str, text: &str) -> String {
        let added = self.ask("POST /v1/modules", headers, text.as_bytes());
        assert_eq!(added.status(), 201, "{}", String::from_utf8_lossy(&added.body));
        let added: Value = serde_json::from_slice(&added.body).unwrap();
        added["digest"].as_str().unwrap().to_owned()
    }
}

/// Parses a document or a part of one, and asserts that it is well formed.
#[track_caller]
fn read(answer: &Message) -> Markup {
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8", "{text}");
    Markup::parse(&text).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

#[test]
fn whatever_is_shown_comes_with_a_strict_policy() {
    let site = Site::start();
    site.run("workload=transcode&id=one", b"slice");
    let parts = PARTS.map(|part| format!("/page/{part}"));
    for path in parts.iter().map(String::as_str).chain(["/", "/proofs/one", "/proofs/none"]) {
        let answer = site.get(path);
        let header = |name: &str| answer.headers.get(name).map_or("", String::as_str);
        assert_eq!(answer.status(), if path == "/proofs/none" { 404 } else { 200 }, "{path}");
        assert_eq!(
            header("content-security-policy"),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
             form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
            "{path}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        read(&answer);
    }
    assert_eq!(site.get("/page/none").status(), 404);
    assert_eq!(site.ask("POST /", "", b"").status(), 405);
}

#[test]
fn the_page_is_complete_without_scripts() {
    let site = Site::start();
    site.run("workload=transcode&id=one", b"slice");
    site.add_as("", GUEST);
    let page = site.page("/");
    // These parts show ages, which may have changed between the two requests.
    for part in ["slices", "modules", "prices", "courier"] {
        let text = String::from_utf8(site.get(&format!("/page/{part}")).body).unwrap();
        assert!(page.text.contains(&text), "{part}\n{text}\n{}", page.text);
    }
    for part in PARTS {
        assert!(page.elements.iter().any(|element| element.is("data-part", part)), "{part}");
        assert!(page.elements.iter().any(|element| element.is("id", part)), "{part} can be linked to");
    }
    assert!(page.text.contains(r#"<noscript><meta http-equiv="refresh""#));
}

#[test]
fn the_page_is_built_for_who_does_not_see_it() {
    let site = Site::start();
    site.run("workload=transcode&id=one", b"slice");
    site.add_as("", GUEST);
    for path in ["/", "/proofs/one", "/proofs/none"] {
        let page = site.page(path);
        let all = |name: &str| page.elements.iter().filter(move |element| element.name == name).collect::<Vec<_>>();
        for one in ["h1", "main", "title", "header", "footer", "nav"] {
            assert_eq!(all(one).len(), 1, "{path}: {one}");
        }
        let levels = page.elements.iter().filter_map(|element| element.name.strip_prefix('h')?.parse::<u8>().ok());
        levels.fold(0, |before, level| {
            assert!(level <= before + 1, "{path}: no heading is left out");
            level
        });
        assert_eq!(all("html")[0].attribute("lang"), Some("en"));
        assert!(all("th").iter().all(|cell| cell.attribute("scope").is_some()), "{path}");
        assert_eq!(all("caption").len(), all("table").len(), "{path}");
        assert!(all("button").iter().all(|button| button.is("type", "button")), "{path}");
        for named in all("progress").iter().chain(&all("nav")) {
            assert!(named.attribute("aria-label").is_some(), "{path}: {named:?}");
        }
        for input in all("input") {
            let id = input.attribute("id").unwrap();
            let is_labelled = all("label").iter().any(|label| label.is("for", id));
            assert!(is_labelled || input.attribute("aria-label").is_some(), "{path}: {id}");
        }
        let is_there = |id: &str| page.elements.iter().any(|element| element.is("id", id));
        for element in &page.elements {
            let inside = element.attribute("href").and_then(|href| href.strip_prefix('#'));
            for id in ["for", "aria-labelledby"].into_iter().filter_map(|name| element.attribute(name)).chain(inside) {
                assert!(is_there(id), "{path}: {id}");
            }
        }
        let first = page.elements.iter().find(|element| element.name == "a").unwrap();
        assert!(first.is("href", "#main"), "{path}: the first link skips the rest");
    }
}

#[test]
fn nothing_is_asked_of_others() {
    let site = Site::start();
    site.run("workload=transcode&id=one", b"slice");
    site.add_as("", GUEST);
    let mut assets = Vec::new();
    for path in ["/", "/proofs/one", "/proofs/none"] {
        let page = site.page(path);
        for element in &page.elements {
            for name in ["href", "src", "action", "poster", "srcset", "data-download", "data-remove"] {
                let Some(address) = element.attribute(name) else { continue };
                let is_here = address.starts_with('/') && !address.starts_with("//");
                assert!(is_here || address.starts_with('#') || address.starts_with("data:image/"), "{path}: {address}");
                if element.name == "script" || element.is("rel", "stylesheet") {
                    assets.push(address.to_owned());
                }
            }
            assert!(
                element.attributes.iter().all(|(name, _)| name != "style" && !name.starts_with("on")),
                "{element:?}"
            );
        }
        assert!(!page.text.contains("<style") && !page.text.contains("<script>"), "{path}");
    }
    assets.sort();
    assets.dedup();
    assert_eq!(assets.len(), 2);
    for address in assets {
        let text = String::from_utf8(site.get(&address).body).unwrap();
        for reach in ["http:", "https:", "//\"", "@import", "url("] {
            assert!(!text.contains(reach), "{address} has {reach}");
        }
    }
}

#[test]
fn style_and_script_are_kept_until_they_are_others() {
    let site = Site::start();
    let page = site.page("/");
    let addresses = page.elements.iter().filter_map(|element| match &*element.name {
        "script" => element.attribute("src"),
        "link" if element.is("rel", "stylesheet") => element.attribute("href"),
        _ => None,
    });
    for address in addresses {
        let answer = site.get(address);
        let (path, digest) = address.split_once('?').unwrap();
        assert_eq!(answer.headers["etag"], format!("\"{digest}\""));
        assert_eq!(blake3::hash(&answer.body).to_string(), digest);
        assert!(answer.headers["cache-control"].contains("immutable"), "{address}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let kind = if path.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        assert_eq!(answer.headers["content-type"], kind);
        let known = |tag: &str| site.ask(&format!("GET {address}"), &format!("if-none-match: {tag}\r\n"), b"");
        let unchanged = known(&format!("\"other\", W/\"{digest}\""));
        assert_eq!((unchanged.status(), unchanged.body.len()), (304, 0));
        assert_eq!(unchanged.headers["etag"], format!("\"{digest}\""));
        assert_eq!(known("\"other\"").status(), 200);
        for stale in [path.to_owned(), format!("{path}?{}", "0".repeat(64))] {
            assert_eq!(site.get(&stale).headers["cache-control"], "no-cache", "{stale}");
        }
    }
}

#[test]
fn what_strangers_bring_is_shown_and_does_nothing() {
    let site = Site::start();
    let names = [
        "<script>alert(1)</script>",
        "\"><img/src=x/onerror=alert(1)>",
        "'-alert(1)-'",
        "javascript:alert(1)",
        "</title></table></main>",
        "../../v1/modules",
        "?a=b#c&amp;%2e",
        "..",
    ];
    for name in names {
        site.run(&format!("workload=transcode&id={}", encoded(name)), name.as_bytes());
    }
    let page = site.page("/");
    let allowed = ["script", "img"];
    let found: Vec<&str> =
        page.elements.iter().map(|element| &*element.name).filter(|name| allowed.contains(name)).collect();
    assert_eq!(found, ["script"], "the page's own");
    for name in names {
        let shown = page.titles_and_texts().any(|text| unescape(text) == name);
        assert!(shown, "{name}");
        if name == ".." {
            continue;
        }
        let address = format!("/proofs/{}", encoded(name));
        assert!(page.elements.iter().any(|element| element.is("href", &address)), "{address}");
        let proof = site.page(&address);
        assert!(proof.titles_and_texts().any(|text| unescape(text) == name), "{name}");
        assert_eq!(proof.elements.iter().filter(|element| element.name == "script").count(), 1, "{name}");
    }
    for path in ["/proofs/%00", "/proofs/%E2%80%AE", "/proofs/%ff", &format!("/proofs/{}", "a".repeat(200))] {
        let answer = site.get(path);
        assert!([400, 404].contains(&answer.status()), "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains('\u{202e}'));
    }
}

/// A record on disk may have any text as the module's owner.
#[test]
fn what_turns_the_direction_of_writing_is_written_out() {
    let site = Site::start();
    let digest = site.add_as("", GUEST);
    let record = site.here.path(format!("node-data/state/modules/{digest}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"owner\"", "\"\u{202e}<b>\\u001b[2J\"")).unwrap();
    let part = site.page("/page/modules");
    assert!(part.text.contains("\\u{202e}&lt;b&gt;\\u{1b}[2J"), "{}", part.text);
    std::fs::write(&record, "{").unwrap();
    let part = site.page("/page/modules");
    assert!(part.text.contains("its record is damaged") && part.text.contains(&digest), "{}", part.text);
}

#[test]
fn a_proof_is_shown_as_it_is() {
    let site = Site::start();
    let ran = site.run("workload=transcode&id=a%2Fb", b"slice");
    let page = site.page("/proofs/a%2Fb");
    let json = page.text.split("<pre").nth(1).and_then(|rest| rest.split_once('>')?.1.split("</pre>").next()).unwrap();
    let shown = SliceProof::from_json(unescape(json).as_bytes()).unwrap();
    let kept = site.ask("GET /v1/proofs/a%2Fb", "accept: application/vnd.compute-host.proof\r\n", b"").body;
    assert_eq!(shown.to_bytes(), kept);
    for member in ["claim", "proof", "signer", "signature"] {
        let value = ran[member].as_str().unwrap();
        assert!(page.titles_and_texts().any(|text| text == value), "{member}");
    }
    let downloads: Vec<_> = page.elements.iter().filter_map(|element| element.attribute("data-download")).collect();
    assert_eq!(downloads, ["/v1/proofs/a%2Fb"; 2]);
}

#[test]
fn the_newest_proofs_are_shown_first_and_not_all() {
    let site = Site::start();
    for number in 0..23 {
        site.run(&format!("workload=transcode&id=slice-{number}"), b"slice");
    }
    let part = site.page("/page/proofs");
    let shown: Vec<_> = part.elements.iter().filter_map(|element| element.attribute("href")).collect();
    let expected: Vec<String> = (3..23).rev().map(|number| format!("/proofs/slice%2D{number}")).collect();
    assert_eq!(shown, expected);
}

#[test]
fn offers_are_shown_as_bands_and_as_a_plot() {
    let site = Site::start();
    assert!(site.page("/page/prices").text.contains("No offer has come"));
    for (at, price) in [100, 500, 200, 400, 300].iter().enumerate() {
        let few = site.page("/page/prices");
        assert!(!few.text.contains("class=\"band\""));
        let offer = format!("{{\"price\": {price}, \"lane\": \"transcode\", \"provider\": \"p{at}\"}}");
        let told = site.ask("POST /v1/prices", "content-type: application/json\r\n", offer.as_bytes());
        assert_eq!(told.status(), 201, "{}", String::from_utf8_lossy(&told.body));
    }
    let part = site.page("/page/prices");
    let cells = "data-label=\"Lower quartile\">200</td><td class=\"number\" data-label=\"Median\">300</td>\
                 <td class=\"number\" data-label=\"Upper quartile\">400</td>";
    assert_eq!(part.text.matches(cells).count(), 2, "in its lane and over all: {}", part.text);
    assert_eq!(part.elements.iter().filter(|element| element.is("class", "offer")).count(), 5);
    let plot = part.elements.iter().find(|element| element.name == "svg").unwrap();
    assert_eq!((plot.attribute("role"), plot.attribute("xmlns")), (Some("img"), None));
    assert!(plot.is("aria-label", "Prices of 5 offers over time, from 100 to 500"), "{plot:?}");
}

/// Percent-encodes `text` for an address, including every character that can be.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte.is_ascii_alphanumeric() {
            true => encoded.push(char::from(byte)),
            false => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

/// The browser script cannot compute the token's hash itself.
#[test]
fn the_script_that_clicks_through_has_a_token() {
    let script = std::fs::read_to_string(root().join("tests/page/click_through.py")).unwrap();
    assert!(script.contains(&format!("TOKEN_HASH = \"{}\"", Secret::hash("click-through"))));
}
