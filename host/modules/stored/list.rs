//! Lists of stored modules: complete for the command line, in pages for the network.

use std::cmp::Reverse;

use super::StoredModules;
use super::error::StoredError;
use super::index::Module;
use super::record::Record;
use crate::digest::Digest;
use crate::modules::ModuleName;

/// A stored module in a list.
#[derive(Debug)]
pub struct Listed {
    pub digest: Digest,
    pub names: Vec<ModuleName>,
    pub record: Result<Record, StoredError>,
}

impl StoredModules {
    /// Returns all modules in the order in which they were added. Modules with a damaged record
    /// come last.
    pub fn list(&self) -> Result<Vec<Listed>, StoredError> {
        let mut modules = self.page(None, usize::MAX)?;
        modules.sort_by_key(|module| {
            (module.record.as_ref().map_or(u64::MAX, |record| record.added_unix_ms), module.digest)
        });
        Ok(modules)
    }

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
    pub fn page(&self, after: Option<&Digest>, max: usize) -> Result<Vec<Listed>, StoredError> {
        let page = self.look(|index| index.modules_after(after).take(max).map(named).collect());
        self.listed(page?)
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
    use super::super::Quota;
    use super::*;

    #[test]
    fn pages_have_each_module_once_and_the_newest_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let quota = Quota { modules_max: 100, bytes_max: 1 << 20 };
        let store = StoredModules::new(directory.path().join("modules"), quota);
        for number in 0..10_u8 {
            let record = Record::new(1, "compute".to_owned(), u64::from(number), "owner".to_owned());
            store.add(&Digest::of(&[number]), &[number], &record).unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.page(after.as_ref(), 3).unwrap();
            assert!(page.len() <= 3);
            let Some(last) = page.last() else { break };
            after = Some(last.digest);
            seen.extend(page.into_iter().map(|module| module.digest));
        }
        let mut all: Vec<Digest> = (0..10_u8).map(|number| Digest::of(&[number])).collect();
        let newest: Vec<Digest> = store.newest(2).unwrap().into_iter().map(|module| module.digest).collect();
        assert_eq!(newest, [all[9], all[8]]);
        let listed: Vec<Digest> = store.list().unwrap().into_iter().map(|module| module.digest).collect();
        assert_eq!(listed, all);
        all.sort_unstable();
        assert_eq!(seen, all);
    }
}
