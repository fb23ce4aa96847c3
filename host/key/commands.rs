//! Commands of a node's owner for its key. A command is one value and its reply is one value. So
//! the command line gets the same reply, whether it executes the command itself or sends it to the
//! running node.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{KeyError, Keyring, PublicKey, RetiredKey, Signer};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum KeyRequest {
    /// Replace the node's key by a new one.
    Rotate,
    /// Make the key in a backup the node's key, if it has none.
    Import { file: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum KeyAnswer {
    Rotated { public_key: PublicKey, former: PublicKey },
    Imported { public_key: PublicKey },
}

/// Executes `order`. `signer` is this process's signer, if it signs. No other process may sign with
/// the keyring's key.
pub fn execute(
    keyring: &Keyring,
    signer: Option<&Signer>,
    order: KeyRequest,
    now: SystemTime,
) -> Result<KeyAnswer, KeyError> {
    match order {
        KeyRequest::Rotate => {
            let rotated = signer.map_or_else(|| keyring.rotate(now), |signer| signer.rotate(keyring, now));
            let RetiredKey { rotation, .. } = rotated?;
            Ok(KeyAnswer::Rotated { public_key: rotation.successor(), former: rotation.former() })
        }
        KeyRequest::Import { file } => {
            let imported = signer.map_or_else(|| keyring.import(&file), |signer| signer.import(keyring, &file, now));
            Ok(KeyAnswer::Imported { public_key: imported? })
        }
    }
}
