//! Private files, accessible to their user only. They are read only if they are private, written
//! completely or not at all, and durable on return.

use std::fs::{DirBuilder, File, FileType, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

/// Checks that a file is private to this user. An existing file may have been created by somebody
/// else.
pub fn check(path: &Path) -> io::Result<()> {
    check_metadata(path, &std::fs::metadata(path)?)
}

fn check_metadata(path: &Path, metadata: &Metadata) -> io::Result<()> {
    if metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let mode = metadata.mode() & 0o777;
    let (path, uid) = (path.to_owned(), metadata.uid());
    Err(io::Error::other(NotPrivate { path, uid, mode }))
}

/// Error of a file that others may read or write, or that belongs to somebody else.
#[derive(Debug, thiserror::Error)]
#[error("`{}` must be its user's alone, but belongs to user {uid} and has mode {mode:03o}; {}", path.display(), self.remedy())]
struct NotPrivate {
    path: PathBuf,
    uid: u32,
    mode: u32,
}

impl NotPrivate {
    /// Returns the command that makes the file private. A copy from a medium without modes, for
    /// example, has lost them.
    fn remedy(&self) -> String {
        let user = rustix::process::geteuid().as_raw();
        if self.uid == user {
            format!("take the rights of others away with `chmod -R go= {}`", shell_word(&self.path))
        } else {
            format!("run as user {}, or make it yours with `chown -R {user} {}`", self.uid, shell_word(&self.path))
        }
    }
}

/// Returns the path as one word for a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&byte));
    if is_plain && !text.starts_with('-') { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Returns whether an error of [`check`] or [`read`] means that the file is not private.
pub fn is_not_private(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NotPrivate>())
}

/// Returns the content of a regular file of at most `bytes_max` bytes. The check for privacy uses
/// the open file, so it applies to the file that is read.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    check_metadata(path, &file.metadata()?)?;
    read_up_to(&file, bytes_max)
}

/// Reads a file as [`read`] does, but accepts one that is not private.
pub fn read_shared(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    read_up_to(&open_regular(path)?, bytes_max)
}

/// Opens a regular file. Does not block on a pipe.
fn open_regular(path: &Path) -> io::Result<File> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Opens a regular file with `options`. A new file has mode 0600. Does not follow a symbolic link,
/// and does not block on a pipe.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.union(rustix::fs::OFlags::NOFOLLOW).bits().cast_signed();
    let file = options.mode(0o600).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

fn read_up_to(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 <= bytes_max {
        Ok(bytes)
    } else {
        Err(io::Error::other(format!("it has more than {bytes_max} bytes")))
    }
}

/// Creates a temporary file in a directory that need not last. If the directory is missing, creates
/// it again.
pub fn temporary_in(directory: &Path, prefix: &str) -> io::Result<tempfile::NamedTempFile> {
    let make = || tempfile::Builder::new().prefix(prefix).tempfile_in(directory);
    match make() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            make()
        }
        made => made,
    }
}

/// Creates the file with mode 0644, completely or not at all, unless `path` exists. An empty file
/// counts as missing.
pub fn create_shared(path: &Path, bytes: &[u8]) -> io::Result<CreatedFile> {
    let is_empty = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() == 0 => true,
        Ok(_) => return Ok(CreatedFile::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    let file = written(path, bytes)?;
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    if is_empty {
        file.persist(path)?;
    } else if let Err(error) = file.persist_noclobber(path) {
        // Another process created the file first.
        return if error.error.kind() == io::ErrorKind::AlreadyExists {
            Ok(CreatedFile::Nothing)
        } else {
            Err(error.error)
        };
    }
    sync_directory_of(path)?;
    Ok(if is_empty { CreatedFile::OfEmpty } else { CreatedFile::New })
}

/// Result of [`create_shared`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreatedFile {
    Nothing,
    New,
    /// The file replaced an empty one, which a failed write may have left.
    OfEmpty,
}

/// Refuses everything in `directory` and below that is not a regular file, a directory, or a socket
/// named `socket`. Opening a pipe would block for ever, and a link leads elsewhere. A link to a
/// directory is allowed, because operators use it to move data to another disk. Descends `depth`
/// levels, and not into directories named in `but`.
pub fn check_below(directory: &Path, depth: usize, socket: &str, but: &[&str]) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = match entry.file_type() {
            // A temporary file was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            kind => kind?,
        };
        let (path, name) = (entry.path(), entry.file_name());
        if depth > 0 && kind.is_dir() && !but.iter().any(|but| name == *but) {
            check_below(&path, depth - 1, socket, but)?;
        }
        let is_link_to_directory = kind.is_symlink() && path.is_dir();
        let is_own_socket = kind.is_socket() && name == socket;
        if !(kind.is_file() || kind.is_dir() || is_link_to_directory || is_own_socket) {
            return Err(io::Error::other(NotAFile { path, kind: name_of(kind) }));
        }
    }
    Ok(())
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a link"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// Returns whether an error of [`check_below`] means that it found such a file.
pub fn is_not_a_file(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NotAFile>())
}

