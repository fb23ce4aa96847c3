//! Data directory: invalid paths, lost file modes after a restore, and the default path.

use std::process::Command;

use crate::common::{Ran, Workplace};

/// The remedy must keep the same directory, whatever its path, because another directory would be
/// another node.
#[test]
fn the_remedies_for_lost_modes_are_commands_that_mend_them() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    for data in ["data", "a node's data"] {
        let node = |words: &[&str]| here.node(["--data-dir", data].iter().chain(words));
        let before = node(&["key", "show"]).output();
        node(&["compute", "courier", "peer", "add", "bob", &before[4..68].replace(' ', "")]);
        node(&["compute", "run", "transcode.slice"]).output();
        let opened = Command::new("chmod").args(["-R", "a+rwX"]).arg(here.path(data)).status().unwrap();
        assert!(opened.success());
        let commands: [&[&str]; 3] = [
            &["key", "show"],
            &["compute", "run", "--no-cache", "transcode.slice"],
            &["compute", "courier", "peer", "list"],
        ];
        for command in commands {
            for _ in 0..4 {
                let ran = node(command);
                if ran.code == 0 {
                    break;
                }
                assert!(!ran.stderr.contains("--data-dir"), "{ran:?}");
                let remedy = ran.stderr.split('`').find(|word| word.starts_with("chmod ")).expect("it has a remedy");
                let mended = Command::new("sh").args(["-c", remedy]).current_dir(here.path("")).status().unwrap();
                assert!(mended.success(), "{remedy}");
            }
            assert_eq!(node(command).code, 0, "{command:?}");
        }
        assert_eq!(node(&["key", "show"]).output(), before, "it is the same node");
    }
}

#[test]
fn what_is_no_data_directory_is_named_by_each_command() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.file("file", "of something else");
    std::os::unix::fs::symlink("nowhere", here.path("link")).unwrap();
    std::os::unix::fs::symlink("file", here.path("linked")).unwrap();
    for (path, what) in
        [("file", "a file"), ("linked", "a file"), ("link", "a link to nothing"), ("/dev/null", "no directory")]
    {
        for command in [
            "compute run transcode.slice",
            "compute module list",
            "compute courier list",
            "compute courier peer list",
            "compute price bands --lane transcode",
            "key show",
            "serve",
        ] {
            let ran = here.run(&format!("--data-dir {path} {command}"));
            let said = format!(
                "error: `{path}` is {what}, and a data directory is expected; choose another with --data-dir\n"
            );
            ran.is(2, "", &said);
        }
    }
}

#[test]
fn a_setting_of_the_environment_that_is_empty_is_none() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let mut command = here.command(["compute", "run", "transcode.slice"]);
    command.env("NODE_DATA_DIR", "").env("NODE_JOBS", "").env("NODE_LOG", "");
    Ran::of(command).output();
    assert!(here.path("node-data/state").is_dir(), "it is the default");
    let mut command = here.command(["compute", "run", "transcode.slice"]);
    command.env("NODE_DATA_DIR", "other").env("NODE_JOBS", "many");
    assert_eq!(Ran::of(command).code, 2, "another that is wrong is an error");
}
