//! A reserve of free space on the disk: new work is refused while less is free, so that what is under way can come to its end.

use std::path::{Path, PathBuf};

use super::StoreError;

/// The reserve is no more than such a part of the disk.
const PART_OF_DISK: u64 = 20;

#[derive(Clone, Debug)]
pub struct Reserve {
    directory: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Keeps `bytes` free on the disk of `directory`, or a twentieth of it if that is less.
    pub const fn new(directory: PathBuf, bytes: u64) -> Self {
        Self { directory, bytes }
    }

    /// Whether `more` bytes leave the reserve free. A disk that does not say how much is free counts as empty.
    pub fn check(&self, more: u64) -> Result<(), StoreError> {
        let Some(Space { free, all }) = space(&self.directory) else { return Ok(()) };
        let reserved = self.bytes.min(all / PART_OF_DISK);
        if free >= reserved.saturating_add(more) {
            return Ok(());
        }
        Err(StoreError::NoSpace { path: self.directory.clone(), free, reserved })
    }
}

struct Space {
    free: u64,
    all: u64,
}

/// `None` where the file system has no size.
fn space(directory: &Path) -> Option<Space> {
    let found = rustix::fs::statvfs(directory).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    (found.f_blocks > 0).then(|| Space { free: bytes(found.f_bavail), all: bytes(found.f_blocks) })
}

/// Whether the disk of `path` has so little left that a database cannot be opened on it.
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
        let Space { free, .. } = space(directory.path()).unwrap();
        reserve(0).check(0).unwrap();
        reserve(0).check(free / 2).unwrap();
        let error = reserve(1 << 20).check(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("store.reserve_bytes"), "{error}");
        reserve(0).check(free.saturating_mul(2)).unwrap_err();
        Reserve::new(directory.path().join("nothing"), 1).check(u64::MAX).unwrap();
        assert!(!is_full(&directory.path().join("a/b")));
    }
}
