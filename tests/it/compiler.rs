//! Compiler child: its confinement and its failures. A failure of the child is never a verdict on a
//! module.

mod costs;
mod kept;
mod lines;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use compute_host::digest::Digest;
use compute_host::modules::{Modules, ModulesError};
use compute_host::sandbox::{
    Admitted, Bounds, COMPILE_COMMAND, Compiler, CompilerError, GateLimits, LIMITS, ProcessPurpose, Sandbox,
    SandboxError, confine,
};
use compute_host::workload::{Workload, WorkloadGuest};

use crate::common::{NODE, Ran, Workplace, root};

const CPU_SECONDS: &str = "20";
const MEMORY_BYTES: &str = "1073741824";

/// Length of the hello: the digest of the settings, and one byte for the confinement.
const HELLO_BYTES: usize = 33;
const CONFINED_BY_ALL: u8 = 3;

fn module() -> Admitted {
    let WorkloadGuest::Admitted(module) = Workload::Transcode.module() else { panic!("it is part of this program") };
    module.clone()
}

fn settings() -> Digest {
    Sandbox::new(1).unwrap().settings_digest()
}

fn piped(mut command: Command) -> Child {
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Builds the node's request to a child: a byte that asks for native code, the gate's limits, and a
/// module.
fn request(limits: &GateLimits, bytes: &[u8]) -> Vec<u8> {
    let mut request = vec![0];
    for limit in LIMITS {
        request.extend(limits.of(limit.name).to_le_bytes());
    }
    request.extend((bytes.len() as u64).to_le_bytes());
    request.extend(bytes);
    request
}

/// Builds one frame of an answer.
fn frame(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[tag][..], &(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

const CODE: u8 = 4;
const NOT_COMPILABLE: u8 = 6;

/// Returns the tags of the frames that a child sent after its hello.
fn tags(said: &[u8]) -> Vec<u8> {
    let (mut tags, mut rest) = (Vec::new(), said.get(HELLO_BYTES..).unwrap_or_default());
    while let [tag, tail @ ..] = rest {
        let (len, bytes) = tail.split_first_chunk().unwrap();
        tags.push(*tag);
        rest = &bytes[u64::from_le_bytes(*len) as usize..];
    }
    tags
}

/// Sends `bytes` to a child with these bounds, as the node would. Returns its exit status and its
/// output.
fn compile(bytes: &[u8], limits: &GateLimits, cpu_seconds: &str, memory_bytes: &str) -> (ExitStatus, Vec<u8>) {
    let mut command = Command::new(NODE);
    command.args([COMPILE_COMMAND, cpu_seconds, memory_bytes]);
    let mut child = piped(command);
    let mut stdin = child.stdin.take().unwrap();
    // The child may end before it has read everything.
    let _ = stdin.write_all(&request(limits, bytes));
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (output.status, output.stdout)
}

#[test]
fn the_child_is_confined_before_it_is_given_a_module() {
    // The process that starts the node may leave a file open, and secrets in the environment.
    let mut command = Command::new("/bin/sh");
    let script =
        format!("SECRET=x; export SECRET; exec 7</etc/passwd; exec {NODE} {COMPILE_COMMAND} 20 {MEMORY_BYTES}");
    command.args(["-c", &script]);
    let mut child = piped(command);
    let mut hello = [0; HELLO_BYTES];
    child.stdout.as_mut().unwrap().read_exact(&mut hello).unwrap();
    assert_eq!(hello[..32], *settings().as_bytes());

    let of = |name: &str| PathBuf::from(format!("/proc/{}/{name}", child.id()));
    let status = fs::read_to_string(of("status")).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert_eq!((&*line("NoNewPrivs:"), &*line("Seccomp:"), &*line("Threads:")), ("1", "2", "1"));
    assert_eq!(hello[32], CONFINED_BY_ALL, "this kernel has seccomp and Landlock");
    let mut files: Vec<_> = fs::read_dir(of("fd")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["0", "1", "2"]);
    let limits = fs::read_to_string(of("limits")).unwrap();
    for limit in ["Max open files            3 ", "Max file size             0 ", "Max core file size        0 "] {
        assert!(limits.contains(limit), "{limit}\n{limits}");
    }
    assert!(limits.contains("Max cpu time              20 "), "{limits}");
    let nice = |of: &str| {
        let stat = fs::read_to_string(format!("/proc/{of}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
    };
    assert_eq!(nice(&child.id().to_string()), (nice("self") + 10).min(19), "it gives way to who answers");
    drop(child.stdin.take());
    assert!(!child.wait().unwrap().success(), "nothing to compile is an error");
}

#[test]
fn the_node_gives_its_compiler_no_environment() {
    let here = Workplace::new();
    let compiler = here.program("compiler", &format!("/usr/bin/env > {}", here.path("environment").display()));
    let compiler = Compiler::child(compiler, settings());
    compiler.compile(&module()).unwrap_err();
    let environment = fs::read_to_string(here.path("environment")).unwrap();
    // A shell sets these variables itself.
    let others: Vec<&str> = environment
        .lines()
        .filter(|line| !["PWD=", "_=", "SHLVL=", "OLDPWD="].iter().any(|own| line.starts_with(own)))
        .collect();
    assert_eq!(others, [""; 0]);
}

/// Attempts that a compromised compiler could make. They run in a process of their own, confined
/// like the child; `nothing_can_be_opened_connected_or_started_from_inside` starts it.
#[test]
fn attempts_from_inside() {
    if std::env::var_os("ATTEMPT").is_none() {
        return;
    }
    let purpose = if std::env::var_os("TO_RUN").is_some() { ProcessPurpose::Run } else { ProcessPurpose::Compile };
    let myself = rustix::process::getpid();
    // No other test runs at the same time, but the test harness has a thread, which is not
    // confined.
    confine(Bounds { cpu_seconds: 20, memory_bytes: 1 << 30 }, purpose).unwrap();
    let attempt = |what: &str, result: io::Result<()>| {
        let said =
            result.err().and_then(|error| error.raw_os_error()).map_or("done".to_owned(), |code| code.to_string());
        println!("{what} {said}");
    };
    attempt("open", fs::File::open("/etc/passwd").map(drop));
    attempt("create", fs::File::create("/tmp/compute-host-escaped").map(drop));
    attempt("list", fs::read_dir("/").map(drop));
    attempt("delete", fs::remove_file("/tmp/compute-host-escaped"));
    attempt("connect", std::net::TcpStream::connect("127.0.0.1:9").map(drop));
    attempt("listen", std::net::TcpListener::bind("127.0.0.1:0").map(drop));
    attempt("unix", std::os::unix::net::UnixStream::connect("/run/nothing").map(drop));
    attempt("exec", Command::new("/bin/true").status().map(drop));
    attempt("thread", std::thread::Builder::new().spawn(|| ()).map(drop));
    attempt("kill", rustix::process::kill_process(myself, rustix::process::Signal::CONT).map_err(Into::into));
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: the call maps new memory, at an address of the kernel's choice, that nothing uses.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, executable, private, -1, 0) };
    attempt("execute memory", if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) });
}

#[test]
fn nothing_can_be_opened_connected_or_started_from_inside() {
    let attempts = |name: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "compiler::attempts_from_inside", "--nocapture", "--test-threads=1"]);
        command.env("ATTEMPT", "1").env(name, "1");
        Ran::of(command)
    };
    let denied = libc::EPERM.to_string();
    let attempted = ["open", "create", "list", "delete", "connect", "listen", "unix", "exec", "thread", "kill"];
    // Only an engine that runs its compiled code has to make memory executable; nothing else
    // differs.
    for (ran, last) in [(attempts("TO_COMPILE"), &*denied), (attempts("TO_RUN"), "done")] {
        let ends = attempted.iter().map(|what| (*what, &*denied)).chain([("execute memory", last)]);
        for (what, end) in ends {
            assert!(ran.stdout.contains(&format!("{what} {end}\n")), "{what}: {}{}", ran.stdout, ran.stderr);
        }
    }
}

