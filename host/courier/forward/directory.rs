//! In a directory, which is carried to the peer on a stick, and back. For each receipt it holds, by the carrier's key in 16
//! hexadecimal digits ([`PublicKey::short`](crate::key::PublicKey::short)) and the receipt's id:
//!
//! | file                        |                                                                                    |
//! |-----------------------------|------------------------------------------------------------------------------------|
//! | `<carrier>-<id>.bundle`     | the bundle's bytes                                                                 |
//! | `<carrier>-<id>.delivery`   | what its carrier has signed (`label.rs`); written last, so the bundle beside it is whole |
//! | `<carrier>-<id>.ack`        | the acknowledgement's bytes, which the destination writes                          |
//!
//! All are written to a temporary file, flushed, given their name, and the directory flushed: a stick may be pulled out at
//! any time. Others may read them, for whoever takes the stick elsewhere is another user there.
//!
//! Nothing in the directory is trusted, for it comes from elsewhere. Only regular files of these names are read, no symbolic
//! link is followed, sizes are bounded, and whatever else lies there is left alone.

mod label;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

pub use self::label::{CarriedName, NotACarriedName};
use super::checked::{Checked, Fault};
use super::{Content, ForwardError, Forwarder, Handed, Message, Parcel};
use crate::key::Signature;
use crate::private_file;
use crate::proof::Blob;
use crate::receipt::{ACKNOWLEDGEMENT_BYTES_MAX, Acknowledgement, Delivery};

const BUNDLE: &str = "bundle";
const DELIVERY: &str = "delivery";
const ACKNOWLEDGEMENT: &str = "ack";

/// What of a directory's entries is looked at. A stick with more is not what `courier export` has made.
const ENTRIES_MAX: usize = 1_000_000;

/// Puts bundles into a directory, and takes out the acknowledgements that have come back in it.
#[derive(Clone, Debug)]
pub struct DirectoryForwarder {
    directory: PathBuf,
}

