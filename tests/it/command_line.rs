//! `node compute run` and related commands when everything succeeds.

use serde_json::{Value, json};

use crate::common::{Workplace, blake3, noise, root};

#[test]
fn a_slice_prints_its_proof_and_its_name() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.file("inference-7.slice", "a tensor");
    let expected = format!("{}  transcode.slice\n{}  inference-7.slice\n", blake3("a slice"), blake3("a tensor"));
    here.run("compute run transcode.slice inference-7.slice").is(0, &expected, "");
}

#[test]
fn the_samples_have_their_golden_proofs() {
    let here = Workplace::new();
    let samples = root().join("examples/workloads");
    let golden = std::fs::read_to_string(root().join("tests/vectors/samples.b3")).unwrap();
    for (line, kind) in golden.lines().zip(["inference", "transcode"]) {
        let (hash, name) = line.split_once("  ").unwrap();
        let slice = samples.join(name);
        assert_eq!(name, format!("{kind}.slice"));
        let expected = format!("{hash}  {}\n", slice.display());
        here.node(["compute".as_ref(), "run".as_ref(), slice.as_os_str()]).is(0, &expected, "");
    }
    assert_eq!(golden.lines().count(), 2);
}

#[test]
fn a_directory_stands_for_the_slices_below_it() {
    let here = Workplace::new();
    here.file("in/transcode-b.slice", "b");
    here.file("in/deeper/inference.slice", "c");
    here.file("in/transcode-a.slice", "a");
    here.file("in/readme.txt", "no slice");
    let expected = format!(
        "{}  in/deeper/inference.slice\n{}  in/transcode-a.slice\n{}  in/transcode-b.slice\n",
        blake3("c"),
        blake3("a"),
        blake3("b")
    );
    here.run("compute run in").is(0, &expected, "");
}

#[test]
fn lines_come_in_the_order_in_which_the_slices_were_named() {
    let here = Workplace::new();
    let mut expected = String::new();
    let mut line = "compute run --jobs 3".to_owned();
    for i in 0..300 {
        let name = format!("transcode-{i}.slice");
        // The first slice takes longest.
        let content = noise(i, if i == 0 { 8 << 20 } else { i as usize });
        expected += &format!("{}  {name}\n", blake3(&content));
        here.file(&name, content);
        line += &format!(" {name}");
    }
    here.run(&line).is(0, &expected, "");
}

#[test]
fn the_second_time_nothing_is_computed() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let sources = |line: &str| -> Vec<Value> {
        here.run(line).json().into_iter().map(|object| object["source"].clone()).collect()
    };
    let mut twice = sources("compute run --json transcode.slice transcode.slice");
    twice.sort_by_key(Value::to_string);
    assert_eq!(twice, ["memory", "run"]);
    assert_eq!(sources("compute run --json transcode.slice"), ["store"]);
    assert_eq!(sources("compute run --json --no-cache transcode.slice"), ["run"]);
    assert_eq!(sources("compute run --json --workload inference transcode.slice"), ["run"], "another workload");
}

#[test]
fn json_is_one_object_a_line_and_nothing_else() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.file("unknown.slice", "");
    let ran = here.run("compute run --json transcode.slice unknown.slice");
    let [done, failed] = &ran.json()[..] else { panic!("two lines: {}", ran.stdout) };
    assert_eq!(ran.code, 2);
    let hash = blake3("a slice");
    assert_eq!(done["file"], "transcode.slice");
    assert_eq!(done["proof"], json!(hash));
    assert_eq!(done["job"]["input"], json!({ "blake3": hash, "bytes": 7 }));
    assert_eq!(done["outcome"], json!({ "code": "done" }));
    assert_eq!(failed["file"], "unknown.slice");
    assert_eq!(failed["error"]["code"], "unknown_workload");
}

