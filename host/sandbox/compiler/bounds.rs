//! Bounds of a compiler's CPU time and memory, by the length of its input.

use std::time::Duration;

use crate::sandbox::confine::Bounds;
use crate::sandbox::text::TextOrBinary;

/// Bounds of CPU time. Ordinary code costs 0.8 to 1.4 s of CPU per MiB, and the gate admits at most
/// four times that. The bound is twice the most expensive code, plus a start.
const CPU_SECONDS: u64 = 5;
const CPU_SECONDS_A_MIB: u64 = 10;
/// Text is read at about 10 MiB per second. Some text costs the square of its length; such text is
/// not read to its end.
const CPU_SECONDS_A_MIB_OF_TEXT: u64 = 1;
/// Deadline in multiples of the CPU bound. On a busy machine, one second of CPU takes longer than a
/// second.
const DEADLINE_FACTOR: u32 = 4;
/// Metered modules of up to 4 MiB, from real programs, take at most 400 MiB. No admitted shape of 4
/// MiB takes more than this bound (docs/limits.md). A node that admits larger modules must give
/// their compiler more.
const MEMORY_BYTES_A_4_MIB: u64 = 768 << 20;
/// Memory for each byte of text: 1.5 times what ordinary text takes while it is read.
const MEMORY_A_BYTE_OF_TEXT: u64 = 32;

/// Computes the bounds of a child for `bytes` of one form. The gate admits modules of at most
/// `module_bytes_max`.
pub fn bounds(form: TextOrBinary, bytes: u64, module_bytes_max: u64) -> Bounds {
    let text_bytes = if form == TextOrBinary::Text { bytes } else { 0 };
    let mib = bytes.min(module_bytes_max).div_ceil(1 << 20);
    Bounds {
        cpu_seconds: CPU_SECONDS + CPU_SECONDS_A_MIB * mib + CPU_SECONDS_A_MIB_OF_TEXT * text_bytes.div_ceil(1 << 20),
        memory_bytes: MEMORY_BYTES_A_4_MIB * mib.div_ceil(4) + MEMORY_A_BYTE_OF_TEXT * text_bytes,
    }
}

pub fn deadline(bounds: Bounds) -> Duration {
    Duration::from_secs(bounds.cpu_seconds) * DEADLINE_FACTOR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_modules_get_more_of_the_machine() {
        let of = |form, bytes| {
            let bounds = bounds(form, bytes, 16 << 20);
            (bounds.cpu_seconds, bounds.memory_bytes >> 20)
        };
        let binary = |bytes| of(TextOrBinary::Binary, bytes);
        assert_eq!((binary(1), binary(1 << 20), binary(4 << 20)), ((15, 768), (15, 768), (45, 768)));
        assert_eq!((binary((4 << 20) + 1), binary(16 << 20)), ((55, 1536), (165, 3072)));
        assert_eq!(of(TextOrBinary::Text, 4 << 20), (49, 768 + 128), "reading text comes on top");
        assert_eq!(
            bounds(TextOrBinary::Text, 16 << 20, 4 << 20).cpu_seconds,
            5 + 40 + 16,
            "the module is no longer than admitted"
        );
    }
}