#[test]
fn a_child_that_uses_up_its_time_or_memory_is_stopped() {
    let wasm = fs::read(root().join("benches/kernels/dist/json.wasm")).unwrap();
    let gate = GateLimits::DEFAULT;
    let (status, said) = compile(&wasm, &gate, CPU_SECONDS, MEMORY_BYTES);
    assert!(status.success() && tags(&said).contains(&CODE), "within its bounds it compiles");

    let (status, said) = compile(&wasm, &gate, CPU_SECONDS, "100000");
    assert!(!status.success() && !tags(&said).contains(&CODE), "out of memory: {status}");

    // The gate would refuse this module.
    let any = LIMITS.iter().fold(GateLimits::NONE, |limits, limit| limits.with(limit.name, u64::MAX / 1_000_000));
    let deep = format!(
        "(module (memory (export \"memory\") 1) (func (export \"run\") (result i32) i32.const 0)
           (func (param i32) {} {}))",
        "loop local.get 0 br_if 0 ".repeat(5_000),
        "end ".repeat(5_000)
    );
    let (status, said) = compile(&wat::parse_str(deep).unwrap(), &any, "1", MEMORY_BYTES);
    assert_eq!(status.signal(), Some(libc::SIGXCPU), "out of time: {status}");
    assert!(!tags(&said).contains(&CODE));
}

#[test]
fn a_request_that_is_too_long_or_breaks_off_is_an_error_of_the_childs() {
    let whole = request(&GateLimits::DEFAULT, b"0123456789");
    let long = [&whole[..whole.len() - 18], &[0xff; 8]].concat();
    for request in [&long[..], &[1; 3], &[9; 400], &whole[..whole.len() - 1]] {
        let mut command = Command::new(NODE);
        command.args([COMPILE_COMMAND, CPU_SECONDS, MEMORY_BYTES]);
        let mut child = piped(command);
        child.stdin.take().unwrap().write_all(request).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), HELLO_BYTES));
    }
}

