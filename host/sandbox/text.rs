//! Form of a received module: binary, text, or another file type that is recognised by its first
//! bytes.

use std::borrow::Cow;

use super::gate::LimitName;

/// Text is about four times as long as the binary form.
pub const TEXT_BYTES_MAX: u64 = 4 * LimitName::ModuleBytes.limit().default;

/// First bytes of a binary module: the magic number and the version of the format.
const PREAMBLE: &[u8] = b"\0asm\x01\0\0\0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextOrBinary {
    Binary,
    Text,
}

/// The reason why some bytes are not a module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAModule {
    #[error("it is empty; a module in its binary or its text form is expected")]
    Empty,
    /// The bytes are fewer than the shortest module has.
    #[error("it breaks off after {0} bytes, within the first 8 of a module; copy, build or download it again")]
    CutOff(usize),
    #[error("it is not WebAssembly: it looks like {what}; {remedy}")]
    Known { what: &'static str, remedy: &'static str },
    #[error(
        "it is not WebAssembly: neither the binary form (`\\0asm`) nor the text form (`(module`) begins so; \
         build the module for wasm32-unknown-unknown"
    )]
    Unknown,
    #[error("the text of the module has {0} bytes; at most {TEXT_BYTES_MAX} are read; bring the binary form")]
    TextTooLarge(usize),
    #[error("reading the text of the module took more than {0}; bring the binary form (`wat2wasm`)")]
    TextTooDear(String),
    /// The parser's message: the expected token, and its line and column.
    #[error("it is not the text of a module: {0}")]
    Text(String),
}

type FormatHint = (&'static [u8], &'static str, &'static str);

const DECOMPRESS: &str = "decompress it first";
const BUILD: &str = "build it for wasm32-unknown-unknown";
const FETCH: &str = "fetch the file itself; what answered was no download";

/// First bytes of files that people often send by mistake.
const KNOWN: &[FormatHint] = &[
    (b"\x1f\x8b", "data compressed with gzip", DECOMPRESS),
    (b"PK\x03\x04", "a zip archive", "take the module out of it first"),
    (b"PK\x05\x06", "an empty zip archive", "take the module out of it first"),
    (b"\x28\xb5\x2f\xfd", "data compressed with zstd", DECOMPRESS),
    (b"\xfd7zXZ\0", "data compressed with xz", DECOMPRESS),
    (b"BZh", "data compressed with bzip2", DECOMPRESS),
    (b"\x04\x22\x4d\x18", "data compressed with lz4", DECOMPRESS),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "take the module out of it first"),
    (b"\x7fELF", "a program or library for one processor (ELF)", BUILD),
    (b"\xfe\xed\xfa\xce", "a program or library for one processor (Mach-O)", BUILD),
    (b"\xfe\xed\xfa\xcf", "a program or library for one processor (Mach-O)", BUILD),
    (b"\xce\xfa\xed\xfe", "a program or library for one processor (Mach-O)", BUILD),
    (b"\xcf\xfa\xed\xfe", "a program or library for one processor (Mach-O)", BUILD),
    (b"\xca\xfe\xba\xbe", "a Mach-O or Java program", BUILD),
    (b"MZ", "a program or library for Windows", BUILD),
    (b"BC\xc0\xde", "LLVM bitcode", "link it with wasm-ld"),
    (b"!<arch>\n", "a library of object files", "link it with wasm-ld"),
    (b"version https://git-lfs.github.com/", "a pointer of Git LFS", "fetch the file with `git lfs pull`"),
    (b"%PDF", "a PDF document", FETCH),
    (b"\x89PNG", "a picture", FETCH),
    (b"SQLite format 3\0", "a database", FETCH),
    (b"#!", "a script", BUILD),
    (b"AGFzbQ", "a module in base64", "decode it first (`base64 -d`)"),
    (b"0061736d", "a module in hexadecimal digits", "decode it first (`xxd -r -p`)"),
    (b"data:", "a data URL", "decode what follows the comma"),
    (b"-----BEGIN ", "a PEM file", FETCH),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"(\0", "text in UTF-16", "save it as UTF-8"),
    (b"\0(", "text in UTF-16", "save it as UTF-8"),
    (b"<", "a page of HTML or XML", FETCH),
    (b"{", "JSON", FETCH),
    (b"[", "JSON", FETCH),
];

/// Offset and magic bytes of a tar archive.
const TAR: (usize, &[u8]) = (257, b"ustar");

