//! The key that a process signs with, which can change while it runs.

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::{Formerly, KeyError, Keyring, NodeKey, PublicKey};

/// The node's key, shared by all in this process that sign with it. It does not change while anybody signs, and once it has
/// been retired nothing is signed with it any more.
#[derive(Debug)]
pub struct Signer(RwLock<NodeKey>);

impl Signer {
    pub const fn new(key: NodeKey) -> Self {
        Self(RwLock::new(key))
    }

    /// The key, to be held for no longer than it takes to sign.
    pub fn key(&self) -> RwLockReadGuard<'_, NodeKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn public(&self) -> PublicKey {
        self.key().public()
    }

    /// [`Keyring::rotate`], of the keyring that has the key. Whoever wants to sign waits for it.
    pub fn rotate(&self, keyring: &Keyring, now: SystemTime) -> Result<Formerly, KeyError> {
        let mut key = self.alone();
        let (signing, found) = (key.public(), keyring.node_key(now)?.0.public());
        if signing != found {
            return Err(KeyError::Replaced { path: keyring.path(), signing, found });
        }
        let rotated = keyring.rotate(now);
        // Also where the last of several steps has failed, what is in the file is the node's key.
        (*key, _) = keyring.node_key(now)?;
        rotated
    }

    /// [`Keyring::import`], likewise.
    pub fn import(&self, keyring: &Keyring, file: &Path, now: SystemTime) -> Result<PublicKey, KeyError> {
        let mut key = self.alone();
        let imported = keyring.import(file)?;
        (*key, _) = keyring.node_key(now)?;
        Ok(imported)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, NodeKey> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
