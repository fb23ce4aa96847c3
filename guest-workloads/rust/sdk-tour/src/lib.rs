//! A guest that uses everything in `compute-guest`, so that the node's tests can check that each
//! call reaches the host. The job's arguments choose the part.

#![deny(unsafe_code)]

use std::io::{Read as _, Write as _};

use compute_guest::{Failure, Hasher, args, asset, blake3, commit, input, input_blake3, input_digest, log, output};

fn tour() -> Result<(), Failure> {
    let mut command = String::new();
    args().reader().read_to_string(&mut command)?;
    match &*command {
        "read" => read()?,
        "hash" => hash(),
        "commit" => commit(&blake3(b"committed")),
        "log" => log("a line"),
        "code" => return Err(Failure::code(-7)),
        "panic" => panic!("a panic of {} words", 5),
        "two hashers" => _ = (Hasher::new(), Hasher::new()),
        number => _ = number.parse::<u32>()?,
    }
    Ok(())
}

/// Writes the ends of the slice, and every asset preceded by its length.
fn read() -> Result<(), Failure> {
    let mut bytes = [0; 4];
    for offset in [0, input().len() - 2, u64::MAX] {
        let count = input().read(offset, &mut bytes);
        output().append(&bytes[..count]);
        output().append(b"|");
    }
    for asset in (0..).map_while(asset) {
        let mut content = Vec::new();
        asset.reader().read_to_end(&mut content)?;
        write!(output(), "{} {} ", asset.len(), asset.is_empty())?;
        output().append(&content);
        output().append(b"|");
    }
    Ok(())
}

/// Writes five digests: the slice's in three ways, its first kilobyte's, and that of no bytes.
fn hash() {
    let (mut whole, mut hasher, mut reader, mut window) = (Vec::new(), Hasher::new(), input().reader(), [0; 1000]);
    while let Some(bytes) = reader.next_window(&mut window) {
        hasher.update(bytes);
        whole.extend_from_slice(bytes);
    }
    for digest in [input_digest(), hasher.finish(), blake3(&whole), input_blake3(0..1024), Hasher::new().finish()] {
        output().append(&digest);
    }
}

compute_guest::run!(tour);
