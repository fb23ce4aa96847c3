//! Metrics of a node that is at work, or under attack.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use compute_host::key::NodeKey;
use compute_host::metrics::{MetricKind, TABLE};

use super::access::{bearer, token};
use super::{ECHO, Service};
use crate::courier::wire::{delivery, exchange, request};
use crate::serving::wait_for;

/// A guest that ends only when its gas is spent.
const ENDLESS: &str =
    r#"(module (memory (export "memory") 1) (func (export "run") (result i32) (loop (br 0)) (i32.const 0)))"#;

/// A module that the gate refuses, because it exports no memory.
const REFUSED: &str = r#"(module (func (export "run") (result i32) (i32.const 0)))"#;

impl Service {
    fn scrape(&self) -> Scrape {
        let answer = self.get("/metrics");
        assert_eq!((answer.status(), &*answer.headers["content-type"]), (200, "text/plain; version=0.0.4"));
        Scrape(String::from_utf8(answer.body).unwrap())
    }

    fn offer(&self, price: u64, lane: &str, provider: &str) {
        let body = format!(r#"{{"price":{price},"lane":"{lane}","provider":"{provider}"}}"#);
        let json = [("content-type", "application/json")];
        assert_eq!(self.ask("POST /v1/prices", &json, body.as_bytes()).status(), 201);
    }

    fn accept_status(&self, query: &str) -> u16 {
        self.ask(&format!("POST /v1/slices?{query}"), &[("prefer", "respond-async")], b"").status()
    }
}

struct Scrape(String);

impl Scrape {
    /// Returns the series, each as a name with its labels.
    fn series(&self) -> BTreeSet<&str> {
        self.0.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect()
    }

