//! Modules that were added, as files: `DIGEST.wasm`, beside it `DIGEST.json` with what is known of it, and `names/NAME`
//! with the digest that the name stands for.
//!
//! A module is there when its record is. The record is written last and removed first, so that a crash in between
//! leaves a file that nobody refers to, which the next scan removes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::names::{ModuleKey, ModuleName};
use crate::digest::Digest;

/// How much may be stored.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    pub modules_max: u64,
    pub bytes_max: u64,
}

/// What is known of a stored module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of this format.
    version: u32,
    pub bytes: u64,
    /// `compute`: of the `compute` ABI.
    pub kind: String,
    pub added_unix_ms: u64,
    /// Who added it: `user UID`.
    pub added_by: String,
}

const VERSION: u32 = 1;

/// A record is some 150 bytes, and a name's file 65.
const RECORD_BYTES_MAX: u64 = 4096;

impl Record {
    pub const fn new(bytes: u64, kind: String, added_unix_ms: u64, added_by: String) -> Self {
        Self { version: VERSION, bytes, kind, added_unix_ms, added_by }
    }
}

/// A stored module, as a list shows it.
#[derive(Debug)]
pub struct Listed {
    pub digest: Digest,
    pub names: Vec<ModuleName>,
    pub record: Result<Record, StoredError>,
}

/// What became of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    New,
    /// The very same bytes were there.
    Already,
}

#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("cannot use `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("this node keeps no modules")]
    NoFiles,
    #[error("no module `{0}` is stored; `node compute module list` shows those that are")]
    NotThere(ModuleKey),
    #[error("`{}` is not what was stored; remove the module `{digest}`, and add it again", path.display())]
    Damaged { path: PathBuf, digest: Digest },
    #[error("{count} modules are stored, and `modules.modules_max` is {max}; remove some, or raise it")]
    TooMany { count: u64, max: u64 },
    #[error(
        "{bytes} bytes of modules are stored, and with {more} more they are over `modules.bytes_max`, {max}; remove some, or raise it"
    )]
    TooLarge { bytes: u64, more: u64, max: u64 },
}

