//! Forged proofs. The forger knows everything public: the format, the domains, the checksum.

use compute_host::digest::Digest;
use compute_host::key::{NodeKey, Signature};
use compute_host::proof::{DecodeError, PROOF_CONTEXT, SliceProof};
use compute_host::sandbox::Outcome;

use super::{proof, test_key, vector};

/// Length after the signed bytes: the signature, and the checksum.
const BEHIND: usize = 64 + 32;

/// Returns the bytes with the correct checksum.
fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 32;
    let checksum = Digest::in_domain("compute-host proof file v1", &bytes[..body]);
    bytes[body..].copy_from_slice(checksum.as_bytes());
    bytes
}

fn with_signature(mut bytes: Vec<u8>, signature: &Signature) -> Vec<u8> {
    let at = bytes.len() - BEHIND;
    bytes[at..][..64].copy_from_slice(signature.as_bytes());
    with_checksum(bytes)
}

fn with_signer(mut bytes: Vec<u8>, signer: &[u8; 32]) -> Vec<u8> {
    let at = bytes.len() - BEHIND - 32;
    bytes[at..][..32].copy_from_slice(signer);
    with_checksum(bytes)
}

#[test]
fn no_flipped_bit_is_read_not_even_with_a_checksum_that_fits() {
    let bytes = proof(Outcome::Done).to_bytes();
    let mut unsigned = 0;
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(SliceProof::from_bytes(&flipped).is_err(), "bit {bit}");
        if bit / 8 < bytes.len() - 32 {
            let error = SliceProof::from_bytes(&with_checksum(flipped)).expect_err("nobody has signed it");
            unsigned += usize::from(error == DecodeError::Signature);
        }
    }
    assert!(unsigned > bytes.len() * 4, "most are well formed, and refused for their signature: {unsigned}");
}

