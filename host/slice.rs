//! `Slice`: a blob of input, in memory or in a file. `SliceId` is the name that a caller gives it,
//! and `Tenant` is the owner of that name.
//!
//! A waiting slice is only a handle; it is opened when it runs. A file is read with `pread` and
//! never mapped, because a mapped file that shrinks kills the process. The bytes that a guest reads
//! are checked against the digest in its proof.

mod tenant;

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::tenant::{NotATokenName, Tenant};
use crate::digest::{Digest, GROUP_BYTES, HashThreads, Tree};
use crate::sandbox::{Input, InputError};

/// Maximum bytes of a file that is read once and held during the run. A longer file is read in
/// groups.
pub const HELD_BYTES_MAX: u64 = 1 << 20;

/// The name that a caller gives a slice: 1 to 128 printable ASCII characters without a space.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SliceId(Arc<str>);

impl SliceId {
    pub const BYTES_MAX: usize = 128;

    /// Returns the id of a slice without one: the digest of everything that decides its result.
    pub fn derived(job: Digest) -> Self {
        Self(job.to_string().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SliceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a slice id: 1 to {max} printable ASCII characters without a space are expected", max = SliceId::BYTES_MAX)]
pub struct NotASliceId(String);

impl FromStr for SliceId {
    type Err = NotASliceId;

    fn from_str(text: &str) -> Result<Self, NotASliceId> {
        let fits = (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(NotASliceId(text.chars().take(Self::BYTES_MAX).collect())) }
    }
}

/// The reason why a slice cannot be used. The message names the file and, if there is one, the
/// remedy.
#[derive(Debug, thiserror::Error)]
pub enum SliceError {
    #[error("cannot open slice `{}`: {cause}", path.display())]
    Open { path: PathBuf, cause: io::Error },
    #[error("slice `{}` is {kind}; a regular file is expected (copy its content into one)", path.display())]
    NotAFile { path: PathBuf, kind: &'static str },
    #[error("slice `{}` has {bytes} bytes, more than the {max} that `compute.slice_bytes_max` allows", path.display())]
    TooLarge { path: PathBuf, bytes: u64, max: u64 },
    #[error("slice `{}` changed while it was read; run it again when nothing writes to it", path.display())]
    Changed { path: PathBuf },
    #[error("cannot read slice `{}`: {cause}", path.display())]
    Read { path: PathBuf, cause: io::Error },
}

impl SliceError {
    /// Converts a read error. A file that ends early has shrunk since its length was read.
    fn reading(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            io::ErrorKind::UnexpectedEof => Self::Changed { path },
            _ => Self::Read { path, cause },
        }
    }

    /// Converts an error that a guest's run reported for the slice at `path`.
    pub fn from_input(path: &Path, error: InputError) -> Self {
        match error {
            InputError::Changed => Self::Changed { path: path.to_owned() },
            InputError::Io(cause) => Self::reading(path, cause),
        }
    }
}

/// A handle to some input.
#[derive(Clone)]
pub struct Slice(ByteSource);

#[derive(Clone)]
enum ByteSource {
    Held { bytes: Arc<[u8]>, digest: Digest },
    File { path: PathBuf, bytes: u64, bytes_max: u64, expected: Option<Digest> },
}

impl Slice {
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self(ByteSource::Held { digest: Digest::of(&bytes), bytes })
    }

    /// Creates a handle to a regular file of at most `bytes_max` bytes. The content is not read
    /// yet.
    pub fn from_file(path: impl Into<PathBuf>, bytes_max: u64) -> Result<Self, SliceError> {
        let path = path.into();
        let bytes = match std::fs::metadata(&path) {
            Ok(metadata) => checked_len(&path, &metadata, bytes_max)?,
            Err(cause) => return Err(SliceError::Open { path, cause }),
        };
        Ok(Self(ByteSource::File { path, bytes, bytes_max, expected: None }))
    }

    /// Sets the expected digest of a file. If its bytes differ, opening it returns
    /// [`SliceError::Changed`].
    pub fn expecting(mut self, digest: Digest) -> Self {
        if let ByteSource::File { expected, .. } = &mut self.0 {
            *expected = Some(digest);
        }
        self
    }

    /// Returns the length in bytes at the time when the handle was created.
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            ByteSource::Held { bytes, .. } => bytes.len() as u64,
            ByteSource::File { bytes, .. } => *bytes,
        }
    }

    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            ByteSource::Held { .. } => None,
            ByteSource::File { path, .. } => Some(path),
        }
    }

    /// Reads and hashes the slice. `progress` advances by the bytes that are hashed; for a slice in
    /// memory, by all bytes at once.
    pub fn open(&self, threads: &HashThreads, progress: &AtomicU64) -> Result<OpenSlice, SliceError> {
        match &self.0 {
            ByteSource::Held { bytes, digest } => {
                progress.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(OpenSlice::new(*digest, SliceContent::Held(bytes.clone())))
            }
            ByteSource::File { path, bytes_max, expected, .. } => {
                let slice = open_file(path, *bytes_max, threads, progress)?;
                let is_expected = expected.is_none_or(|expected| expected == slice.digest);
                if is_expected { Ok(slice) } else { Err(SliceError::Changed { path: path.clone() }) }
            }
        }
    }
}

