//! Modules that were added, as files: `DIGEST.wasm`, beside it `DIGEST.json` with what is known of it, and `names/NAME`
//! with the digest that the name stands for and the name's owner.
//!
//! A module is there when its record is. The record is written last and removed first, so that a crash in between
//! leaves a file that nobody refers to, which the next scan removes.
//!
//! Each adder of a module has a share of the store for it, and each name one owner. So nobody takes another's name or module,
//! and one token cannot fill the store.

mod record;
mod error;
mod files;
mod index;
mod list;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::error::StoredError;
use self::files::{TEMPORARY, delete, entries, read_up_to, sync, write_whole};
use self::index::Index;
pub use self::list::{Listed, Page};
use self::record::{ADDERS_MAX, Named, RECORD_BYTES_MAX};
pub use self::record::{Record, scope_of};
use super::names::{ModuleKey, ModuleName};
use crate::digest::Digest;
use crate::slice::Scope;
use crate::store::Reserve;

/// How much may be stored. Of modules of several adders, each counts.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub modules_max: u64,
    pub bytes_max: u64,
}

/// What became of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// The very same bytes were there.
    Already,
}

/// What adding a module has changed.
#[derive(Clone, Copy, Debug)]
pub struct Addition {
    pub added: Added,
    /// The module that the name stood for before.
    pub renamed: Option<Digest>,
}

/// A name for a module that is added.
#[derive(Clone, Copy, Debug)]
pub struct NameClaim<'a> {
    pub name: &'a ModuleName,
    /// Whether the adder may take the name of another.
    pub takes_over: bool,
}

pub struct StoredModules {
    directory: PathBuf,
    quota: Quota,
    reserve: Option<Reserve>,
    /// `None` until it is needed, and after a failed write. Its lock is held by whoever changes the files.
    index: Mutex<Option<Index>>,
}

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub modules: u64,
    pub bytes: u64,
}

impl StoredModules {
    /// The modules in `directory`, which is made when it is needed. No other process may change it.
    pub const fn new(directory: PathBuf, quota: Quota) -> Self {
        Self { directory, quota, reserve: None, index: Mutex::new(None) }
    }

    /// Has modules that are added leave this reserve free.
    pub fn with_reserve(self, reserve: Reserve) -> Self {
        Self { reserve: Some(reserve), ..self }
    }

    /// Stores `wasm` durably, without a name.
    pub fn add(&self, digest: &Digest, wasm: &[u8], record: &Record) -> Result<Added, StoredError> {
        Ok(self.add_named(digest, wasm, record, None)?.added)
    }

    /// Stores `wasm` durably for the record's adder, and gives it a name in the same step: where the name is another's, nothing
    /// is stored. What is there already is checked, and put right if it was damaged.
    pub fn add_named(
        &self,
        digest: &Digest,
        wasm: &[u8],
        record: &Record,
        claim: Option<NameClaim<'_>>,
    ) -> Result<Addition, StoredError> {
        self.change(|index| {
            let (by, bytes) = (scope_of(&record.added_by), wasm.len() as u64);
            claim.map_or(Ok(()), |claim| check_name(index, claim, &by))?;
            let is_whole = match self.read(digest) {
                Ok(_) => true,
                Err(StoredError::NotThere(_) | StoredError::Damaged { .. }) => false,
                Err(error) => return Err(error),
            };
            let former = index.module(digest).and_then(|module| module.record.clone());
            let mut merged = former.clone().unwrap_or_else(|| record.clone());
            merged.add(&record.added_by);
            if merged.adders().count() > ADDERS_MAX {
                return Err(StoredError::TooManyAdders { digest: *digest });
            }
            let has_share = index.module(digest).is_some_and(|module| module.adders().contains(&by));
            if !is_whole {
                self.reserve.as_ref().map_or(Ok(()), |reserve| reserve.check(bytes))?;
            }
            if !has_share {
                index.take(&by, bytes)?;
            }
            if !is_whole {
                write_whole(&self.wasm_path(digest), wasm)?;
            }
            if !is_whole || former.as_ref() != Some(&merged) {
                self.write_record(digest, &merged)?;
            }
            index.insert(*digest, bytes, Some(merged), (!has_share).then_some(&by));
            let renamed = match claim {
                Some(NameClaim { name, .. }) => self.name(index, name, digest, &record.added_by)?,
                None => None,
            };
            Ok(Addition { added: if is_whole { Added::Already } else { Added::New }, renamed })
        })
    }

