//! Slice files of a command line.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Limit on files in one command. More is a mistake, such as the path of the whole disk.
const FILES_MAX: usize = 1_000_000;

/// Longest list of names: [`FILES_MAX`] names of moderate length.
const LIST_BYTES_MAX: u64 = 256 << 20;

/// Returns the paths of the command line, or those in the list `from`. A zero byte ends each name
/// in the list; the last may lack it.
pub fn named(paths: &[PathBuf], from: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let Some(from) = from else { return Ok(paths.to_vec()) };
    let list = read_up_to(from, LIST_BYTES_MAX);
    let list = list.with_context(|| format!("cannot read the list of files `{}`", from.display()))?;
    let list = list.strip_suffix(b"\0").unwrap_or(&list);
    let mut named = Vec::new();
    for name in list.split(|byte| *byte == 0) {
        if name.is_empty() {
            bail!("the list of files `{}` has an empty name as its number {}", from.display(), named.len() + 1);
        }
        if name == b"-" && from == Path::new("-") {
            bail!("the list of files comes by standard input, so no slice can; `-` is its number {}", named.len() + 1);
        }
        named.push(PathBuf::from(OsStr::from_bytes(name)));
    }
    Ok(named)
}

/// Returns the named files, and all `.slice` files below the named directories, each directory's in
/// the order of their names.
pub fn expand(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = files.len();
            walk(path, &mut files)?;
            if files.len() == before {
                bail!("no file below `{}` has a name that ends in `.slice`", path.display());
            }
        } else {
            files.push(path.clone());
        }
        if files.len() > FILES_MAX {
            bail!("more than {FILES_MAX} slices; run them in several commands");
        }
    }
    Ok(files)
}

/// Enters directories but not links to directories, because a link can make a cycle.
fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let context = || format!("cannot list the directory `{}`", directory.display());
    let mut entries = std::fs::read_dir(directory).with_context(context)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().with_context(context)?.is_dir() {
            walk(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "slice") {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            bail!("more than {FILES_MAX} slices below `{}`; run them in several commands", directory.display());
        }
    }
    Ok(())
}

/// Reads `file`, or standard input for `-`. More than `bytes_max` bytes are an error.
pub fn read_up_to(file: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().lock().take(bytes_max + 1).read_to_end(&mut bytes)?;
    } else {
        File::open(file)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 <= bytes_max {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!("it has more than {bytes_max} bytes")))
    }
}

/// Returns the path in `out` for data of `file` with this ending.
pub fn path_beside(out: &Path, file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    out.join(name)
}

/// Replaces `path` atomically with `bytes`. Without bytes, deletes `path`, so that an old file is
/// not mistaken for a new result.
pub fn replace(path: &Path, bytes: Option<&[u8]>) -> io::Result<()> {
    let Some(bytes) = bytes else {
        return std::fs::remove_file(path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        });
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o666)).tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Returns true if `directory` distinguishes names that differ only in case.
pub fn tells_case(directory: &Path) -> anyhow::Result<bool> {
    let context = || format!("cannot write to the directory `{}`", directory.display());
    let probe = tempfile::Builder::new().prefix("node-case-").rand_bytes(8).tempfile_in(directory);
    let probe = probe.with_context(context)?;
    let name = probe.path().file_name().unwrap_or_default().to_string_lossy().replace("node-case-", "NODE-CASE-");
    Ok(!directory.join(name).exists())
}

/// Refuses two slices of the same name: each would overwrite the other's proof.
pub fn check_distinct(files: &[PathBuf], tells_case: bool) -> anyhow::Result<()> {
    let mut seen = HashMap::new();
    for file in files {
        let name = file.file_name().unwrap_or_default();
        let key = match name.to_str() {
            // Some file systems treat letters as equal when they agree in upper case or in lower
            // case.
            Some(name) if !tells_case => OsString::from(name.to_uppercase().to_lowercase()),
            _ => name.to_owned(),
        };
        if let Some(other) = seen.insert(key, file) {
            bail!(
                "`{}` and `{}` would both write their proof to `{}`; run them with different --out",
                other.display(),
                file.display(),
                path_beside(Path::new("DIR"), file, ".proof").display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_are_one_where_the_file_system_says_so() {
        let pair = |one: &str, other: &str| [PathBuf::from("in").join(one), PathBuf::from("also").join(other)];
        for (one, other) in
            [("a.slice", "A.slice"), ("\u{e9}.raw", "\u{c9}.raw"), ("ma\u{df}", "MASS"), ("\u{3c3}", "\u{3c2}")]
        {
            assert!(check_distinct(&pair(one, other), true).is_ok(), "{one}, {other}");
            let error = check_distinct(&pair(one, other), false).unwrap_err().to_string();
            assert!(error.contains("would both write their proof to"), "{error}");
        }
        for tells_case in [true, false] {
            assert!(check_distinct(&pair("a", "b"), tells_case).is_ok());
            assert!(check_distinct(&pair("a", "a"), tells_case).is_err());
        }
        let directory = tempfile::tempdir().unwrap();
        assert!(tells_case(directory.path()).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
    }
}
