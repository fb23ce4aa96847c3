//! Bundle files, named by their digest, in shard directories named by its first two hex digits:
//!
//! | file                   |                                                               |
//! |------------------------|---------------------------------------------------------------|
//! | `ab/<64 hex>.bundle`   | the bundle                                                    |
//! | `ab/<64 hex>.receipts` | its sidecar, from which the database's records can be rebuilt |
//! | `ab/<64 hex>.damaged`  | a damaged file that was found in the bundle's place           |
//! | `staged/`              | bundles that are being written                                |
//!
//! A bundle is on disk before it gets its name, so a name never refers to a partial bundle.

mod sidecar;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};

use tempfile::{NamedTempFile, TempPath};

pub use self::sidecar::SidecarRecords;
use super::StoreError;
use super::database::lock;
use super::reserve::Reserve;
use crate::digest::{Digest, Hasher};
use crate::private_file;
use crate::proof::Blob;

/// Bytes per read when a file is hashed again.
const READ_BYTES: usize = 128 << 10;

/// The bundles in one directory. No other process, and no other `BundleFiles`, may change it.
pub struct BundleFiles {
    directory: PathBuf,
    reserve: OnceLock<Reserve>,
    /// True if the staging directory is known to be on disk.
    staged: Mutex<bool>,
    /// True for each shard directory that is known to be on disk. Callers that change a sidecar
    /// hold its shard's lock.
    shards: [Mutex<bool>; 256],
}

/// A bundle that is being written. Dropping this value removes the file.
pub struct StagedBundle {
    file: NamedTempFile,
    hasher: Hasher,
    bytes: u64,
    reserve: Option<Reserve>,
}

/// A bundle that is on disk and has no name yet. Dropping this value removes the file.
pub struct WrittenBundle {
    path: TempPath,
    blob: Blob,
}

/// Result of comparing a bundle with the digest in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Sound,
    Missing,
    Damaged,
}

