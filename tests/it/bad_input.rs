//! Bad input: each mistake in a user's arguments gives a clear message, and no finished work is
//! lost.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::common::{NODE, Ran, Workplace, blake3};

const EMPTY: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

#[test]
fn a_missing_slice_is_named_and_the_others_are_run() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run transcode-missing.slice transcode.slice").is(
        2,
        &format!("{}  transcode.slice\n", blake3("a slice")),
        "error: cannot open slice `transcode-missing.slice`: No such file or directory (os error 2)\n",
    );
}

#[test]
fn an_empty_slice_is_a_slice() {
    let here = Workplace::new();
    here.file("transcode.slice", "");
    here.run("compute run transcode.slice").is(0, &format!("{EMPTY}  transcode.slice\n"), "");
}

#[test]
fn a_slice_that_may_not_be_read_is_named() {
    let here = Workplace::new();
    let slice = here.file("transcode.slice", "a slice");
    std::fs::set_permissions(&slice, Permissions::from_mode(0o000)).unwrap();
    unprivileged(&here, ["compute", "run", "--data-dir", "data", "transcode.slice"]).is(
        2,
        "",
        "error: cannot open slice `transcode.slice`: Permission denied (os error 13)\n",
    );
}

#[test]
fn a_huge_slice_is_refused_before_it_is_read() {
    let here = Workplace::new();
    here.sparse("transcode.slice", (64 << 30) + 1);
    here.run("compute run transcode.slice").is(
        2,
        "",
        "error: slice `transcode.slice` has 68719476737 bytes, more than the 68719476736 that \
         `compute.slice_bytes_max` allows\n",
    );
}

#[test]
fn a_directory_without_slices_is_no_slice() {
    let here = Workplace::new();
    std::fs::create_dir(here.path("transcode.slice")).unwrap();
    here.run("compute run transcode.slice").is(
        2,
        "",
        "error: no file below `transcode.slice` has a name that ends in `.slice`\n",
    );
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let here = Workplace::new();
    assert!(Command::new("mkfifo").arg(here.path("transcode.slice")).status().unwrap().success());
    here.run("compute run transcode.slice").is(
        2,
        "",
        "error: slice `transcode.slice` is a FIFO; a regular file is expected (copy its content into one)\n",
    );
    here.run("compute run --workload transcode /dev/zero").is(
        2,
        "",
        "error: slice `/dev/zero` is a device; a regular file is expected (copy its content into one)\n",
    );
}

/// The reported length is 0, but the file is not empty; a proof of an empty slice would be wrong.
#[test]
fn a_file_that_does_not_tell_its_length_is_not_taken_for_empty() {
    let here = Workplace::new();
    here.run("compute run --workload transcode /proc/version").is(
        2,
        "",
        "error: slice `/proc/version` is a file that does not tell its length; a regular file is expected (copy its \
         content into one)\n",
    );
}

#[test]
fn a_name_in_a_message_does_not_steer_the_terminal() {
    let here = Workplace::new();
    let ran = here.node(["compute", "run", "transcode-\x1b[2J\n.slice"]);
    ran.is(2, "", "error: cannot open slice `transcode-\\u{1b}[2J\\n.slice`: No such file or directory (os error 2)\n");
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let mut command = here.command(["compute", "run", "transcode.slice"]);
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let ran = Ran::from(command.spawn().unwrap().wait_with_output().unwrap());
    ran.is(2, "", "error: cannot write to standard output: No space left on device (os error 28)\n");
}

#[test]
fn too_little_address_space_is_an_error_with_a_remedy() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 4000000; exec $NODE compute run --jobs 2 transcode.slice"]);
    command.current_dir(here.path("")).env("NODE", NODE);
    let ran = Ran::of(command);
    assert_eq!((ran.code, &*ran.stdout), (2, ""));
    assert!(ran.stderr.starts_with("error: cannot reserve address space for 2 guests at once: "), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("; lower --jobs, or raise `ulimit -v`\n"), "{}", ran.stderr);
}