/// UTF-8 byte order mark, which some editors write.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the form of `bytes`, from their beginning. The time is linear in the length, even for
/// hostile bytes.
pub fn form_of(bytes: &[u8]) -> Result<TextOrBinary, NotAModule> {
    if bytes.is_empty() {
        return Err(NotAModule::Empty);
    }
    if bytes.len() < PREAMBLE.len() && PREAMBLE.starts_with(bytes) {
        return Err(NotAModule::CutOff(bytes.len()));
    }
    if bytes.starts_with(&PREAMBLE[..4]) {
        return Ok(TextOrBinary::Binary);
    }
    let text = without_mark(bytes).trim_ascii_start();
    let known = |(magic, ..): &&FormatHint| bytes.starts_with(magic) || text.starts_with(magic);
    if let Some((_, what, remedy)) = KNOWN.iter().find(known) {
        return Err(NotAModule::Known { what, remedy });
    }
    if bytes.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) {
        return Err(NotAModule::Known { what: "a tar archive", remedy: "take the module out of it first" });
    }
    if text.is_empty() {
        return Err(NotAModule::Empty);
    }
    match begins_text(text) {
        true if bytes.len() as u64 > TEXT_BYTES_MAX => Err(NotAModule::TextTooLarge(bytes.len())),
        true => Ok(TextOrBinary::Text),
        false => Err(NotAModule::Unknown),
    }
}

/// Returns the binary form of a module, as the gate reads it. Parsing text can cost the square of
/// its length in time, and a hundred times its length in memory. So untrusted text must be parsed
/// in the confined child.
pub fn binary_form(bytes: &[u8]) -> Result<Cow<'_, [u8]>, NotAModule> {
    match form_of(bytes)? {
        TextOrBinary::Binary => Ok(Cow::Borrowed(bytes)),
        TextOrBinary::Text => match wat::parse_bytes(without_mark(bytes)) {
            Ok(binary) => Ok(Cow::Owned(binary.into_owned())),
            Err(error) => {
                // The first line is the message. Of the lines that show the place, only the line
                // and column numbers are used.
                let text = error.to_string();
                let place = text.lines().find_map(|line| line.trim_start().strip_prefix("--> <anon>:"));
                let what = text.lines().next().unwrap_or_default();
                Err(NotAModule::Text(place.map_or_else(|| what.to_owned(), |place| format!("{what} at {place}"))))
            }
        },
    }
}

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Returns whether `text`, after spaces and line comments, begins with a parenthesis.
fn begins_text(mut text: &[u8]) -> bool {
    while let Some(comment) = text.strip_prefix(b";;") {
        let end = comment.iter().position(|byte| *byte == b'\n').unwrap_or(comment.len());
        text = comment[end..].trim_ascii_start();
    }
    text.starts_with(b"(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_is_told_by_how_it_begins() {
        for (magic, what, remedy) in KNOWN {
            let bytes = [magic, &b" and more"[..]].concat();
            assert_eq!(form_of(&bytes), Err(NotAModule::Known { what, remedy }), "{what}");
            assert!(binary_form(&bytes).unwrap_err().to_string().contains("not WebAssembly"), "{what}");
        }
        let mut tar = vec![b'x'; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (bytes, said) in [
            (&b""[..], "empty"),
            (b" \n\t ", "empty"),
            (b"\0", "breaks off after 1 bytes"),
            (b"\0asm\x01\0\0", "breaks off after 7 bytes"),
            (b"\n  <!DOCTYPE html>", "HTML"),
            (b"\xef\xbb\xbf{\"message\": \"Not Found\"}", "JSON"),
            (&tar, "tar"),
            (b"fn main() {}", "neither"),
            (b";; only a comment", "neither"),
            (b"\0\0\0\0", "neither"),
            (b"\xde\xad\xbe\xef", "neither"),
        ] {
            let error = form_of(bytes).unwrap_err().to_string();
            assert!(error.contains(said), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn each_form_of_a_module_is_told() {
        for text in ["(module)", " \n;; a comment\n  ;; another\n(module)", "(; one ;) (module)", "\u{feff}(module)"] {
            assert_eq!(form_of(text.as_bytes()), Ok(TextOrBinary::Text), "{text}");
            assert_eq!(*binary_form(text.as_bytes()).unwrap(), *PREAMBLE, "{text}");
        }
        assert_eq!(form_of(PREAMBLE), Ok(TextOrBinary::Binary));
        // A component, or a later version of the format: the gate reports what is wrong with it.
        assert_eq!(form_of(b"\0asm\x0d\0\x01\0"), Ok(TextOrBinary::Binary));
        let large = vec![b'('; TEXT_BYTES_MAX as usize + 1];
        assert_eq!(form_of(&large), Err(NotAModule::TextTooLarge(large.len())));
    }
}
