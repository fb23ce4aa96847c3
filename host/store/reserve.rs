//! Reserve of free disk space: new work is refused while less is free, so that running work can
//! finish.

use std::path::{Path, PathBuf};

use super::StoreError;

/// Upper bound on the reserve: 1/`PART_OF_DISK` of the disk.
const PART_OF_DISK: u64 = 20;

#[derive(Clone, Debug)]
pub struct Reserve {
    directory: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Reserves `bytes` on the disk of `directory`, or a twentieth of the disk if that is less.
    pub const fn new(directory: PathBuf, bytes: u64) -> Self {
        Self { directory, bytes }
    }

    /// Checks that the reserve stays free after `more` bytes are written. A file system that does
    /// not report its free space passes the check.
    pub fn check(&self, more: u64) -> Result<(), StoreError> {
        let Some(FreeSpace { free, all }) = space(&self.directory) else { return Ok(()) };
        let reserved = self.bytes.min(all / PART_OF_DISK);
        if free >= reserved.saturating_add(more) {
            return Ok(());
        }
        Err(StoreError::NoSpace { path: self.directory.clone(), free, reserved })
    }
}

struct FreeSpace {
    free: u64,
    all: u64,
}

/// Returns `None` if the file system reports no size.
fn space(directory: &Path) -> Option<FreeSpace> {
    let found = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    (found.f_blocks > 0).then(|| FreeSpace { free: bytes(found.f_bavail), all: bytes(found.f_blocks) })
}

/// Returns whether the disk of `path` has too little free space to open a database.
pub fn is_full(path: &Path) -> bool {
    const OPENING_BYTES: u64 = 1 << 20;
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    space(there).is_some_and(|space| space.free < OPENING_BYTES.min(space.all / PART_OF_DISK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_go_below_the_reserve_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = |bytes| Reserve::new(directory.path().to_owned(), bytes);
        let FreeSpace { free, .. } = space(directory.path()).unwrap();
        reserve(0).check(0).unwrap();
        reserve(0).check(free / 2).unwrap();
        let error = reserve(1 << 20).check(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("store.reserve_bytes"), "{error}");
        reserve(0).check(free.saturating_mul(2)).unwrap_err();
        Reserve::new(directory.path().join("nothing"), 1).check(u64::MAX).unwrap();
        assert!(!is_full(&directory.path().join("a/b")));
    }
}
