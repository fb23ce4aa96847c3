//! Files of the module store: written completely or not at all, and read only if they are regular
//! files.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::StoredError;
use crate::private_file;

/// Prefix of the names of unfinished files.
pub const TEMPORARY: &str = ".new-";

/// Replaces the content of `path` with `bytes`, completely or not at all. Durable after the
/// directory is synced, too.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), StoredError> {
    let directory = path.parent().unwrap_or(path);
    let write = || {
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(StoredError::at(path))
}

pub fn sync(directory: &Path) -> Result<(), StoredError> {
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(StoredError::at(directory))
}

/// Reads the file `path`. Of a file longer than `bytes_max`, reads only `bytes_max + 1` bytes.
/// Returns `None` if there is no file.
pub fn read_up_to(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, StoredError> {
    let read = || {
        let mut bytes = Vec::new();
        let file = private_file::open(path, OpenOptions::new().read(true))?;
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    if_there(read()).map_err(StoredError::at(path))
}

pub fn delete(path: &Path) -> Result<(), StoredError> {
    if_there(fs::remove_file(path)).map(drop).map_err(StoredError::at(path))
}

/// Lists the names in a directory that are valid text. A missing directory has none.
pub fn entries(directory: &Path) -> Result<Vec<String>, StoredError> {
    let mut names = Vec::new();
    each_entry(directory, |name| names.push(name.to_owned()))?;
    Ok(names)
}

/// The same, without a list of them.
pub fn each_entry(directory: &Path, mut each: impl FnMut(&str)) -> Result<(), StoredError> {
    let found = if_there(fs::read_dir(directory)).map_err(StoredError::at(directory))?;
    for entry in found.into_iter().flatten() {
        if let Some(name) = entry.map_err(StoredError::at(directory))?.file_name().to_str() {
            each(name);
        }
    }
    Ok(())
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
