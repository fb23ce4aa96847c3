//! Transport by a directory on removable media, which travels to the peer and back. File names
//! consist of the carrier's key in 16 hexadecimal digits
//! ([`PublicKey::short`](crate::key::PublicKey::short)) and the receipt's id:
//!
//! | file                      |                                                                  |
//! |---------------------------|------------------------------------------------------------------|
//! | `<carrier>-<id>.bundle`   | the bundle's bytes                                               |
//! | `<carrier>-<id>.delivery` | the signed delivery (`label.rs`); written last, after the bundle |
//! | `<carrier>-<id>.ack`      | the acknowledgement's bytes, written by the destination          |
//!
//! Each file is written under a temporary name, flushed, and renamed; then the directory is
//! flushed. So the medium may be removed at any time. The files are readable by everybody, because
//! another user reads them on the other machine.
//!
//! The directory's content is not trusted, because it comes from another machine. Only regular
//! files with these names are read. Symbolic links are not followed, and sizes are limited. Other
//! files are not changed.

mod label;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

pub use self::label::{ExportName, NotACarriedName};
use super::checked::{CheckedPieces, ReadFault};
use super::{BundleContent, ForwardError, ForwardOutcome, Forwarder, Message, OutboundBundle};
use crate::key::Signature;
use crate::private_file;
use crate::proof::Blob;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement, Delivery};

const BUNDLE: &str = "bundle";
const DELIVERY: &str = "delivery";
const ACKNOWLEDGEMENT: &str = "ack";

/// Maximum number of directory entries that are examined. A directory with more was not made by
/// `courier export`.
const ENTRIES_MAX: usize = 1_000_000;

/// Exports bundles to a directory, and imports the acknowledgements that came back in it.
#[derive(Clone, Debug)]
pub struct DirectoryForwarder {
    directory: PathBuf,
}

impl DirectoryForwarder {
    /// Creates a forwarder. The directory must exist: if the medium is not mounted, nothing may be
    /// written in its place.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

impl Forwarder for DirectoryForwarder {
    async fn forward(&self, parcel: OutboundBundle) -> Result<ForwardOutcome, ForwardError> {
        let (directory, name) = (self.directory.clone(), parcel.to.name.clone());
        let told = move |what: &str| Message::new(&format!("`{name}` by `{}`: {what}", directory.display()));
        let (directory, receipt) = (self.directory.clone(), parcel.delivery.receipt);
        let handed = tokio::task::spawn_blocking(move || hand_over(&directory, parcel)).await;
        let handed = handed.unwrap_or_else(|error| Err(ReadFault::Io(io::Error::other(error))));
        handed.map_err(|error| match error {
            ReadFault::Damaged => {
                let what = format!(
                    "the bundle of receipt {receipt} is not carried: its bytes here are not what its digest says; \
                     `node compute courier fsck` looks through all"
                );
                ForwardError::Damaged { message: told(&what) }
            }
            ReadFault::Io(cause) => {
                let what = format!("the bundle of receipt {receipt} cannot be copied: {cause}");
                ForwardError::Io { message: told(&what) }
            }
        })
    }
}

fn hand_over(directory: &Path, parcel: OutboundBundle) -> Result<ForwardOutcome, ReadFault> {
    let OutboundBundle { delivery, signature, content, .. } = parcel;
    let name = ExportName::of(&delivery);
    // An invalid acknowledgement is ignored, because anybody can write to the directory.
    if let Ok(bytes) = read(&name.path(directory, ACKNOWLEDGEMENT), ACKNOWLEDGEMENT_BYTES_MAX)
        && Acknowledgement::from_bytes(&bytes).is_ok_and(|found| found.answers(&delivery))
    {
        return Ok(ForwardOutcome::Acknowledged(bytes));
    }
    let bundle = name.path(directory, BUNDLE);
    if !is_whole(&bundle, delivery.bundle) {
        copy(&bundle, content, delivery.bundle)?;
    }
    let (path, label) = (name.path(directory, DELIVERY), label::to_bytes(&delivery, &signature));
    if read(&path, label::BYTES_MAX).ok().as_ref() != Some(&label) {
        write(&path, &label).map_err(ReadFault::Io)?;
    }
    Ok(ForwardOutcome::Carried)
}

/// Returns whether exactly this bundle exists already.
fn is_whole(path: &Path, bundle: Blob) -> bool {
    let Ok(file) = open(path) else { return false };
    let Ok(mut checked) = CheckedPieces::new(BundleContent::File(file), bundle) else { return false };
    loop {
        match checked.next() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn copy(path: &Path, content: BundleContent, bundle: Blob) -> Result<(), ReadFault> {
    let mut checked = CheckedPieces::new(content, bundle)?;
    let mut file = temporary(path).map_err(ReadFault::Io)?;
    while let Some(piece) = checked.next()? {
        file.write_all(&piece).map_err(ReadFault::Io)?;
    }
    keep(file, path).map_err(ReadFault::Io)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = temporary(path)?;
    file.write_all(bytes)?;
    keep(file, path)
}

fn temporary(path: &Path) -> io::Result<tempfile::NamedTempFile> {
    let directory = path.parent().ok_or(io::ErrorKind::NotFound)?;
    tempfile::Builder::new().permissions(Permissions::from_mode(0o644)).tempfile_in(directory)
}

/// Renames the file when it is on disk. Replaces an existing file; a symbolic link is replaced and
/// not followed.
fn keep(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    private_file::sync_directory_of(path)
}

/// Reason why a file in a directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("cannot use `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("`{}` is damaged: {why}; have its carrier export it again", path.display())]
    Damaged { path: PathBuf, why: &'static str },
    #[error("`{}` is not used: {why}; move it away", path.display())]
    NotAFile { path: PathBuf, why: &'static str },
    #[error("`{}` has more than {ENTRIES_MAX} files, and no more are looked at; export to an empty directory", path.display())]
    TooMany { path: PathBuf },
}

/// Opens a regular file. Does not follow a symbolic link, and does not block on a pipe.
fn open(path: &Path) -> Result<File, DirectoryError> {
    use rustix::fs::OFlags;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|cause| io_at(path, cause))?;
    if file.metadata().map_err(|cause| io_at(path, cause))?.is_file() {
        Ok(file)
    } else {
        Err(DirectoryError::NotAFile { path: path.to_owned(), why: "it is not a regular file" })
    }
}

fn io_at(path: &Path, cause: io::Error) -> DirectoryError {
    let path = path.to_owned();
    // Error of opening a symbolic link with `O_NOFOLLOW`.
    if cause.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return DirectoryError::NotAFile { path, why: "it is a symbolic link" };
    }
    DirectoryError::Io { path, cause }
}

fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, DirectoryError> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|cause| io_at(path, cause))?;
    if bytes.len() > bytes_max {
        return Err(DirectoryError::NotAFile { path: path.to_owned(), why: "it is longer than such a file can be" });
    }
    Ok(bytes)
}

