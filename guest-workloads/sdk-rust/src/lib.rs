//! SDK for guests: safe functions over the `compute` ABI, and [`run!`], which exports the guest's
//! entry. No dependencies.
//!
//! A guest is a `cdylib` for `wasm32-unknown-unknown`. It reads its slice ([`input`]), may write an
//! [`output`], and may [`commit`] 32 bytes as its proof. Without a commit, the proof is BLAKE3 of
//! the output. This guest proves how many bytes of its slice are zero:
//!
//! ```
//! use std::fmt::Write as _;
//!
//! use compute_guest::{Failure, input, output};
//!
//! fn zeros() -> Result<(), Failure> {
//!     let (mut zeros, mut reader, mut buffer) = (0, input().reader(), [0; 65_536]);
//!     while let Some(window) = reader.next_window(&mut buffer) {
//!         zeros += window.iter().filter(|byte| **byte == 0).count();
//!     }
//!     writeln!(output(), "{zeros}")?;
//!     Ok(())
//! }
//!
//! compute_guest::run!(zeros);
//! ```
//!
//! Each call costs gas: a base and a price per byte, so read windows of some kilobytes, not words.
//! A call that the job does not allow (too much output, a second commit) ends the run.
//!
//! The feature `std`, on by default, implements [`std::io::Read`] and [`std::io::Write`], and logs
//! panic messages. Without it, a guest is `no_std`, and this crate is its panic handler.
//!
//! The module has no start function, imports only functions that it calls, and exports `memory` and
//! `run`. rustc always adds the globals `__data_end` and `__heap_base`, which the node accepts.
//!
//! On other targets everything compiles, and panics when it is called, because there is no host.

#![cfg_attr(not(feature = "std"), no_std)]
#![deny(missing_docs)]

mod abi;

use core::error::Error;
use core::fmt::{self, Write as _};
use core::num::NonZeroI32;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

/// Exports the guest's entry, a `fn() -> Result<(), Failure>`: `run!(function)`. Use it once.
#[macro_export]
macro_rules! run {
    ($function:path) => {
        const _: () = {
            #[allow(unsafe_code)]
            #[cfg_attr(target_arch = "wasm32", unsafe(export_name = "run"))]
            extern "C" fn run() -> i32 {
                $crate::code_of($function)
            }
            // On other targets the function is not exported, and nothing calls it.
            let _ = run;
        };
    };
}

/// BLAKE3 of some bytes.
pub type Digest = [u8; 32];

/// A source of bytes: the slice, the arguments, or an asset. Its bytes never change in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Input,
    Args,
    Asset { index: u32, len: u64 },
}

/// Returns the slice that this run works on.
pub fn input() -> Source {
    Source(Kind::Input)
}

/// Returns the job's arguments: bytes whose meaning the guest defines.
pub fn args() -> Source {
    Source(Kind::Args)
}

/// Returns an asset, such as a model's weights, numbered from 0; `None` if there are fewer.
pub fn asset(index: u32) -> Option<Source> {
    let len = u64::try_from(abi::asset_len(index)).ok()?;
    Some(Source(Kind::Asset { index, len }))
}

impl Source {
    /// Returns the length in bytes.
    pub fn len(self) -> u64 {
        match self.0 {
            Kind::Input => abi::input_len(),
            Kind::Args => abi::args_len(),
            Kind::Asset { len, .. } => len,
        }
    }

    /// Returns true if there are no bytes.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` with the bytes from `offset` on, and returns their number: less than the
    /// length of `buffer` near the end, and 0 after it.
    pub fn read(self, offset: u64, buffer: &mut [u8]) -> usize {
        let (dst, len) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the host writes at most `len` bytes to `dst`, and these are ours to write.
        unsafe {
            match self.0 {
                Kind::Input => abi::input_read(dst, offset, len),
                Kind::Args => abi::args_read(dst, offset, len),
                Kind::Asset { index, .. } => abi::asset_read(index, dst, offset, len),
            }
        }
    }

    /// Returns a reader that starts at the beginning.
    pub fn reader(self) -> Reader {
        Reader { source: self, offset: 0 }
    }
}

/// Reads a [`Source`] from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Reader {
    source: Source,
    offset: u64,
}

impl Reader {
    /// Returns the next bytes, as many as fit into `buffer` and remain; `None` at the end.
    pub fn next_window<'b>(&mut self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        match self.fill(buffer) {
            0 => None,
            count => buffer.get(..count),
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.source.read(self.offset, buffer);
        self.offset += count as u64;
        count
    }
}

#[cfg(feature = "std")]
impl std::io::Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        Ok(self.fill(buffer))
    }
}

/// Returns BLAKE3 of the slice. The host has it before the run, so this is very cheap.
pub fn input_digest() -> Digest {
    input_blake3(0..abi::input_len())
}

/// Returns BLAKE3 of a part of the slice, hashed by the host without copying it. A part that
/// reaches beyond the slice ends the run.
pub fn input_blake3(part: Range<u64>) -> Digest {
    let len = part.end.saturating_sub(part.start);
    // SAFETY: the host writes 32 bytes.
    digest(|dst| unsafe { abi::input_blake3(part.start, len, dst) })
}

