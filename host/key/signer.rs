//! Signer: the key with which a process signs. It can change while the process runs.

use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use super::{KeyError, Keyring, NodeKey, PublicKey, RetiredKey};

/// The node's key, shared by all its users in this process. It does not change during a signature,
/// and a retired key signs nothing any more.
#[derive(Debug)]
pub struct Signer(RwLock<NodeKey>);

impl Signer {
    pub const fn new(key: NodeKey) -> Self {
        Self(RwLock::new(key))
    }

    /// Returns the key. Hold the guard only during a signature.
    pub fn key(&self) -> RwLockReadGuard<'_, NodeKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn public(&self) -> PublicKey {
        self.key().public()
    }

    /// Rotates the key of the keyring ([`Keyring::rotate`]). Callers of [`Signer::key`] wait
    /// meanwhile.
    pub fn rotate(&self, keyring: &Keyring, now: SystemTime) -> Result<RetiredKey, KeyError> {
        let mut key = self.alone();
        let (signing, found) = (key.public(), keyring.node_key(now)?.0.public());
        if signing != found {
            return Err(KeyError::Replaced { path: keyring.path(), signing, found });
        }
        let rotated = keyring.rotate(now);
        // The key in the file is the node's key, even if the last of the steps has failed.
        (*key, _) = keyring.node_key(now)?;
        rotated
    }

    /// Imports a key as [`Keyring::import`] does. Callers of [`Signer::key`] wait meanwhile.
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
