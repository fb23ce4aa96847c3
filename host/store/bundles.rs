//! Bundles as files that are named by their digest, in shards by its first two digits:
//!
//! | file                      |                                                                               |
//! |---------------------------|-------------------------------------------------------------------------------|
//! | `ab/<64 hex>.bundle`      | the bundle                                                                    |
//! | `ab/<64 hex>.receipts`    | its side file: what the database knows of it, to be made again if that is lost |
//! | `ab/<64 hex>.damaged`     | what lay in the bundle's place and was not it                                 |
//! | `staged/`                 | bundles that are being written                                                |
//!
//! A bundle is on disk before it has its name, so that a name never stands for a part of one.

mod notes;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};

use tempfile::{NamedTempFile, TempPath};

pub use self::notes::Notes;
use super::StoreError;
use super::database::lock;
use super::reserve::Reserve;
use crate::digest::{Digest, Hasher};
use crate::private_file;
use crate::proof::Blob;

/// What is read at once to hash a file again.
const READ_BYTES: usize = 128 << 10;

/// The bundles in one directory. No other process, and no other `BundleFiles`, may change it.
pub struct BundleFiles {
    directory: PathBuf,
    reserve: OnceLock<Reserve>,
    /// Whether the directory of what is being written is known to be on disk.
    staged: Mutex<bool>,
    /// The same of each shard. Its lock is held by whoever changes a side file.
    shards: [Mutex<bool>; 256],
}

/// A bundle that is being written. It disappears with this value.
pub struct Staged {
    file: NamedTempFile,
    hasher: Hasher,
    bytes: u64,
    reserve: Option<Reserve>,
}

/// A bundle that is on disk, and has no name yet. It disappears with this value.
pub struct Finished {
    path: TempPath,
    blob: Blob,
}

/// Whether a bundle is what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Sound,
    Missing,
    Damaged,
}