/// Returns BLAKE3 of bytes in the guest's memory, hashed by the host.
pub fn blake3(bytes: &[u8]) -> Digest {
    // SAFETY: the host reads `bytes` and writes 32 bytes.
    digest(|dst| unsafe { abi::blake3(bytes.as_ptr(), bytes.len(), dst) })
}

fn digest(write: impl FnOnce(*mut u8)) -> Digest {
    let mut digest = Digest::default();
    write(digest.as_mut_ptr());
    digest
}

/// BLAKE3 of bytes that come in parts, hashed by the host. The host has one hasher for each run, so
/// only one of these can exist at a time.
#[derive(Debug)]
pub struct Hasher(());

static HASHING: AtomicBool = AtomicBool::new(false);

impl Hasher {
    /// Creates a hasher.
    /// # Panics
    /// If another hasher was not finished.
    #[expect(clippy::new_without_default, reason = "a default that can panic is a surprise")]
    pub fn new() -> Self {
        assert!(!HASHING.swap(true, Ordering::Relaxed), "finish one hasher before you begin another");
        Self(())
    }

    /// Hashes some more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // SAFETY: the host reads `bytes`.
        unsafe { abi::blake3_update(bytes.as_ptr(), bytes.len()) }
    }

    /// Returns the digest of all bytes so far.
    pub fn finish(self) -> Digest {
        HASHING.store(false, Ordering::Relaxed);
        // SAFETY: the host writes 32 bytes.
        digest(|dst| unsafe { abi::blake3_finish(dst) })
    }
}

/// Output of the run: use it with `write!`, or call [`Output::append`].
#[derive(Clone, Copy, Debug)]
pub struct Output(());

/// Returns the output of this run. Writes append to it.
pub fn output() -> Output {
    Output(())
}

impl Output {
    /// Appends bytes to the output. Exceeding the job's limit ends the run.
    pub fn append(self, bytes: &[u8]) {
        // SAFETY: the host reads `bytes`.
        unsafe { abi::output_write(bytes.as_ptr(), bytes.len()) }
    }
}

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text.as_bytes());
        Ok(())
    }
}

#[cfg(feature = "std")]
impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Commits 32 bytes as the proof, instead of BLAKE3 of the output. A second call ends the run.
pub fn commit(proof: &Digest) {
    // SAFETY: the host reads 32 bytes.
    unsafe { abi::proof_commit(proof.as_ptr()) }
}

/// Logs a line for the operator. The guest does not learn if it was cut off.
pub fn log(line: &str) {
    // SAFETY: the host reads `line`.
    unsafe { abi::log(line.as_ptr(), line.len()) }
}

/// A failure of the guest with its own code: a result like any other, and as reproducible. `?`
/// turns an error into a failure with code 1, and logs its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure(NonZeroI32);

impl Failure {
    /// Creates a failure.
    /// # Panics
    /// If the code is 0, which means success.
    pub const fn code(code: i32) -> Self {
        Self(NonZeroI32::new(code).expect("0 is no failure's code"))
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        log_displayed(&error);
        Self::code(1)
    }
}

/// Function that [`run!`] exports.
#[doc(hidden)]
pub fn code_of(function: fn() -> Result<(), Failure>) -> i32 {
    #[cfg(all(target_arch = "wasm32", feature = "std"))]
    std::panic::set_hook(Box::new(|panic| log_displayed(panic)));
    function().map_or_else(|failure| failure.0.get(), |()| 0)
}

/// Panic handler without `std`. A guest that formats nothing needs no code for it.
#[cfg(all(target_arch = "wasm32", not(feature = "std")))]
#[panic_handler]
fn panicked(panic: &core::panic::PanicInfo<'_>) -> ! {
    log(panic.message().as_str().unwrap_or("the guest panicked"));
    core::arch::wasm32::unreachable()
}

/// Longest line in the log.
const LINE_BYTES_MAX: usize = 512;

/// A line that needs no allocator; text that does not fit is cut off.
struct Line {
    bytes: [u8; LINE_BYTES_MAX],
    len: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(LINE_BYTES_MAX - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        if fits == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Line {
    fn displaying(value: &dyn fmt::Display) -> Self {
        let mut line = Self { bytes: [0; LINE_BYTES_MAX], len: 0 };
        // An error only means that text was cut off.
        let _ = write!(line, "{value}");
        line
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

fn log_displayed(value: &dyn fmt::Display) {
    log(Line::displaying(value).text());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_becomes_a_code() {
        assert_eq!(code_of(|| Ok(())), 0);
        assert_eq!(code_of(|| Err(Failure::code(-7))), -7);
    }

    #[test]
    #[should_panic(expected = "0 is no failure's code")]
    fn no_failure_looks_like_success() {
        Failure::code(0);
    }

    #[test]
    fn a_long_line_ends_between_characters() {
        assert_eq!(Line::displaying(&"short").text(), "short");
        assert_eq!(Line::displaying(&"ß".repeat(300)).text(), "ß".repeat(256));
        assert_eq!(Line::displaying(&format!("a{}", "ß".repeat(300))).text(), format!("a{}", "ß".repeat(255)));
    }
}
