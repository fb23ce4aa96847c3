//! Variant of `inference.wat` that sees the bytes, as a model would: it reads the tensor through a
//! window and hashes that. Both have the same proof.

#![cfg_attr(target_arch = "wasm32", no_std)]
#![deny(unsafe_code)]

use compute_guest::{Failure, Hasher, commit, input};

fn inference() -> Result<(), Failure> {
    let (mut hasher, mut reader, mut buffer) = (Hasher::new(), input().reader(), [0; 65_536]);
    while let Some(window) = reader.next_window(&mut buffer) {
        hasher.update(window);
    }
    commit(&hasher.finish());
    Ok(())
}

compute_guest::run!(inference);