#[derive(Debug, thiserror::Error)]
#[error("`{}` is {kind}, where this node has files and directories alone; remove it, or put the file in its place", path.display())]
struct NotAFile {
    path: PathBuf,
    kind: &'static str,
}

/// Creates the file with mode 0600, unless `path` exists. In that case nothing changes, and the
/// error is of kind [`io::ErrorKind::AlreadyExists`]. Of several concurrent callers, one creates
/// the file.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    written(path, bytes)?.persist_noclobber(path)?;
    sync_directory_of(path)
}

/// Replaces the file's content with `bytes`, completely or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    written(path, bytes)?.persist(path)?;
    sync_directory_of(path)
}

/// Writes the bytes to a temporary file and syncs it. The file gets its name later, so a name never
/// refers to a part of the bytes.
fn written(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    // A temporary file has mode 0600 from its creation.
    let mut file = tempfile::NamedTempFile::new_in(directory_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Creates a directory with mode 0700, and its missing parents. Its name is durable on return, even
/// if the directory existed: its creator may have died before the sync.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        let above = directory_of(path);
        if !above.is_dir() {
            make_directory(above)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    sync_directory_of(path)
}

/// Syncs the directory of `path`, which makes its name durable.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_read_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        create(&path, b"secret").unwrap();
        assert_eq!(read(&path, 6).unwrap(), b"secret");
        assert!(!is_not_private(&read(&path, 5).unwrap_err()), "and no more than was asked for");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(is_not_private(&read(&path, 6).unwrap_err()), "{mode:o}");
            assert_eq!(read_shared(&path, 6).unwrap(), b"secret");
        }
        assert!(read_shared(directory.path(), 6).is_err(), "a directory is no file");
    }

    #[test]
    fn what_is_there_is_replaced_only_where_that_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        create(&path, b"first").unwrap();
        assert_eq!(create(&path, b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path, 10).unwrap(), b"first");
        replace(&path, b"third").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"third");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_opened_is_a_regular_file_and_what_is_made_its_users_alone() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/c");
        make_directory(&deep).unwrap();
        make_directory(&deep).unwrap();
        assert_eq!(std::fs::metadata(deep.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let (path, link) = (deep.join("file"), deep.join("link"));
        open(&path, OpenOptions::new().write(true).create(true)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(open(&link, OpenOptions::new().read(true)).is_err(), "a link is no file");
        assert!(open(&deep, OpenOptions::new().read(true)).is_err(), "a directory is no file");
        assert!(make_directory(&path.join("below")).is_err(), "and a file no directory");
    }

    #[test]
    fn a_temporary_file_makes_its_directory_anew() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("cache/spool");
        for _ in 0..2 {
            let file = temporary_in(&cache, ".new-").unwrap();
            assert!(file.path().starts_with(&cache));
            std::fs::remove_dir_all(directory.path().join("cache")).unwrap();
        }
        std::fs::write(directory.path().join("cache"), b"a file").unwrap();
        temporary_in(&cache, ".new-").unwrap_err();
    }

    #[test]
    fn a_shared_file_is_made_whole_and_in_the_place_of_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.toml");
        assert_eq!(create_shared(&path, b"text").unwrap(), CreatedFile::New);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        std::fs::write(&path, b"other").unwrap();
        assert_eq!(create_shared(&path, b"text").unwrap(), CreatedFile::Nothing);
        assert_eq!(std::fs::read(&path).unwrap(), b"other");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(create_shared(&path, b"text").unwrap(), CreatedFile::OfEmpty);
        assert_eq!(std::fs::read(&path).unwrap(), b"text");
    }

    #[test]
    fn odd_files_are_refused_by_name_at_any_depth() {
        let directory = tempfile::tempdir().unwrap();
        let (deep, skipped) = (directory.path().join("a/b"), directory.path().join("files/x"));
        [&deep, &skipped].into_iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
        std::fs::write(deep.join("file"), b"").unwrap();
        std::os::unix::fs::symlink(&skipped, directory.path().join("elsewhere")).unwrap();
        let _own = std::os::unix::net::UnixListener::bind(directory.path().join("node.sock")).unwrap();
        let check = || check_below(directory.path(), 2, "node.sock", &["files"]);
        let pipe = |path: &Path| {
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        };
        pipe(&skipped.join("pipe"));
        check().unwrap();
        for parent in [directory.path(), &deep] {
            let path = parent.join("odd");
            let refused = |kind: &str| {
                let error = check().unwrap_err().to_string();
                assert!(error.contains("odd") && error.contains(kind) && error.contains("remove it"), "{error}");
                std::fs::remove_file(&path).unwrap();
            };
            pipe(&path);
            refused("a pipe");
            std::os::unix::fs::symlink(deep.join("file"), &path).unwrap();
            refused("a link");
            std::os::unix::fs::symlink(deep.join("nothing"), &path).unwrap();
            refused("a link");
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            refused("a socket");
        }
        check().unwrap();
    }
}
