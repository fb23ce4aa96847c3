//! `docs/tutorial.md`, followed step by step: from `cargo new` to a proof.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::common::{NODE, Ran, Workplace, root};

/// Returns the blocks of the document, in their order: language and content.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

fn has_wasm_target() -> bool {
    let target = ["--print", "target-libdir", "--target", "wasm32-unknown-unknown"];
    let printed = Command::new("rustc").args(target).output().expect("rustc can be started").stdout;
    Path::new(String::from_utf8_lossy(&printed).trim()).is_dir()
}

#[test]
fn the_tutorial_leads_from_nothing_to_a_proof() {
    let here = Workplace::new();
    // The parts of the repository that the tutorial needs, in a directory with space for new
    // folders next to it.
    for path in ["repository/x", "bin/x", "node-data/x"] {
        here.file(path, "");
    }
    for name in ["guest-workloads", "LICENSE"] {
        symlink(root().join(name), here.path("repository").join(name)).unwrap();
    }
    symlink(NODE, here.path("bin/node")).unwrap();
    let path = format!("{}:{}", here.path("bin").display(), std::env::var("PATH").unwrap());
    let run = |command: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(here.path("repository"));
        shell.env("PATH", &path).env("NODE_DATA_DIR", here.path("node-data/data")).env("CARGO_NET_OFFLINE", "true");
        shell.env("CARGO_TARGET_DIR", here.path("word-count/target")).env_remove("RUST_BACKTRACE");
        let ran = Ran::of(shell);
        assert_eq!(ran.code, 0, "`{command}`\n{}{}", ran.stdout, ran.stderr);
        ran.stdout
    };

    let text = fs::read_to_string(root().join("docs/tutorial.md")).unwrap();
    let mut printed = String::new();
    let mut shown = 0;
    for (language, content) in blocks(&text) {
        match language {
            "sh" => {
                printed.clear();
                for command in content.lines() {
                    printed += &match command {
                        "rustup target add wasm32-unknown-unknown" => String::new(),
                        command if command.contains("--target wasm32-unknown-unknown") && !has_wasm_target() => {
                            // Without the wasm target, the code is compiled for this machine only,
                            // and the prebuilt module is used.
                            run("cargo check --manifest-path ../word-count/Cargo.toml");
                            run("mkdir -p ../word-count/target/wasm32-unknown-unknown/release");
                            run("cp guest-workloads/dist/word-count-rust.wasm \
                                 ../word-count/target/wasm32-unknown-unknown/release/word_count.wasm")
                        }
                        command => run(command),
                    };
                }
            }
            "toml" => {
                let manifest = fs::read_to_string(here.path("word-count/Cargo.toml")).unwrap();
                fs::write(here.path("word-count/Cargo.toml"), format!("{manifest}\n{content}")).unwrap();
            }
            "rust" => fs::write(here.path("word-count/src/lib.rs"), content).unwrap(),
            // Another compiler makes a module with another digest and size.
            "text" if content.contains("...") => {
                let first = content.split("...").next().unwrap();
                assert!(printed.starts_with(first), "{content}{printed}");
                shown += 1;
            }
            "text" => {
                assert_eq!(printed, content);
                shown += 1;
            }
            other => panic!("a block of {other}"),
        }
    }
    assert!(shown >= 3, "the tutorial shows what comes out");
}