#[test]
fn a_guest_that_fails_is_a_result_and_exit_code_1() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.file("node-data/config.toml", "[limits]\nmemory_bytes = 65535\n");
    let failed = "failed: `transcode.slice`: the module declares more memory than the job may use\n";
    here.run("compute run --out . transcode.slice").is(1, "memory_limit  transcode.slice\n", failed);
    let shown = here.run("compute proof show transcode.slice.proof").output();
    assert!(shown.contains("\nproof     none\n"), "{shown}");
    let again = here.run("compute run --json transcode.slice");
    assert_eq!((again.code, &again.json()[0]["source"]), (1, &json!("store")), "a failure is kept like any result");

    here.file("node-data/config.toml", "[limits]\ngas = 10\n");
    let failed = "failed: `transcode.slice`: the guest ran out of gas\n";
    here.run("compute run --out proofs transcode.slice").is(1, "out_of_gas  transcode.slice\n", failed);
    let shown = here.run("compute proof show proofs/transcode.slice.proof").output();
    assert!(shown.contains("\noutcome   the guest ran out of gas\nproof     none\n"), "{shown}");
    assert_eq!(here.run("compute run transcode.slice missing.slice").code, 2, "an error goes before a failure");
}

#[test]
fn a_written_proof_can_be_shown() {
    let here = Workplace::new();
    here.file("in/transcode.slice", "a slice");
    let line = here.run("compute run --json --out proofs in/transcode.slice").json().remove(0);
    let shown: Value =
        serde_json::from_str(&here.run("compute proof show --json proofs/transcode.slice.proof").output()).unwrap();
    for (key, value) in shown.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key}");
    }
    let text = here.run("compute proof show proofs/transcode.slice.proof").output();
    let hash = blake3("a slice");
    assert!(text.contains(&format!("\nproof     {hash}\n")), "{text}");
    assert!(text.contains(&format!("\ninput     {hash}, 7 bytes\n")), "{text}");
    assert!(text.contains("\noutcome   done\n"), "{text}");
}

#[test]
fn a_proof_from_the_store_is_the_proof_that_was_made() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run --out first transcode.slice").output();
    here.run("compute run --out second transcode.slice").output();
    let read = |directory| std::fs::read(here.path(directory).join("transcode.slice.proof")).unwrap();
    assert_eq!(read("first"), read("second"));
}

#[test]
fn the_data_directory_is_where_it_was_asked_to_be() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run transcode.slice --data-dir elsewhere").output();
    assert!(!here.path("node-data").exists());
    for name in ["elsewhere/config.toml", "elsewhere/state", "elsewhere/cache"] {
        assert!(here.path(name).exists(), "{name}");
    }
    let mut command = here.command(["compute", "run", "transcode.slice"]);
    command.env("NODE_DATA_DIR", "by-environment");
    command.output().unwrap();
    assert!(here.path("by-environment/state").exists());
}

#[test]
fn state_and_keys_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    here.run("compute run transcode.slice").output();
    let mode = |name| std::fs::metadata(here.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("node-data"), 0o700);
    assert_eq!(mode("node-data/state"), 0o700);
    assert_eq!(mode("node-data/cache"), 0o700);
    assert_eq!(mode("node-data/state/cache.key"), 0o600);
    assert_eq!(mode("node-data/state/node.key"), 0o600);
}

#[test]
fn help_has_examples_everywhere() {
    let here = Workplace::new();
    for command in [
        "",
        "compute",
        "compute run",
        "compute proof",
        "compute proof show",
        "compute proof validate",
        "key",
        "key trust",
        "completions",
    ] {
        let help = here.run(&format!("{command} --help")).output();
        assert!(help.contains("Example"), "`node {command} --help`:\n{help}");
    }
}

#[test]
fn each_shell_gets_completions() {
    let here = Workplace::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        assert!(here.run(&format!("completions {shell}")).output().contains("no-cache"), "{shell}");
    }
}

#[test]
fn each_command_has_a_man_page() {
    let here = Workplace::new();
    here.run("man pages/man1").is(0, "", "");
    let page = |name: &str| std::fs::read_to_string(here.path("pages/man1").join(name)).unwrap();
    assert!(page("node-compute-run.1").contains("no\\-cache"));
    assert!(page("node.1").contains("node\\-serve(1)"));
    here.file("file", "");
    let refused = here.run("man file");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.starts_with("error: cannot write the man pages to `file`: "), "{refused:?}");
}
