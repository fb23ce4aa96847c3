//! Stored modules as files: `DIGEST.wasm`, its record `DIGEST.json`, and `names/NAME` with the
//! digest and the owner of the name.
//!
//! A module exists when its record exists. The record is written last and removed first. So a crash
//! in between leaves a file that nothing refers to, and the next scan removes it.
//!
//! Each adder of a module uses its own share of the store for it, and each name has one owner. So
//! nobody can take another's name or module, and one token cannot fill the store.

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
use self::index::ModuleIndex;
pub use self::list::{Listed, Page};
use self::record::{ADDERS_MAX, NameRecord, RECORD_BYTES_MAX};
pub use self::record::{ModuleRecord, scope_of};
use super::names::{ModuleKey, ModuleName};
use crate::digest::Digest;
use crate::slice::Tenant;
use crate::store::Reserve;

/// Limits of the store. A module of several adders counts once for each adder.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub modules_max: u64,
    pub bytes_max: u64,
}

/// Result of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedModule {
    New,
    /// The same bytes were stored already.
    Already,
}

/// Changes that an addition made.
#[derive(Clone, Copy, Debug)]
pub struct AddedParts {
    pub added: AddedModule,
    /// The module to which the name referred before.
    pub renamed: Option<Digest>,
}

/// A name for a module that is being added.
#[derive(Clone, Copy, Debug)]
pub struct NameClaim<'a> {
    pub name: &'a ModuleName,
    /// True if the adder may take over a name that has another owner.
    pub takes_over: bool,
}

pub struct StoredModules {
    directory: PathBuf,
    quota: Quota,
    reserve: Option<Reserve>,
    /// `None` until first use, and after a failed write. Locked by each caller that changes the
    /// files.
    index: Mutex<Option<ModuleIndex>>,
}

/// Amount of stored modules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredTotals {
    pub modules: u64,
    pub bytes: u64,
}

impl StoredModules {
    /// Creates a handle for the modules in `directory`, which is created on first use. No other
    /// process may change it.
    pub const fn new(directory: PathBuf, quota: Quota) -> Self {
        Self { directory, quota, reserve: None, index: Mutex::new(None) }
    }

    /// Sets the disk reserve that added modules must leave free.
    pub fn with_reserve(self, reserve: Reserve) -> Self {
        Self { reserve: Some(reserve), ..self }
    }

    /// Stores `wasm` durably, without a name.
    pub fn add(&self, digest: &Digest, wasm: &[u8], record: &ModuleRecord) -> Result<AddedModule, StoredError> {
        Ok(self.add_named(digest, wasm, record, None)?.added)
    }

