//! `node compute proof validate`: checks form and signature, names the signer, and runs nothing.

use serde_json::json;

use super::{proof, test_key};
use crate::common::Workplace;
use compute_host::sandbox::Outcome;

/// Creates a directory with both forms of a golden proof, and a proof by its own node.
fn place() -> (Workplace, String) {
    let here = Workplace::new();
    here.file("golden.proof", proof(Outcome::Done).to_bytes());
    here.file("golden.json", format!("{:#}\n", proof(Outcome::Done).to_json()));
    here.file("transcode.slice", "a slice");
    here.run("compute run --out . transcode.slice").output();
    let own = here.run("key show --json").json()[0]["public_key"].as_str().unwrap().to_owned();
    (here, own)
}

#[test]
fn a_valid_proof_is_named_with_its_signer() {
    let (here, own) = place();
    let golden = test_key().public();
    let expected = format!(
        "transcode.slice.proof: valid, signed by {own} (this node)\n\
         golden.proof: valid, signed by {golden} (an unknown key)\n\
         golden.json: valid, signed by {golden} (an unknown key)\n"
    );
    here.run("compute proof validate transcode.slice.proof golden.proof golden.json").is(0, &expected, "");

    here.run(&format!("key trust add studio-b {golden}")).output();
    let expected = format!("golden.json: valid, signed by {golden} (trusted as studio-b)\n");
    here.run("compute proof validate golden.json").is(0, &expected, "");
    let claim = proof(Outcome::Done).claim_digest();
    let object = json!({
        "file": "golden.json", "valid": true, "signer": golden, "owner": "trusted", "name": "studio-b", "claim": claim,
    });
    assert_eq!(here.run("compute proof validate --json golden.json").json(), [object]);
}

#[test]
fn the_json_form_that_show_writes_is_valid() {
    let (here, own) = place();
    let json = here.run("compute proof show --json transcode.slice.proof").output();
    here.file("PROOF.json", &json);
    here.run("compute proof validate PROOF.json").is(
        0,
        &format!("PROOF.json: valid, signed by {own} (this node)\n"),
        "",
    );
    assert_eq!(here.run("compute proof show --json PROOF.json").output(), json);
}

#[test]
fn a_signer_can_be_asked_for() {
    let (here, own) = place();
    let golden = test_key().public();
    here.run(&format!("key trust add studio-b {golden}")).output();
    let validate = |signer: &str, file: &str| here.run(&format!("compute proof validate --signer {signer} {file}"));
    for signer in ["studio-b", &golden.to_string()] {
        assert_eq!(validate(signer, "golden.proof").code, 0, "{signer}");
        let said = format!("transcode.slice.proof: not valid: it is signed by {own} (this node), not by `{signer}`\n");
        validate(signer, "transcode.slice.proof").is(1, &said, "");
    }
    assert_eq!(validate("self", "transcode.slice.proof").code, 0);
    assert_eq!(validate("self", "golden.proof").code, 1);
    let unknown = "error: `nobody` is neither a public key (64 lowercase hexadecimal digits) nor the name of a trusted \
                   one; `node key trust list` shows those that are\n";
    validate("nobody", "golden.proof").is(2, "", unknown);

    here.run("key rotate").output();
    assert_eq!(validate("self", "transcode.slice.proof").code, 0, "what it signed before is still its own");
    let said = format!("transcode.slice.proof: valid, signed by {own} (this node, with a former key)\n");
    here.run("compute proof validate transcode.slice.proof").is(0, &said, "");
}

#[test]
fn each_file_is_told_of_and_the_worst_decides() {
    let (here, _) = place();
    let mut forged = proof(Outcome::Done).to_json();
    forged["gas"] = json!(1);
    here.file("forged.json", forged.to_string());
    here.file("text\x1b[2J", "text");
    let run = |arguments: &[&str]| {
        let ran = here.node([&["compute", "proof", "validate"], arguments].concat());
        (ran.code, ran.stdout, ran.stderr)
    };
    let forged = "forged.json: not valid: its signature is not its signer's: it was changed after it was signed, or is \
                  forged\n";
    assert_eq!(run(&["forged.json"]), (1, forged.to_owned(), String::new()));
    let text = "text\\u{1b}[2J: not valid: not a slice proof: it does not begin with `SLCPROOF`, nor with `{` as its JSON \
                form does\n";
    assert_eq!(run(&["text\x1b[2J"]), (1, text.to_owned(), String::new()));
    let missing = "error: cannot read proof `missing`: No such file or directory (os error 2)\n";
    assert_eq!(run(&["missing", "forged.json"]), (2, forged.to_owned(), missing.to_owned()));
    let (code, stdout, _) = run(&["--json", "forged.json", "missing", "golden.proof"]);
    let lines: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((code, &lines[0]["valid"], &lines[0]["code"]), (2, &json!(false), &json!("not_signed")));
    assert_eq!((&lines[1]["error"]["code"], &lines[2]["valid"]), (&json!("proof_unreadable"), &json!(true)));
    assert_eq!(run(&["."]).0, 2, "a directory is no proof");
}

/// Validation needs no data directory.
#[test]
fn validating_makes_nothing() {
    let here = Workplace::new();
    here.file("golden.proof", proof(Outcome::Done).to_bytes());
    assert_eq!(here.run("compute proof validate golden.proof").code, 0);
    assert!(!here.path("node-data").exists());
}
