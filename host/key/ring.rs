//! Keyring: the key files of the state directory.
//!
//! | file                        |                                                    |
//! |-----------------------------|----------------------------------------------------|
//! | `node.key`                  | the node's key, created at first use               |
//! | `node.key.next`             | its successor, during a rotation                   |
//! | `keys/retired/KEY.rotation` | for each former key, the statement of its rotation |
//! | `keys/trusted`              | the keys of others that the owner trusts           |
//! | `keys/lock`                 | locked during a change of the list of trusted keys |
//!
//! Each file is written completely and durably, with mode 0600. A key that cannot be read is an
//! error, and is never replaced: a new key would change the node's identity.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::key_file::{KEPT_BYTES_MAX, KeyFile};
use super::rotation::ROTATION_BYTES_MAX;
use super::trust::TRUSTED_BYTES_MAX;
use super::{KeyName, NodeKey, NotARotation, NotItsText, PublicKey, Rotation, TrustError, TrustedKeys};
use crate::private_file;

/// Maximum number of former keys. A rotation every hour for a month would be a mistake.
const FORMER_MAX: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot use `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("{cause}; if others may have read it, `node key rotate` after that")]
    NotPrivate { path: PathBuf, cause: io::Error },
    #[error(
        "the node's key `{}` is damaged: {cause}. Nothing replaces it by itself, for it is what the node is known by: \
         move it away, and `node key import` a backup of it, or go on with a new key",
        path.display()
    )]
    Damaged { path: PathBuf, cause: NotItsText },
    #[error("`{}` is no backup of a node's key: {cause}; `node key export` makes one", path.display())]
    NotABackup { path: PathBuf, cause: NotItsText },
    #[error("`{}` is there already, and is no backup of this node's key; choose another file", path.display())]
    BackupTaken { path: PathBuf },
    #[error(
        "this node has a key already, {key}; to have another one in its place, `node key export` it and move `{}` away",
        path.display()
    )]
    KeyTaken { path: PathBuf, key: PublicKey },
    #[error("`{}` does not say that one key takes the place of another: {cause}", path.display())]
    Rotation { path: PathBuf, cause: NotARotation },
    #[error(
        "the key is {successor} now, and `{}` says so; but the secret of the former key may still be on the disk: {cause}",
        statement.display()
    )]
    SecretLeft { successor: PublicKey, statement: PathBuf, cause: io::Error },
    #[error(
        "the running node signs with {signing}, and `{}` has the key {found}: put back what was there, or start the node again",
        path.display()
    )]
    Replaced { path: PathBuf, signing: PublicKey, found: PublicKey },
    #[error("{FORMER_MAX} former keys are kept in `{}`; move some away", path.display())]
    TooManyFormer { path: PathBuf },
    #[error("the list of trusted keys `{}` is damaged: {cause}; mend it, or move it away and add the keys again", path.display())]
    TrustedDamaged { path: PathBuf, cause: TrustError },
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A former key of this node, and the file with the statement of its rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredKey {
    pub rotation: Rotation,
    pub statement: PathBuf,
}

/// Owner of a key, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOwner {
    ThisNode,
    ThisNodeFormerly,
    Trusted(KeyName),
    TrustedFormerly(KeyName),
    Unknown,
}

/// The keys that a node knows: its own and those of others.
#[derive(Clone, Debug)]
pub struct KnownKeys {
    pub own: Option<PublicKey>,
    pub former: Vec<PublicKey>,
    pub trusted: TrustedKeys,
}

impl KnownKeys {
    pub fn of(&self, key: &PublicKey) -> KeyOwner {
        if self.own == Some(*key) {
            return KeyOwner::ThisNode;
        }
        if self.former.contains(key) {
            return KeyOwner::ThisNodeFormerly;
        }
        match self.trusted.of_key(key) {
            Some(trusted) if trusted.public_key == *key => KeyOwner::Trusted(trusted.name.clone()),
            Some(trusted) => KeyOwner::TrustedFormerly(trusted.name.clone()),
            None => KeyOwner::Unknown,
        }
    }
}

/// The keys in one state directory.
#[derive(Clone, Debug)]
pub struct Keyring {
    state: PathBuf,
}

impl Keyring {
    /// Creates a handle for the keys in the directory `state`. Reads nothing yet.
    pub const fn new(state: PathBuf) -> Self {
        Self { state }
    }

    /// Returns the path of the node's key file.
    pub fn path(&self) -> PathBuf {
        self.state.join("node.key")
    }

    /// Returns the node's key, and its creation time in milliseconds since 1970-01-01 UTC. The
    /// first use creates a key with the time `now`. Several concurrent processes all get the key
    /// that one of them created.
    pub fn node_key(&self, now: SystemTime) -> Result<(NodeKey, u64), KeyError> {
        let path = self.path();
        if let Some(KeyFile { key, made_unix_ms }) = read_key(&path)? {
            return Ok((key, made_unix_ms));
        }
        let kept = new_key(&path, now)?;
        match private_file::create(&path, kept.to_text().as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(cause) => return Err(KeyError::Io { path, cause }),
        }
        // The key in the file counts, whichever process created it.
        let KeyFile { key, made_unix_ms } = read_key(&path)?.ok_or_else(|| gone(&path))?;
        Ok((key, made_unix_ms))
    }

    /// Replaces the node's key by a new one, and stores the statement of the rotation. No other
    /// process may sign with the former key meanwhile. The former secret is destroyed, as far as
    /// overwriting a file does that.
    ///
    /// The order of writes is: the successor, the statement, and the rename that makes the
    /// successor the node's key. After a crash in between, the node still has the former key, and
    /// the next rotation continues with the same successor.
    pub fn rotate(&self, now: SystemTime) -> Result<RetiredKey, KeyError> {
        let (former, made_unix_ms) = self.node_key(now)?;
        let (path, next) = (self.path(), self.state.join("node.key.next"));
        let directory = self.retired();
        if self.former()?.len() >= FORMER_MAX {
            return Err(KeyError::TooManyFormer { path: directory });
        }
        self.make_directories(&directory)?;
        let successor = match read_key(&next) {
            Ok(Some(successor)) if successor.key.public() != former.public() => successor,
            // A damaged successor has never been the node's key.
            Ok(_) | Err(KeyError::Damaged { .. }) => new_key(&next, now)?,
            Err(error) => return Err(error),
        };
        let io_at = |path: &Path| {
            let path = path.to_owned();
            |cause| KeyError::Io { path, cause }
        };
        private_file::replace(&next, successor.to_text().as_bytes()).map_err(io_at(&next))?;
        let rotation = Rotation::sign(&former, made_unix_ms, &successor.key, unix_ms(now));
        let statement = self.statement(&former.public());
        private_file::replace(&statement, rotation.to_text().as_bytes()).map_err(io_at(&statement))?;

        // Opened before the rename, so that the old content can be overwritten after it.
        let old = OpenOptions::new().write(true).open(&path).map_err(io_at(&path))?;
        std::fs::rename(&next, &path).map_err(io_at(&path))?;
        private_file::sync_directory_of(&path).map_err(io_at(&path))?;
        match destroy(old) {
            Ok(()) => Ok(RetiredKey { rotation, statement }),
            Err(cause) => Err(KeyError::SecretLeft { successor: rotation.successor(), statement, cause }),
        }
    }

    /// Returns the path of the statement of a former key's rotation.
    pub fn statement(&self, former: &PublicKey) -> PathBuf {
        self.retired().join(format!("{former}.rotation"))
    }

    /// Returns the former keys of this node, newest first.
    pub fn former(&self) -> Result<Vec<RetiredKey>, KeyError> {
        let directory = self.retired();
        let io = |cause| KeyError::Io { path: directory.clone(), cause };
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io)?,
        };
        let mut former = Vec::new();
        for entry in entries {
            let statement = entry.map_err(io)?.path();
            if statement.extension().is_none_or(|extension| extension != "rotation") {
                continue;
            }
            if former.len() >= FORMER_MAX {
                return Err(KeyError::TooManyFormer { path: directory });
            }
            former.push(RetiredKey { rotation: read_rotation(&statement)?, statement });
        }
        // After an interrupted rotation, the node still has the key that the statement retires.
        if let Some(KeyFile { key, .. }) = read_key(&self.path())? {
            former.retain(|formerly| formerly.rotation.former() != key.public());
        }
        former.sort_by_key(|formerly| std::cmp::Reverse(formerly.rotation.dates().1));
        Ok(former)
    }

    /// Writes the node's key with its secret to `file`, as a backup. A file with other content is
    /// not changed.
    pub fn export(&self, file: &Path, now: SystemTime) -> Result<PublicKey, KeyError> {
        let (key, made_unix_ms) = self.node_key(now)?;
        let (public, text) = (key.public(), KeyFile { key, made_unix_ms }.to_text());
        match private_file::create(file, text.as_bytes()) {
            Ok(()) => Ok(public),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match private_file::read(file, KEPT_BYTES_MAX) {
                    Ok(there) if there == text.as_bytes() => Ok(public),
                    _ => Err(KeyError::BackupTaken { path: file.to_owned() }),
                }
            }
            Err(cause) => Err(KeyError::Io { path: file.to_owned(), cause }),
        }
    }

    /// Installs the key in `file` as the node's key. A node with another key keeps that key, and
    /// the call returns an error.
    pub fn import(&self, file: &Path) -> Result<PublicKey, KeyError> {
        let kept = read_key(file).map_err(|error| match error {
            KeyError::Damaged { path, cause } => KeyError::NotABackup { path, cause },
            other => other,
        })?;
        let kept = kept.ok_or_else(|| gone(file))?;
        let (path, public) = (self.path(), kept.key.public());
        match private_file::create(&path, kept.to_text().as_bytes()) {
            Ok(()) => Ok(public),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match read_key(&path)? {
                Some(there) if there.key.public() == public => Ok(public),
                Some(there) => Err(KeyError::KeyTaken { path, key: there.key.public() }),
                None => Err(gone(&path)),
            },
            Err(cause) => Err(KeyError::Io { path, cause }),
        }
    }

    pub fn trusted(&self) -> Result<TrustedKeys, KeyError> {
        let path = self.trusted_path();
        match private_file::read(&path, TRUSTED_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(TrustedKeys::default()),
            Err(cause) => Err(KeyError::Io { path, cause }),
            Ok(bytes) => TrustedKeys::read(&bytes).map_err(|cause| KeyError::TrustedDamaged { path, cause }),
        }
    }

    /// Changes the list of trusted keys. A lock file serialises changes of several processes.
    pub fn change_trusted<T>(
        &self,
        change: impl FnOnce(&mut TrustedKeys) -> Result<T, TrustError>,
    ) -> Result<T, KeyError> {
        let (path, lock) = (self.trusted_path(), self.keys().join("lock"));
        self.make_directories(&self.keys())?;
        let open = private_file::open(&lock, OpenOptions::new().write(true).create(true).truncate(false));
        let _locked =
            open.and_then(|file| file.lock().map(|()| file)).map_err(|cause| KeyError::Io { path: lock, cause })?;
        let mut keys = self.trusted()?;
        let changed = change(&mut keys)?;
        private_file::replace(&path, keys.to_text().as_bytes()).map_err(|cause| KeyError::Io { path, cause })?;
        Ok(changed)
    }

    /// Returns the known keys. Creates nothing, even if there is no state directory.
    pub fn owners(&self) -> Result<KnownKeys, KeyError> {
        let own = read_key(&self.path())?.map(|kept| kept.key.public());
        let former = self.former()?.iter().map(|formerly| formerly.rotation.former()).collect();
        Ok(KnownKeys { own, former, trusted: self.trusted()? })
    }

    /// Creates a directory in the state directory, durably.
    fn make_directories(&self, path: &Path) -> Result<(), KeyError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        let synced = made
            .and_then(|()| private_file::sync_directory_of(path))
            .and_then(|()| private_file::sync_directory_of(&self.keys()));
        synced.map_err(|cause| KeyError::Io { path: path.to_owned(), cause })
    }

    fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }

    fn retired(&self) -> PathBuf {
        self.keys().join("retired")
    }

    fn trusted_path(&self) -> PathBuf {
        self.keys().join("trusted")
    }
}

/// Reads and verifies the statement in `file`. The file may belong to anybody.
pub fn read_rotation(file: &Path) -> Result<Rotation, KeyError> {
    let path = file.to_owned();
    match private_file::read_shared(file, ROTATION_BYTES_MAX) {
        Ok(bytes) => Rotation::read(&bytes).map_err(|cause| KeyError::Rotation { path, cause }),
        Err(cause) => Err(KeyError::Io { path, cause }),
    }
}

/// Returns `None` if the file does not exist.
fn read_key(path: &Path) -> Result<Option<KeyFile>, KeyError> {
    let at = path.to_owned();
    match private_file::read(path, KEPT_BYTES_MAX) {
        Ok(bytes) => KeyFile::read(&bytes).map(Some).map_err(|cause| KeyError::Damaged { path: at, cause }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) if private_file::is_not_private(&cause) => Err(KeyError::NotPrivate { path: at, cause }),
        Err(cause) => Err(KeyError::Io { path: at, cause }),
    }
}

fn new_key(path: &Path, now: SystemTime) -> Result<KeyFile, KeyError> {
    let key = NodeKey::generate().map_err(|cause| KeyError::Io { path: path.to_owned(), cause })?;
    Ok(KeyFile { key, made_unix_ms: unix_ms(now) })
}

fn gone(path: &Path) -> KeyError {
    KeyError::Io { path: path.to_owned(), cause: io::ErrorKind::NotFound.into() }
}

/// Overwrites a file that no longer has a name. A disk that writes to another location keeps the
/// old bytes for a while.
fn destroy(mut file: File) -> io::Result<()> {
    let zeros = vec![0; usize::try_from(file.metadata()?.len().min(KEPT_BYTES_MAX)).unwrap_or_default()];
    file.write_all(&zeros)?;
    file.sync_all()
}

fn unix_ms(now: SystemTime) -> u64 {
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
