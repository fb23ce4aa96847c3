//! What a compiler may use, by the length of what it is given.

use std::time::Duration;

use crate::sandbox::confine::Bounds;
use crate::sandbox::text::Form;

/// Ordinary code costs 0.8 to 1.4 s of CPU a MiB, and the gate admits nothing that costs more than
/// four times that: this is twice the dearest, and a start.
const CPU_SECONDS: u64 = 5;
const CPU_SECONDS_A_MIB: u64 = 10;
/// Text is read at some 10 MiB a second; some of it costs the square of its length, and is not read
/// to its end.
const CPU_SECONDS_A_MIB_OF_TEXT: u64 = 1;
/// On a machine that is busy, a second of CPU takes longer.
const DEADLINE_FACTOR: u32 = 4;
/// Real modules of up to 4 MiB take at most 400 MiB with the meter in them, and of all shapes that
/// the gate admits, none takes more than this when it fills 4 MiB (docs/limits.md). A node that
/// takes larger ones has to give their compiler more.
const MEMORY_BYTES_A_4_MIB: u64 = 768 << 20;
/// What a byte of ordinary text takes while it is read, and half as much again.
const MEMORY_A_BYTE_OF_TEXT: u64 = 32;

/// What a child may use for `bytes` of one form, of which the gate admits a module of
/// `module_bytes_max`.
pub fn bounds(form: Form, bytes: u64, module_bytes_max: u64) -> Bounds {
    let text_bytes = if form == Form::Text { bytes } else { 0 };
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
        let binary = |bytes| of(Form::Binary, bytes);
        assert_eq!((binary(1), binary(1 << 20), binary(4 << 20)), ((15, 768), (15, 768), (45, 768)));
        assert_eq!((binary((4 << 20) + 1), binary(16 << 20)), ((55, 1536), (165, 3072)));
        assert_eq!(of(Form::Text, 4 << 20), (49, 768 + 128), "reading text comes on top");
        assert_eq!(
            bounds(Form::Text, 16 << 20, 4 << 20).cpu_seconds,
            5 + 40 + 16,
            "the module is no longer than admitted"
        );
    }
}
