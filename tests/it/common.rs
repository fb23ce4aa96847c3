//! Test fixture: an empty directory, and the node started in it.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program under test.
pub const NODE: &str = env!("CARGO_BIN_EXE_node");

/// A guest that outputs its slice, of up to one mebibyte.
pub const COPY: &str = r#"(module
    (import "compute" "input_len" (func $input_len (result i64)))
    (import "compute" "input_read" (func $input_read (param i32 i64 i32) (result i32)))
    (import "compute" "output_write" (func $output_write (param i32 i32)))
    (memory (export "memory") 16)
    (func (export "run") (result i32)
        (call $output_write (i32.const 0)
            (call $input_read (i32.const 0) (i64.const 0) (i32.wrap_i64 (call $input_len))))
        (i32.const 0)))"#;

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An empty directory, which also holds the node's files.
pub struct Workplace(TempDir);

impl Workplace {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// Creates a directory in memory, if the system has a file system for that: for tests that
    /// would write to a disk ten thousand times.
    pub fn in_memory() -> Self {
        tempfile::tempdir_in("/dev/shm").map_or_else(|_| Self::new(), Self)
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("the directory can be made");
        std::fs::write(&path, content).expect("the file can be written");
        path
    }

    /// Creates a file of `bytes` zeros that uses no disk space.
    pub fn sparse(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.file(name, "");
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("the file is there");
        file.set_len(bytes).expect("the file can be extended");
        path
    }

    /// Builds a command of the node in this directory, without the tester's environment settings.
    pub fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(NODE);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.env_remove("NODE_DATA_DIR").env_remove("NODE_JOBS").env_remove("RUST_BACKTRACE");
        command
    }

    pub fn node(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        Ran::of(self.command(arguments))
    }

    /// Runs `node` with arguments that contain no spaces.
    pub fn run(&self, line: &str) -> Ran {
        self.node(line.split_whitespace())
    }
}

/// Output and exit status of a program.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

impl Ran {
    pub fn of(mut command: Command) -> Self {
        command.output().expect("the program can be started").into()
    }

    /// Asserts the exit status and both outputs.
    #[track_caller]
    pub fn is(self, code: i32, stdout: &str, stderr: &str) {
        let expected = Self { stdout: stdout.to_owned(), stderr: stderr.to_owned(), code };
        assert_eq!(self, expected);
    }

    /// Returns the output of a successful run without messages. The note that the running node
    /// executed the command is allowed.
    #[track_caller]
    pub fn output(self) -> String {
        let stderr = self.stderr.strip_prefix("note: the running node does this\n").unwrap_or(&self.stderr);
        assert_eq!((self.code, stderr), (0, ""), "{}", self.stdout);
        self.stdout
    }

    /// Parses the output of `--json`: one object on each line.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let signal = output.status.signal().map(|signal| 128 + signal);
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().or(signal).expect("a program ends with a code or by a signal"),
        }
    }
}

/// Computes BLAKE3 with the reference crate, independently of the code under test.
pub fn blake3(bytes: impl AsRef<[u8]>) -> String {
    blake3::hash(bytes.as_ref()).to_string()
}

/// Returns bytes without a pattern, the same for the same seed.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}