#[test]
fn a_name_that_is_not_utf8_is_a_name() {
    let here = Workplace::new();
    let name = OsStr::from_bytes(b"transcode-\xff.slice");
    here.file(name, "a slice");
    let output = here.command([OsStr::new("compute"), OsStr::new("run"), name]).output().unwrap();
    let expected = [blake3("a slice").as_bytes(), b"  transcode-\xff.slice\n"].concat();
    assert_eq!((output.stdout, output.stderr, output.status.code()), (expected, Vec::new(), Some(0)));
}

/// Escaped as `b3sum` and `sha256sum` do it, so that a name cannot imitate another line.
#[test]
fn a_name_with_a_line_break_is_escaped() {
    let here = Workplace::new();
    here.file("transcode\\.a\nb.slice", "a slice");
    let ran = here.node(["compute", "run", "--workload", "transcode", "transcode\\.a\nb.slice"]);
    ran.is(0, &format!("\\{}  transcode\\\\.a\\nb.slice\n", blake3("a slice")), "");
}

#[test]
fn a_workload_that_no_name_tells_can_be_said() {
    let here = Workplace::new();
    here.file("camera.raw", "a slice");
    here.run("compute run camera.raw").is(
        2,
        "",
        "error: cannot tell the workload of `camera.raw` from its name; say --workload transcode or --workload inference, or give a --module\n",
    );
    here.run("compute run --workload transcode camera.raw").is(0, &format!("{}  camera.raw\n", blake3("a slice")), "");
}

#[test]
fn no_jobs_are_too_few() {
    let here = Workplace::new();
    here.run("compute run --jobs 0 transcode.slice").is(
        2,
        "",
        "error: invalid value '0' for '--jobs <N>': 0 is not in 1..=1024\n\nFor more information, try '--help'.\n",
    );
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named_with_the_remedy() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    std::fs::create_dir(here.path("data")).unwrap();
    std::fs::set_permissions(here.path("data"), Permissions::from_mode(0o555)).unwrap();
    unprivileged(&here, ["compute", "run", "--data-dir", "data", "transcode.slice"]).is(
        2,
        "",
        "error: cannot use the data directory `data`: Permission denied (os error 13); choose another with \
         --data-dir\n",
    );
}

/// The cache key lets its holder load code.
#[test]
fn state_that_others_may_write_is_refused() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run transcode.slice").output();
    for (name, mode) in [("state", 0o777), ("state/cache.key", 0o644)] {
        let path = here.path("node-data").join(name);
        let kept = std::fs::metadata(&path).unwrap().permissions();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let ran = here.run("compute run transcode.slice");
        let rule = format!("`node-data/{name}` must be its user's alone, but belongs to user ");
        assert!(ran.code == 2 && ran.stderr.contains(&rule), "{ran:?}");
        let remedy =
            format!("has mode {mode:03o}; take the rights of others away with `chmod -R go= node-data/{name}`");
        assert!(ran.stderr.ends_with(&format!("{remedy}\n")), "{ran:?}");
        std::fs::set_permissions(&path, kept).unwrap();
    }
    here.run("compute run transcode.slice").output();
}

#[test]
fn a_typo_in_the_config_is_named_and_the_file_left_alone() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let text = "[compute]\n# two will do\njbos = 2\n";
    let config = here.file("node-data/config.toml", text);
    here.run("compute run transcode.slice").is(
        2,
        "",
        "error: node-data/config.toml:3: unknown key `compute.jbos`; did you mean `compute.jobs`?\n",
    );
    assert_eq!(std::fs::read_to_string(config).unwrap(), text);
}

