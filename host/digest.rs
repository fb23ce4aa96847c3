//! BLAKE3 digests: one value that identifies some bytes, wherever bytes must be compared.
//!
//! BLAKE3 is a tree over 1 KiB chunks (specification:
//! <https://github.com/BLAKE3-team/BLAKE3-specs>). `Tree` uses this: it hashes a long input on
//! several threads and keeps the chaining value of each group. So a later read of any part can be
//! checked against the digest in the proof.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use blake3::hazmat::{self, ChainingValue, HasherExt as _};
use rayon::prelude::*;

/// A BLAKE3 digest of 32 bytes. Human-readable formats use 64 lowercase hexadecimal digits; binary
/// formats use the bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of `bytes`, as `b3sum` prints it.
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }

    /// Returns a digest in its own domain (the `derive_key` mode of BLAKE3). Equal bytes in two
    /// contexts have unrelated digests.
    pub fn in_domain(context: &'static str, bytes: &[u8]) -> Self {
        blake3::derive_key(context, bytes).into()
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Compares with `other` in a time that does not depend on either.
    pub fn is_in_constant_time(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a BLAKE3 digest: 64 hexadecimal digits are expected")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        blake3::Hash::from_hex(text).map(Self::from).map_err(|_| NotADigest(text.to_owned()))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Incremental hasher for bytes that arrive in pieces.
#[derive(Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(&self) -> Digest {
        self.0.finalize().into()
    }
}

/// A secret by which this node recognises its own files (the keyed mode of BLAKE3).
pub struct MacKey([u8; 32]);

impl MacKey {
    pub const BYTES: usize = 32;

    pub const fn new(secret: [u8; Self::BYTES]) -> Self {
        Self(secret)
    }

    /// Authenticates `name` and `bytes` together.
    pub fn mac(&self, name: &Digest, bytes: &[u8]) -> [u8; 32] {
        *self.hash(name, bytes).as_bytes()
    }

    /// Compares in constant time.
    pub fn verifies(&self, name: &Digest, bytes: &[u8], mac: [u8; 32]) -> bool {
        self.hash(name, bytes) == blake3::Hash::from_bytes(mac)
    }

    fn hash(&self, name: &Digest, bytes: &[u8]) -> blake3::Hash {
        blake3::Hasher::new_keyed(&self.0).update(name.as_bytes()).update(bytes).finalize()
    }
}

/// Thread pool that hashes long inputs: started at the first long input, and shared by all.
pub struct HashThreads {
    count: usize,
    pool: OnceLock<Option<rayon::ThreadPool>>,
}

impl HashThreads {
    pub const fn new(count: usize) -> Self {
        Self { count, pool: OnceLock::new() }
    }

    /// Runs `work` in the pool, so that rayon's iterators use its threads. With only one thread, or
    /// if the system refuses more, `work` runs on the caller's thread.
    fn install<R: Send>(&self, work: impl FnOnce(bool) -> R + Send) -> R {
        let pool = self.pool.get_or_init(|| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(self.count);
            (self.count > 1).then(|| threads.thread_name(|n| format!("hash-{n}")).build().ok()).flatten()
        });
        match pool {
            Some(pool) => pool.install(|| work(true)),
            None => work(false),
        }
    }
}

/// Bytes of a group: the maximum cost of one checked read of a long input. The tree stores 32 bytes
/// for each group. The size is a power of two of chunks, so that each group is a subtree. Smaller
/// groups hash measurably slower (`benches/`).
pub const GROUP_BYTES: usize = 256 * 1024;

/// The digest of a long input, with the chaining value of each group.
pub struct Tree {
    bytes: u64,
    groups: Vec<ChainingValue>,
    root: Digest,
}

impl Tree {
    /// Hashes an input of `bytes` bytes, which must be more than one group. `read(offset, buffer)`
    /// fills the buffer; it is called in any order and from several threads. The first error ends
    /// the hashing.
    pub fn build<E: Send>(
        bytes: u64,
        threads: &HashThreads,
        read: impl Fn(u64, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        assert!(bytes > GROUP_BYTES as u64, "one group alone has a root, not a chaining value");
        let group = |buffer: &mut Vec<u8>, index: u64| {
            let offset = index * GROUP_BYTES as u64;
            let part = &mut buffer[..group_len(bytes, index)];
            read(offset, part)?;
            Ok(chaining_value(offset, part))
        };
        let buffer = || vec![0; GROUP_BYTES];
        let count = bytes.div_ceil(GROUP_BYTES as u64);
        let groups: Vec<ChainingValue> = threads.install(|parallel| {
            if parallel {
                (0..count).into_par_iter().map_init(buffer, group).collect::<Result<_, E>>()
            } else {
                let mut buffer = buffer();
                (0..count).map(|index| group(&mut buffer, index)).collect()
            }
        })?;
        let root = merge_root(&groups);
        Ok(Self { bytes, groups, root })
    }

    pub const fn root(&self) -> Digest {
        self.root
    }

    /// Returns the length of the group at `index`, in bytes. Only the last group can be short.
    pub fn group_len(&self, index: u64) -> usize {
        group_len(self.bytes, index)
    }

    /// Returns whether `bytes` are the content of the group at `index`.
    pub fn holds(&self, index: u64, bytes: &[u8]) -> bool {
        self.groups[index as usize] == chaining_value(index * GROUP_BYTES as u64, bytes)
    }
}

fn group_len(bytes: u64, index: u64) -> usize {
    (bytes - index * GROUP_BYTES as u64).min(GROUP_BYTES as u64) as usize
}

fn chaining_value(offset: u64, bytes: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// Splits into subtrees. In a BLAKE3 tree, the left subtree is the largest power of two that leaves
/// something for the right one.
fn split(groups: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    groups.split_at(groups.len().div_ceil(2).next_power_of_two())
}

fn merge_root(groups: &[ChainingValue]) -> Digest {
    let (left, right) = split(groups);
    hazmat::merge_subtrees_root(&merge(left), &merge(right), hazmat::Mode::Hash).into()
}

fn merge(groups: &[ChainingValue]) -> ChainingValue {
    if let [only] = groups {
        return *only;
    }
    let (left, right) = split(groups);
    hazmat::merge_subtrees_non_root(&merge(left), &merge(right), hazmat::Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_the_digest_of_its_bytes() {
        let bytes: Vec<u8> =
            (0..9 * GROUP_BYTES as u32 + 77).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let g = GROUP_BYTES;
        for len in [g + 1, 2 * g - 1, 2 * g, 2 * g + 1, 3 * g, 4 * g + 1023, 5 * g, 8 * g, 9 * g + 77] {
            for threads in [1, 2, 3] {
                let tree = Tree::build(len as u64, &HashThreads::new(threads), |offset, part| {
                    part.copy_from_slice(&bytes[offset as usize..][..part.len()]);
                    Ok::<(), ()>(())
                });
                assert_eq!(tree.unwrap().root(), Digest::of(&bytes[..len]), "{len} bytes, {threads} threads");
            }
        }
    }

    #[test]
    fn a_tree_notices_one_changed_bit() {
        let bytes = vec![7; GROUP_BYTES + 5];
        let copy = |offset: u64, part: &mut [u8]| -> Result<(), ()> {
            part.copy_from_slice(&bytes[offset as usize..][..part.len()]);
            Ok(())
        };
        let tree = Tree::build(bytes.len() as u64, &HashThreads::new(1), copy).unwrap();
        let mut last = bytes[GROUP_BYTES..].to_vec();
        assert!(tree.holds(1, &last));
        last[4] ^= 1;
        assert!(!tree.holds(1, &last));
    }
}
