//! Confinement: removes a process's rights before it touches untrusted bytes. Confinement cannot be
//! undone.

use std::collections::BTreeMap;
use std::io;

use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, RulesetStatus, Scope};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// The resources that a confined process may still use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub cpu_seconds: u64,
    /// Address space in addition to what the process has when it is confined.
    pub memory_bytes: u64,
}

/// The task of a process after confinement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessPurpose {
    /// The process compiles, and writes the result.
    Compile,
    /// The process compiles, runs the code, and keeps reading files that are already open.
    Run,
}

/// The confinement that the kernel provides. The resource limits always apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// A filter that allows only the system calls for computing and for using the open pipes.
    pub seccomp: bool,
    /// No file, no network, no signal to other processes: a second mechanism beside seccomp.
    pub landlock: bool,
}

impl Confinement {
    /// Returns the names of the mechanisms that the kernel lacks.
    pub fn missing(self) -> Vec<&'static str> {
        let parts = [(self.seccomp, "seccomp"), (self.landlock, "Landlock")];
        parts.into_iter().filter(|(holds, _)| !holds).map(|(_, name)| name).collect()
    }

    pub const fn to_byte(self) -> u8 {
        self.seccomp as u8 | (self.landlock as u8) << 1
    }

    pub const fn from_byte(byte: u8) -> Self {
        Self { seccomp: byte & 1 != 0, landlock: byte & 2 != 0 }
    }
}

/// Closes every file except standard input, output and error. The parent may have left others open.
pub fn close_inherited_files() {
    // SAFETY: the caller has one thread, and no code in this process still owns a file it opened.
    if unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } == 0 {
        return;
    }
    // Fallback: the system call exists since Linux 5.9.
    let highest = getrlimit(Resource::Nofile).current.unwrap_or(FILES_MAX).min(FILES_MAX);
    for file in 3..i32::try_from(highest).unwrap_or(i32::MAX) {
        // SAFETY: same as above.
        unsafe { libc::close(file) };
    }
}

/// Highest file number that the fallback closes, on a kernel that cannot close a range.
const FILES_MAX: u64 = 1 << 20;

/// Confines this process, which must have one thread. Call it while the process does nothing else.
pub fn confine(bounds: Bounds, purpose: ProcessPurpose) -> io::Result<Confinement> {
    deny_access(bounds)?.confine(purpose)
}

/// A process that has lost access to files and the network.
pub struct ConfinedProcess {
    bounds: Bounds,
    address_space_bytes: u64,
    landlock: bool,
}

/// Executes the first half of [`confine`], for a process that starts threads before the second
/// half. Landlock applies to the calling thread and to threads that it starts later. So the process
/// must have one thread at this point.
pub fn deny_access(bounds: Bounds) -> io::Result<ConfinedProcess> {
    // `statm` must be read before files become inaccessible.
    let address_space_bytes = address_space_bytes()?.saturating_add(bounds.memory_bytes);
    let landlock = restrict_access().map_err(io::Error::other)?;
    Ok(ConfinedProcess { bounds, address_space_bytes, landlock })
}

impl ConfinedProcess {
    /// Executes the second half of [`confine`], for all threads of the process: it installs the
    /// system call filter and the resource limits.
    pub fn confine(self, purpose: ProcessPurpose) -> io::Result<Confinement> {
        let filter = filter(purpose).map_err(io::Error::other)?;
        limit_resources(self.address_space_bytes, self.bounds.cpu_seconds)?;
        // A kernel without seccomp returns EINVAL. All other possible failures are our own
        // mistakes.
        let seccomp = seccompiler::apply_filter_all_threads(&filter).is_ok();
        Ok(Confinement { seccomp, landlock: self.landlock })
    }
}

fn limit_resources(address_space_bytes: u64, cpu_seconds: u64) -> io::Result<()> {
    let limit = |resource, wanted: u64, grace: u64| {
        let highest = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let (current, maximum) = (wanted.min(highest), wanted.saturating_add(grace).min(highest));
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
    };
    limit(Resource::As, address_space_bytes, 0)?;
    // The soft limit sends SIGXCPU, which names the reason; the hard limit sends SIGKILL.
    limit(Resource::Cpu, cpu_seconds, 1)?;
    // Standard input, output and error take all three file numbers, so no file can be opened.
    limit(Resource::Nofile, 3, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Nproc, 0, 0)?;
    limit(Resource::Memlock, 0, 0)?;
    Ok(())
}

/// Returns the address space of this process: the first number of `statm`, in pages (see
/// `proc(5)`).
fn address_space_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm");
    let statm =
        statm.map_err(|error| io::Error::new(error.kind(), format!("cannot read /proc/self/statm: {error}")))?;
    let pages: Option<u64> = statm.split(' ').next().and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or_else(|| io::Error::other("/proc/self/statm has no size"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Denies every access right that the kernel's Landlock supports. Returns `false` if the kernel has
/// no Landlock.
fn restrict_access() -> Result<bool, RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V7))?
        .handle_access(AccessNet::from_all(ABI::V7))?
        .scope(Scope::from_all(ABI::V7))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Builds the system call filter. Any call that is not listed fails with `EPERM`. The listed calls
/// serve the allocator, the hasher's seed, the end of the process, and the pipes. A process that
/// only compiles cannot make memory executable.
fn filter(purpose: ProcessPurpose) -> Result<BpfProgram, seccompiler::BackendError> {
    let executable = libc::PROT_EXEC as u64;
    let not_executable = || {
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(executable), 0)?;
        SeccompRule::new(vec![condition])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    match purpose {
        ProcessPurpose::Compile => {
            rules.insert(libc::SYS_mmap, vec![not_executable()?]);
            rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
        }
        ProcessPurpose::Run => [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pread64].into_iter().for_each(|call| {
            rules.insert(call, Vec::new());
        }),
    }
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}

const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landlock_alone_denies_files_and_connections() {
        // Landlock applies to the calling thread, so the test uses a thread of its own.
        let denied = std::thread::spawn(|| {
            assert!(restrict_access().unwrap(), "this kernel has Landlock");
            let file = std::fs::File::open("/etc/passwd").map(drop);
            let made = std::fs::File::create("/tmp/compute-host-escaped").map(drop);
            let connected = std::net::TcpStream::connect("127.0.0.1:9").map(drop);
            [file, made, connected].map(|attempt| attempt.map_err(|error| error.kind()))
        });
        assert_eq!(denied.join().unwrap(), [Err(io::ErrorKind::PermissionDenied); 3]);
    }
}
