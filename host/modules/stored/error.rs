//! Errors of the module store.

use std::io;
use std::path::{Path, PathBuf};

use super::super::names::{ModuleKey, ModuleName};
use super::record::ADDERS_MAX;
use crate::digest::Digest;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    #[error("cannot use `{}`: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("this node keeps no modules")]
    NoFiles,
    #[error("no module `{0}` is stored; `node compute module list` shows those that are")]
    NotThere(ModuleKey),
    #[error("`{}` is not what was stored; remove the module `{digest}`, and add it again", path.display())]
    Damaged { path: PathBuf, digest: Digest },
    #[error(
        "{count} modules are stored, and there is room for no more of yours; `modules.modules_max` is {max}; remove some, or \
         raise it"
    )]
    TooMany { count: u64, max: u64 },
    #[error(
        "{bytes} bytes of modules are stored, and with {more} more they are over your share of `modules.bytes_max`, {max}; \
         remove some, or raise it"
    )]
    TooLarge { bytes: u64, more: u64, max: u64 },
    #[error("{max} tokens have added the module `{digest}`, and no more can; use it without adding it", max = ADDERS_MAX)]
    TooManyAdders { digest: Digest },
    #[error(transparent)]
    NoSpace(#[from] StoreError),
    #[error("the name `{name}` is another's; choose another name")]
    NameTaken { name: ModuleName },
    #[error("another has added the module `{0}`")]
    NotYours(ModuleKey),
}

impl StoredError {
    /// Returns a stable name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::NoFiles => "module_store",
            Self::NotThere(_) => "no_such_module",
            Self::Damaged { .. } => "module_damaged",
            Self::TooMany { .. } | Self::TooLarge { .. } | Self::TooManyAdders { .. } => "module_quota",
            Self::NoSpace(_) => "no_space",
            Self::NameTaken { .. } | Self::NotYours(_) => "forbidden",
        }
    }

    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |cause| Self::Io { path: path.to_owned(), cause }
    }
}
