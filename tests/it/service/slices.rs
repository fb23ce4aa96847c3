//! Running slices over HTTP.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use compute_host::proof::SliceProof;
use serde_json::Value;

use super::{ECHO, Service};
use crate::common::{blake3, noise};

#[test]
fn an_answer_holds_a_proof_that_anyone_can_check() {
    let service = Service::start();
    let bytes = noise(1, 3_000_000);
    let mut answer = service.transcode(&bytes);
    assert_eq!((&answer["source"], &answer["proof"]), (&"run".into(), &blake3(&bytes).into()));
    answer.as_object_mut().unwrap().remove("source");
    let proof = SliceProof::from_json(answer.to_string().as_bytes()).unwrap();
    let id = proof.slice_id().as_str();

    let stored = service.get(&format!("/v1/proofs/{id}"));
    assert_eq!(stored.json(), answer);
    let binary = service.ask(&format!("GET /v1/proofs/{id}"), &[("accept", "application/vnd.compute-host.proof")], b"");
    assert_eq!(binary.body, proof.to_bytes());
    service.here.file("a.proof", &binary.body);
    assert_eq!(service.here.run("compute proof validate a.proof").code, 0);
    let spool = service.here.path("node-data/cache/spool");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0, "what was on disk meanwhile is gone");

    assert_eq!(service.transcode(&bytes)["source"], "memory");
    let (here, code) = (service.here, service.node.stop());
    assert_eq!(code, 0);
    assert_eq!(Service::again(here).transcode(&bytes)["source"], "store");
}

#[test]
fn a_guest_is_given_arguments_and_gives_output() {
    let service = Service::start();
    service.post("/v1/modules?name=echo", ECHO.as_bytes());
    let output = [("accept", "application/octet-stream")];
    let said = service.ask("POST /v1/slices?module=echo&arg=a%20b&arg=c", &output, b"slice");
    assert_eq!((said.status(), &*said.body), (200, &b"a b\0c"[..]));
    let proof = SliceProof::from_bytes(&BASE64_STANDARD.decode(&said.headers["slice-proof"]).unwrap()).unwrap();
    assert_eq!((proof.slice_id().as_str(), "done"), (&*said.headers["slice-id"], &*said.headers["slice-outcome"]));
    assert_eq!(proof.output().blake3.to_string(), blake3(&said.body));

    // If only the proof was stored, the slice is run once more for its output.
    let (here, _) = (service.here, service.node.stop());
    let service = Service::again(here);
    assert_eq!(service.ask("POST /v1/slices?module=echo&arg=a%20b&arg=c", &output, b"slice").body, said.body);
}

#[test]
fn a_guests_failure_is_an_answer() {
    let service = Service::start();
    service.post("/v1/modules?name=echo", ECHO.as_bytes());
    let answer = service.post("/v1/slices?module=echo", b"");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json()["outcome"], serde_json::json!({ "code": "failed", "failure": 7 }));
    let poor = service.post("/v1/slices?workload=transcode&gas=1", b"slice").json();
    assert_eq!((&poor["outcome"]["code"], &poor["proof"]), (&"out_of_gas".into(), &Value::Null));
}

#[test]
fn a_form_brings_arguments_and_assets() {
    let service = Service::start();
    service.post("/v1/modules?name=echo", ECHO.as_bytes());
    let form = |parts: &[(&str, &str)]| {
        let parts: String = parts
            .iter()
            .map(|(name, value)| format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"))
            .collect();
        let body = parts + "--x--\r\n";
        let headers = [("content-type", "multipart/form-data; boundary=x")];
        service.ask("POST /v1/slices?module=echo&arg=0", &headers, body.as_bytes())
    };
    let answer = form(&[("arg", "1"), ("asset", "weights"), ("arg", "2"), ("slice", "data")]).json();
    assert_eq!(answer["output"]["blake3"], blake3("0\x001\x002"));
    assert_eq!(answer["job"]["assets"], serde_json::json!([blake3("weights")]));
    assert_eq!(answer["job"]["input"]["blake3"], blake3("data"));
    for wrong in [&[("arg", "1")][..], &[("slice", "a"), ("arg", "1")], &[("other", "a")], &[]] {
        assert_eq!(form(wrong).said(), (422, "malformed".to_owned()), "{wrong:?}");
    }
}

/// Each part may be as long as the documents say, and arrives unchanged.
#[test]
fn a_form_may_be_as_long_as_a_slice() {
    let service = Service::start();
    let (asset, slice) = (noise(1, 3_000_000), noise(2, 5_000_000));
    let part = |name: &str, bytes: &[u8]| {
        let head = format!("--x\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n");
        [head.as_bytes(), bytes, b"\r\n"].concat()
    };
    let body = [part("asset", &asset), part("slice", &slice), b"--x--\r\n".to_vec()].concat();
    let headers = [("content-type", "multipart/form-data; boundary=x")];
    let answer = service.ask("POST /v1/slices?workload=transcode", &headers, &body);
    assert_eq!(answer.status(), 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(answer["job"]["assets"], serde_json::json!([blake3(&asset)]));
    assert_eq!(
        (&answer["job"]["input"]["blake3"], &answer["outcome"]["code"]),
        (&blake3(&slice).into(), &"done".into())
    );
}

#[test]
fn what_cannot_be_run_is_named() {
    let service = Service::with("[serve]\nslice_bytes_max = 1000\n");
    assert_eq!(service.post("/v1/slices?workload=transcode&id=one", b"a").status(), 200);
    for (query, body, said) in [
        ("workload=transcode&id=one", &b"b"[..], (409, "slice_id_conflict")),
        ("workload=transcode", &[0; 1001], (413, "too_large")),
        ("workload=transcod", b"", (422, "unknown_workload")),
        ("module=nothing", b"", (404, "no_such_module")),
        ("module=..%2f..%2fetc", b"", (422, "malformed")),
        ("", b"", (422, "malformed")),
        ("workload=transcode&module=x", b"", (422, "malformed")),
        ("workload=transcode&gsa=1", b"", (422, "malformed")),
        ("workload=transcode&gas=1&gas=2", b"", (422, "malformed")),
        ("workload=transcode&gas=-1", b"", (422, "malformed")),
        ("workload=transcode&id=a%0d%0ab", b"", (422, "malformed")),
        ("workload=transcode&id=", b"", (422, "malformed")),
    ] {
        let answer = service.post(&format!("/v1/slices?{query}"), body);
        assert_eq!(answer.said(), (said.0, said.1.to_owned()), "{query}");
    }
    for path in
        ["/v1/proofs/none", "/v1/proofs/..%2f..%2flock", "/v1/slices/none", "/v1/slices/../proofs", "//v1/proofs/x"]
    {
        assert_eq!(service.get(path).status(), 404, "{path}");
    }
    assert_eq!(service.get("/v1/proofs/%00").said(), (422, "malformed".to_owned()));
}

#[test]
fn an_id_may_hold_what_a_path_may_not() {
    let service = Service::start();
    let answer = service.post("/v1/slices?workload=transcode&id=a/b%3Fc%25", b"a");
    assert_eq!(answer.json()["slice_id"], "a/b?c%");
    assert_eq!(service.get("/v1/proofs/a%2Fb%3Fc%25").json()["slice_id"], "a/b?c%");
}