fn checked_len(path: &Path, metadata: &Metadata, max: u64) -> Result<u64, SliceError> {
    let kind = metadata.file_type();
    if !kind.is_file() {
        let kind = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_fifo() => "a FIFO",
            () if kind.is_socket() => "a socket",
            () => "a device",
        };
        return Err(SliceError::NotAFile { path: path.to_owned(), kind });
    }
    match metadata.len() {
        bytes if bytes > max => Err(SliceError::TooLarge { path: path.to_owned(), bytes, max }),
        bytes => Ok(bytes),
    }
}

fn open_file(
    path: &Path,
    bytes_max: u64,
    threads: &HashThreads,
    progress: &AtomicU64,
) -> Result<OpenSlice, SliceError> {
    // Without O_NONBLOCK, opening a path that has become a FIFO would wait for a writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened = OpenOptions::new().read(true).custom_flags(nonblock).open(path);
    let file = opened.map_err(|cause| SliceError::Open { path: path.to_owned(), cause })?;
    let metadata = |file: &File| file.metadata().map_err(|cause| SliceError::reading(path, cause));
    let before = metadata(&file)?;
    let bytes = checked_len(path, &before, bytes_max)?;

    let read = |offset: u64, buffer: &mut [u8]| {
        file.read_exact_at(buffer, offset).map_err(|cause| {
            let is_short = cause.kind() == io::ErrorKind::UnexpectedEof;
            // The file ends before its length but has not shrunk. Files of sysfs report 4096 bytes,
            // whatever they hold.
            if is_short && file.metadata().is_ok_and(|after| after.len() == before.len()) {
                SliceError::NotAFile { path: path.to_owned(), kind: UNTRUE_LENGTH }
            } else {
                SliceError::reading(path, cause)
            }
        })?;
        progress.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        Ok(())
    };
    let content = if bytes <= HELD_BYTES_MAX {
        let mut content = vec![0; bytes as usize];
        read(0, &mut content)?;
        FirstRead::Held(content.into())
    } else {
        FirstRead::Tree(Tree::build(bytes, threads, read)?)
    };
    let after = metadata(&file)?;
    let beyond = file.read_at(&mut [0], bytes).map_err(|cause| SliceError::reading(path, cause))?;
    if beyond > 0 && bytes == 0 && before.len() == after.len() {
        return Err(SliceError::NotAFile { path: path.to_owned(), kind: UNTRUE_LENGTH });
    }
    let unchanged =
        (before.len(), before.mtime(), before.mtime_nsec()) == (after.len(), after.mtime(), after.mtime_nsec());
    if beyond > 0 || !unchanged {
        return Err(SliceError::Changed { path: path.to_owned() });
    }
    Ok(match content {
        FirstRead::Held(bytes) => OpenSlice::new(Digest::of(&bytes), SliceContent::Held(bytes)),
        FirstRead::Tree(tree) => OpenSlice::new(
            tree.root(),
            SliceContent::File(FileContent { file, bytes, tree, group: Vec::new(), group_index: None }),
        ),
    })
}

/// Kind of the files in procfs and sysfs.
const UNTRUE_LENGTH: &str = "a file that does not tell its length";

/// The result of the first reading of a file.
enum FirstRead {
    Held(Arc<[u8]>),
    Tree(Tree),
}

/// A slice whose digest is known.
pub struct OpenSlice {
    digest: Digest,
    content: SliceContent,
    /// The index of the [`GROUP_BYTES`] group that contained the last byte read.
    group_at_hand: Option<u64>,
}

impl OpenSlice {
    const fn new(digest: Digest, content: SliceContent) -> Self {
        Self { digest, content, group_at_hand: None }
    }
}

enum SliceContent {
    Held(Arc<[u8]>),
    File(FileContent),
}