/// A delivery in a directory. The receiving side must check that its carrier is known and has
/// signed it, and that it is for this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedBundle {
    pub name: ExportName,
    pub delivery: Delivery,
    pub signature: Signature,
    bundle: PathBuf,
}

impl ExportedBundle {
    /// Opens the bundle and checks its length. The caller must check its digest.
    pub fn open_bundle(&self) -> Result<File, DirectoryError> {
        let file = open(&self.bundle)?;
        let length = file.metadata().map_err(|cause| io_at(&self.bundle, cause))?.len();
        if length != self.delivery.bundle.bytes {
            let why = "its length is not what its delivery says";
            return Err(DirectoryError::Damaged { path: self.bundle.clone(), why });
        }
        Ok(file)
    }
}

/// Iterates over the deliveries in a directory, in no order. An unusable one yields an error, and
/// the iteration continues. Files with other names are skipped.
pub fn deliveries(
    directory: &Path,
) -> Result<impl Iterator<Item = Result<ExportedBundle, DirectoryError>>, DirectoryError> {
    let carried = |(name, path): (ExportName, PathBuf)| {
        let bytes = read(&path, label::BYTES_MAX)?;
        let (delivery, signature) =
            label::from_bytes(&bytes).map_err(|why| DirectoryError::Damaged { path: path.clone(), why })?;
        if ExportName::of(&delivery) != name {
            return Err(DirectoryError::Damaged { path, why: "its name is not that of what it says" });
        }
        Ok(ExportedBundle { bundle: path.with_extension(BUNDLE), name, delivery, signature })
    };
    Ok(named(directory, DELIVERY)?.map(move |found| found.and_then(carried)))
}

/// Iterates over the acknowledgements in a directory, not verified yet, as [`deliveries`] does.
pub fn acknowledgements(
    directory: &Path,
) -> Result<impl Iterator<Item = Result<(ExportName, Vec<u8>), DirectoryError>>, DirectoryError> {
    let bytes = |(name, path): (ExportName, PathBuf)| Ok((name, read(&path, ACKNOWLEDGEMENT_BYTES_MAX)?));
    Ok(named(directory, ACKNOWLEDGEMENT)?.map(move |found| found.and_then(bytes)))
}

/// Iterates over the entries that are named by a [`ExportName`] with this extension, and their
/// paths.
fn named(
    directory: &Path,
    extension: &'static str,
) -> Result<impl Iterator<Item = Result<(ExportName, PathBuf), DirectoryError>>, DirectoryError> {
    let entries = std::fs::read_dir(directory).map_err(|cause| io_at(directory, cause))?;
    let directory = directory.to_owned();
    let looked_at = entries.zip(1..).map_while(move |(entry, number)| match (entry, number) {
        (Ok(entry), ..=ENTRIES_MAX) => {
            Some(ExportName::of_file(&entry.file_name(), extension).map(|name| Ok((name, entry.path()))))
        }
        (Err(cause), ..=ENTRIES_MAX) => Some(Some(Err(io_at(&directory, cause)))),
        (_, number) => {
            let is_first = number == ENTRIES_MAX + 1;
            is_first.then(|| Some(Err(DirectoryError::TooMany { path: directory.clone() })))
        }
    });
    Ok(looked_at.flatten())
}

/// Writes the destination's acknowledgement beside the delivery, for transport back.
pub fn write_acknowledgement(directory: &Path, name: &ExportName, bytes: &[u8]) -> Result<(), DirectoryError> {
    let path = name.path(directory, ACKNOWLEDGEMENT);
    write(&path, bytes).map_err(|cause| io_at(&path, cause))
}

/// Removes all files of a delivery after its carrier has the acknowledgement. The delivery goes
/// first, because an import would read it. The acknowledgement goes last, so that the rest is found
/// again after a crash. Missing files are no error.
pub fn clear(directory: &Path, name: &ExportName) -> Result<(), DirectoryError> {
    for extension in [DELIVERY, BUNDLE, ACKNOWLEDGEMENT] {
        let path = name.path(directory, extension);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(|cause| io_at(&path, cause))?,
        }
        private_file::sync_directory_of(&path).map_err(|cause| io_at(&path, cause))?;
    }
    Ok(())
}