    #[track_caller]
    fn is(&self, series: &str, value: f64) {
        let found = self.0.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
        assert_eq!(found, Some(value), "{series} in\n{}", self.0);
    }
}

/// Starts a node that has processed each kind of request.
fn busy() -> Service {
    let service = Service::with("[queue]\nentries_max = 3\n[limits]\ngas = 1000000000000000\n");
    service.transcode(b"a slice");
    service.transcode(b"a slice");
    service.post("/v1/slices?workload=transcode&id=one", b"a slice");
    assert_eq!(service.post("/v1/slices?workload=transcode&id=one", b"another").status(), 409);
    assert_eq!(service.post("/v1/modules?name=echo", ECHO.as_bytes()).status(), 201);
    assert_eq!(service.post("/v1/slices?module=echo", b"").status(), 200);
    assert_eq!(service.post("/v1/modules", REFUSED.as_bytes()).status(), 422);
    for (i, provider) in ["anna", "bob", "carol", "anna", "bob"].into_iter().enumerate() {
        service.offer(10 + i as u64, "transcode", provider);
    }
    service.post("/v1/modules?name=endless", ENDLESS.as_bytes());
    for i in 0..3 {
        assert_eq!(service.accept_status(&format!("module=endless&id=endless-{i}")), 202);
    }
    assert_eq!(service.accept_status("module=endless"), 429);
    service
}

#[test]
fn what_a_node_does_is_counted_where_it_belongs() {
    let service = busy();
    let scrape = wait_for("a guest to run", || {
        Some(service.scrape()).filter(|scrape| scrape.0.contains("\nnode_queue_running 3\n"))
    });
    for (series, value) in [
        (r#"node_slices_total{outcome="done",source="run",workload="transcode"}"#, 2.0),
        (r#"node_slices_total{outcome="done",source="memory",workload="transcode"}"#, 1.0),
        (r#"node_slices_total{outcome="slice_id_conflict",source="none",workload="transcode"}"#, 1.0),
        (r#"node_slices_total{outcome="failed",source="run",workload="module"}"#, 1.0),
        (r#"node_slice_duration_seconds_count{workload="transcode"}"#, 2.0),
        (r#"node_guest_duration_seconds_count{workload="module"}"#, 1.0),
        (r#"node_slice_gas_count{workload="transcode"}"#, 2.0),
        (r#"node_cache_hits_total{cache="memory"}"#, 1.0),
        (r#"node_cache_hits_total{cache="store"}"#, 0.0),
        ("node_cache_misses_total", 3.0),
        ("node_queue_waiting", 0.0),
        (r#"node_compilations_total{result="compiled"}"#, 3.0),
        ("node_compile_duration_seconds_count", 3.0),
        (r#"node_gate_refusals_total{rule="no_memory"}"#, 1.0),
        ("node_modules", 2.0),
        (r#"node_http_requests_total{method="POST",route="/v1/modules",status="2xx"}"#, 2.0),
        (r#"node_http_requests_total{method="POST",route="/v1/modules",status="4xx"}"#, 1.0),
        (r#"node_http_request_duration_seconds_count{method="POST",route="/v1/prices"}"#, 5.0),
        (r#"node_http_too_many_requests_total{route="/v1/slices"}"#, 1.0),
        (r#"price_band_p25{lane="transcode"}"#, 11.0),
        (r#"price_band_median{lane="all"}"#, 12.0),
        (r#"price_band_p75{lane="transcode"}"#, 13.0),
        (r#"price_band_samples{lane="inference"}"#, 0.0),
        (r#"price_band_providers{lane="transcode"}"#, 3.0),
        (r#"price_board_load_total{result="fresh"}"#, 1.0),
        (r#"price_board_load_total{result="damaged"}"#, 0.0),
        ("courier_pending", 0.0),
        (concat!(r#"node_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#), 1.0),
    ] {
        scrape.is(series, value);
    }
    assert!(!scrape.series().contains(r#"price_band_median{lane="inference"}"#), "nobody has offered there");
    let started = service.node.metric("node_start_time_seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(now - 600.0 < started && started <= now, "{started}");
    service.node.metric("node_guests_running");
    assert!(service.node.metric("node_modules_bytes") > 100.0);
}

#[test]
fn all_that_is_scraped_stands_in_the_table_and_pleases_prometheus() {
    let scrape = busy().scrape();
    for family in TABLE {
        let declared = format!("# TYPE {} {}\n", family.name, family.kind.name());
        assert!(scrape.0.contains(&declared), "nothing shows {declared}");
    }
    for series in scrape.series() {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let is_of =
            |kind: MetricKind, name: &str| TABLE.iter().find(|family| family.kind == kind && family.name == name);
        let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| name.strip_suffix(suffix));
        let family = base.and_then(|base| is_of(MetricKind::Histogram, base));
        let family = family.or_else(|| is_of(MetricKind::Counter, name)).or_else(|| is_of(MetricKind::Gauge, name));
        let family = family.unwrap_or_else(|| panic!("{name} is not in the table"));
        let mut labels: Vec<&str> = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0)).collect();
        labels.retain(|label| *label != "le");
        let mut declared = family.labels.to_vec();
        declared.sort_unstable();
        assert_eq!(labels, declared, "{series}");
    }
    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        println!("not checked with promtool, which is not here");
        return;
    };
    promtool.stdin.take().unwrap().write_all(scrape.0.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && complaints.is_empty(), "{complaints}");
}

/// Clients can choose any number of names.
#[test]
fn a_flood_of_names_does_not_make_more_series() {
    const FLOOD: usize = 100;
    let service = Service::with("[queue]\nentries_max = 1\n");
    let ask_all = |name: &str| {
        for line in [
            format!("GET /{name}"),
            format!("GET /v1/proofs/{name}"),
            format!("GET /v1/slices/{name}"),
            format!("GET /v1/modules/{name}"),
            format!("DELETE /v1/modules/{name}"),
            format!("POST /v1/modules?name={name}"),
            format!("POST /v1/slices?workload={name}"),
            format!("POST /v1/slices?workload=transcode&id={name}"),
            format!("{} /v1/modules", name.to_uppercase()),
        ] {
            service.ask(&line, &[("x-request-id", name), ("user-agent", name)], b"");
        }
        // One offer is not enough for a band.
        service.offer(1, &crate::common::blake3(name), name);
    };
    ask_all("first");
    // Offers in any lane count in `all`, which at some point has enough of them.
    (0..5).for_each(|i| service.offer(1, "all", &format!("provider{i}")));
    // The scrape is itself a request, which the next scrape shows.
    service.scrape();
    let before = service.scrape();
    (0..FLOOD).for_each(|i| ask_all(&format!("name{i}x")));
    let after = service.scrape();
    let series = before.series();
    let new: Vec<&str> = after.series().into_iter().filter(|one| !series.contains(one)).collect();
    assert!(new.is_empty(), "{new:?}");
    after.is(r#"node_http_requests_total{method="GET",route="none",status="4xx"}"#, 1.0 + FLOOD as f64);
}

/// The metrics name each token that uses the cores, even if its clients disconnect early, and each
/// token that the node refuses.
#[test]
fn what_each_token_uses_and_is_refused_is_told() {
    let ((alice, first), (bob, second)) = (token("alice", "run"), token("bob", "run"));
    let service =
        Service::with(&format!("{first}\nrequests_per_second = 2\n{second}\n[limits]\ngas = 1000000000000000\n"));
    let (alice, bob) = (bearer(&alice), bearer(&bob));
    let ask = |who: &str, line: &str, body: &[u8]| service.ask(line, &[("authorization", who)], body);
    let value = |series: &str| {
        let text = String::from_utf8(ask(&bob, "GET /metrics", b"").body).unwrap();
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<f64>().ok());
        found.unwrap_or(0.0)
    };
    assert_eq!(ask(&bob, "POST /v1/slices?workload=transcode", b"a slice").status(), 200);
    assert_eq!(value("node_token_runs_total{token=\"bob\"}"), 1.0);
    assert_eq!(value("node_token_bytes_total{token=\"bob\"}"), 7.0);
    let gas = value("node_token_gas_total{token=\"bob\"}");
    assert!(gas > 0.0);
    assert_eq!(ask(&bob, "POST /v1/slices?workload=nothing", b"").status(), 422);
    assert_eq!(value("node_token_refusals_total{status=\"4xx\",token=\"bob\"}"), 1.0);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20).map(|_| scope.spawn(|| ask(&alice, "GET /v1/modules", b"").status())).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused > 0, "{statuses:?}");
    assert_eq!(value("node_token_refusals_total{status=\"429\",token=\"alice\"}"), refused as f64);
    assert_eq!(value("node_token_gas_total{token=\"alice\"}"), 0.0);
}

/// A failure of the courier's disk appears in the log and in a metric.
#[test]
fn a_bundle_that_cannot_be_stored_is_logged_and_counted() {
    let service = Service::start();
    let staged = service.here.path("node-data/state/courier/received");
    let _ = std::fs::remove_dir_all(&staged);
    std::fs::write(&staged, b"").unwrap();
    let key = NodeKey::from_secret([5; NodeKey::BYTES]);
    service.here.run(&format!("compute courier peer add alice {}", key.public())).output();
    let own = service.here.run("key show --json").json()[0]["public_key"].as_str().unwrap().parse().unwrap();
    let request = request(b"bundle", &delivery(b"bundle", &key, own), &key);
    let answer = exchange(service.node.address, &request).unwrap();
    assert_eq!(answer.said(), (503, "storage_failed".to_owned()));
    assert_eq!(service.node.count("courier_storage_failures_total"), 1);
    wait_for("the line in the log", || {
        service.node.logged().into_iter().find(|line| line.contains("cannot receive a bundle"))
    });
}
