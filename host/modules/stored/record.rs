//! Records of modules and names, as stored in files.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::slice::Tenant;

/// Version that is written. Version 1 had one adder for each module and none for a name.
const VERSION: u32 = 2;
const VERSION_MIN: u32 = 1;

/// Maximum number of adders of one module.
pub const ADDERS_MAX: usize = 1_000;

/// Longest record: [`ADDERS_MAX`] adders of some 80 bytes each.
pub const RECORD_BYTES_MAX: u64 = 128 << 10;

/// The stored data of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRecord {
    /// Version of this format.
    version: u32,
    pub bytes: u64,
    /// `compute`: a module of the `compute` ABI.
    pub kind: String,
    pub added_unix_ms: u64,
    /// First adder: `user UID`, `owner` or `token NAME`.
    pub added_by: String,
    /// Further adders. The module stays until the last of them removes it.
    #[serde(default)]
    pub also_added_by: Vec<String>,
}

impl ModuleRecord {
    pub const fn new(bytes: u64, kind: String, added_unix_ms: u64, added_by: String) -> Self {
        Self { version: VERSION, bytes, kind, added_unix_ms, added_by, also_added_by: Vec::new() }
    }

    /// Parses a record file.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(text).ok()?;
        let is_known = (VERSION_MIN..=VERSION).contains(&record.version);
        is_known.then_some(Self { version: VERSION, ..record })
    }

    pub fn adders(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.added_by).chain(&self.also_added_by)
    }

    /// Returns whether `by`, the name of a token or the owner, added the module.
    pub fn is_added_by(&self, by: &str) -> bool {
        let scope = scope_of(by);
        self.adders().any(|adder| scope_of(adder) == scope)
    }

    /// Adds an adder, unless the record has it already.
    pub(super) fn add(&mut self, by: &str) {
        if !self.is_added_by(by) {
            self.also_added_by.push(by.to_owned());
        }
    }

    /// Returns the record without one adder; `None` if that was the last.
    pub(super) fn without(mut self, by: &Tenant) -> Option<Self> {
        let mut left = self.adders().filter(|adder| scope_of(adder) != *by).cloned().collect::<Vec<_>>().into_iter();
        self.added_by = left.next()?;
        self.also_added_by = left.collect();
        Some(self)
    }
}

/// A name: its module and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRecord {
    pub digest: Digest,
    /// Owner; `None` in a file of version 1, where the owner is the module's first adder.
    pub by: Option<String>,
}

impl NameRecord {
    /// Parses a name file: the digest, and on a second line the owner.
    pub fn parse(text: Vec<u8>) -> Option<Self> {
        let text = String::from_utf8(text).ok()?;
        let mut lines = text.lines();
        let digest = lines.next()?.trim().parse().ok()?;
        Some(Self { digest, by: lines.next().map(str::to_owned) })
    }

    pub fn text(digest: &Digest, by: &str) -> String {
        format!("{digest}\n{by}\n")
    }
}

/// Returns the scope whose share an adder uses: the token's own, or the owner's for everybody else
/// on this machine.
pub fn scope_of(by: &str) -> Tenant {
    by.strip_prefix("token ").and_then(|token| token.parse().ok()).unwrap_or(Tenant::OWNER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_version_1_has_one_adder() {
        let text = br#"{"version":1,"bytes":3,"kind":"compute","added_unix_ms":7,"added_by":"token a"}"#;
        let record = ModuleRecord::parse(text).unwrap();
        assert_eq!(record, ModuleRecord::new(3, "compute".to_owned(), 7, "token a".to_owned()));
        assert!(record.is_added_by("token a") && !record.is_added_by("owner"));
        for version in ["0", "3"] {
            let text = String::from_utf8_lossy(text).replace("\"version\":1", &format!("\"version\":{version}"));
            assert_eq!(ModuleRecord::parse(text.as_bytes()), None);
        }
    }

    #[test]
    fn a_record_goes_with_its_last_adder() {
        let mut record = ModuleRecord::new(3, "compute".to_owned(), 7, "token a".to_owned());
        ["token b", "token a", "user 7", "owner"].into_iter().for_each(|by| record.add(by));
        assert_eq!(record.adders().collect::<Vec<_>>(), ["token a", "token b", "user 7"], "the owner is one");
        let record = record.without(&scope_of("token a")).unwrap().without(&scope_of("token b")).unwrap();
        assert_eq!(record.added_by, "user 7");
        assert_eq!(record.without(&Tenant::OWNER), None);
    }

    #[test]
    fn a_longest_record_can_be_read() {
        let by = |i: usize| format!("token {i:0>64}");
        let mut record = ModuleRecord::new(u64::MAX, "compute".to_owned(), u64::MAX, by(0));
        (1..ADDERS_MAX).for_each(|i| record.also_added_by.push(by(i)));
        assert!((serde_json::to_vec(&record).unwrap().len() as u64) < RECORD_BYTES_MAX);
    }

    #[test]
    fn a_name_is_read_with_its_owner_and_without() {
        let digest = Digest::of(b"module");
        let text = |text: &str| NameRecord::parse(text.as_bytes().to_vec());
        assert_eq!(text(&format!("{digest}\n")), Some(NameRecord { digest, by: None }));
        let named = NameRecord { digest, by: Some("token a".to_owned()) };
        assert_eq!(text(&NameRecord::text(&digest, "token a")), Some(named));
        assert_eq!(text("nothing\ntoken a\n"), None);
    }
}