impl Workplace {
    /// Writes a shell script that can be started.
    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.file(name, format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// Writes a compiler that says hello, reads the module, and answers with `reply`.
    fn compiler_that_replies(&self, reply: &[u8]) -> PathBuf {
        let hello = self.file("hello", [settings().as_bytes().as_slice(), &[CONFINED_BY_ALL]].concat());
        let reply = self.file("reply", reply);
        let tried = self.path("tried");
        let said = |file: &Path| format!("/bin/cat {}", file.display());
        let script = format!("echo >> {}\n{}\n/bin/cat > /dev/null\n{}", tried.display(), said(&hello), said(&reply));
        self.program("compiler", &script)
    }

    fn tries(&self) -> usize {
        fs::read_to_string(self.path("tried")).unwrap_or_default().lines().count()
    }
}

/// Returns the error that the node reports for a compiler.
fn failure(program: PathBuf, settings: Digest) -> CompilerError {
    let compiler = Compiler::child(program, settings);
    match compiler.compile(&module()) {
        Err(SandboxError::Compiler(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_failure_of_the_compiler_is_told_apart() {
    let here = Workplace::new();
    assert!(matches!(failure(here.path("missing"), settings()), CompilerError::Start(_)));
    assert!(matches!(failure(NODE.into(), Digest::of(b"of another build")), CompilerError::OtherBuild));
    let silent = here.program("silent", "echo out of order >&2; exit 3");
    let said = failure(silent, settings()).to_string();
    assert!(said.starts_with("the compiler broke off: ") && said.ends_with("(exit status: 3): out of order"), "{said}");
    assert!(matches!(failure(here.program("slow", "kill -XCPU $$"), settings()), CompilerError::CpuTime(_)));
    let killed = failure(here.program("killed", "kill -KILL $$"), settings()).to_string();
    assert!(killed.contains("signal: 9"), "{killed}");
    for reply in [
        vec![],
        vec![7],
        frame(CODE, b"abc")[..10].to_vec(),
        [&[CODE][..], &u64::MAX.to_le_bytes()].concat(),
        [&[NOT_COMPILABLE][..], &(1_u64 << 20).to_le_bytes()].concat(),
        frame(0, &[9]),
        frame(0, &[0]).repeat(17),
        frame(3, b"{}"),
        // A binary form although the input is not text, and a binary form that is not a module.
        [frame(1, module().wasm()), frame(CODE, b"abc")].concat(),
        frame(1, b"abc"),
    ] {
        let error = failure(here.compiler_that_replies(&reply), settings());
        assert!(matches!(error, CompilerError::Died { .. }), "{reply:?}: {error}");
    }
}

fn modules(program: PathBuf) -> Modules {
    let sandbox = Arc::new(Sandbox::new(1).unwrap());
    let compiler = Compiler::child(program, sandbox.settings_digest());
    Modules::new(sandbox, compiler, GateLimits::DEFAULT)
}

#[test]
fn the_compilers_verdict_is_asked_for_once() {
    let here = Workplace::new();
    let modules = modules(here.compiler_that_replies(&frame(NOT_COMPILABLE, b"never")));
    for _ in 0..3 {
        let error = modules.program(WorkloadGuest::Admitted(&module())).err().unwrap();
        assert_eq!(error.to_string(), "the module cannot be compiled: never");
        assert_eq!(error.code(), "not_compilable");
    }
    assert_eq!(here.tries(), 1);
}

#[test]
fn a_failing_compiler_is_left_alone_for_a_while_and_is_no_verdict() {
    let here = Workplace::new();
    let modules = modules(here.compiler_that_replies(b""));
    for _ in 0..3 {
        let error = modules.program(WorkloadGuest::Admitted(&module())).err().unwrap();
        assert!(matches!(&*error, ModulesError::Sandbox(SandboxError::Compiler(_))), "{error}");
        assert_eq!(error.code(), "compiler_failed");
    }
    assert_eq!(here.tries(), 1, "whoever sends it again cannot burn a core with it");
    let other = Workload::Inference;
    modules.program(other.module()).err().unwrap();
    assert_eq!(here.tries(), 2, "another module is tried");
}

#[test]
fn what_the_kernel_lacks_is_told() {
    let here = Workplace::new();
    for (said, lacks) in [(3, vec![]), (1, vec!["Landlock"]), (0, vec!["seccomp", "Landlock"])] {
        let compiler = here.compiler_that_replies(b"");
        here.file("hello", [settings().as_bytes().as_slice(), &[said]].concat());
        let modules = modules(compiler);
        assert_eq!(modules.confinement(), None, "nobody has said anything");
        modules.program(WorkloadGuest::Admitted(&module())).err().unwrap();
        assert_eq!(modules.confinement().unwrap().missing(), lacks);
    }
}

#[test]
fn callers_that_come_at_once_share_one_compilation() {
    let here = Workplace::new();
    let script = format!("echo >> {}\nexec {NODE} \"$@\"", here.path("tried").display());
    let modules = modules(here.program("compiler", &script));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| modules.program(WorkloadGuest::Admitted(&module())).map(drop).unwrap());
        }
    });
    assert_eq!(here.tries(), 1);
}
