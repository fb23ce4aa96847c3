//! Cache of native code in files, so that a module is compiled once and not at each start. All of
//! it can be compiled again.
//!
//! A file is trusted only if this node wrote it. Its MAC covers the module, the gate that admitted
//! it, the engine's settings and the code. The MAC is checked on the bytes that are then loaded,
//! not on a file that could change in between. Every other file there is replaced by newly compiled
//! code.
//!
//! A file counts for each scope that compiled or loaded it, and is deleted with the last of them.
//! The scope with the most bytes loses files first. So one token's modules do not evict the code
//! that another token's modules run on.

mod users;

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use self::users::CodeUsers;
use crate::digest::{Digest, MacKey};
use crate::private_file;
use crate::sandbox::{CODE_BYTES_MAX, NativeCode, Program, Sandbox};
use crate::slice::Tenant;

const MAC_BYTES: usize = 32;

pub struct CompiledCode {
    directory: PathBuf,
    key: MacKey,
    bytes_max: u64,
    /// Index of the existing files, read from the directory before the first write. Files are
    /// deleted under its lock.
    users: OnceLock<Mutex<CodeUsers>>,
}

impl CompiledCode {
    /// Creates a cache of up to `bytes_max` bytes of code in `directory`. `key` must be secret from
    /// everybody else who can write there.
    pub const fn new(directory: PathBuf, key: MacKey, bytes_max: u64) -> Self {
        Self { directory, key, bytes_max, users: OnceLock::new() }
    }

    /// Loads the code stored under `name`, if this node wrote it and this engine accepts it. The
    /// file counts for `scope` from now on.
    pub fn load(&self, sandbox: &Sandbox, name: &Digest, scope: &Tenant) -> Option<Program> {
        let mut file = private_file::open(&self.path(name), OpenOptions::new().read(true)).ok()?;
        let len = file.metadata().ok()?.len().checked_sub(MAC_BYTES as u64).filter(|len| *len <= CODE_BYTES_MAX)?;
        let (mut mac, mut code) = ([0; MAC_BYTES], NativeCode::with_room(len as usize).ok()?);
        file.read_exact(&mut mac).and_then(|()| file.read_exact(code.bytes_mut())).ok()?;
        if !self.key.verifies(name, code.bytes(), mac) {
            return None;
        }
        // SAFETY: the MAC says that this node wrote these very bytes under this name, which stands
        // for the engine's settings; `keep` is the only one that makes such a MAC, of what the
        // node's compiler gave.
        let program = unsafe { sandbox.load(code) }.ok()?;
        // These times are the order of use. If the time cannot be set, a later compilation is the
        // only cost.
        let _ = file.set_modified(SystemTime::now());
        if let Some(users) = self.users.get() {
            self.note(&mut lock(users), scope, name, len + MAC_BYTES as u64);
        }
        Some(program)
    }

    /// Stores `code` under `name`, for `scope`. A full disk or a missing directory costs a later
    /// start a compilation, and does not affect this run.
    pub fn keep(&self, name: &Digest, code: &[u8], scope: &Tenant) {
        let users = self.users.get_or_init(|| Mutex::new(self.scan()));
        if self.write(name, code).is_ok() {
            self.note(&mut lock(users), scope, name, code.len() as u64 + MAC_BYTES as u64);
        }
    }

    /// Records a use, and deletes files that fit in no scope's share any more.
    fn note(&self, users: &mut CodeUsers, scope: &Tenant, name: &Digest, bytes: u64) {
        users.note(scope, name, bytes);
        while let Some(unused) = users.make_room(self.bytes_max) {
            let _ = fs::remove_file(self.path(&unused));
        }
    }

    fn write(&self, name: &Digest, code: &[u8]) -> io::Result<()> {
        let mut file = private_file::temporary_in(&self.directory, TEMPORARY)?;
        file.write_all(&self.key.mac(name, code))?;
        file.write_all(code)?;
        // The timestamp that the system sets comes from a coarser clock than the one of `load`.
        file.as_file().set_modified(SystemTime::now())?;
        file.persist(self.path(name))?;
        Ok(())
    }

    /// Lists the files of the directory, the most recently used last. Removes files that are not
    /// code or are incomplete. The former users are unknown, so the files count for the owner until
    /// others use them.
    fn scan(&self) -> CodeUsers {
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
        let mut users = CodeUsers::default();
        for (_, digest, bytes) in found {
            self.note(&mut users, &Tenant::OWNER, &digest, bytes);
        }
        users
    }

    fn path(&self, name: &Digest) -> PathBuf {
        path_in(&self.directory, name)
    }
}

fn lock(users: &Mutex<CodeUsers>) -> MutexGuard<'_, CodeUsers> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path_in(directory: &Path, name: &Digest) -> PathBuf {
    directory.join(format!("{name}{SUFFIX}"))
}