    /// Whether `by` may give this name to a module, as things are.
    pub fn check_name(&self, claim: NameClaim<'_>, by: &str) -> Result<(), StoredError> {
        self.change(|index| check_name(index, claim, &scope_of(by)))
    }

    fn name(
        &self,
        index: &mut Index,
        name: &ModuleName,
        digest: &Digest,
        by: &str,
    ) -> Result<Option<Digest>, StoredError> {
        let former = index.named(name).cloned();
        if former.as_ref().is_none_or(|former| former.digest != *digest || former.by != scope_of(by)) {
            write_whole(&self.name_path(name), Named::text(digest, by).as_bytes())?;
            sync(&self.directory.join("names"))?;
            index.name(name.clone(), Named { digest: *digest, by: Some(by.to_owned()) });
        }
        Ok(former.map(|former| former.digest).filter(|former| former != digest))
    }

    fn write_record(&self, digest: &Digest, record: &Record) -> Result<(), StoredError> {
        let path = self.record_path(digest);
        let record = serde_json::to_vec(record).map_err(|error| StoredError::at(&path)(error.into()))?;
        write_whole(&path, &record)?;
        sync(&self.directory)
    }

    /// The bytes whose digest is `digest`, and no others.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoredError> {
        let (record, path) = (self.record(digest)?, self.wasm_path(digest));
        let wasm = read_up_to(&path, record.bytes)?;
        let wasm = wasm.filter(|wasm| Digest::of(wasm) == *digest);
        wasm.ok_or(StoredError::Damaged { path, digest: *digest })
    }

    /// What is known of the module.
    pub fn record(&self, digest: &Digest) -> Result<Record, StoredError> {
        let path = self.record_path(digest);
        let text = read_up_to(&path, RECORD_BYTES_MAX)?.ok_or(StoredError::NotThere(ModuleKey::Digest(*digest)))?;
        Record::parse(&text).ok_or(StoredError::Damaged { path, digest: *digest })
    }

    pub fn contains(&self, digest: &Digest) -> bool {
        self.record_path(digest).exists()
    }

    /// The digest of the module that is meant, if it is there.
    pub fn find(&self, key: &ModuleKey) -> Result<Digest, StoredError> {
        let digest = match key {
            ModuleKey::Digest(digest) => Some(*digest),
            ModuleKey::Name(name) => self.named(name)?.map(|named| named.digest),
        };
        digest.filter(|digest| self.contains(digest)).ok_or_else(|| StoredError::NotThere(key.clone()))
    }

    fn named(&self, name: &ModuleName) -> Result<Option<Named>, StoredError> {
        Ok(read_up_to(&self.name_path(name), RECORD_BYTES_MAX)?.and_then(Named::parse))
    }

    /// Removes a name, or with a digest a module and all its names, whoever added them. A module goes with the last of its
    /// adders; an adder goes with its last name. Returns whether the module is gone. A guest that runs is not disturbed.
    pub fn remove(&self, key: &ModuleKey) -> Result<bool, StoredError> {
        self.remove_of(key, None)
    }

    /// [`StoredModules::remove`] of what `by` added: with a digest its own names and no others.
    pub fn remove_for(&self, key: &ModuleKey, by: &str) -> Result<bool, StoredError> {
        self.remove_of(key, Some(&scope_of(by)))
    }

    fn remove_of(&self, key: &ModuleKey, by: Option<&Scope>) -> Result<bool, StoredError> {
        self.change(|index| {
            let digest = self.find(key)?;
            let not_there = || StoredError::NotThere(key.clone());
            let module = index.module(&digest).ok_or_else(not_there)?;
            let owner_of = |name: &ModuleName| index.named(name).map(|owned| &owned.by);
            let (names, leaver): (Vec<ModuleName>, Option<Scope>) = match key {
                ModuleKey::Name(name) => {
                    let owner = owner_of(name).ok_or_else(not_there)?;
                    if by.is_some_and(|by| by != owner) {
                        return Err(StoredError::NotYours(key.clone()));
                    }
                    (vec![name.clone()], Some(owner.clone()))
                }
                ModuleKey::Digest(_) => {
                    let is_own = |name: &&ModuleName| by.is_none() || owner_of(name) == by;
                    (module.names.iter().filter(is_own).cloned().collect(), by.cloned())
                }
            };
            if by.is_some_and(|by| names.is_empty() && !module.adders().contains(by)) {
                return Err(StoredError::NotYours(key.clone()));
            }
            let left: Vec<&ModuleName> = module.names.iter().filter(|name| !names.contains(name)).collect();
            let record = match &leaver {
                Some(leaver) if left.iter().any(|name| owner_of(name) == Some(leaver)) => module.record.clone(),
                Some(leaver) => module.record.clone().and_then(|record| record.without(leaver)),
                None => None,
            };
            let (is_gone, bytes) = (record.is_none() && left.is_empty(), module.bytes);
            for name in &names {
                delete(&self.name_path(name))?;
                index.unname(name);
            }
            sync(&self.directory.join("names"))?;
            if is_gone {
                delete(&self.record_path(&digest))?;
                delete(&self.wasm_path(&digest))?;
                sync(&self.directory)?;
                index.forget(&digest);
            } else if let Some(record) = record {
                self.write_record(&digest, &record)?;
                index.insert(digest, bytes, Some(record), None);
            }
            Ok(is_gone)
        })
    }

    /// How much there is. Waits for whoever changes that, and counts the files where nobody has yet.
    pub fn stored(&self) -> Result<Totals, StoredError> {
        self.change(|index| Ok(index.totals()))
    }

    /// The names of a module, in their order.
    pub fn names_of(&self, digest: &Digest) -> Result<Vec<ModuleName>, StoredError> {
        self.look(|index| index.module(digest).into_iter().flat_map(|module| module.names.iter().cloned()).collect())
    }

    /// Looks at the index; it is made for this one look where nobody has changed anything yet, and the files are left as they
    /// are: another process may be at work on them.
    fn look<T>(&self, look: impl FnOnce(&Index) -> T) -> Result<T, StoredError> {
        match &*self.lock() {
            Some(index) => Ok(look(index)),
            None => Ok(look(&self.scan()?)),
        }
    }

    /// Makes a change. The directories are there then, and what a crash has left is not.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T, StoredError>) -> Result<T, StoredError> {
        let mut index = self.lock();
        let made = match &mut *index {
            Some(index) => change(index),
            none => {
                let names = self.directory.join("names");
                DirBuilder::new().recursive(true).mode(0o700).create(&names).map_err(StoredError::at(&names))?;
                self.clean()?;
                change(none.insert(self.scan()?))
            }
        };
        if matches!(made, Err(StoredError::Io { .. })) {
            // The files have to be looked at again.
            *index = None;
        }
        made
    }

    fn lock(&self) -> MutexGuard<'_, Option<Index>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self) -> Result<Index, StoredError> {
        let mut index = Index::new(self.quota);
        for digest in entries(&self.directory)?.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()) {
            let bytes = fs::metadata(self.wasm_path(&digest)).map_or(0, |metadata| metadata.len());
            match self.record(&digest) {
                Ok(record) => index.insert(digest, bytes, Some(record), None),
                Err(StoredError::NotThere(_)) => {}
                Err(_) => index.insert(digest, bytes, None, None),
            }
        }
        for name in entries(&self.directory.join("names"))?.iter().filter_map(|name| name.parse().ok()) {
            if let Some(named) = self.named(&name)? {
                index.name(name, named);
            }
        }
        Ok(index)
    }

    /// Removes what a crash has left.
    fn clean(&self) -> Result<(), StoredError> {
        for name in entries(&self.directory)? {
            let module = name.strip_suffix(".wasm").map(str::parse::<Digest>);
            let is_left = module.map_or_else(
                || name.starts_with(TEMPORARY),
                |digest| digest.map_or(true, |digest| !self.contains(&digest)),
            );
            if is_left {
                delete(&self.directory.join(name))?;
            }
        }
        let names = self.directory.join("names");
        entries(&names)?
            .iter()
            .filter(|name| name.starts_with(TEMPORARY))
            .try_for_each(|name| delete(&names.join(name)))
    }

    fn wasm_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}.wasm"))
    }

    fn record_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(format!("{digest}.json"))
    }

    fn name_path(&self, name: &ModuleName) -> PathBuf {
        self.directory.join("names").join(name.as_str())
    }
}

/// A name is free, or its owner's, or taken over.
fn check_name(index: &Index, NameClaim { name, takes_over }: NameClaim<'_>, by: &Scope) -> Result<(), StoredError> {
    let is_free = takes_over || index.named(name).is_none_or(|owned| owned.by == *by);
    if is_free { Ok(()) } else { Err(StoredError::NameTaken { name: name.clone() }) }
}

#[cfg(test)]
mod tests;
