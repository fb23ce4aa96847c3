//! JSON form of a proof: it has the same content as the canonical bytes, in exactly one way.

use compute_host::proof::{DecodeError, JSON_BYTES_MAX, SliceProof};
use compute_host::sandbox::Outcome;

use super::proof;

fn json(outcome: Outcome) -> String {
    format!("{:#}", proof(outcome).to_json())
}

/// Replaces `from` by `to` in the JSON form, and returns the decoding error.
#[track_caller]
fn refused(from: &str, to: &str) -> DecodeError {
    let json = json(Outcome::Failed(-3));
    assert!(json.contains(from), "{from} is in the form");
    SliceProof::from_json(json.replacen(from, to, 1).as_bytes()).expect_err(to)
}

#[test]
fn both_forms_are_one_proof() {
    for outcome in [Outcome::Done, Outcome::Failed(i32::MIN), Outcome::OutputLimit] {
        let proof = proof(outcome);
        let back = SliceProof::from_json(json(outcome).as_bytes()).unwrap();
        assert_eq!(back.to_bytes(), proof.to_bytes());
        // The order of keys, and spacing, are free.
        let dense = proof.to_json().to_string();
        assert_eq!(SliceProof::read(dense.as_bytes()).as_ref(), Ok(&proof));
        let (first, rest) = dense.strip_prefix('{').unwrap().split_once(',').unwrap();
        let turned = format!("{{\n{},{first}\t}}\n", rest.strip_suffix('}').unwrap());
        assert_eq!(SliceProof::read(turned.as_bytes()).as_ref(), Ok(&proof));
    }
}

#[test]
fn each_key_stands_there_once_and_no_other() {
    for (from, to) in [
        ("\"gas\": 77", "\"gas\": 77, \"gas\": 77"),
        ("\"version\": 1", "\"version\": 1, \"version\": 1"),
        ("\"bytes\": 7", "\"bytes\": 7, \"bytes\": 7"),
        ("\"code\": \"failed\"", "\"code\": \"done\", \"code\": \"failed\""),
        ("\"gas\": 77", "\"gas\": 77, \"note\": 1"),
        ("\"bytes\": 7", "\"bytes\": 7, \"note\": 1"),
        ("\"failure\": -3", "\"failure\": -3, \"note\": 1"),
        ("\"engine\"", "\"note\": 1, \"engine\""),
        ("\"gas\": 77,", ""),
        ("\"proof\": null,", ""),
        ("\"gas\": 100", "\"fuel\": 100"),
    ] {
        let error = refused(from, to);
        assert!(matches!(error, DecodeError::Json(_)), "{to}: {error:?}");
    }
}

#[test]
fn a_value_is_written_in_one_way() {
    let proof = proof(Outcome::Failed(-3));
    let (signer, signature) = (proof.signer().to_string(), proof.signature().to_string());
    let module = proof.job().module.to_string();
    let array = serde_json::json!([proof.output().blake3, proof.output().bytes]).to_string();
    let object = serde_json::to_string_pretty(&proof.output()).unwrap().replace('\n', "\n  ");
    for (from, to) in [
        (&*signer, &*signer.to_uppercase()),
        (&signature, &signature.to_uppercase()),
        (&module, &module.to_uppercase()),
        (&signer, &signer[2..]),
        (&signature, &format!("{signature}00")),
        (&module, &module[1..]),
        (&module, &format!("{module}0")),
        ("\"gas\": 77", "\"gas\": 77.0"),
        ("\"gas\": 77", "\"gas\": 7.7e1"),
        ("\"gas\": 77", "\"gas\": \"77\""),
        ("\"gas\": 77", "\"gas\": -77"),
        ("\"gas\": 77", "\"gas\": 18446744073709551616"),
        ("\"gas\": 77", "\"gas\": 1e400"),
        ("\"gas\": 77", &format!("\"gas\": {}", "9".repeat(10_000))),
        ("\"failure\": -3", "\"failure\": 4294967293"),
        ("\"failure\": -3", "\"failure\": 0"),
        ("\"failure\": -3", "\"failure\": null"),
        ("\"proof\": null", &format!("\"proof\": \"{module}\"")),
        ("\"slice_id\": \"frame-0001\"", "\"slice_id\": \"frame 0001\""),
        ("\"slice_id\": \"frame-0001\"", "\"slice_id\": \"\""),
        ("\"code\": \"failed\"", "\"code\": \"deadline\""),
        (&object, &array),
        ("\"version\": 1", "\"version\": 01"),
        ("\"version\": 1", "\"version\": true"),
    ] {
        let error = refused(from, to);
        let known = matches!(error, DecodeError::Json(_) | DecodeError::Damaged(_));
        assert!(known, "{to}: {error:?}");
        assert!(error.to_string().len() < 400, "{to}: {error}");
    }
}

/// Values of the right form that were not signed.
#[test]
fn a_changed_value_is_not_the_signers() {
    for (from, to) in [
        ("\"gas\": 77", "\"gas\": 78"),
        ("\"gas\": 100", "\"gas\": 101"),
        ("\"failure\": -3", "\"failure\": -4"),
        ("frame-0001", "frame-0002"),
        ("\"duration_us\": 139", "\"duration_us\": 138"),
        ("cranelift", "craneleft"),
    ] {
        assert_eq!(refused(from, to), DecodeError::Signature, "{to}");
    }
}

/// The claim's digest is redundant, but must be correct.
#[test]
fn a_claim_digest_of_another_claim_is_refused() {
    let (mine, others) = (proof(Outcome::Failed(-3)).claim_digest(), proof(Outcome::Done).claim_digest());
    let error = refused(&mine.to_string(), &others.to_string());
    assert!(matches!(error, DecodeError::Json(_)), "{error:?}");
}

#[test]
fn what_is_no_such_form_is_refused() {
    let json = json(Outcome::Done);
    let nested = format!("{{\"version\": 1, \"job\": {}", "[".repeat(100_000));
    let two = format!("{json}{json}");
    for text in
        ["{", "{}", "{\"version\": 1}", &json[..json.len() - 1], &nested, &two, "{\"version\": 1, \"\u{0}\": 1}"]
    {
        let error = SliceProof::read(text.as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::Json(_)), "{error:?}");
    }
    for text in ["", "[]", "null", " {}", "\u{feff}{}"] {
        assert!(matches!(SliceProof::read(text.as_bytes()), Err(DecodeError::Magic)), "{text:?}");
    }
    assert_eq!(SliceProof::from_json(b"{\"version\": 2, \"new\": 1}"), Err(DecodeError::Version(2)));
    assert!(matches!(SliceProof::from_json(b"{\"version\": 1, \"x\": \"\xff\"}"), Err(DecodeError::Json(_))));
    let wide = json.replacen('{', &format!("{{{}", " ".repeat(JSON_BYTES_MAX)), 1);
    assert!(matches!(SliceProof::from_json(wide.as_bytes()), Err(DecodeError::TooLarge { .. })));
}