impl BundleFiles {
    /// The bundles in `directory`, which is made when it is needed.
    pub const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            reserve: OnceLock::new(),
            staged: Mutex::new(false),
            shards: [const { Mutex::new(false) }; 256],
        }
    }

    /// Begins to write a bundle.
    pub fn stage(&self) -> Result<Staged, StoreError> {
        let directory = self.directory.join("staged");
        self.make(&directory, &mut lock(&self.staged))?;
        // A temporary file has mode 0600 from the start.
        let file = NamedTempFile::new_in(&directory).map_err(StoreError::at(&directory))?;
        let reserve = self.reserve.get().cloned();
        reserve.as_ref().map_or(Ok(()), |reserve| reserve.check(0))?;
        Ok(Staged { file, hasher: Hasher::default(), bytes: 0, reserve })
    }

    /// Has bundles that are written from now on leave this reserve free. The first counts.
    pub fn keep_reserve(&self, reserve: Reserve) {
        self.reserve.get_or_init(|| reserve);
    }

    /// Gives the bundle its name and appends `record`, of 1 to [`RECORD_BYTES_MAX`] bytes, to its side file, durably. What has
    /// the name already is replaced, which mends what was damaged.
    ///
    /// [`RECORD_BYTES_MAX`]: notes::RECORD_BYTES_MAX
    pub fn keep(&self, finished: Finished, record: &[u8]) -> Result<Blob, StoreError> {
        let Finished { path: staged, blob } = finished;
        let path = self.path(&blob.blake3);
        let _noting = self.shard(&blob.blake3)?;
        staged.persist(&path).map_err(|error| StoreError::at(&path)(error.error))?;
        notes::note_and_names(&self.side_path(&blob.blake3), &blob.blake3, record)?;
        Ok(blob)
    }

    /// Removes what a process that died was writing, and says how many files that were. To be called before anything is
    /// staged.
    pub fn remove_staged_leftovers(&self) -> Result<u64, StoreError> {
        let directory = self.directory.join("staged");
        let mut removed = 0;
        for entry in entries(&directory)? {
            let path = entry.map_err(StoreError::at(&directory))?.path();
            std::fs::remove_file(&path).map_err(StoreError::at(&path))?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Appends `record`, of 1 to [`RECORD_BYTES_MAX`] bytes, to the bundle's side file, durably.
    pub fn note(&self, digest: &Digest, record: &[u8]) -> Result<(), StoreError> {
        let _noting = self.shard(digest)?;
        notes::note(&self.side_path(digest), digest, record)
    }

    /// What was noted of the bundle.
    pub fn notes(&self, digest: &Digest) -> Result<Notes, StoreError> {
        Notes::open(self.side_path(digest), digest)
    }

    /// The bundle's file, to read from. What it holds is not checked.
    pub fn open(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.path(digest);
        let opened = private_file::open(&path, OpenOptions::new().read(true));
        if_there(opened).map_err(StoreError::at(&path))
    }

    /// Where the bundle is, if it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.named(digest, "bundle")
    }

    /// Removes the bundle and its side file; that they are not there is no error. A crash of the system can bring them
    /// back, which does no harm: they are found by [`BundleFiles::all`], and nothing refers to them.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let _noting = lock(self.shard_lock(digest));
        // A bundle without a side file is of no use to anybody; a side file without its bundle would be a loss.
        for path in [self.side_path(digest), self.path(digest)] {
            if_there(std::fs::remove_file(&path)).map_err(StoreError::at(&path))?;
        }
        Ok(())
    }

    /// Moves the bundle aside, to be looked at and not to be served, and says where it is now. What was moved there
    /// before is replaced: the bundle has been sound since.
    pub fn quarantine(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let (path, aside) = (self.path(digest), self.named(digest, "damaged"));
        let moved = std::fs::rename(&path, &aside).and_then(|()| private_file::sync_directory_of(&path));
        moved.map(|()| aside).map_err(StoreError::at(&path))
    }

    /// Reads the bundle again, of which `bytes` are expected.
    pub fn verify(&self, digest: &Digest, bytes: u64) -> Result<Health, StoreError> {
        let Some(mut file) = self.open(digest)? else { return Ok(Health::Missing) };
        let path = self.path(digest);
        let at = StoreError::at(&path);
        if file.metadata().map_err(at)?.len() != bytes {
            return Ok(Health::Damaged);
        }
        Ok(if digest_of(&mut file).map_err(at)? == *digest { Health::Sound } else { Health::Damaged })
    }

    /// The digests that have a bundle or a side file, in their order. Memory is that of one shard's names.
    pub fn all(&self) -> impl Iterator<Item = Result<Digest, StoreError>> + '_ {
        (0..=u8::MAX).flat_map(|shard| match self.digests(shard) {
            Ok(digests) => digests.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    fn digests(&self, shard: u8) -> Result<BTreeSet<Digest>, StoreError> {
        let shard = format!("{shard:02x}");
        let directory = self.directory.join(&shard);
        let mut digests = BTreeSet::new();
        for entry in entries(&directory)? {
            let name = entry.map_err(StoreError::at(&directory))?.file_name();
            let name = name.to_str().unwrap_or_default();
            let stem = name.strip_suffix(".bundle").or_else(|| name.strip_suffix(".receipts"));
            // What has another name, or lies in the wrong shard, is none of ours.
            let digest = stem.filter(|stem| stem.starts_with(&shard)).and_then(|stem| {
                let digest: Digest = stem.parse().ok()?;
                (digest.to_string() == stem).then_some(digest)
            });
            digests.extend(digest);
        }
        Ok(digests)
    }

    fn side_path(&self, digest: &Digest) -> PathBuf {
        self.named(digest, "receipts")
    }

    fn named(&self, digest: &Digest, extension: &str) -> PathBuf {
        let hex = digest.to_string();
        self.directory.join(&hex[..2]).join(format!("{hex}.{extension}"))
    }

    const fn shard_lock(&self, digest: &Digest) -> &Mutex<bool> {
        &self.shards[digest.as_bytes()[0] as usize]
    }

    /// The lock of the shard, whose directory is on disk.
    fn shard(&self, digest: &Digest) -> Result<MutexGuard<'_, bool>, StoreError> {
        let mut is_made = lock(self.shard_lock(digest));
        let path = self.path(digest);
        self.make(path.parent().unwrap_or(&self.directory), &mut is_made)?;
        Ok(is_made)
    }

    /// Makes a directory in this one, the first time that this process needs it.
    fn make(&self, directory: &Path, is_made: &mut bool) -> Result<(), StoreError> {
        if !*is_made {
            let made = private_file::make_directory(&self.directory);
            made.and_then(|()| private_file::make_directory(directory)).map_err(StoreError::at(directory))?;
            *is_made = true;
        }
        Ok(())
    }
}

impl Staged {
    /// Appends to the bundle. After an error it cannot be finished.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.reserve.as_ref().map_or(Ok(()), |reserve| reserve.check(bytes.len() as u64))?;
        self.file.as_file_mut().write_all(bytes).map_err(StoreError::at(self.file.path()))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// What was written so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns when the bytes are on disk.
    pub fn finish(self) -> Result<Finished, StoreError> {
        let (file, path) = self.file.into_parts();
        let at = StoreError::at(&path);
        if file.metadata().map_err(at)?.len() != self.bytes {
            return Err(at(io::Error::other("a part of it could not be written")));
        }
        file.sync_all().map_err(at)?;
        let blob = Blob { blake3: self.hasher.finish(), bytes: self.bytes };
        Ok(Finished { path, blob })
    }
}

impl Finished {
    pub const fn blob(&self) -> Blob {
        self.blob
    }

    /// Gives the bytes this name instead of a bundle's; it is on disk when this returns. The name's directory is there.
    pub(super) fn name(self, path: &Path) -> Result<Blob, StoreError> {
        self.path.persist(path).map_err(|error| StoreError::at(path)(error.error))?;
        private_file::sync_directory_of(path).map_err(StoreError::at(path))?;
        Ok(self.blob)
    }
}

/// The digest of what is left to read of a file.
pub fn digest_of(file: &mut File) -> io::Result<Digest> {
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

/// What is in a directory, and nothing if it is not there.
fn entries(directory: &Path) -> Result<impl Iterator<Item = io::Result<std::fs::DirEntry>>, StoreError> {
    let entries = if_there(std::fs::read_dir(directory)).map_err(StoreError::at(directory))?;
    Ok(entries.into_iter().flatten())
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests;
