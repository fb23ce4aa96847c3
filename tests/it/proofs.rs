//! The format of a proof is a promise: these bytes are read for ever.

use compute_host::proof::SliceProof;

use crate::common::{Workplace, root};

/// Both forms of one proof, from `tests/vectors`. If one of these changes, the format has, and needs a new version.
#[test]
fn the_golden_proofs_are_read_and_written_to_the_byte() {
    for name in ["done", "failed"] {
        let vector = |extension| root().join("tests/vectors").join(format!("proof-v0-{name}.{extension}"));
        let bytes = std::fs::read(vector("proof")).unwrap();
        let proof = SliceProof::from_bytes(&bytes).unwrap();
        assert_eq!(proof.to_bytes(), bytes, "{name}");
        let json = std::fs::read_to_string(vector("json")).unwrap();
        assert_eq!(format!("{:#}\n", proof.to_json()), json, "{name}");
    }
}

#[test]
fn the_golden_proof_is_shown_as_it_always_was() {
    let here = Workplace::new();
    let proof = root().join("tests/vectors/proof-v0-done.proof");
    let shown = std::fs::read_to_string(root().join("tests/vectors/proof-v0-done.txt")).unwrap();
    here.node(["compute".as_ref(), "proof".as_ref(), "show".as_ref(), proof.as_os_str()]).is(0, &shown, "");
}
