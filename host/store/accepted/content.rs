//! Bytes of a task: its slice, its arguments and assets in one part, and the guest's output when it
//! is done. Short parts are in the database, so one write persists them with the record, and with
//! those of other tasks. Longer parts are files.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::task::{TaskId, TaskOutput};
use crate::digest::Digest;
use crate::private_file;
use crate::proof::{ASSETS_MAX, Blob};
use crate::slice::{Slice, SliceError};
use crate::store::StoreError;
use crate::store::bundles::{BundleFiles, StagedBundle, digest_of};
use crate::store::database::Database;
use crate::workload::Asset;

/// Longest part in the database. For longer ones, the three more syncs of a file cost less than two
/// writes of the bytes by sled: to its log, and once more later.
const INLINE_BYTES_MAX: usize = 16 << 10;

/// Length of a piece. sled writes pages of up to 16 values each. A page over a quarter of a segment
/// would become a file of its own.
pub const PIECE_BYTES: usize = 768;

/// First byte of the keys of pieces, and the matching file name extension.
pub const ASSETS: u8 = b'a';
pub const SLICE: u8 = b'i';
pub const OUTPUT: u8 = b'o';
const EXTENSIONS: [(u8, &str); 3] = [(ASSETS, "assets"), (SLICE, "slice"), (OUTPUT, "output")];

/// Parts that a task has until it ends.
pub const TAKEN_IN: [u8; 2] = [ASSETS, SLICE];

/// One part of a task's bytes, and its location.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct StoredBlob {
    blob: Blob,
    place: BlobLocation,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum BlobLocation {
    Database,
    File,
    /// Evicted or not stored: only the digest and the length are known. Used for outputs only.
    Gone,
}

impl StoredBlob {
    /// Creates the part of an output that is not stored.
    pub const fn gone(blob: Blob) -> Self {
        Self { blob, place: BlobLocation::Gone }
    }

    pub const fn blob(&self) -> Blob {
        self.blob
    }

    pub const fn bytes(&self) -> u64 {
        self.blob.bytes
    }

    /// Returns the disk space that the part uses, in bytes.
    pub const fn kept_bytes(&self) -> u64 {
        match self.place {
            BlobLocation::Database | BlobLocation::File => self.blob.bytes,
            BlobLocation::Gone => 0,
        }
    }

    pub const fn is_gone(&self) -> bool {
        matches!(self.place, BlobLocation::Gone)
    }

    /// Returns the keys of the part's pieces in the database.
    pub fn pieces(&self, prefix: u8, number: u64) -> impl Iterator<Item = Vec<u8>> + use<> {
        let bytes = if self.place == BlobLocation::Database { self.blob.bytes } else { 0 };
        let count = u32::try_from(bytes.div_ceil(PIECE_BYTES as u64)).unwrap_or(u32::MAX);
        (0..count).map(move |piece| [&[prefix][..], &number.to_be_bytes(), &piece.to_be_bytes()].concat())
    }

    /// Reads and verifies the accepted bytes.
    pub fn read(
        &self,
        database: &Database,
        prefix: u8,
        number: u64,
        files: &Path,
        id: &TaskId,
    ) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        match self.place {
            BlobLocation::Database => {
                for key in self.pieces(prefix, number) {
                    bytes.extend_from_slice(&database.get(&key)?.ok_or(StoreError::TaskDamaged { id: *id })?);
                }
            }
            BlobLocation::File => {
                let path = path(files, id, prefix);
                let at = StoreError::at(&path);
                let file = private_file::open(&path, OpenOptions::new().read(true)).map_err(at)?;
                // One byte more than expected is enough to detect a longer file.
                file.take(self.blob.bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(at)?;
            }
            BlobLocation::Gone => return Err(StoreError::TaskDamaged { id: *id }),
        }
        let is_whole = bytes.len() as u64 == self.blob.bytes && Digest::of(&bytes) == self.blob.blake3;
        if is_whole { Ok(bytes) } else { Err(StoreError::TaskDamaged { id: *id }) }
    }

    /// Returns the bytes as a slice. A file is read and verified when the slice is opened.
    pub fn slice(&self, database: &Database, number: u64, files: &Path, id: &TaskId) -> Result<Slice, StoreError> {
        if self.place == BlobLocation::Database {
            return Ok(Slice::from_bytes(self.read(database, SLICE, number, files, id)?));
        }
        match Slice::from_file(path(files, id, SLICE), self.blob.bytes) {
            Ok(slice) => Ok(slice.expecting(self.blob.blake3)),
            Err(SliceError::Open { path, cause } | SliceError::Read { path, cause }) => {
                Err(StoreError::File { path, cause })
            }
            Err(SliceError::NotAFile { .. } | SliceError::TooLarge { .. } | SliceError::Changed { .. }) => {
                Err(StoreError::TaskDamaged { id: *id })
            }
        }
    }

