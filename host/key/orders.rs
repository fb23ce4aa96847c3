//! What the owner of a node can have done to its key. An order is one value and so is its answer, so that the command line gets
//! the same whether it carries the order out itself or hands it to the running node.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Formerly, KeyError, Keyring, PublicKey, Signer};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub enum KeyOrder {
    /// Put a new key in the place of the node's.
    Rotate,
    /// Make the key in a backup the node's, if that has none.
    Import { file: PathBuf },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum KeyAnswer {
    Rotated { public_key: PublicKey, former: PublicKey },
    Imported { public_key: PublicKey },
}

/// Carries `order` out. `signer` is what this process signs with, if it does; no other may sign with the keyring's key.
pub fn perform(
    keyring: &Keyring,
    signer: Option<&Signer>,
    order: KeyOrder,
    now: SystemTime,
) -> Result<KeyAnswer, KeyError> {
    match order {
        KeyOrder::Rotate => {
            let rotated = signer.map_or_else(|| keyring.rotate(now), |signer| signer.rotate(keyring, now));
            let Formerly { rotation, .. } = rotated?;
            Ok(KeyAnswer::Rotated { public_key: rotation.successor(), former: rotation.former() })
        }
        KeyOrder::Import { file } => {
            let imported = signer.map_or_else(|| keyring.import(&file), |signer| signer.import(keyring, &file, now));
            Ok(KeyAnswer::Imported { public_key: imported? })
        }
    }
}