/// A long file. Later reads are checked one group at a time.
struct FileContent {
    file: File,
    bytes: u64,
    tree: Tree,
    group: Vec<u8>,
    group_index: Option<u64>,
}

impl Input for OpenSlice {
    fn len(&self) -> u64 {
        match &self.content {
            SliceContent::Held(bytes) => bytes.len() as u64,
            SliceContent::File(content) => content.bytes,
        }
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the bytes that a read costs. For a long slice, each touched group counts as a whole,
    /// except the current one. The reason: in a file, the whole group is read and hashed, however
    /// small the read is. A slice in memory costs the same, so that the charge does not reveal how
    /// it arrived.
    fn cost(&self, offset: u64, len: u64) -> u64 {
        if self.len() <= HELD_BYTES_MAX {
            return len;
        }
        let group = GROUP_BYTES as u64;
        let end = offset.saturating_add(len).min(self.len());
        let touched = if offset < end { offset / group..(end - 1) / group + 1 } else { 0..0 };
        let at_hand = self.group_at_hand.is_some_and(|index| touched.contains(&index));
        len.saturating_add((touched.end - touched.start - u64::from(at_hand)) * group)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), InputError> {
        if let Some(last) = (offset + buffer.len() as u64).checked_sub(1).filter(|_| !buffer.is_empty()) {
            self.group_at_hand = Some(last / GROUP_BYTES as u64);
        }
        match &mut self.content {
            SliceContent::Held(bytes) => buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]),
            SliceContent::File(content) => content.read(offset, buffer)?,
        }
        Ok(())
    }
}

impl FileContent {
    fn read(&mut self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), InputError> {
        while !buffer.is_empty() {
            let index = offset / GROUP_BYTES as u64;
            let start = (offset % GROUP_BYTES as u64) as usize;
            let group = self.group(index)?;
            let count = buffer.len().min(group.len() - start);
            let (filled, rest) = buffer.split_at_mut(count);
            filled.copy_from_slice(&group[start..start + count]);
            offset += count as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Returns the bytes of one group, unchanged since the digest was computed.
    fn group(&mut self, index: u64) -> Result<&[u8], InputError> {
        if self.group_index != Some(index) {
            self.group_index = None;
            self.group.resize(self.tree.group_len(index), 0);
            self.file.read_exact_at(&mut self.group, index * GROUP_BYTES as u64)?;
            if !self.tree.holds(index, &self.group) {
                return Err(InputError::Changed);
            }
            self.group_index = Some(index);
        }
        Ok(&self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<OpenSlice, SliceError> {
        Slice::from_file(path, u64::MAX)?.open(&HashThreads::new(2), &AtomicU64::new(0))
    }

    #[test]
    fn a_long_file_reads_back_what_was_hashed_and_nothing_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> =
            (0..3 * HELD_BYTES_MAX as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let mut slice = open(file.path()).unwrap();
        assert_eq!(slice.digest(), Digest::of(&bytes));

        let across = GROUP_BYTES as u64 - 3;
        let mut part = vec![0; GROUP_BYTES + 10];
        slice.read(across, &mut part).unwrap();
        assert_eq!(part, bytes[across as usize..][..part.len()]);

        file.as_file().write_all_at(&[bytes[5] ^ 1], 5).unwrap();
        assert!(matches!(slice.read(0, &mut [0; 4]), Err(InputError::Changed)));
        file.as_file().set_len(HELD_BYTES_MAX).unwrap();
        let shrunk = slice.read(2 * HELD_BYTES_MAX, &mut [0; 4]).unwrap_err();
        assert!(matches!(SliceError::from_input(file.path(), shrunk), SliceError::Changed { .. }));
    }

    /// Files of procfs report length zero; files of sysfs report one page.
    #[test]
    fn a_file_that_does_not_tell_its_length_is_named_as_such() {
        for path in ["/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/profiling"] {
            if !Path::new(path).is_file() {
                continue;
            }
            let error = open(Path::new(path)).err().expect("it is no slice").to_string();
            assert!(error.contains("is a file that does not tell its length"), "{error}");
        }
    }

    #[test]
    fn ids_are_printable_and_short() {
        for id in ["a", "frame-0001@2026", &"x".repeat(128)] {
            assert_eq!(id.parse::<SliceId>().unwrap().as_str(), id);
        }
        for id in ["", "a b", "ä", "line\n", &"x".repeat(129)] {
            assert!(id.parse::<SliceId>().is_err(), "{id:?}");
        }
    }
}