    /// Stores `wasm` durably for the record's adder, and gives it a name in the same step. If the
    /// name has another owner, nothing is stored. An existing module is verified, and repaired if
    /// it was damaged.
    pub fn add_named(
        &self,
        digest: &Digest,
        wasm: &[u8],
        record: &ModuleRecord,
        claim: Option<NameClaim<'_>>,
    ) -> Result<AddedParts, StoredError> {
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
            Ok(AddedParts { added: if is_whole { AddedModule::Already } else { AddedModule::New }, renamed })
        })
    }

    /// Checks whether `by` may currently give this name to a module.
    pub fn check_name(&self, claim: NameClaim<'_>, by: &str) -> Result<(), StoredError> {
        self.change(|index| check_name(index, claim, &scope_of(by)))
    }

    fn name(
        &self,
        index: &mut ModuleIndex,
        name: &ModuleName,
        digest: &Digest,
        by: &str,
    ) -> Result<Option<Digest>, StoredError> {
        let former = index.named(name).cloned();
        if former.as_ref().is_none_or(|former| former.digest != *digest || former.by != scope_of(by)) {
            write_whole(&self.name_path(name), NameRecord::text(digest, by).as_bytes())?;
            sync(&self.directory.join("names"))?;
            index.name(name.clone(), NameRecord { digest: *digest, by: Some(by.to_owned()) });
        }
        Ok(former.map(|former| former.digest).filter(|former| former != digest))
    }

    fn write_record(&self, digest: &Digest, record: &ModuleRecord) -> Result<(), StoredError> {
        let path = self.record_path(digest);
        let record = serde_json::to_vec(record).map_err(|error| StoredError::at(&path)(error.into()))?;
        write_whole(&path, &record)?;
        sync(&self.directory)
    }

    /// Returns the module's bytes, verified against `digest`.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoredError> {
        let (record, path) = (self.record(digest)?, self.wasm_path(digest));
        let wasm = read_up_to(&path, record.bytes)?;
        let wasm = wasm.filter(|wasm| Digest::of(wasm) == *digest);
        wasm.ok_or(StoredError::Damaged { path, digest: *digest })
    }

    /// Returns the record of a module.
    pub fn record(&self, digest: &Digest) -> Result<ModuleRecord, StoredError> {
        let path = self.record_path(digest);
        let text = read_up_to(&path, RECORD_BYTES_MAX)?.ok_or(StoredError::NotThere(ModuleKey::Digest(*digest)))?;
        ModuleRecord::parse(&text).ok_or(StoredError::Damaged { path, digest: *digest })
    }

    pub fn contains(&self, digest: &Digest) -> bool {
        self.record_path(digest).exists()
    }

    /// Returns the digest of the module, if it is stored.
    pub fn find(&self, key: &ModuleKey) -> Result<Digest, StoredError> {
        let digest = match key {
            ModuleKey::Digest(digest) => Some(*digest),
            ModuleKey::Name(name) => self.named(name)?.map(|named| named.digest),
        };
        digest.filter(|digest| self.contains(digest)).ok_or_else(|| StoredError::NotThere(key.clone()))
    }

    fn named(&self, name: &ModuleName) -> Result<Option<NameRecord>, StoredError> {
        Ok(read_up_to(&self.name_path(name), RECORD_BYTES_MAX)?.and_then(NameRecord::parse))
    }

    /// Removes a name, or with a digest a module and all its names, of any adder. An adder is
    /// removed with its last name, and a module with its last adder. Returns whether the module is
    /// gone. A running guest is not affected.
    pub fn remove(&self, key: &ModuleKey) -> Result<bool, StoredError> {
        self.remove_of(key, None)
    }

    /// Removes what `by` added, as [`StoredModules::remove`] does. With a digest, removes only its
    /// own names.
    pub fn remove_for(&self, key: &ModuleKey, by: &str) -> Result<bool, StoredError> {
        self.remove_of(key, Some(&scope_of(by)))
    }

    fn remove_of(&self, key: &ModuleKey, by: Option<&Tenant>) -> Result<bool, StoredError> {
        self.change(|index| {
            let digest = self.find(key)?;
            let not_there = || StoredError::NotThere(key.clone());
            let module = index.module(&digest).ok_or_else(not_there)?;
            let owner_of = |name: &ModuleName| index.named(name).map(|owned| &owned.by);
            let (names, leaver): (Vec<ModuleName>, Option<Tenant>) = match key {
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

    /// Returns the stored amount. Waits for a change in progress. Counts the files if they have not
    /// been counted yet.
    pub fn stored(&self) -> Result<StoredTotals, StoredError> {
        self.change(|index| Ok(index.totals()))
    }

    /// Returns the names of a module, in order.
    pub fn names_of(&self, digest: &Digest) -> Result<Vec<ModuleName>, StoredError> {
        self.look(|index| index.module(digest).into_iter().flat_map(|module| module.names.iter().cloned()).collect())
    }

    /// Reads the index. If there is none yet, builds a temporary one and changes no files, because
    /// another process may be using them.
    fn look<T>(&self, look: impl FnOnce(&ModuleIndex) -> T) -> Result<T, StoredError> {
        match &*self.lock() {
            Some(index) => Ok(look(index)),
            None => Ok(look(&self.scan()?)),
        }
    }

    /// Makes a change. Before the first change, creates the directories and removes leftovers of a
    /// crash.
    fn change<T>(&self, change: impl FnOnce(&mut ModuleIndex) -> Result<T, StoredError>) -> Result<T, StoredError> {
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
            // The index must be read from the files again.
            *index = None;
        }
        made
    }

    fn lock(&self) -> MutexGuard<'_, Option<ModuleIndex>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scan(&self) -> Result<ModuleIndex, StoredError> {
        let mut index = ModuleIndex::new(self.quota);
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

    /// Removes the leftovers of a crash.
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

/// Checks that a name is free, belongs to `by`, or may be taken over.
fn check_name(
    index: &ModuleIndex,
    NameClaim { name, takes_over }: NameClaim<'_>,
    by: &Tenant,
) -> Result<(), StoredError> {
    let is_free = takes_over || index.named(name).is_none_or(|owned| owned.by == *by);
    if is_free { Ok(()) } else { Err(StoredError::NameTaken { name: name.clone() }) }
}

#[cfg(test)]
mod tests;