impl BundleFiles {
    /// Creates a handle for the bundles in `directory`. The directory is created on first use.
    pub const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            reserve: OnceLock::new(),
            staged: Mutex::new(false),
            shards: [const { Mutex::new(false) }; 256],
        }
    }

    /// Starts to write a bundle.
    pub fn stage(&self) -> Result<StagedBundle, StoreError> {
        let directory = self.directory.join("staged");
        self.make(&directory, &mut lock(&self.staged))?;
        // A temporary file has mode 0600 from its creation.
        let file = NamedTempFile::new_in(&directory).map_err(StoreError::at(&directory))?;
        let reserve = self.reserve.get().cloned();
        reserve.as_ref().map_or(Ok(()), |reserve| reserve.check(0))?;
        Ok(StagedBundle { file, hasher: Hasher::default(), bytes: 0, reserve })
    }

    /// Sets the disk reserve that later bundles must leave free. Only the first call has an effect.
    pub fn keep_reserve(&self, reserve: Reserve) {
        self.reserve.get_or_init(|| reserve);
    }

    /// Gives the bundle its name and appends `record`, of 1 to [`RECORD_BYTES_MAX`] bytes, to its
    /// sidecar, durably. A file with the same name is replaced, which repairs a damaged bundle.
    ///
    /// [`RECORD_BYTES_MAX`]: notes::RECORD_BYTES_MAX
    pub fn keep(&self, finished: WrittenBundle, record: &[u8]) -> Result<Blob, StoreError> {
        let WrittenBundle { path: staged, blob } = finished;
        let path = self.path(&blob.blake3);
        let _noting = self.shard(&blob.blake3)?;
        staged.persist(&path).map_err(|error| StoreError::at(&path)(error.error))?;
        sidecar::note_and_names(&self.side_path(&blob.blake3), &blob.blake3, record)?;
        Ok(blob)
    }

    /// Removes the staged files of a process that died. Returns their number. Must be called before
    /// anything is staged.
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

    /// Appends `record`, of 1 to [`RECORD_BYTES_MAX`] bytes, to the bundle's sidecar, durably.
    pub fn note(&self, digest: &Digest, record: &[u8]) -> Result<(), StoreError> {
        let _noting = self.shard(digest)?;
        sidecar::note(&self.side_path(digest), digest, record)
    }

    /// Returns the records of the bundle's sidecar.
    pub fn notes(&self, digest: &Digest) -> Result<SidecarRecords, StoreError> {
        SidecarRecords::open(self.side_path(digest), digest)
    }

    /// Opens the bundle's file for reading. The content is not checked.
    pub fn open(&self, digest: &Digest) -> Result<Option<File>, StoreError> {
        let path = self.path(digest);
        let opened = private_file::open(&path, OpenOptions::new().read(true));
        if_there(opened).map_err(StoreError::at(&path))
    }

    /// Returns the path of the bundle, whether or not the bundle exists.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.named(digest, "bundle")
    }

    /// Removes the bundle and its sidecar. Missing files are no error. A system crash can restore
    /// them without harm: [`BundleFiles::all`] finds them, and nothing refers to them.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let _noting = lock(self.shard_lock(digest));
        // The sidecar goes first: a bundle without a sidecar is useless, but a sidecar without its
        // bundle would mean a loss.
        for path in [self.side_path(digest), self.path(digest)] {
            if_there(std::fs::remove_file(&path)).map_err(StoreError::at(&path))?;
        }
        Ok(())
    }

    /// Moves the bundle aside for inspection, so that it is no longer served. Returns the new path.
    /// A file that was moved there earlier is replaced: the bundle has been sound since.
    pub fn quarantine(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let (path, aside) = (self.path(digest), self.named(digest, "damaged"));
        let moved = std::fs::rename(&path, &aside).and_then(|()| private_file::sync_directory_of(&path));
        moved.map(|()| aside).map_err(StoreError::at(&path))
    }

    /// Reads the bundle again and checks its length, `bytes`, and its digest.
    pub fn verify(&self, digest: &Digest, bytes: u64) -> Result<Health, StoreError> {
        let Some(mut file) = self.open(digest)? else { return Ok(Health::Missing) };
        let path = self.path(digest);
        let at = StoreError::at(&path);
        if file.metadata().map_err(at)?.len() != bytes {
            return Ok(Health::Damaged);
        }
        Ok(if digest_of(&mut file).map_err(at)? == *digest { Health::Sound } else { Health::Damaged })
    }

    /// Returns the digests that have a bundle or a sidecar, in order. Memory use is that of one
    /// shard's names.
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
            // Files with other names, or in the wrong shard, do not belong to this store.
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

    /// Returns the shard's lock. The shard's directory is then on disk.
    fn shard(&self, digest: &Digest) -> Result<MutexGuard<'_, bool>, StoreError> {
        let mut is_made = lock(self.shard_lock(digest));
        let path = self.path(digest);
        self.make(path.parent().unwrap_or(&self.directory), &mut is_made)?;
        Ok(is_made)
    }

    /// Creates a directory in this one when the process first needs it.
    fn make(&self, directory: &Path, is_made: &mut bool) -> Result<(), StoreError> {
        if !*is_made {
            let made = private_file::make_directory(&self.directory);
            made.and_then(|()| private_file::make_directory(directory)).map_err(StoreError::at(directory))?;
            *is_made = true;
        }
        Ok(())
    }
}

impl StagedBundle {
    /// Appends to the bundle. After an error, the bundle cannot be finished.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.reserve.as_ref().map_or(Ok(()), |reserve| reserve.check(bytes.len() as u64))?;
        self.file.as_file_mut().write_all(bytes).map_err(StoreError::at(self.file.path()))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Returns the number of bytes written so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns when the bytes are on disk.
    pub fn finish(self) -> Result<WrittenBundle, StoreError> {
        let (file, path) = self.file.into_parts();
        let at = StoreError::at(&path);
        if file.metadata().map_err(at)?.len() != self.bytes {
            return Err(at(io::Error::other("a part of it could not be written")));
        }
        file.sync_all().map_err(at)?;
        let blob = Blob { blake3: self.hasher.finish(), bytes: self.bytes };
        Ok(WrittenBundle { path, blob })
    }
}

impl WrittenBundle {
    pub const fn blob(&self) -> Blob {
        self.blob
    }

    /// Gives the file this path instead of a bundle's name. The name is durable when this returns.
    /// The directory of `path` must exist.
    pub(super) fn name(self, path: &Path) -> Result<Blob, StoreError> {
        self.path.persist(path).map_err(|error| StoreError::at(path)(error.error))?;
        private_file::sync_directory_of(path).map_err(StoreError::at(path))?;
        Ok(self.blob)
    }
}

/// Returns the digest of the rest of a file, from its current position.
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

/// Returns the entries of a directory, or none if it does not exist.
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