#[test]
fn one_id_does_not_stand_for_two_contents_not_even_after_a_restart() {
    let here = Workplace::new();
    here.file("transcode-a.slice", "a");
    here.file("transcode-b.slice", "b");
    let conflict = "error: slice id `frame-1` already stands for other content, workload, arguments, assets, \
                    limits or rules of execution; use another id\n";
    here.run("compute run --id frame-1 transcode-a.slice").output();
    here.run("compute run --id frame-1 transcode-b.slice").is(2, "", conflict);
    here.run("compute run --id frame-1 --no-cache transcode-b.slice").is(2, "", conflict);
    here.run("compute run --id frame-1 --workload inference transcode-a.slice").is(2, "", conflict);
    here.run("compute run --id frame-1 transcode-a.slice").is(0, &format!("{}  transcode-a.slice\n", blake3("a")), "");
    here.file("node-data/config.toml", "[limits]\nmemory_bytes = 65536\n");
    here.run("compute run --id frame-1 transcode-a.slice").is(2, "", conflict);
}

#[test]
fn an_id_names_one_slice() {
    let here = Workplace::new();
    here.run("compute run --id x a b").is(2, "", "error: --id names one slice, but 2 are given\n");
    let spaced = here.node(["compute", "run", "--id", "a b", "x"]);
    assert_eq!(spaced.code, 2);
    assert!(spaced.stderr.contains("\"a b\" is not a slice id: 1 to 128 printable ASCII characters"), "{spaced:?}");
}

#[test]
fn two_slices_of_one_name_do_not_overwrite_each_others_proof() {
    let here = Workplace::new();
    here.file("a/transcode.slice", "a");
    here.file("b/transcode.slice", "b");
    here.run("compute run --out proofs a b").is(
        2,
        "",
        "error: `a/transcode.slice` and `b/transcode.slice` would both write their proof to \
         `DIR/transcode.slice.proof`; run them with different --out\n",
    );
}

/// The disk is a file system of 1 MiB in a mount namespace of the node's own.
#[test]
fn a_full_disk_loses_no_proof_that_was_kept() {
    let here = Workplace::new();
    std::fs::create_dir(here.path("small")).unwrap();
    for i in 0..40 {
        here.file(format!("in/transcode-{i}.slice"), i.to_string());
        // An identical slice is answered with the other's result, but only if that is on disk.
        here.file(format!("in/transcode-{i}-twin.slice"), i.to_string());
    }
    let script = "mount -t tmpfs -o size=1m tmpfs small || exit 77
        $NODE compute run --data-dir small/data in/transcode-0.slice || exit 78
        head -c 2m /dev/zero > small/filler 2>/dev/null
        $NODE compute run --data-dir small/data in > full.out 2> full.err; echo $? > full.code
        rm small/filler
        $NODE compute run --data-dir small/data --json in > after.out 2> after.err; echo $? > after.code";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(here.path(""));
    command.env("NODE", NODE).env_remove("RUST_BACKTRACE");
    let ran = Ran::of(command);
    assert_eq!(ran.code, 0, "a mount namespace is needed: {ran:?}");

    let read = |name| std::fs::read_to_string(here.path(name)).unwrap();
    assert_eq!(read("full.code"), "2\n", "{}", read("full.err"));
    assert!(read("full.err").contains("No space left on device"), "{}", read("full.err"));
    assert!(!read("full.err").contains("panicked"), "{}", read("full.err"));
    assert_eq!((&*read("after.code"), &*read("after.err")), ("0\n", ""));
    let after = Ran { stdout: read("after.out"), stderr: String::new(), code: 0 }.json();
    assert_eq!(after.len(), 80);
    // Each printed result was on disk, whether it was printed before or after the disk was full. So
    // neither that slice nor its twin runs again.
    let told = read("full.out");
    for line in told.lines().chain(["hash  in/transcode-0.slice"]) {
        let slice = line.split_once("  ").unwrap().1.trim_end_matches("-twin.slice").trim_end_matches(".slice");
        let same = |object: &&serde_json::Value| {
            let file = object["file"].as_str().unwrap();
            file == format!("{slice}.slice") || file == format!("{slice}-twin.slice")
        };
        assert_eq!(after.iter().filter(same).filter(|object| object["source"] != "run").count(), 2, "{slice}");
    }
}

