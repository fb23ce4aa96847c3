//! `generate_slice.py`: the sample files are its output, and its output has the requested form.

use std::path::Path;
use std::process::Command;

use crate::common::{Ran, Workplace, root};

fn generate(here: &Workplace, arguments: &[&str]) -> Ran {
    let mut command = Command::new("python3");
    command.arg(root().join("examples/workloads/generate_slice.py")).args(arguments).current_dir(here.path(""));
    Ran::of(command)
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn the_samples_are_what_the_script_makes() {
    let here = Workplace::new();
    for kind in ["transcode", "inference"] {
        generate(&here, &[kind]).is(0, &format!("{kind}.slice: {kind}, 49152 bytes, seed 0\n"), "");
        let name = format!("{kind}.slice");
        assert!(read(here.path(&name)) == read(root().join("examples/workloads").join(&name)), "{kind}");
    }
}

#[test]
fn a_slice_has_just_the_size_that_was_asked_for() {
    let here = Workplace::new();
    for (kind, magic) in [("transcode", &b"P6\n"[..]), ("inference", b"\x93NUMPY\x01\x00")] {
        for (size, bytes) in [("68", 68), ("69", 69), ("1000", 1000), ("4099", 4099), ("64KiB", 65536), ("3M", 3 << 20)]
        {
            generate(&here, &[kind, "--size", size, "--out", "x.slice"]).is(
                0,
                &format!("x.slice: {kind}, {bytes} bytes, seed 0\n"),
                "",
            );
            let slice = read(here.path("x.slice"));
            assert_eq!((slice.len(), &slice[..magic.len()]), (bytes, magic), "{kind}, {size}");
        }
    }
}

#[test]
fn another_seed_makes_another_slice() {
    let here = Workplace::new();
    for kind in ["transcode", "inference"] {
        generate(&here, &[kind, "--seed", "1", "--out", "a"]).output();
        generate(&here, &[kind, "--seed", "1", "--out", "b"]).output();
        generate(&here, &[kind, "--seed", "2", "--out", "c"]).output();
        assert!(read(here.path("a")) == read(here.path("b")), "{kind}");
        assert!(read(here.path("a")) != read(here.path("c")), "{kind}");
    }
}

#[test]
fn what_cannot_be_made_is_said_and_leaves_nothing() {
    let here = Workplace::new();
    generate(&here, &["transcode", "--size", "15"]).is(
        1,
        "",
        "generate_slice.py: a transcode slice has at least 16 bytes\n",
    );
    generate(&here, &["inference", "--size", "67"]).is(
        1,
        "",
        "generate_slice.py: an inference slice has at least 68 bytes\n",
    );
    generate(&here, &["transcode", "--out", "no/where"]).is(
        1,
        "",
        "generate_slice.py: cannot write no/where: No such file or directory\n",
    );
    let size = generate(&here, &["transcode", "--size", "much"]);
    assert_eq!(size.code, 2);
    assert!(
        size.stderr.contains("'much' is not a size; write bytes, or a unit as in 64KiB or 4GiB"),
        "{}",
        size.stderr
    );
    assert_eq!(std::fs::read_dir(here.path("")).unwrap().count(), 0);
    assert!(generate(&here, &["--help"]).output().contains("examples:"));
}
