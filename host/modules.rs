//! Compiled modules: each is made once, kept in memory while it is in use, and on disk for the next start.
//!
//! A file of native code is trusted only if this node wrote it: its MAC covers the module, the engine's settings and the
//! code, and is checked on the bytes that are then loaded, not on a file that could change in between. Whatever else
//! lies there is compiled anew and replaced.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::{Digest, MacKey};
use crate::sandbox::{Admitted, Program, Sandbox, SandboxError};

/// Programs that stay in memory; one is about as large as its native code.
const PROGRAMS_MAX: u64 = 64;
/// The largest file of native code that is read back: 16 times the largest module.
const CODE_BYTES_MAX: u64 = 64 << 20;
const MAC_BYTES: usize = 32;

pub struct Modules {
    sandbox: Arc<Sandbox>,
    programs: moka::sync::Cache<Digest, Program>,
    disk: Option<CodeFiles>,
}

impl Modules {
    pub fn new(sandbox: Arc<Sandbox>, disk: Option<CodeFiles>) -> Self {
        Self { sandbox, programs: moka::sync::Cache::new(PROGRAMS_MAX), disk }
    }

    /// The program of `admitted`; callers that come at once wait for one compilation.
    pub fn program(&self, admitted: &Admitted) -> Result<Program, Arc<SandboxError>> {
        self.programs.try_get_with(admitted.digest(), || match &self.disk {
            Some(disk) => disk.program(&self.sandbox, admitted),
            None => self.sandbox.compile(admitted),
        })
    }
}

/// A directory of native code. All of it can be made again, so deleting it costs time and nothing else.
pub struct CodeFiles {
    directory: PathBuf,
    key: MacKey,
}

impl CodeFiles {
    /// `key` must be secret from whoever else can write to `directory`.
    pub const fn new(directory: PathBuf, key: MacKey) -> Self {
        Self { directory, key }
    }

    fn program(&self, sandbox: &Sandbox, admitted: &Admitted) -> Result<Program, SandboxError> {
        let settings = sandbox.settings_digest();
        let name = Digest::of(&[*admitted.digest().as_bytes(), *settings.as_bytes()].concat());
        let path = self.directory.join(format!("{name}.code"));
        if let Some(program) = self.load(sandbox, admitted, &name, &path) {
            return Ok(program);
        }
        let (program, code) = sandbox.compile_and_keep(admitted)?;
        // A full disk or a directory that is gone costs the next start a compilation, and this run nothing.
        let _ = self.write(&name, &code, &path);
        Ok(program)
    }

    /// What was kept at `path`, if this node kept it and this engine takes it.
    fn load(&self, sandbox: &Sandbox, admitted: &Admitted, name: &Digest, path: &Path) -> Option<Program> {
        let mut file = Vec::new();
        std::fs::File::open(path).ok()?.take(CODE_BYTES_MAX + 1).read_to_end(&mut file).ok()?;
        let (mac, code) = file.split_first_chunk::<MAC_BYTES>()?;
        if !self.key.verifies(name, code, *mac) {
            return None;
        }
        // SAFETY: the MAC says that this node wrote these very bytes under this name, which stands for the module and
        // the engine's settings; `write` is the only one that makes such a MAC, of what `compile_and_keep` gave.
        unsafe { sandbox.load(admitted, code) }.ok()
    }

    fn write(&self, name: &Digest, code: &[u8], path: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
        file.write_all(&self.key.mac(name, code))?;
        file.write_all(code)?;
        file.persist(path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    /// Loads what `damage` leaves of a kept program; compiling anew is no answer here.
    fn loads_after(damage: impl FnOnce(&Path, &mut CodeFiles)) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let mut files = CodeFiles::new(directory.path().to_owned(), MacKey::new([1; 32]));
        let sandbox = Sandbox::new(1).unwrap();
        let transcode = Workload::Transcode;
        files.program(&sandbox, transcode.module()).unwrap();
        let path = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
        damage(&path, &mut files);
        let name: Digest = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let loaded = files.load(&sandbox, transcode.module(), &name, &path).is_some();
        files.program(&sandbox, transcode.module()).expect("whatever lies there, the program can be had");
        assert!(files.load(&sandbox, transcode.module(), &name, &path).is_some(), "and is kept again");
        loaded
    }

    #[test]
    fn only_code_that_this_node_kept_is_loaded() {
        assert!(loads_after(|_, _| {}));
        assert!(!loads_after(|path, _| std::fs::write(path, b"").unwrap()));
        assert!(!loads_after(|path, _| {
            let mut bytes = std::fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(path, bytes).unwrap();
        }));
        assert!(!loads_after(|path, _| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }));
        assert!(!loads_after(|_, files| files.key = MacKey::new([2; 32])), "another node's key");
    }

    #[test]
    fn code_under_another_modules_name_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let files = CodeFiles::new(directory.path().to_owned(), MacKey::new([1; 32]));
        let sandbox = Sandbox::new(1).unwrap();
        files.program(&sandbox, Workload::Transcode.module()).unwrap();
        let path = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
        let settings = sandbox.settings_digest();
        let inference = Workload::Inference;
        let name = Digest::of(&[*inference.module().digest().as_bytes(), *settings.as_bytes()].concat());
        assert!(files.load(&sandbox, inference.module(), &name, &path).is_none());
    }
}
