//! Mount check for exports. Bundles written to a mount point where no medium is mounted would stay
//! on this machine's own disk, and nobody would carry them.

use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Media that should be mounted, and mounted file systems, one on each line (fstab(5), proc(5)).
const FSTAB: &str = "/etc/fstab";
const MOUNTED: &str = "/proc/self/mounts";

/// Returns the directory to export to. The directory must exist: on a medium that is not mounted it
/// does not.
pub fn export_directory(directory: &Path) -> anyhow::Result<PathBuf> {
    let shown = directory.display();
    if !directory.exists() {
        bail!("there is no directory `{shown}`; mount the medium that it is on, or make it with mkdir");
    }
    let absolute = directory.canonicalize().with_context(|| format!("cannot use the directory `{shown}`"))?;
    if !absolute.is_dir() {
        bail!("`{shown}` is not a directory; give the one that is to be carried");
    }
    // If these tables cannot be read, the directory is accepted.
    let [expected, mounted] = [FSTAB, MOUNTED].map(|table| std::fs::read(table).unwrap_or_default());
    if let Some(point) = not_mounted(&absolute, &expected, &mounted) {
        bail!("nothing is mounted at `{}`, where `{shown}` is; mount it first", point.display());
    }
    Ok(absolute)
}

/// Returns the mount point above `directory` where a medium should be mounted and is not.
fn not_mounted(directory: &Path, expected: &[u8], mounted: &[u8]) -> Option<PathBuf> {
    let mounted = points(mounted);
    let is_missing =
        |point: &PathBuf| point.parent().is_some() && directory.starts_with(point) && !mounted.contains(point);
    points(expected).into_iter().find(is_missing)
}

/// Returns the second field of each line. Spaces are written as `\\040` in it, and other bytes
/// likewise.
fn points(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    let fields =
        |line: &[u8]| line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty()).nth(1).map(<[u8]>::to_vec);
    lines.filter_map(fields).filter(|field| field.starts_with(b"/")).map(|field| unescaped(&field)).collect()
}

fn unescaped(mut field: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    while let Some((first, rest)) = field.split_first() {
        let digits =
            rest.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        let code = digits.map(|digits| digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0')));
        match code.and_then(|code| u8::try_from(code).ok()) {
            Some(byte) => {
                path.push(byte);
                field = &rest[3..];
            }
            None => {
                path.push(*first);
                field = rest;
            }
        }
    }
    std::ffi::OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_medium_that_is_to_be_there_and_is_not_is_found() {
        let fstab = b"# a comment /media/x\nUUID=1 / ext4 defaults 0 1\n/dev/sdb1\t/media/stick vfat noauto,user 0 0\n\
            LABEL=a /media/my\\040stick vfat noauto 0 0\n/dev/sdc1 none swap sw 0 0\n";
        let mounted = b"/dev/sda1 / ext4 rw 0 0\n/dev/sdd1 /media/my\\040stick vfat rw 0 0\n";
        let found = |directory: &str, mounted: &[u8]| not_mounted(Path::new(directory), fstab, mounted);
        for directory in ["/media/stick", "/media/stick/out"] {
            assert_eq!(found(directory, mounted), Some("/media/stick".into()));
        }
        for directory in ["/media/stick2", "/media", "/home/a", "/media/my stick/out"] {
            assert_eq!(found(directory, mounted), None, "{directory}");
        }
        let others = b"/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /media/stick vfat rw 0 0\n";
        assert_eq!(found("/media/stick/out", others), None);
        assert_eq!(found("/media/my stick", others), Some("/media/my stick".into()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let here = tempfile::tempdir().unwrap();
        let (missing, file) = (here.path().join("stick/out"), here.path().join("file"));
        std::fs::write(&file, "").unwrap();
        assert!(export_directory(&missing).unwrap_err().to_string().contains("mount the medium"));
        assert!(!here.path().join("stick").exists());
        assert!(export_directory(&file).unwrap_err().to_string().contains("is not a directory"));
        assert_eq!(export_directory(here.path()).unwrap(), here.path().canonicalize().unwrap());
    }
}
