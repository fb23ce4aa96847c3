//! In-memory index of the module store: adders, names and shares.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::super::names::ModuleName;
use super::record::{ModuleRecord, NameRecord, scope_of};
use super::{Quota, StoredError, StoredTotals};
use crate::digest::Digest;
use crate::shares::Shares;
use crate::slice::Tenant;

/// All modules and names of a directory. It is read again after a failed write.
pub struct ModuleIndex {
    quota: Quota,
    totals: StoredTotals,
    modules: BTreeMap<Digest, Module>,
    names: BTreeMap<ModuleName, OwnedName>,
    /// Shares in use. Each adder of a module has its own share for it.
    counts: Shares<Tenant>,
    bytes: Shares<Tenant>,
}

pub struct Module {
    /// Size of the module's file.
    pub bytes: u64,
    /// `None` if the record is damaged.
    pub record: Option<ModuleRecord>,
    pub names: BTreeSet<ModuleName>,
}

/// A name with an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedName {
    pub digest: Digest,
    pub by: Tenant,
}

impl Module {
    /// Returns the scopes that have a share for the module. If the adders are unknown, this is the
    /// owner's scope.
    pub fn adders(&self) -> Vec<Tenant> {
        self.record
            .as_ref()
            .map_or_else(|| vec![Tenant::OWNER], |record| record.adders().map(|by| scope_of(by)).collect())
    }
}

impl ModuleIndex {
    pub fn new(quota: Quota) -> Self {
        let (counts, bytes) = (Shares::new(quota.modules_max), Shares::new(quota.bytes_max));
        let (modules, names) = (BTreeMap::new(), BTreeMap::new());
        Self { quota, totals: StoredTotals::default(), modules, names, counts, bytes }
    }

    pub const fn totals(&self) -> StoredTotals {
        self.totals
    }

    pub fn module(&self, digest: &Digest) -> Option<&Module> {
        self.modules.get(digest)
    }

    pub fn modules(&self) -> impl Iterator<Item = (&Digest, &Module)> {
        self.modules.iter()
    }

    /// Returns the modules after `after`, in the order of their digests.
    pub fn modules_after(&self, after: Option<&Digest>) -> impl Iterator<Item = (&Digest, &Module)> {
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(*after));
        self.modules.range((from, Bound::Unbounded))
    }

    pub fn named(&self, name: &ModuleName) -> Option<&OwnedName> {
        self.names.get(name)
    }

    /// Reserves a share for a module that `by` is about to add.
    pub fn take(&mut self, by: &Tenant, bytes: u64) -> Result<(), StoredError> {
        let StoredTotals { modules: count, bytes: there } = self.totals;
        let quota = self.quota;
        self.counts.take(by, 1).map_err(|_| StoredError::TooMany { count, max: quota.modules_max })?;
        self.bytes.take(by, bytes).map_err(|_| {
            self.counts.release(by, 1);
            StoredError::TooLarge { bytes: there, more: bytes, max: quota.bytes_max }
        })
    }

    /// Inserts a module that is on disk. `taken` is the scope whose share is reserved already. The
    /// other adders' shares are reserved now, even beyond the quota.
    pub fn insert(&mut self, digest: Digest, bytes: u64, record: Option<ModuleRecord>, taken: Option<&Tenant>) {
        let names = self.remove(&digest, taken).map_or_else(BTreeSet::new, |former| former.names);
        let module = Module { bytes, record, names };
        for adder in module.adders().iter().filter(|adder| taken != Some(adder)) {
            self.counts.retake(adder, 1);
            self.bytes.retake(adder, bytes);
        }
        self.totals.modules += 1;
        self.totals.bytes += bytes;
        self.modules.insert(digest, module);
    }

    /// Removes a module and releases its shares, except the one of `kept`. The caller must remove
    /// its names.
    fn remove(&mut self, digest: &Digest, kept: Option<&Tenant>) -> Option<Module> {
        let module = self.modules.remove(digest)?;
        for adder in module.adders().iter().filter(|adder| kept != Some(adder)) {
            self.counts.release(adder, 1);
            self.bytes.release(adder, module.bytes);
        }
        self.totals.modules -= 1;
        self.totals.bytes -= module.bytes;
        Some(module)
    }

    /// Removes a module and all its names.
    pub fn forget(&mut self, digest: &Digest) {
        let names = self.remove(digest, None).map(|module| module.names);
        names.into_iter().flatten().for_each(|name| drop(self.names.remove(&name)));
    }

    /// Inserts a name that is on disk. The owner of a name of version 1 is the module's first
    /// adder.
    pub fn name(&mut self, name: ModuleName, NameRecord { digest, by }: NameRecord) {
        let Some(module) = self.modules.get(&digest) else { return };
        let first = || module.record.as_ref().map_or(Tenant::OWNER, |record| scope_of(&record.added_by));
        let by = by.map_or_else(first, |by| scope_of(&by));
        self.unname(&name);
        if let Some(module) = self.modules.get_mut(&digest) {
            module.names.insert(name.clone());
            self.names.insert(name, OwnedName { digest, by });
        }
    }

    pub fn unname(&mut self, name: &ModuleName) {
        if let Some(former) = self.names.remove(name)
            && let Some(module) = self.modules.get_mut(&former.digest)
        {
            module.names.remove(name);
        }
    }
}
