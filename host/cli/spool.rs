//! Temporary copies of slices from pipes. A slice is read more than once, so a pipe must be copied
//! first.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tempfile::NamedTempFile;

/// The copies, which are deleted on drop.
#[derive(Default)]
pub struct Spool {
    copies: Vec<NamedTempFile>,
    has_stdin: bool,
}

impl Spool {
    /// Copies standard input (`-`) or a shell's pipe, of at most `bytes_max` bytes. Returns `None`
    /// for any other file.
    pub fn copy_of(&mut self, file: &Path, bytes_max: u64) -> anyhow::Result<Option<PathBuf>> {
        let copied = if file == Path::new("-") {
            if std::mem::replace(&mut self.has_stdin, true) {
                bail!("standard input, `-`, is one slice, and is named twice");
            }
            copied(&mut io::stdin().lock(), bytes_max)
        } else if is_shells_pipe(file) {
            File::open(file).and_then(|mut pipe| copied(&mut pipe, bytes_max))
        } else {
            return Ok(None);
        };
        let copy = copied.with_context(|| format!("cannot read slice `{}`", file.display()))?;
        let path = copy.path().to_owned();
        self.copies.push(copy);
        Ok(Some(path))
    }
}

/// Returns true for a pipe that a shell made, as for `<(command)`. A named pipe in a file system
/// may have no writer, and reading it would block for ever. It is refused later, like everything
/// else that is not a regular file.
fn is_shells_pipe(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) && file.canonicalize().is_err()
}

fn copied(from: &mut impl Read, bytes_max: u64) -> io::Result<NamedTempFile> {
    let directory = Some(std::env::temp_dir()).filter(|directory| directory.is_absolute());
    let mut copy = NamedTempFile::new_in(directory.as_deref().unwrap_or(Path::new("/tmp")))?;
    let bytes = io::copy(&mut from.take(bytes_max.saturating_add(1)), &mut copy)?;
    if bytes > bytes_max {
        return Err(io::Error::other(format!(
            "it has more than the {bytes_max} bytes that `compute.slice_bytes_max` allows"
        )));
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_copied_up_to_what_a_slice_may_have() {
        for (bytes, bytes_max) in [(0, 0), (1, 1), (70_000, 70_000)] {
            let content = vec![7; bytes];
            let copy = copied(&mut content.as_slice(), bytes_max).unwrap();
            assert!(std::fs::read(copy.path()).unwrap() == content);
            let error = copied(&mut [content.as_slice(), &[7]].concat().as_slice(), bytes_max).unwrap_err();
            assert!(error.to_string().contains("`compute.slice_bytes_max`"), "{error}");
        }
    }

    #[test]
    fn copies_go_with_the_spool() {
        let directory = tempfile::tempdir().unwrap();
        let (file, mut spool) = (directory.path().join("file"), Spool::default());
        std::fs::write(&file, "content").unwrap();
        assert_eq!(spool.copy_of(&file, 1).unwrap(), None, "a file is where it is");
        assert_eq!(spool.copy_of(&directory.path().join("none"), 1).unwrap(), None, "whoever opens it says so");
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        let pipe = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
        let copy = spool.copy_of(Path::new(&pipe), 1).unwrap().expect("a pipe is copied");
        assert!(copy.is_file());
        drop(spool);
        assert!(!copy.exists());
    }
}
