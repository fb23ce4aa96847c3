//! Slices from pipes, and lists of slices.

use std::io::Write as _;
use std::process::Stdio;

use crate::common::{Ran, Workplace, blake3};
use crate::serving::Serving;

fn with_stdin(here: &Workplace, line: &str, stdin: &[u8]) -> Ran {
    let mut command = here.command(line.split_whitespace());
    let copies = here.path("copies");
    std::fs::create_dir_all(&copies).unwrap();
    let command = command.env("TMPDIR", &copies);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses its input may not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_slice_comes_by_standard_input_to_each_command_that_runs_one() {
    let here = Workplace::new();
    let slice = vec![7; 3 << 20];
    let hash = blake3(&slice);
    for with_node in [false, true] {
        let node = with_node.then(|| Serving::start(here.command(["serve", "--listen", "127.0.0.1:0"])));
        for name in ["-", "/dev/stdin", "/proc/self/fd/0"] {
            let ran = with_stdin(&here, &format!("compute run --workload transcode --out out {name}"), &slice);
            assert_eq!(ran.output(), format!("{hash}  {name}\n"), "{name}");
        }
        assert!(node.is_none_or(|node| node.stop() == 0));
    }
    for proof in ["-", "stdin", "0"] {
        for name in ["-", "/dev/stdin"] {
            let ran =
                with_stdin(&here, &format!("compute verify out/{proof}.proof {name} --engines cranelift"), &slice);
            ran.is(0, "agree\n", "");
        }
        let ran = with_stdin(&here, &format!("compute verify out/{proof}.proof - --engines cranelift"), b"another");
        assert!(ran.code == 2 && ran.stdout.starts_with("not comparable: "), "{ran:?}");
    }
    assert_eq!(std::fs::read_dir(here.path("copies")).unwrap().count(), 0, "no copy is left");
}

#[test]
fn what_cannot_come_by_a_pipe_is_named() {
    let here = Workplace::new();
    let said = |line: &str, stdin: &[u8], why: &str| {
        let ran = with_stdin(&here, line, stdin);
        assert!(ran.code == 2 && ran.stderr.contains(why), "{line}: {ran:?}");
    };
    said("compute run -", b"a slice", "cannot tell the workload of `-` from its name");
    said("compute run --workload transcode - -", b"a slice", "is named twice");
    here.file("node-data/config.toml", "[compute]\nslice_bytes_max = 3\n");
    said("compute run --workload transcode -", b"four", "more than the 3 bytes that `compute.slice_bytes_max` allows");
    assert_eq!(with_stdin(&here, "compute run --workload transcode -", b"abc").code, 0);
}

#[test]
fn a_list_of_files_is_taken_from_a_file_or_a_pipe() {
    let here = Workplace::new();
    let names = ["transcode-a.slice", "transcode with\na line.slice", "transcode--x.slice"];
    names.iter().for_each(|name| drop(here.file(name, name)));
    let expected = |ran: &Ran| {
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(names.iter().all(|name| ran.stdout.contains(&blake3(name))), "{ran:?}");
        assert_eq!(ran.stdout.lines().count(), names.len());
    };
    for list in [names.join("\0"), names.join("\0") + "\0"] {
        here.file("list", &list);
        expected(&with_stdin(&here, "compute run --workload transcode --files0-from list", b""));
        expected(&with_stdin(&here, "compute run --workload transcode --files0-from -", list.as_bytes()));
    }
    for (list, why) in [
        ("", "has an empty name as its number 1"),
        ("transcode-a.slice\0\0", "has an empty name as its number 2"),
        ("transcode-a.slice\0-", "so no slice can; `-` is its number 2"),
        ("none.slice", "cannot open slice `none.slice`"),
    ] {
        let ran = with_stdin(&here, "compute run --workload transcode --files0-from -", list.as_bytes());
        assert!(ran.code == 2 && ran.stderr.contains(why), "{list:?}: {ran:?}");
    }
    let ran = here.run("compute run --files0-from missing");
    assert!(ran.code == 2 && ran.stderr.contains("cannot read the list of files `missing`"), "{ran:?}");
    assert_eq!(here.run("compute run --files0-from list transcode-a.slice").code, 2, "either or");
    assert_eq!(here.run("compute run").code, 2, "one of them");
}

#[test]
fn a_node_listens_on_a_name() {
    let here = Workplace::new();
    let node = Serving::start(here.command(["serve", "--listen", "localhost:0"]));
    assert!(node.address.ip().is_loopback());
    assert!(node.scrape().contains("node_"));
    assert_eq!(node.stop(), 0);
    here.file("node-data/config.toml", "[serve]\nlisten = \"localhost:0\"\n");
    let node = Serving::start(here.command(["serve"]));
    assert_eq!(node.stop(), 0);
    for wrong in ["7700", ":7700", "localhost", "1.2.3:7700"] {
        let ran = here.run(&format!("serve --listen {wrong}"));
        assert!(ran.code == 2 && ran.stderr.contains("such as 127.0.0.1:7700"), "{ran:?}");
    }
    let ran = here.run("serve --listen no-such-host.invalid:7700");
    assert!(
        ran.code == 2 && ran.stderr.contains("cannot find where to listen, `no-such-host.invalid:7700`"),
        "{ran:?}"
    );
}
