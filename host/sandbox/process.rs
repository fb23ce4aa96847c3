//! Processes for untrusted bytes: start, deadline and exit. Only this module starts the compiler's
//! and the verifier's processes.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::Builder;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::{confine, priority};

/// Bytes of standard error that are shown of a process that died.
const LAST_WORDS_BYTES: u64 = 2048;

/// Error of a process that could not be started.
#[derive(Debug)]
pub struct StartError {
    program: PathBuf,
    cause: io::Error,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, cause } = self;
        write!(f, "`{}`: {cause}", program.display())?;
        f.write_str(match cause.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => "; raise `ulimit -n`",
            Some(libc::EAGAIN | libc::ENOMEM) => "; raise `ulimit -u` or `ulimit -v`, or lower --jobs",
            Some(libc::ENOENT) if program.starts_with("/proc") => "; mount /proc",
            _ => "",
        })
    }
}

impl std::error::Error for StartError {}

/// Exit of a process.
#[derive(Debug)]
pub struct ProcessExit {
    pub status: ExitStatus,
    /// Standard error, on one line. Empty, or with a colon before it.
    pub words: String,
    /// Whether the process was killed at its deadline.
    pub is_late: bool,
}

/// Starts `program` with pipes, in the root directory, and without this process's environment.
pub fn start(program: &Path, arguments: &[&str]) -> Result<Child, StartError> {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| StartError { program: program.to_owned(), cause })
}

/// Calls `talk` with the pipes of `child`. Kills the child at its deadline, or when `talk` fails.
/// Returns when the child has exited.
pub fn watched<T, E>(
    mut child: Child,
    deadline: Duration,
    talk: impl FnOnce(ChildStdin, ChildStdout) -> Result<T, E>,
) -> io::Result<(Result<T, E>, ProcessExit)> {
    let pid = Pid::from_child(&child);
    // No owner: it is one process's watchdog's.
    let (over, waited) = mpsc::channel::<()>();
    let told = std::thread::scope(|scope| {
        let watchdog = Builder::new().spawn_scoped(scope, move || {
            let is_late = waited.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout);
            // The child is reaped only after this thread has ended, so the process id is still its
            // own.
            is_late && kill_process(pid, Signal::KILL).is_ok()
        })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let told = talk(input, output);
        if told.is_err() {
            // Its further work is useless, and it might wait for this process.
            let _ = kill_process(pid, Signal::KILL);
        }
        let words = last_words(&mut child);
        drop(over);
        Ok((told, words, watchdog.join().unwrap_or(true)))
    });
    if told.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    told.map(|(told, words, is_late)| (told, ProcessExit { status, words, is_late }))
}

fn last_words(child: &mut Child) -> String {
    let mut words = Vec::new();
    let Some(stderr) = child.stderr.take() else { return String::new() };
    let _ = stderr.take(LAST_WORDS_BYTES).read_to_end(&mut words);
    let words = String::from_utf8_lossy(&words);
    let words: Vec<&str> = words.split_whitespace().collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
}

/// First step of such a process, while it has one thread. Closes all files that the parent had
/// open, and makes the process die with its parent.
pub fn enter() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    priority::lower_child();
    confine::close_inherited_files();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_says_nothing_is_killed_at_its_deadline() {
        let child = start(Path::new("/bin/sleep"), &["1000000"]).unwrap();
        let listen = |_input, mut output: ChildStdout| output.read_exact(&mut [0]);
        let (told, end) = watched(child, Duration::ZERO, listen).unwrap();
        assert!(told.is_err() && end.is_late && !end.status.success());
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let said = start(Path::new("/nowhere/node"), &[]).unwrap_err().to_string();
        assert!(said.starts_with("`/nowhere/node`: "), "{said}");
        let said = StartError { program: "/proc/self/exe".into(), cause: io::Error::from_raw_os_error(libc::ENOENT) };
        assert!(said.to_string().ends_with("; mount /proc"), "{said}");
    }
}