impl DirectoryForwarder {
    /// The directory must be there: where a stick is not mounted, nothing is to be written in its place.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

impl Forwarder for DirectoryForwarder {
    async fn forward(&self, parcel: Parcel) -> Result<Handed, ForwardError> {
        let (directory, name) = (self.directory.clone(), parcel.to.name.clone());
        let told = move |what: &str| Message::new(&format!("`{name}` by `{}`: {what}", directory.display()));
        let (directory, receipt) = (self.directory.clone(), parcel.delivery.receipt);
        let handed = tokio::task::spawn_blocking(move || hand_over(&directory, parcel)).await;
        let handed = handed.unwrap_or_else(|error| Err(Fault::Io(io::Error::other(error))));
        handed.map_err(|error| match error {
            Fault::Damaged => {
                let what = format!(
                    "the bundle of receipt {receipt} is not carried: its bytes here are not what its digest says; \
                     `node compute courier fsck` looks through all"
                );
                ForwardError::Damaged { message: told(&what) }
            }
            Fault::Io(cause) => {
                let what = format!("the bundle of receipt {receipt} cannot be copied: {cause}");
                ForwardError::Io { message: told(&what) }
            }
        })
    }
}

fn hand_over(directory: &Path, parcel: Parcel) -> Result<Handed, Fault> {
    let Parcel { delivery, signature, content, .. } = parcel;
    let name = CarriedName::of(&delivery);
    // What is no acknowledgement of it is not in its way: the directory is anybody's.
    if let Ok(bytes) = read(&name.path(directory, ACKNOWLEDGEMENT), ACKNOWLEDGEMENT_BYTES_MAX)
        && Acknowledgement::from_bytes(&bytes).is_ok_and(|found| found.answers(&delivery))
    {
        return Ok(Handed::Acknowledged(bytes));
    }
    let bundle = name.path(directory, BUNDLE);
    if !is_whole(&bundle, delivery.bundle) {
        copy(&bundle, content, delivery.bundle)?;
    }
    let (path, label) = (name.path(directory, DELIVERY), label::to_bytes(&delivery, &signature));
    if read(&path, label::BYTES_MAX).ok().as_ref() != Some(&label) {
        write(&path, &label).map_err(Fault::Io)?;
    }
    Ok(Handed::Carried)
}

/// Whether the very bundle is there already.
fn is_whole(path: &Path, bundle: Blob) -> bool {
    let Ok(file) = open(path) else { return false };
    let Ok(mut checked) = Checked::new(Content::File(file), bundle) else { return false };
    loop {
        match checked.next() {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fn copy(path: &Path, content: Content, bundle: Blob) -> Result<(), Fault> {
    let mut checked = Checked::new(content, bundle)?;
    let mut file = temporary(path).map_err(Fault::Io)?;
    while let Some(piece) = checked.next()? {
        file.write_all(&piece).map_err(Fault::Io)?;
    }
    keep(file, path).map_err(Fault::Io)
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

/// Gives the file its name once it is on disk. Whatever had that name, a link for one, loses it and is not followed.
fn keep(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(path)?;
    private_file::sync_directory_of(path)
}

/// Why something in a directory is not used.
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

/// Opens a regular file that is no symbolic link, and does not wait for a pipe.
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
    // What opening a symbolic link answers where none is to be followed.
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

/// A bundle that was carried here. Whether its carrier is known and has signed the delivery, and whether it is for this
/// node, is for the receiving side to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    pub name: CarriedName,
    pub delivery: Delivery,
    pub signature: Signature,
    bundle: PathBuf,
}

impl Carried {
    /// The bundle, of the length that the delivery says; that its bytes are those of the digest is still to be checked.
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

/// What was carried here, in no order, one after the other. Those that cannot be used are errors, and the next one is
/// there all the same; files of other names are passed over.
pub fn deliveries(directory: &Path) -> Result<impl Iterator<Item = Result<Carried, DirectoryError>>, DirectoryError> {
    let carried = |(name, path): (CarriedName, PathBuf)| {
        let bytes = read(&path, label::BYTES_MAX)?;
        let (delivery, signature) =
            label::from_bytes(&bytes).map_err(|why| DirectoryError::Damaged { path: path.clone(), why })?;
        if CarriedName::of(&delivery) != name {
            return Err(DirectoryError::Damaged { path, why: "its name is not that of what it says" });
        }
        Ok(Carried { bundle: path.with_extension(BUNDLE), name, delivery, signature })
    };
    Ok(named(directory, DELIVERY)?.map(move |found| found.and_then(carried)))
}

/// The acknowledgements that have come back, not yet checked, in no order; as [`deliveries`] gives them.
pub fn acknowledgements(
    directory: &Path,
) -> Result<impl Iterator<Item = Result<(CarriedName, Vec<u8>), DirectoryError>>, DirectoryError> {
    let bytes = |(name, path): (CarriedName, PathBuf)| Ok((name, read(&path, ACKNOWLEDGEMENT_BYTES_MAX)?));
    Ok(named(directory, ACKNOWLEDGEMENT)?.map(move |found| found.and_then(bytes)))
}

/// The entries whose name is a [`CarriedName`] with this extension, and their paths.
fn named(
    directory: &Path,
    extension: &'static str,
) -> Result<impl Iterator<Item = Result<(CarriedName, PathBuf), DirectoryError>>, DirectoryError> {
    let entries = std::fs::read_dir(directory).map_err(|cause| io_at(directory, cause))?;
    let directory = directory.to_owned();
    let looked_at = entries.zip(1..).map_while(move |(entry, number)| match (entry, number) {
        (Ok(entry), ..=ENTRIES_MAX) => {
            Some(CarriedName::of_file(&entry.file_name(), extension).map(|name| Ok((name, entry.path()))))
        }
        (Err(cause), ..=ENTRIES_MAX) => Some(Some(Err(io_at(&directory, cause)))),
        (_, number) => {
            let is_first = number == ENTRIES_MAX + 1;
            is_first.then(|| Some(Err(DirectoryError::TooMany { path: directory.clone() })))
        }
    });
    Ok(looked_at.flatten())
}

/// Puts the destination's acknowledgement beside what was carried, to be carried back.
pub fn write_acknowledgement(directory: &Path, name: &CarriedName, bytes: &[u8]) -> Result<(), DirectoryError> {
    let path = name.path(directory, ACKNOWLEDGEMENT);
    write(&path, bytes).map_err(|cause| io_at(&path, cause))
}

/// Removes all of it, once its carrier has the acknowledgement: first what has it taken in, and last the acknowledgement,
/// so that after a crash in between the rest is found again. What is not there is as good as removed.
pub fn clear(directory: &Path, name: &CarriedName) -> Result<(), DirectoryError> {
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