#[test]
fn nothing_shorter_or_longer_is_read() {
    let bytes = proof(Outcome::Failed(-3)).to_bytes();
    for len in 0..bytes.len() {
        assert!(SliceProof::from_bytes(&bytes[..len]).is_err(), "{len} bytes");
        if len >= 32 {
            assert!(SliceProof::from_bytes(&with_checksum(bytes[..len].to_vec())).is_err(), "{len} bytes");
        }
    }
    assert!(SliceProof::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
    assert!(SliceProof::from_bytes(&with_checksum([&bytes[..], &[0; 32]].concat())).is_err());
}

/// With room for padding, a signer could sign one proof in many forms.
#[test]
fn no_signer_can_pad_a_proof() {
    let bytes = proof(Outcome::Done).to_bytes();
    let len = |at: usize| u32::from_le_bytes(bytes[at..][..4].try_into().unwrap()) as usize;
    let claim = 10;
    let observed = claim + 4 + len(claim);
    let signer = observed + 4 + len(observed);
    assert_eq!(&bytes[signer..][..32], test_key().public().as_bytes());
    let padded = |section: Option<usize>, end: usize| {
        let mut padded = bytes[..bytes.len() - BEHIND].to_vec();
        padded.insert(end, 0);
        if let Some(section) = section {
            let longer = u32::try_from(len(section) + 1).unwrap();
            padded[section..][..4].copy_from_slice(&longer.to_le_bytes());
        }
        let signature = test_key().sign(PROOF_CONTEXT, &padded);
        padded.extend([0; BEHIND]);
        SliceProof::from_bytes(&with_signature(padded, &signature))
    };
    for (section, end) in [(Some(claim), observed), (Some(observed), signer), (None, signer + 32)] {
        assert_eq!(padded(section, end), Err(DecodeError::Damaged("something follows its end")), "{end}");
    }
}

#[test]
fn a_claim_that_was_changed_is_not_the_signers() {
    let bytes = proof(Outcome::Done).to_bytes();
    let at = bytes.windows(10).position(|some| some == b"frame-0001").unwrap();
    let mut forged = bytes.clone();
    forged[at..][..10].copy_from_slice(b"frame-0002");
    assert_eq!(
        SliceProof::from_bytes(&forged),
        Err(DecodeError::Damaged("its checksum does not fit its content")),
        "damage is told from forgery"
    );
    assert_eq!(SliceProof::from_bytes(&with_checksum(forged)), Err(DecodeError::Signature));
}

#[test]
fn a_signature_is_its_signers_alone() {
    let bytes = proof(Outcome::Done).to_bytes();
    let thief = NodeKey::from_secret([8; 32]);
    // The thief's key with the signer's signature, and the thief's signature with the signer's key.
    let swapped = with_signer(bytes.clone(), thief.public().as_bytes());
    assert_eq!(SliceProof::from_bytes(&swapped), Err(DecodeError::Signature));
    let signed = thief.sign(PROOF_CONTEXT, &bytes[..bytes.len() - BEHIND]);
    assert_eq!(SliceProof::from_bytes(&with_signature(bytes.clone(), &signed)), Err(DecodeError::Signature));
    // A signature of another proof.
    let other = *proof(Outcome::Failed(1)).signature().as_bytes();
    assert_eq!(SliceProof::from_bytes(&with_signature(bytes, &other.into())), Err(DecodeError::Signature));
}

/// A signature by the node's key for another purpose is not a valid proof.
#[test]
fn a_signature_is_for_one_purpose() {
    let bytes = proof(Outcome::Done).to_bytes();
    let signed = bytes.len() - BEHIND;
    let right = test_key().sign(PROOF_CONTEXT, &bytes[..signed]);
    assert_eq!(with_signature(bytes.clone(), &right), bytes);
    for context in ["compute-host slice proof v2", "compute-host key rotation v1", ""] {
        let wrong = test_key().sign(context, &bytes[..signed]);
        assert_eq!(SliceProof::from_bytes(&with_signature(bytes.clone(), &wrong)), Err(DecodeError::Signature));
    }
}

/// With a key of small order and a signature of zeros, lax verification accepts any message.
#[test]
fn a_signer_that_anybody_can_sign_for_is_refused() {
    let bytes = proof(Outcome::Done).to_bytes();
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    let forged = with_signature(with_signer(bytes.clone(), &identity), &signature.into());
    assert_eq!(SliceProof::from_bytes(&forged), Err(DecodeError::Damaged("its signer is no key")));
    assert_eq!(SliceProof::from_bytes(&with_signature(bytes, &signature.into())), Err(DecodeError::Signature));
}

/// The scalar of a signature plus the order of the group: lax verification accepts that as a second
/// form of the signature.
#[test]
fn a_signature_has_no_second_form() {
    const ORDER: u128 = 0x14de_f9de_a2f7_9cd6_5812_631a_5cf5_d3ed;
    let bytes = proof(Outcome::Done).to_bytes();
    let mut signature = *proof(Outcome::Done).signature().as_bytes();
    let (low, high) = signature[32..].split_at_mut(16);
    let number = |bytes: &[u8]| u128::from_le_bytes(bytes.try_into().unwrap());
    let (sum, carries) = number(low).overflowing_add(ORDER);
    let top = number(high) + (1 << 124) + u128::from(carries);
    low.copy_from_slice(&sum.to_le_bytes());
    high.copy_from_slice(&top.to_le_bytes());
    assert_eq!(SliceProof::from_bytes(&with_signature(bytes, &signature.into())), Err(DecodeError::Signature));
}

#[test]
fn a_proof_of_version_0_is_named_as_that() {
    let bytes = std::fs::read(vector("proof-v0-done.proof")).unwrap();
    assert_eq!(SliceProof::read(&bytes), Err(DecodeError::VersionZero));
    let json = std::fs::read(vector("proof-v0-done.json")).unwrap();
    assert_eq!(SliceProof::read(&json), Err(DecodeError::VersionZero));
}