    /// Returns the bytes as an output. A file is read once for verification, and is not loaded into
    /// memory.
    pub fn output(
        &self,
        database: &Database,
        number: u64,
        files: &Path,
        id: &TaskId,
    ) -> Result<TaskOutput, StoreError> {
        let damaged = |path: &Path| StoreError::OutputDamaged { path: path.to_owned() };
        match self.place {
            BlobLocation::Database => match self.read(database, OUTPUT, number, files, id) {
                Err(StoreError::TaskDamaged { .. }) => Err(damaged(database.path())),
                bytes => Ok(TaskOutput::Held(bytes?)),
            },
            BlobLocation::File => {
                let path = path(files, id, OUTPUT);
                let at = StoreError::at(&path);
                let mut file = match private_file::open(&path, OpenOptions::new().read(true)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(damaged(&path)),
                    file => file.map_err(at)?,
                };
                let Blob { blake3, bytes } = self.blob;
                if file.metadata().map_err(at)?.len() != bytes || digest_of(&mut file).map_err(at)? != blake3 {
                    return Err(damaged(&path));
                }
                file.rewind().map_err(at)?;
                Ok(TaskOutput::File { file, bytes })
            }
            BlobLocation::Gone => Ok(TaskOutput::Gone),
        }
    }
}

/// Writer of bytes that arrive in pieces, with an unknown total length.
#[derive(Default)]
pub struct BlobWriter {
    held: Vec<u8>,
    file: Option<StagedBundle>,
}

impl BlobWriter {
    pub const fn bytes(&self) -> u64 {
        match &self.file {
            Some(file) => file.bytes(),
            None => self.held.len() as u64,
        }
    }

    pub fn write(&mut self, files: &BundleFiles, bytes: &[u8]) -> Result<(), StoreError> {
        if self.file.is_none() && self.held.len() + bytes.len() <= INLINE_BYTES_MAX {
            self.held.extend_from_slice(bytes);
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(files.stage()?);
        }
        let held = std::mem::take(&mut self.held);
        [&held[..], bytes].into_iter().try_for_each(|bytes| self.file.as_mut().map_or(Ok(()), |file| file.write(bytes)))
    }

    /// Returns the part, and the bytes that the caller must write to the database. A file is on
    /// disk under its name when this returns.
    pub fn finish(self, files: &Path, id: &TaskId, prefix: u8) -> Result<(StoredBlob, Vec<u8>), StoreError> {
        let Self { held, file } = self;
        match file {
            Some(file) => {
                let blob = file.finish()?.name(&path(files, id, prefix))?;
                Ok((StoredBlob { blob, place: BlobLocation::File }, Vec::new()))
            }
            None => {
                let blob = Blob { blake3: Digest::of(&held), bytes: held.len() as u64 };
                Ok((StoredBlob { blob, place: BlobLocation::Database }, held))
            }
        }
    }
}

/// Encodes arguments and assets: the number of assets and the length of each, as u64,
/// little-endian; then the assets; then the arguments. The encoding is empty if there are neither.
pub fn brought<'a>(args: &'a [u8], assets: &'a [Asset]) -> Vec<std::borrow::Cow<'a, [u8]>> {
    if args.is_empty() && assets.is_empty() {
        return Vec::new();
    }
    let lengths = assets.iter().map(|asset| asset.bytes().len());
    let head = std::iter::once(assets.len()).chain(lengths).flat_map(|length| (length as u64).to_le_bytes()).collect();
    let assets = assets.iter().map(|asset| (&asset.bytes()[..]).into());
    std::iter::once(std::borrow::Cow::Owned(head)).chain(assets).chain([args.into()]).collect()
}

/// Decodes what [`brought`] encoded.
pub fn brought_of(bytes: &[u8]) -> Option<(Arc<[u8]>, Vec<Asset>)> {
    if bytes.is_empty() {
        return Some((Arc::default(), Vec::new()));
    }
    let (count, rest) = number(bytes)?;
    if count > ASSETS_MAX {
        return None;
    }
    let (mut lengths, mut rest) = rest.split_at_checked(count * 8)?;
    let mut assets = Vec::with_capacity(count);
    while !lengths.is_empty() {
        let (length, more) = number(lengths)?;
        let (asset, after) = rest.split_at_checked(length)?;
        assets.push(Asset::new(asset));
        (lengths, rest) = (more, after);
    }
    Some((rest.into(), assets))
}

fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u64::from_le_bytes(*number)).ok()?, rest))
}

fn path(files: &Path, id: &TaskId, prefix: u8) -> PathBuf {
    let extension = EXTENSIONS.iter().find(|(known, _)| *known == prefix).map_or("", |(_, extension)| extension);
    files.join(format!("{id}.{extension}"))
}

/// Returns the files of tasks: the task of each, and the first byte of the matching database keys.
pub fn files_in(files: &Path) -> Result<impl Iterator<Item = (TaskId, u8)> + use<>, StoreError> {
    let entries = match std::fs::read_dir(files) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(StoreError::at(files))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(cause) => return Err(StoreError::at(files)(cause)),
    };
    let known = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let (id, extension) = name.split_once('.')?;
        let (prefix, _) = EXTENSIONS.iter().find(|(_, known)| *known == extension)?;
        Some((id.parse().ok()?, *prefix))
    };
    Ok(entries.into_iter().filter_map(known))
}

/// Removes the files of tasks that are no longer needed.
pub fn remove_but(files: &Path, is_needed: impl Fn(&TaskId, u8) -> bool) -> Result<(), StoreError> {
    files_in(files)?.filter(|(id, what)| !is_needed(id, *what)).try_for_each(|(id, what)| remove(files, &id, &[what]))
}

/// Removes files of a task. Missing files are no error.
pub fn remove(files: &Path, id: &TaskId, what: &[u8]) -> Result<(), StoreError> {
    for path in what.iter().map(|prefix| path(files, id, *prefix)) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StoreError::at(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}
