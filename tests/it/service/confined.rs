//! Confinement of strangers' modules, and the warnings to the owner where it is incomplete.

use std::os::unix::process::CommandExt as _;

use super::{ECHO, Service};
use crate::common::{Ran, Workplace};
use crate::serving::{Serving, wait_for};

/// Makes `command` start without seccomp and Landlock, as in some containers.
fn refuse_confinement(command: &mut std::process::Command) {
    // SAFETY: nothing allocates between fork and exec; the filter is on the stack and the kernel
    // copies it.
    unsafe {
        command.pre_exec(|| {
            let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
            let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
            let answer = libc::BPF_RET | libc::BPF_K;
            let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
            let refused = |call: i64, to_the_refusal: u8| libc::sock_filter {
                code: equal as u16,
                jt: to_the_refusal,
                jf: 0,
                k: call as u32,
            };
            let mut filter = [
                statement(load, 0),
                refused(libc::SYS_seccomp, 4),
                refused(libc::SYS_landlock_create_ruleset, 3),
                refused(libc::SYS_landlock_add_rule, 2),
                refused(libc::SYS_landlock_restrict_self, 1),
                statement(answer, libc::SECCOMP_RET_ALLOW),
                statement(answer, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
            ];
            let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
            let failed = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0;
            if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
}

#[test]
fn an_unconfined_compiler_is_said_by_log_metric_and_doctor() {
    let here = Workplace::new();
    let mut command = here.command(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    refuse_confinement(&mut command);
    let service = Service { node: Serving::start(command), here };
    wait_for("the warning", || {
        let is_warning = |line: &String| line.contains("WARN") && line.contains("without seccomp and Landlock");
        service.node.logged().into_iter().find(is_warning)
    });
    for by in ["seccomp", "landlock"] {
        let scraped = String::from_utf8(service.get("/metrics").body).unwrap();
        assert!(scraped.contains(&format!("node_compiler_confined{{by=\"{by}\"}} 0\n")), "{scraped}");
    }

    let mut doctor = service.here.command(["compute", "doctor", "--engines", "wasmi", "--json"]);
    refuse_confinement(&mut doctor);
    let doctor = Ran::of(doctor);
    assert!(doctor.stdout.contains("compiler_lacks") && doctor.stdout.contains("Landlock"), "{doctor:?}");
    assert!(doctor.stderr.contains("without seccomp and Landlock"), "{}", doctor.stderr);
}

#[test]
fn a_confined_compiler_is_told_by_the_metric_before_any_module() {
    let service = Service::start();
    wait_for("the probe", || {
        let scraped = String::from_utf8(service.get("/metrics").body).unwrap();
        let told = |by: &str| scraped.contains(&format!("node_compiler_confined{{by=\"{by}\"}} 1\n"));
        (told("seccomp") && told("landlock")).then_some(())
    });
}

#[test]
fn what_is_no_module_is_named_in_each_form_it_is_brought() {
    let service = Service::start();
    for (bytes, said) in [
        (&b""[..], "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\0asm\x01", "breaks off"),
        (b"(module (func $f) (func $f))", "not the text of a module"),
    ] {
        let answer = service.post("/v1/modules", bytes);
        assert_eq!(answer.said(), (422, "not_a_module".to_owned()), "{answer:?}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(said), "{answer:?}");
        let file = service.here.file("guest.wasm", bytes);
        for command in ["check", "add"] {
            let ran = service.here.node(["compute", "module", command, file.to_str().unwrap()]);
            assert!(ran.stderr.contains(said) && ran.stderr.contains("guest.wasm"), "{command}: {}", ran.stderr);
            assert_eq!(ran.code, 2, "{command}: {}", ran.stderr);
        }
    }
    // Modules in text form work as well as binary ones, over HTTP and on the command line.
    assert_eq!(service.post("/v1/modules?name=echo", ECHO.as_bytes()).status(), 201);
    let whole = wat::parse_str(ECHO).unwrap();
    assert_eq!(service.post("/v1/modules", &whole).status(), 200, "it is the same module");
    let cut = service.post("/v1/modules", &whole[..whole.len() / 2]);
    assert!(cut.json()["detail"].as_str().unwrap().contains("breaks off"), "{cut:?}");
}