const SUFFIX: &str = ".code";
const TEMPORARY: &str = ".new-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Compiler;
    use crate::workload::{Workload, WorkloadGuest};

    struct Kept {
        directory: tempfile::TempDir,
        sandbox: Sandbox,
        code: Vec<u8>,
    }

    impl Kept {
        fn new() -> Self {
            let WorkloadGuest::Admitted(module) = Workload::Transcode.module() else { unreachable!() };
            let code = Compiler::in_process().unwrap().compile(module).unwrap();
            Self { directory: tempfile::tempdir().unwrap(), sandbox: Sandbox::new(1).unwrap(), code }
        }

        fn files(&self, secret: u8, files_max: u64) -> CompiledCode {
            let bytes = self.code.len() as u64 + MAC_BYTES as u64;
            CompiledCode::new(self.directory.path().to_owned(), MacKey::new([secret; 32]), files_max * bytes)
        }

        /// Returns those of the named files that exist.
        fn there(&self, names: &[Digest]) -> Vec<Digest> {
            let is_there = |name: &&Digest| path_in(self.directory.path(), name).exists();
            names.iter().filter(is_there).copied().collect()
        }
    }

    fn name(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    /// Returns whether a stored program is still loaded after `damage`.
    fn loads_after(damage: impl FnOnce(&Path)) -> bool {
        let kept = Kept::new();
        let files = kept.files(1, 10);
        files.keep(&name("a"), &kept.code, &Tenant::OWNER);
        damage(&files.path(&name("a")));
        let loaded = files.load(&kept.sandbox, &name("a"), &Tenant::OWNER).is_some();
        files.keep(&name("a"), &kept.code, &Tenant::OWNER);
        assert!(files.load(&kept.sandbox, &name("a"), &Tenant::OWNER).is_some(), "whatever lay there is replaced");
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
        files.keep(&name("a"), &kept.code, &Tenant::OWNER);
        fs::copy(files.path(&name("a")), files.path(&name("b"))).unwrap();
        assert!(files.load(&kept.sandbox, &name("b"), &Tenant::OWNER).is_none(), "swapped");
        assert!(kept.files(2, 10).load(&kept.sandbox, &name("a"), &Tenant::OWNER).is_none(), "another node's key");
    }

    #[test]
    fn the_least_recently_used_code_gives_way_also_after_a_restart() {
        let kept = Kept::new();
        let names: Vec<Digest> = ["a", "b", "c", "d", "e"].into_iter().map(name).collect();
        let files = kept.files(1, 3);
        for name in &names[..3] {
            files.keep(name, &kept.code, &Tenant::OWNER);
        }
        assert_eq!(kept.there(&names), names[..3]);
        files.load(&kept.sandbox, &names[0], &Tenant::OWNER).unwrap();
        files.keep(&names[3], &kept.code, &Tenant::OWNER);
        assert_eq!(kept.there(&names), [names[0], names[2], names[3]]);

        let files = kept.files(1, 3);
        files.load(&kept.sandbox, &names[0], &Tenant::OWNER).unwrap();
        files.keep(&names[4], &kept.code, &Tenant::OWNER);
        assert_eq!(kept.there(&names), [names[0], names[3], names[4]]);

        // The limit is below what exists.
        let files = kept.files(1, 1);
        files.keep(&names[1], &kept.code, &Tenant::OWNER);
        assert_eq!(kept.there(&names), [names[1]]);
    }

    #[test]
    fn one_tokens_code_does_not_push_out_anothers() {
        let kept = Kept::new();
        let [mallory, bob]: [Tenant; 2] = ["mallory", "bob"].map(|name| name.parse().unwrap());
        let of = |who: &str| -> Vec<Digest> { (0..20).map(|number| name(&format!("{who} {number}"))).collect() };
        let (own, flood) = (of("bob"), of("mallory"));
        let files = kept.files(1, 10);
        let keep = |names: &[Digest], scope: &Tenant| names.iter().for_each(|name| files.keep(name, &kept.code, scope));
        keep(&own[..3], &bob);
        keep(&flood, &mallory);
        assert_eq!(kept.there(&own), own[..3]);
        assert_eq!(kept.there(&flood), flood[13..], "its own go, the first first");
        // A use by another scope, before or after, changes nothing.
        files.load(&kept.sandbox, &own[0], &mallory).unwrap();
        files.load(&kept.sandbox, &flood[19], &bob).unwrap();
        keep(&flood[..13], &mallory);
        assert_eq!(kept.there(&own), own[..3]);
        assert!(kept.there(&flood).contains(&flood[19]));
        // No scope has more than its share permanently.
        keep(&own, &bob);
        assert_eq!((kept.there(&own).len(), kept.there(&flood).len()), (5, 5));
    }

    #[test]
    fn after_a_restart_code_is_of_whoever_uses_it() {
        let kept = Kept::new();
        let [mallory, bob]: [Tenant; 2] = ["mallory", "bob"].map(|name| name.parse().unwrap());
        let all: Vec<Digest> = (0..20).map(|number| name(&format!("{number}"))).collect();
        let files = kept.files(1, 6);
        all[..6].iter().for_each(|name| files.keep(name, &kept.code, &mallory));
        let files = kept.files(1, 6);
        files.keep(&all[6], &kept.code, &mallory);
        files.load(&kept.sandbox, &all[1], &bob).unwrap();
        all[7..].iter().for_each(|name| files.keep(name, &kept.code, &mallory));
        // Files that no scope has used since have one owner's share.
        assert_eq!(kept.there(&all), [&all[1..2], &all[4..6], &all[17..]].concat());
    }

    #[test]
    fn what_an_interrupted_write_left_is_removed() {
        let kept = Kept::new();
        let left = kept.directory.path().join(format!("{TEMPORARY}abc"));
        fs::write(&left, b"half").unwrap();
        kept.files(1, 3).keep(&name("a"), &kept.code, &Tenant::OWNER);
        assert!(!left.exists());
    }
}
