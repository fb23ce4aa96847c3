//! Traces of `strace`, in order of time.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// System calls that change files, sync them, and send replies.
const CALLS: &str = "trace=fsync,fdatasync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,open,openat,write,writev,\
    pwrite64,pwritev,ftruncate,fallocate,sendto,sendmsg";

/// A system call that succeeded. Times are line numbers of the trace.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub arguments: String,
    pub began: usize,
    pub ended: usize,
}

impl Call {
    /// Returns the file of the handle in the first argument.
    pub fn file(&self) -> Option<&Path> {
        let handle = self.arguments.split(',').next()?;
        let (_, path) = handle.split_once('<')?;
        Some(Path::new(path.strip_suffix('>').or_else(|| path.split('>').next())?))
    }

    /// Returns the quoted arguments: the paths, for a call with paths.
    pub fn paths(&self) -> Vec<&Path> {
        self.arguments.split('"').skip(1).step_by(2).map(Path::new).collect()
    }

    pub fn is_sync(&self) -> bool {
        matches!(&*self.name, "fsync" | "fdatasync")
    }

    pub fn is_rename(&self) -> bool {
        matches!(&*self.name, "rename" | "renameat" | "renameat2")
    }

    /// Returns true if the call changes a file's content.
    pub fn is_write(&self) -> bool {
        matches!(&*self.name, "write" | "writev" | "pwrite64" | "pwritev" | "ftruncate" | "fallocate")
    }

    /// Returns the name that the call created, or may have created.
    pub fn made(&self) -> Option<&Path> {
        let makes = match &*self.name {
            "mkdir" | "mkdirat" | "link" | "linkat" => true,
            "open" | "openat" => self.arguments.contains("O_CREAT"),
            _ => self.is_rename(),
        };
        if makes { self.paths().last().copied() } else { None }
    }
}

/// Returns why no trace is possible, if that is so.
pub fn unavailable() -> Option<String> {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    match tried {
        Ok(status) if status.success() => None,
        Ok(_) => Some("strace is here, and cannot trace".to_owned()),
        Err(error) => Some(format!("strace cannot be started ({error}): apt-get install strace")),
    }
}

/// Builds a command that starts `program` with its trace in `log`.
pub fn traced(log: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-s", "80", "-e", CALLS, "-o"]).arg(log).arg(program).stdin(Stdio::null());
    command
}

/// Returns the calls that succeeded, in the order of their ends.
pub fn calls(log: &str) -> Vec<Call> {
    let mut unfinished: Vec<(&str, &str, usize)> = Vec::new();
    let mut calls = Vec::new();
    for (at, line) in log.lines().enumerate() {
        let Some((process, rest)) = line.split_once(char::is_whitespace) else { continue };
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            unfinished.push((process, begin, at));
        } else if let Some(end) = rest.strip_prefix("<... ") {
            let Some(begun) = unfinished.iter().position(|(other, ..)| *other == process) else { continue };
            let (_, begin, began) = unfinished.remove(begun);
            let end = end.split_once('>').map(|(_, end)| end).unwrap_or_default();
            calls.extend(call(&format!("{begin}{end}"), began, at));
        } else {
            calls.extend(call(rest, at, at));
        }
    }
    calls
}

fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let failed = result.starts_with('-') || result.starts_with('?');
    (!failed).then(|| Call { name: name.to_owned(), arguments: arguments.to_owned(), began, ended })
}
