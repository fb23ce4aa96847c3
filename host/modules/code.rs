//! Native code as files, so that a module is compiled once and not at each start. All of it can be made again.
//!
//! A file is trusted only if this node wrote it: its MAC covers the module, the gate that it passed, the engine's settings
//! and the code, and is checked on the bytes that are then loaded, not on a file that could change in between. Whatever
//! else lies there is compiled anew and replaced.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::digest::{Digest, MacKey};
use crate::private_file;
use crate::sandbox::{CODE_BYTES_MAX, NativeCode, Program, Sandbox};

const MAC_BYTES: usize = 32;

pub struct CodeFiles {
    directory: PathBuf,
    key: MacKey,
    bytes_max: u64,
    /// The files that are there, the least recently used to go first; read from the directory before the first is
    /// written. Its listener deletes the files.
    kept: OnceLock<moka::sync::Cache<Digest, u64>>,
}

impl CodeFiles {
    /// Up to `bytes_max` of code in `directory`; `key` must be secret from whoever else can write there.
    pub const fn new(directory: PathBuf, key: MacKey, bytes_max: u64) -> Self {
        Self { directory, key, bytes_max, kept: OnceLock::new() }
    }

    /// What was kept under `name`, if this node kept it and this engine takes it.
    pub fn load(&self, sandbox: &Sandbox, name: &Digest) -> Option<Program> {
        let mut file = private_file::open(&self.path(name), OpenOptions::new().read(true)).ok()?;
        let len = file.metadata().ok()?.len().checked_sub(MAC_BYTES as u64).filter(|len| *len <= CODE_BYTES_MAX)?;
        let (mut mac, mut code) = ([0; MAC_BYTES], NativeCode::with_room(len as usize).ok()?);
        file.read_exact(&mut mac).and_then(|()| file.read_exact(code.bytes_mut())).ok()?;
        if !self.key.verifies(name, code.bytes(), mac) {
            return None;
        }
        // SAFETY: the MAC says that this node wrote these very bytes under this name, which stands for the engine's
        // settings; `keep` is the only one that makes such a MAC, of what the node's compiler gave.
        let program = unsafe { sandbox.load(code) }.ok()?;
        // The order of use is the order of these times; that it cannot be noted costs a compilation some day.
        let _ = file.set_modified(SystemTime::now());
        if let Some(kept) = self.kept.get() {
            kept.get(name);
        }
        Some(program)
    }

    /// Keeps `code` under `name`. A full disk or a directory that is gone costs a later start a compilation, and this run
    /// nothing.
    pub fn keep(&self, name: &Digest, code: &[u8]) {
        let kept = self.kept.get_or_init(|| self.scan());
        if self.write(name, code).is_ok() {
            kept.insert(*name, code.len() as u64 + MAC_BYTES as u64);
            kept.run_pending_tasks();
        }
    }

    fn write(&self, name: &Digest, code: &[u8]) -> io::Result<()> {
        let mut file = private_file::temporary_in(&self.directory, TEMPORARY)?;
        file.write_all(&self.key.mac(name, code))?;
        file.write_all(code)?;
        // The system's own stamp is of a coarser clock than that which `load` goes by.
        file.as_file().set_modified(SystemTime::now())?;
        file.persist(self.path(name))?;
        Ok(())
    }

    /// The files of the directory, the latest used last; what is neither code nor whole is removed.
    fn scan(&self) -> moka::sync::Cache<Digest, u64> {
        let directory = self.directory.clone();
        let kept = moka::sync::Cache::builder()
            .max_capacity(self.bytes_max.div_ceil(WEIGHT_BYTES))
            .weigher(|_, bytes: &u64| u32::try_from(bytes.div_ceil(WEIGHT_BYTES)).unwrap_or(u32::MAX))
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .eviction_listener(move |name, _, cause| {
                if cause.was_evicted() {
                    let _ = fs::remove_file(path_in(&directory, &name));
                }
            })
            .build();
        let mut found: Vec<(SystemTime, Digest, u64)> = Vec::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let digest = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            match (digest, entry.metadata()) {
                (Some(digest), Ok(metadata)) => {
                    found.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), digest, metadata.len()));
                }
                _ if name.to_str().is_some_and(|name| name.starts_with(TEMPORARY)) => drop(fs::remove_file(path)),
                _ => {}
            }
        }
        found.sort();
        for (_, digest, bytes) in found {
            kept.insert(digest, bytes);
        }
        kept.run_pending_tasks();
        kept
    }

    fn path(&self, name: &Digest) -> PathBuf {
        path_in(&self.directory, name)
    }
}