#[test]
fn a_damaged_store_is_moved_aside_and_begun_anew() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let line = format!("{}  transcode.slice\n", blake3("a slice"));
    here.run("compute run transcode.slice").is(0, &line, "");
    // Damage that sled detects, and damage that it does not: sled accepts an empty log as empty.
    let damages = [("db", vec![]), ("conf", vec![0xff; 300]), ("db", vec![0xff; 300]), ("db", vec![])];
    for (n, (file, damage)) in (1..).zip(damages) {
        here.file(format!("node-data/state/proofs/{file}"), &damage);
        let ran = here.run("compute run transcode.slice");
        assert_eq!((ran.code, &*ran.stdout), (0, &*line), "{}", ran.stderr);
        let moved = format!("node-data/state/proofs.damaged-{n}");
        let warning = format!("warning: the proof store was damaged: moved to `{moved}`, and begun anew\n");
        assert!(ran.stderr.ends_with(&warning), "{}", ran.stderr);
        assert_eq!(std::fs::read(here.path(moved).join(file)).unwrap().get(..300).unwrap_or_default(), damage);
        here.run("compute run transcode.slice").is(0, &line, "");
    }
}

#[test]
fn damaged_and_foreign_compiled_guests_cost_time_and_nothing_else() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let line = format!("{}  transcode.slice\n", blake3("a slice"));
    here.run("compute run transcode.slice").is(0, &line, "");
    let cached: Vec<_> =
        std::fs::read_dir(here.path("node-data/cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [code] = &cached[..] else { panic!("one file of code: {cached:?}") };
    let kept = std::fs::read(code).unwrap();
    for damage in [&b""[..], b"nonsense", &kept[..kept.len() - 1]] {
        std::fs::write(code, damage).unwrap();
        here.run("compute run --no-cache transcode.slice").is(0, &line, "");
        assert_eq!(std::fs::read(code).unwrap().len(), kept.len(), "it is made anew");
    }
    std::fs::remove_file(here.path("node-data/state/cache.key")).unwrap();
    here.run("compute run --no-cache transcode.slice").is(0, &line, "");
    std::fs::remove_dir_all(here.path("node-data/cache")).unwrap();
    here.run("compute run --no-cache transcode.slice").is(0, &line, "");
}

#[test]
fn a_second_node_waits_for_the_first() {
    use std::io::{BufRead as _, BufReader, Read as _};
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run transcode.slice").output();
    let lock = std::fs::File::open(here.path("node-data/state/lock")).unwrap();
    lock.lock().unwrap();
    let mut command = here.command(["compute", "run", "transcode.slice"]);
    let mut node = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut note = String::new();
    BufReader::new(node.stderr.take().unwrap()).read_line(&mut note).unwrap();
    assert_eq!(note, "note: waiting for another node to be done with `node-data`\n");
    // A node that did not wait would have ended long before.
    for _ in 0..300 {
        assert_eq!(node.try_wait().unwrap(), None, "it did not wait");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    lock.unlock().unwrap();
    let mut line = String::new();
    node.stdout.take().unwrap().read_to_string(&mut line).unwrap();
    assert_eq!(line, format!("{}  transcode.slice\n", blake3("a slice")));
    assert!(node.wait().unwrap().success());
}

/// Runs the node as a user to whom permissions apply; CI runs as root.
fn unprivileged<const N: usize>(here: &Workplace, arguments: [&str; N]) -> Ran {
    const NOBODY: u32 = 65_534;
    if std::fs::File::create(here.path("probe")).is_ok() && !rustix::process::geteuid().is_root() {
        return here.node(arguments);
    }
    // Other users cannot access the directory of root's files.
    let node = here.path("node");
    std::fs::copy(NODE, &node).unwrap();
    std::fs::set_permissions(here.path(""), Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(node);
    command.args(arguments).current_dir(here.path("")).uid(NOBODY).gid(NOBODY).env_remove("RUST_BACKTRACE");
    if !here.path("data").exists() {
        std::fs::create_dir(here.path("data")).unwrap();
        std::os::unix::fs::chown(here.path("data"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    Ran::of(command)
}
