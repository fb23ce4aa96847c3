use std::fmt::Write as _;

use compute_guest::{Failure, input, output};

fn word_count() -> Result<(), Failure> {
    let (mut lines, mut words, mut in_word) = (0_u64, 0_u64, false);
    let (mut reader, mut buffer) = (input().reader(), [0; 65_536]);
    while let Some(window) = reader.next_window(&mut buffer) {
        for byte in window {
            let was_in_word = std::mem::replace(&mut in_word, !byte.is_ascii_whitespace());
            words += u64::from(in_word && !was_in_word);
            lines += u64::from(*byte == b'\n');
        }
    }
    writeln!(output(), r#"{{"lines":{lines},"words":{words}}}"#)?;
    Ok(())
}

compute_guest::run!(word_count);
