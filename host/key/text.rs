//! Text format of the key files: a title with the version, then one line for each field with its
//! name, a space, and its value. Each content has exactly one encoding, because two encodings would
//! have two different signatures.

use std::str::FromStr;

/// Reason why bytes are not the expected text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotItsText {
    #[error("its first line is not `{0}`")]
    Title(&'static str),
    #[error("line {line} is not `{name}` and its value")]
    Field { line: usize, name: &'static str },
    #[error("it ends early, or something follows its end")]
    End,
    #[error("its checksum does not fit its content")]
    Checksum,
    #[error("its public key is not that of its secret")]
    Pair,
}

/// Writer of a text.
pub struct FieldWriter(String);

impl FieldWriter {
    pub fn new(title: &'static str) -> Self {
        Self(format!("{title}\n"))
    }

    pub fn field(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        self.0.push_str(&format!("{name} {value}\n"));
        self
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    pub fn finish(self) -> String {
        self.0
    }
}

/// Reader of a text, field by field.
pub struct FieldReader<'a> {
    text: &'a str,
    /// Offset of the next line, and the number of the current one.
    at: usize,
    line: usize,
}

impl<'a> FieldReader<'a> {
    pub fn new(bytes: &'a [u8], title: &'static str) -> Result<Self, NotItsText> {
        let text = std::str::from_utf8(bytes).map_err(|_| NotItsText::Title(title))?;
        let rest = text.strip_prefix(title).and_then(|rest| rest.strip_prefix('\n'));
        rest.ok_or(NotItsText::Title(title))?;
        Ok(Self { text, at: title.len() + 1, line: 1 })
    }

    /// Returns the value of the next field. The field must have this name, and its value must have
    /// its canonical form.
    pub fn field<T: FromStr + ToString>(&mut self, name: &'static str) -> Result<T, NotItsText> {
        self.line += 1;
        let wrong = NotItsText::Field { line: self.line, name };
        let (line, _) = self.text[self.at..].split_once('\n').ok_or(NotItsText::End)?;
        let value = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).ok_or(wrong.clone())?;
        let parsed: T = value.parse().map_err(|_| wrong.clone())?;
        if parsed.to_string() != value {
            return Err(wrong);
        }
        self.at += line.len() + 1;
        Ok(parsed)
    }

    /// Returns all text before the current position.
    pub fn before(&self) -> &'a str {
        &self.text[..self.at]
    }

    pub fn end(self) -> Result<(), NotItsText> {
        if self.at == self.text.len() { Ok(()) } else { Err(NotItsText::End) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLE: &str = "compute-host test v1";

    fn read(text: &str) -> Result<(u64, String), NotItsText> {
        let mut reader = FieldReader::new(text.as_bytes(), TITLE)?;
        let fields = (reader.field("number")?, reader.field("word")?);
        reader.end()?;
        Ok(fields)
    }

    #[test]
    fn a_content_has_one_text() {
        let text = FieldWriter::new(TITLE).field("number", 7).field("word", "a b").finish();
        assert_eq!(text, "compute-host test v1\nnumber 7\nword a b\n");
        assert_eq!(read(&text), Ok((7, "a b".to_owned())));
        for (from, to, why) in [
            ("test v1", "test v2", NotItsText::Title(TITLE)),
            ("test v1", "test v1 ", NotItsText::Title(TITLE)),
            ("number 7", "number 07", NotItsText::Field { line: 2, name: "number" }),
            ("number 7", "number +7", NotItsText::Field { line: 2, name: "number" }),
            ("number 7", "number  7", NotItsText::Field { line: 2, name: "number" }),
            ("number 7", "number 7\r", NotItsText::Field { line: 2, name: "number" }),
            ("number 7", "number 18446744073709551616", NotItsText::Field { line: 2, name: "number" }),
            ("number", "Number", NotItsText::Field { line: 2, name: "number" }),
            ("word", "words", NotItsText::Field { line: 3, name: "word" }),
            ("a b\n", "a b", NotItsText::End),
            ("a b\n", "a b\n\n", NotItsText::End),
        ] {
            assert_eq!(read(&text.replacen(from, to, 1)), Err(why), "{from:?} as {to:?}");
        }
    }
}