fn path_in(directory: &Path, name: &Digest) -> PathBuf {
    directory.join(format!("{name}{SUFFIX}"))
}

const SUFFIX: &str = ".code";
const TEMPORARY: &str = ".new-";
/// The unit in which files are weighed against each other.
const WEIGHT_BYTES: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Compiler;
    use crate::workload::{Guest, Workload};

    struct Kept {
        directory: tempfile::TempDir,
        sandbox: Sandbox,
        code: Vec<u8>,
    }

    impl Kept {
        fn new() -> Self {
            let Guest::Admitted(module) = Workload::Transcode.module() else { unreachable!() };
            let code = Compiler::in_process().unwrap().compile(module).unwrap();
            Self { directory: tempfile::tempdir().unwrap(), sandbox: Sandbox::new(1).unwrap(), code }
        }

        fn files(&self, secret: u8, files_max: u64) -> CodeFiles {
            let bytes = (self.code.len() as u64 + MAC_BYTES as u64).next_multiple_of(WEIGHT_BYTES);
            CodeFiles::new(self.directory.path().to_owned(), MacKey::new([secret; 32]), files_max * bytes)
        }

        /// The names of the kept files, of those given.
        fn there(&self, names: &[Digest]) -> Vec<Digest> {
            let is_there = |name: &&Digest| path_in(self.directory.path(), name).exists();
            names.iter().filter(is_there).copied().collect()
        }
    }

    fn name(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    /// Whether what `damage` leaves of a kept program is loaded.
    fn loads_after(damage: impl FnOnce(&Path)) -> bool {
        let kept = Kept::new();
        let files = kept.files(1, 10);
        files.keep(&name("a"), &kept.code);
        damage(&files.path(&name("a")));
        let loaded = files.load(&kept.sandbox, &name("a")).is_some();
        files.keep(&name("a"), &kept.code);
        assert!(files.load(&kept.sandbox, &name("a")).is_some(), "whatever lay there is replaced");
        loaded
    }

    #[test]
    fn only_code_that_this_node_kept_is_loaded() {
        assert!(loads_after(|_| {}));
        assert!(!loads_after(|path| fs::remove_file(path).unwrap()));
        assert!(!loads_after(|path| fs::write(path, b"").unwrap()));
        for at in [0, MAC_BYTES, MAC_BYTES + 5000] {
            assert!(!loads_after(|path| {
                let mut bytes = fs::read(path).unwrap();
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
            }));
        }
        assert!(!loads_after(|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }));
    }

    #[test]
    fn code_of_another_name_or_another_node_is_not_loaded() {
        let kept = Kept::new();
        let files = kept.files(1, 10);
        files.keep(&name("a"), &kept.code);
        fs::copy(files.path(&name("a")), files.path(&name("b"))).unwrap();
        assert!(files.load(&kept.sandbox, &name("b")).is_none(), "swapped");
        assert!(kept.files(2, 10).load(&kept.sandbox, &name("a")).is_none(), "another node's key");
    }

    #[test]
    fn the_least_recently_used_code_gives_way_also_after_a_restart() {
        let kept = Kept::new();
        let names: Vec<Digest> = ["a", "b", "c", "d", "e"].into_iter().map(name).collect();
        let files = kept.files(1, 3);
        for name in &names[..3] {
            files.keep(name, &kept.code);
        }
        assert_eq!(kept.there(&names), names[..3]);
        files.load(&kept.sandbox, &names[0]).unwrap();
        files.keep(&names[3], &kept.code);
        assert_eq!(kept.there(&names), [names[0], names[2], names[3]]);

        let files = kept.files(1, 3);
        files.load(&kept.sandbox, &names[0]).unwrap();
        files.keep(&names[4], &kept.code);
        assert_eq!(kept.there(&names), [names[0], names[3], names[4]]);

        // Less is allowed than there is.
        let files = kept.files(1, 1);
        files.keep(&names[1], &kept.code);
        assert_eq!(kept.there(&names), [names[1]]);
    }

    #[test]
    fn what_an_interrupted_write_left_is_removed() {
        let kept = Kept::new();
        let left = kept.directory.path().join(format!("{TEMPORARY}abc"));
        fs::write(&left, b"half").unwrap();
        kept.files(1, 3).keep(&name("a"), &kept.code);
        assert!(!left.exists());
    }
}