pub struct StoredModules {
    directory: PathBuf,
    quota: Quota,
    /// What is there, once it has been looked at. Its lock is held by whoever changes it.
    totals: Mutex<Option<Totals>>,
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
        Self { directory, quota, totals: Mutex::new(None) }
    }

    /// Stores `wasm` durably. What is there already is checked, and put right if it was damaged.
    pub fn add(&self, digest: &Digest, wasm: &[u8], record: &Record) -> Result<Added, StoredError> {
        let mut totals = self.totals()?;
        match self.read(digest) {
            Ok(_) => return Ok(Added::Already),
            Err(StoredError::NotThere(_)) => {}
            Err(StoredError::Damaged { .. }) => {
                // What it took has room for it now.
                self.delete(digest)?;
                *totals = Some(self.scan()?);
            }
            Err(error) => return Err(error),
        }
        let (there, more, quota) = (totals.get_or_insert_default(), wasm.len() as u64, self.quota);
        if there.modules >= quota.modules_max {
            return Err(StoredError::TooMany { count: there.modules, max: quota.modules_max });
        }
        if there.bytes + more > quota.bytes_max {
            return Err(StoredError::TooLarge { bytes: there.bytes, more, max: quota.bytes_max });
        }
        *there = Totals { modules: there.modules + 1, bytes: there.bytes + more };
        let written = self.write(digest, wasm, record);
        if written.is_err() {
            // What is there now has to be looked at again.
            *totals = None;
        }
        written.map(|()| Added::New)
    }

    fn write(&self, digest: &Digest, wasm: &[u8], record: &Record) -> Result<(), StoredError> {
        let path = self.record_path(digest);
        let record = serde_json::to_vec(record).map_err(|error| StoredError::at(&path)(error.into()))?;
        write_whole(&self.wasm_path(digest), wasm)?;
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
        let record = serde_json::from_slice(&text).ok().filter(|record: &Record| record.version == VERSION);
        record.ok_or(StoredError::Damaged { path, digest: *digest })
    }

    pub fn contains(&self, digest: &Digest) -> bool {
        self.record_path(digest).exists()
    }

    /// The digest of the module that is meant, if it is there.
    pub fn find(&self, key: &ModuleKey) -> Result<Digest, StoredError> {
        let digest = match key {
            ModuleKey::Digest(digest) => Some(*digest),
            ModuleKey::Name(name) => self.named(name)?,
        };
        digest.filter(|digest| self.contains(digest)).ok_or_else(|| StoredError::NotThere(key.clone()))
    }

    /// Has `name` stand for `digest`, which must be there, from now on; says for what it stood before.
    pub fn name(&self, name: &ModuleName, digest: &Digest) -> Result<Option<Digest>, StoredError> {
        // Nobody removes the module meanwhile, which would leave a name without one.
        let _totals = self.totals()?;
        self.find(&ModuleKey::Digest(*digest))?;
        let before = self.named(name)?;
        if before != Some(*digest) {
            write_whole(&self.name_path(name), format!("{digest}\n").as_bytes())?;
            sync(&self.directory.join("names"))?;
        }
        Ok(before.filter(|before| before != digest && self.contains(before)))
    }

    fn named(&self, name: &ModuleName) -> Result<Option<Digest>, StoredError> {
        let text = read_up_to(&self.name_path(name), RECORD_BYTES_MAX)?;
        Ok(text.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok()))
    }

    /// Removes what is meant: with a digest the module and its names, with a name the name, and the module if that was
    /// its last. Says whether the module is gone. A guest that runs is not disturbed.
    pub fn remove(&self, key: &ModuleKey) -> Result<bool, StoredError> {
        let mut totals = self.totals()?;
        let digest = self.find(key)?;
        let names = self.names()?.remove(&digest).unwrap_or_default();
        let (removed, left): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|name| matches!(key, ModuleKey::Digest(_)) || key == &ModuleKey::Name(name.clone()));
        removed.iter().try_for_each(|name| delete(&self.name_path(name)))?;
        let gone = left.is_empty();
        if gone {
            *totals = None;
            self.delete(&digest)?;
        }
        sync(&self.directory.join("names"))?;
        sync(&self.directory)?;
        Ok(gone)
    }

    fn delete(&self, digest: &Digest) -> Result<(), StoredError> {
        delete(&self.record_path(digest))?;
        delete(&self.wasm_path(digest))
    }

    /// How much there is. Waits for whoever changes that, and counts the files where nobody has yet.
    pub fn stored(&self) -> Result<Totals, StoredError> {
        Ok(self.totals()?.unwrap_or_default())
    }

    /// All modules in the order in which they were added, those whose record is damaged last.
    pub fn list(&self) -> Result<Vec<Listed>, StoredError> {
        let mut names = self.names()?;
        let digests = entries(&self.directory)?.into_iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok());
        let mut modules: Vec<Listed> = digests
            .map(|digest| {
                let names = names.remove(&digest).unwrap_or_default();
                Listed { digest, names, record: self.record(&digest) }
            })
            .collect();
        let added = |module: &Listed| module.record.as_ref().map_or(u64::MAX, |record| record.added_unix_ms);
        modules.sort_by_key(|module| (added(module), module.digest));
        Ok(modules)
    }

    /// The names of each module that has one.
    pub fn names(&self) -> Result<BTreeMap<Digest, Vec<ModuleName>>, StoredError> {
        let mut names: BTreeMap<Digest, Vec<ModuleName>> = BTreeMap::new();
        for name in entries(&self.directory.join("names"))?.iter().filter_map(|name| name.parse().ok()) {
            if let Some(digest) = self.named(&name)? {
                names.entry(digest).or_default().push(name);
            }
        }
        names.values_mut().for_each(|names| names.sort());
        Ok(names)
    }

    /// What is there, counted when that is first asked for, and the right to change it. The directories are there then.
    fn totals(&self) -> Result<MutexGuard<'_, Option<Totals>>, StoredError> {
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        if totals.is_none() {
            let names = self.directory.join("names");
            DirBuilder::new().recursive(true).mode(0o700).create(&names).map_err(StoredError::at(&names))?;
            *totals = Some(self.scan()?);
        }
        Ok(totals)
    }

    /// Counts the modules, and removes what a crash has left of others.
    fn scan(&self) -> Result<Totals, StoredError> {
        let mut totals = Totals::default();
        for name in entries(&self.directory)? {
            let path = self.directory.join(&name);
            let module = name.strip_suffix(".wasm").map(str::parse::<Digest>);
            match module {
                Some(Ok(digest)) if self.contains(&digest) => {
                    totals.modules += 1;
                    totals.bytes += fs::metadata(&path).map_err(StoredError::at(&path))?.len();
                }
                Some(_) => delete(&path)?,
                None if name.starts_with(TEMPORARY) => delete(&path)?,
                None => {}
            }
        }
        for name in entries(&self.directory.join("names"))?.iter().filter(|name| name.starts_with(TEMPORARY)) {
            delete(&self.directory.join("names").join(name))?;
        }
        Ok(totals)
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

impl StoredError {
    /// A stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::NoFiles => "module_store",
            Self::NotThere(_) => "no_such_module",
            Self::Damaged { .. } => "module_damaged",
            Self::TooMany { .. } | Self::TooLarge { .. } => "module_quota",
        }
    }

    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |cause| Self::Io { path: path.to_owned(), cause }
    }
}

/// How the names of files begin that are not finished.
const TEMPORARY: &str = ".new-";

/// Makes `path` hold `bytes`, all of them or none; they are on disk when its directory has been synced, too.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StoredError> {
    let directory = path.parent().unwrap_or(path);
    let write = || {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(StoredError::at(path))
}

fn sync(directory: &Path) -> Result<(), StoredError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(StoredError::at(directory))
}

/// What is in the file `path`, and a byte more than `bytes_max` where it is longer; `None` where there is no such file.
fn read_up_to(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, StoredError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if_there(read()).map_err(StoredError::at(path))
}

fn delete(path: &Path) -> Result<(), StoredError> {
    if_there(fs::remove_file(path)).map(drop).map_err(StoredError::at(path))
}

/// The names in a directory, of those that are text; none where there is no such directory.
fn entries(directory: &Path) -> Result<Vec<String>, StoredError> {
    let names = || fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
    let names = if_there(names()).map_err(StoredError::at(directory))?.unwrap_or_default();
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
