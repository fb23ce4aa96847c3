//! Lists of stored modules, one page at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::StoredModules;
use super::error::StoredError;
use super::files::each_entry;
use super::index::Module;
use super::record::ModuleRecord;
use crate::digest::Digest;
use crate::modules::ModuleName;

/// A stored module in a list.
#[derive(Debug)]
pub struct Listed {
    pub digest: Digest,
    pub names: Vec<ModuleName>,
    pub record: Result<ModuleRecord, StoredError>,
}

/// Page of a list: modules in the order of their digests.
#[derive(Debug)]
pub struct Page {
    pub modules: Vec<Listed>,
    /// Digest after which the next page begins; `None` after the last page.
    pub next: Option<Digest>,
}

impl StoredModules {
    /// Returns the `max` modules that were added last, newest first. Modules with a damaged record
    /// come before them.
    pub fn newest(&self, max: usize) -> Result<Vec<Listed>, StoredError> {
        let added = |module: &Module| module.record.as_ref().map_or(u64::MAX, |record| record.added_unix_ms);
        let newest = self.look(|index| {
            let mut modules: Vec<_> = index.modules().collect();
            modules.sort_unstable_by_key(|(digest, module)| Reverse((added(module), **digest)));
            modules.into_iter().take(max).map(named).collect()
        });
        self.listed(newest?)
    }

    /// Returns the first `max` modules after `after`, in the order of their digests.
    pub fn page(&self, after: Option<&Digest>, max: usize) -> Result<Page, StoredError> {
        let page = match &*self.lock() {
            Some(index) => index.modules_after(after).take(max).map(named).collect(),
            None => self.page_of_files(after, max)?,
        };
        // Removed modules count too: a list must not end with them.
        let next = page.last().filter(|_| page.len() == max).map(|(digest, _)| *digest);
        Ok(Page { modules: self.listed(page)?, next })
    }

    /// Reads one page from the files. A process without an index needs the list and nothing else,
    /// and holds no more than that page.
    fn page_of_files(&self, after: Option<&Digest>, max: usize) -> Result<Vec<(Digest, Vec<ModuleName>)>, StoredError> {
        let mut first: BTreeSet<Digest> = BTreeSet::new();
        each_entry(&self.directory, |name| {
            let digest = name.strip_suffix(".json").and_then(|digest| digest.parse::<Digest>().ok());
            first.extend(digest.filter(|digest| after.is_none_or(|after| digest > after)));
            if first.len() > max {
                first.pop_last();
            }
        })?;
        let mut page: BTreeMap<Digest, Vec<ModuleName>> =
            first.into_iter().map(|digest| (digest, Vec::new())).collect();
        let mut failed = None;
        each_entry(&self.directory.join("names"), |name| {
            let Ok(name) = name.parse() else { return };
            match self.named(&name) {
                Ok(named) => {
                    let names = named.and_then(|named| page.get_mut(&named.digest));
                    names.into_iter().for_each(|names| names.push(name.clone()));
                }
                Err(error) => failed = Some(error),
            }
        })?;
        failed.map_or(Ok(()), Err)?;
        page.values_mut().for_each(|names| names.sort_unstable());
        Ok(page.into_iter().collect())
    }

    /// Adds the current records from the files.
    fn listed(&self, modules: Vec<(Digest, Vec<ModuleName>)>) -> Result<Vec<Listed>, StoredError> {
        let mut listed = Vec::with_capacity(modules.len());
        for (digest, names) in modules {
            match self.record(&digest) {
                Err(error @ StoredError::Io { .. }) => return Err(error),
                // The module was removed meanwhile.
                Err(StoredError::NotThere(_)) => {}
                record => listed.push(Listed { digest, names, record }),
            }
        }
        Ok(listed)
    }
}

fn named((digest, module): (&Digest, &Module)) -> (Digest, Vec<ModuleName>) {
    (*digest, module.names.iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::super::{NameClaim, Quota};
    use super::*;

    #[test]
    fn pages_have_each_module_once_and_the_newest_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let quota = Quota { modules_max: 100, bytes_max: 1 << 20 };
        let store = StoredModules::new(directory.path().join("modules"), quota);
        for number in 0..10_u8 {
            let record = ModuleRecord::new(1, "compute".to_owned(), u64::from(number), "owner".to_owned());
            store.add(&Digest::of(&[number]), &[number], &record).unwrap();
        }
        let names: Vec<ModuleName> = ["b", "a", "c"].map(|name| name.parse().unwrap()).into();
        for (name, module) in names.iter().zip([3, 3, 7_u8]) {
            let record = ModuleRecord::new(1, "compute".to_owned(), u64::from(module), "owner".to_owned());
            let claim = NameClaim { name, takes_over: false };
            store.add_named(&Digest::of(&[module]), &[module], &record, Some(claim)).unwrap();
        }
        let pages = |store: &StoredModules, max: usize| -> Vec<(Digest, Vec<ModuleName>)> {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store.page(after.as_ref(), max).unwrap();
                assert!(page.modules.len() <= max);
                seen.extend(page.modules.into_iter().map(|module| (module.digest, module.names)));
                after = page.next;
                if after.is_none() {
                    return seen;
                }
            }
        };
        let seen = pages(&store, 3);
        for max in [1, 3, 5, 10, 11] {
            // One that has made no change looks at the files.
            let without_index = StoredModules::new(directory.path().join("modules"), quota);
            assert_eq!((pages(&store, max), pages(&without_index, max)), (seen.clone(), seen.clone()), "by {max}");
        }
        assert_eq!(seen.iter().flat_map(|(_, names)| names).count(), 3);
        let seen: Vec<Digest> = seen.into_iter().map(|(digest, _)| digest).collect();
        let mut all: Vec<Digest> = (0..10_u8).map(|number| Digest::of(&[number])).collect();
        let newest: Vec<Digest> = store.newest(2).unwrap().into_iter().map(|module| module.digest).collect();
        assert_eq!(newest, [all[9], all[8]]);
        all.sort_unstable();
        assert_eq!(seen, all);
    }

    #[test]
    fn a_list_goes_on_behind_a_module_that_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let store = StoredModules::new(directory.path().to_owned(), Quota { modules_max: 100, bytes_max: 1 << 20 });
        let mut digests: Vec<Digest> = (0..4_u8).map(|number| Digest::of(&[number])).collect();
        digests.sort_unstable();
        for digest in &digests {
            store.add(digest, b"x", &ModuleRecord::new(1, "compute".to_owned(), 0, "owner".to_owned())).unwrap();
        }
        // As another process might, the moment before its record is read.
        std::fs::remove_file(directory.path().join(format!("{}.json", digests[1]))).unwrap();
        let page = store.page(None, 2).unwrap();
        assert_eq!((page.modules.len(), page.next), (1, Some(digests[1])));
        let page = store.page(page.next.as_ref(), 2).unwrap();
        assert_eq!(page.modules.len(), 2);
    }
}
