//! Queue for compilers: their number, their order, and their ends.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::task::Poll;

use compute_host::modules::ModulesError;
use compute_host::sandbox::{Admitted, COMPILE_COMMAND};
use compute_host::slice::Tenant;
use compute_host::verify::VERIFY_COMMAND;
use compute_host::workload::WorkloadGuest;

use super::{MEMORY_BYTES, Workplace, modules, piped};
use crate::common::NODE;
use crate::serving::wait_for;

/// Writes a compiler that records that it runs, and continues when the file `go` exists.
fn compiler_that_waits(here: &Workplace) -> PathBuf {
    fs::create_dir(here.path("running")).unwrap();
    let (running, go) = (here.path("running"), here.path("go"));
    here.program(
        "compiler",
        &format!(
            "echo > {running}/$$; while [ ! -e {go} ]; do sleep 0.01; done; rm {running}/$$; exec {NODE} \"$@\"",
            running = running.display(),
            go = go.display()
        ),
    )
}

pub fn distinct(number: u32) -> Admitted {
    let wat =
        format!("(module (memory (export \"memory\") 1) (func (export \"run\") (result i32) i32.const {number}))");
    Admitted::new(wat::parse_str(wat).unwrap()).unwrap()
}

#[test]
fn compilers_are_as_many_as_jobs_and_go_by_turns() {
    let here = Workplace::new();
    let (mallory, victim): (Tenant, Tenant) = ("mallory".parse().unwrap(), "victim".parse().unwrap());
    let modules = modules(compiler_that_waits(&here)).with_jobs(2);
    let running = || fs::read_dir(here.path("running")).unwrap().count();
    let compile = |number: u32, scope: &Tenant| {
        modules.program_for(WorkloadGuest::Admitted(&distinct(number)), scope).map(drop).unwrap();
    };
    let (modules, mallory, victim, compile) = (&modules, &mallory, &victim, &compile);
    std::thread::scope(|threads| {
        for number in 0..8 {
            threads.spawn(move || compile(number, mallory));
        }
        wait_for("all but two wait", || (running() == 2 && modules.waiting() == 6).then_some(()));
        threads.spawn(move || compile(100, victim));
        wait_for("another begins at once", || (running() == 3 && modules.waiting() == 6).then_some(()));
        // The next request of each owner waits. The queue of one owner is limited: the owner that
        // fills it is refused, and the other is not.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut waiting: Vec<_> = (0..1_000).map(|_| Box::pin(modules.turn(mallory))).collect();
            let mut refused = 0;
            for turn in &mut waiting {
                let polled = std::future::poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await;
                refused += usize::from(matches!(polled, Poll::Ready(Err(ModulesError::Busy(_)))));
            }
            assert!((500..1_000).contains(&refused), "{refused} are refused");
            let mut turn = Box::pin(modules.turn(victim));
            let polled = std::future::poll_fn(|context| Poll::Ready(turn.as_mut().poll(context))).await;
            assert!(polled.is_pending(), "the victim waits for its turn");
        });
        fs::write(here.path("go"), "").unwrap();
    });
    assert_eq!((running(), modules.waiting()), (0, 0));
}

#[test]
fn a_child_keeps_no_file_and_dies_with_its_parent() {
    let here = Workplace::new();
    for command in [format!("{COMPILE_COMMAND} 20 {MEMORY_BYTES}"), VERIFY_COMMAND.to_owned()] {
        // Standard input delivers nothing and never ends.
        let pipe = here.path("pipe");
        let script =
            format!("rm -f {0}; mkfifo {0}; {NODE} {command} 0<>{0} 3</etc/passwd & exec sleep 1000", pipe.display());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]);
        let mut shell = piped(shell);
        let name = command.split(' ').next().unwrap();
        let child = wait_for("the child to have closed what it inherited", || {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", shell.id())).ok()?;
            let is_it = |pid: &&str| {
                fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&format!("\0{name}")))
                    && fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|files| files.count() == 3)
            };
            children.split_whitespace().find(is_it).map(str::to_owned)
        });
        shell.kill().unwrap();
        shell.wait().unwrap();
        let is_gone = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z ") || stat.contains(") X "))
        };
        wait_for("its end", || is_gone().then_some(()));
    }
}
