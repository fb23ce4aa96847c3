//! Module store, as its users see it: stored modules can be read, damage is detected, and a full
//! store refuses with a reason.

use std::fs;
use std::process::Command;

use compute_host::digest::Digest;
use compute_host::modules::{AddedModule, Listed, ModuleKey, ModuleRecord, Quota, StoredError, StoredModules};
use compute_host::sandbox::Admitted;

use crate::common::{NODE, Ran, Workplace};

/// Returns a guest that outputs `word`.
fn text(word: &str) -> String {
    format!(
        r#"(module (import "compute" "output_write" (func $write (param i32 i32)))
             (memory (export "memory") 1) (data (i32.const 0) "{word}")
             (func (export "run") (result i32) (call $write (i32.const 0) (i32.const {})) (i32.const 0)))"#,
        word.len()
    )
}

fn wasm(word: &str) -> Vec<u8> {
    wat::parse_str(text(word)).unwrap()
}

fn digest(word: &str) -> Digest {
    Digest::of(&wasm(word))
}

fn hash(word: &str) -> Digest {
    Digest::of(word.as_bytes())
}

#[test]
fn a_module_is_added_run_shown_exported_and_removed() {
    let here = Workplace::new();
    here.file("one.wat", text("one"));
    here.file("one.wasm", wasm("one"));
    here.file("data", "a slice");
    let one = digest("one");
    here.run("compute module add one.wat --name first").is(0, &format!("{one}  first\n"), "");
    here.run("compute module add one.wasm --name other").is(0, &format!("{one}  other\n"), "");
    let bytes = wasm("one").len();
    here.run("compute module list").is(0, &format!("{one}  {bytes:>9}  first other\n"), "");
    for module in ["first", "other", &one.to_string(), "./one.wat", "one.wasm"] {
        here.node(["compute", "run", "--module", module, "data"]).is(0, &format!("{}  data\n", hash("one")), "");
    }
    let shown = here.run("compute module show first").output();
    for line in ["names      first other\n", "kind       compute\n", "imports    compute.output_write\n"] {
        assert!(shown.contains(line), "{line}{shown}");
    }
    here.run("compute module export first copy.wasm").is(0, &format!("{one}  copy.wasm\n"), "");
    assert_eq!(fs::read(here.path("copy.wasm")).unwrap(), wasm("one"));

    here.run("compute module remove first").is(0, &format!("removed the name first of {one}\n"), "");
    here.run("compute run --module other data").is(0, &format!("{}  data\n", hash("one")), "");
    here.run("compute module remove other").is(0, &format!("removed {one}\n"), "");
    here.run("compute module list").is(0, "", "");
    let gone =
        "error: there is neither a stored module nor a file `other`; `node compute module list` shows what is stored\n";
    here.run("compute run --module other data").is(2, "", gone);
    let gone = "error: no module `other` is stored; `node compute module list` shows those that are\n";
    for command in ["show", "remove"] {
        here.run(&format!("compute module {command} other")).is(2, "", gone);
    }
    here.run("compute module export other x.wasm").is(2, "", gone);
    assert!(!here.path("x.wasm").exists());
}

#[test]
fn a_digest_removes_all_names_of_its_module() {
    let here = Workplace::new();
    here.file("one.wat", text("one"));
    here.run("compute module add one.wat --name first").output();
    here.run("compute module add one.wat --name second").output();
    here.run(&format!("compute module remove {}", digest("one"))).is(0, &format!("removed {}\n", digest("one")), "");
    here.file("two.wat", text("two"));
    here.run("compute module add two.wat").output();
    here.run("compute module list --json")
        .json()
        .iter()
        .for_each(|object| assert_eq!(object["names"], serde_json::json!([])));
}

#[test]
fn a_name_can_be_given_to_another_module() {
    let here = Workplace::new();
    here.file("one.wat", text("one"));
    here.file("two.wat", text("two"));
    here.file("data", "a slice");
    here.run("compute module add one.wat --name word").output();
    let note = format!("note: `word` stood for {} before\n", digest("one"));
    here.run("compute module add two.wat --name word").is(0, &format!("{}  word\n", digest("two")), &note);
    here.run("compute run --module word data").is(0, &format!("{}  data\n", hash("two")), "");
    here.run("compute module add two.wat --name word").is(0, &format!("{}  word\n", digest("two")), "");
    let json = here.run("compute module list --json").json();
    let names: Vec<_> = json.iter().map(|object| (&object["digest"], &object["names"])).collect();
    let expected = (serde_json::json!([digest("one"), digest("two")]), serde_json::json!([[], ["word"]]));
    let expected: Vec<_> = (0..2).map(|i| (&expected.0[i], &expected.1[i])).collect();
    assert_eq!(names, expected);
}

#[test]
fn a_module_comes_from_standard_input_too() {
    let here = Workplace::new();
    for bytes in [text("one").into_bytes(), wasm("one")] {
        let piped = here.file("piped", bytes);
        let mut command = here.command(["compute", "module", "add", "-"]);
        command.stdin(fs::File::open(piped).unwrap());
        Ran::of(command).is(0, &format!("{}  -\n", digest("one")), "");
    }
    let mut export = here.command(["compute", "module", "export", &digest("one").to_string(), "-"]);
    assert_eq!(export.output().unwrap().stdout, wasm("one"));
}

#[test]
fn a_refused_module_is_not_stored_and_all_that_stands_against_it_is_said() {
    let here = Workplace::new();
    here.file("bad.wat", r#"(module (import "env" "abort" (func)) (memory 1) (func (export "_start")))"#);
    let ran = here.run("compute module add bad.wat");
    assert_eq!((ran.code, &*ran.stdout), (1, ""));
    let codes: Vec<&str> =
        ran.stderr.lines().map(|line| line.split_once('[').unwrap().1.split_once(']').unwrap().0).collect();
    assert_eq!(codes, ["unknown_import", "reserved_export", "no_memory_export", "no_run_export"]);
    assert!(ran.stderr.contains("--use abort="), "{}", ran.stderr);
    here.run("compute module list").is(0, "", "");

    let json = &here.run("compute module check --json bad.wat").stdout;
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!((&json["admitted"], &json["refusals"][1]["code"]), (&false.into(), &"reserved_export".into()));
    assert_eq!(json["refusals"][0]["offset"], 17);
    let checked = here.run("compute module check bad.wat");
    assert_eq!((checked.code, &*checked.stderr), (1, ""));
    assert!(checked.stdout.starts_with("bad.wat: refused, by 4 rules\n  [unknown_import] the module imports `abort`"));
    here.run("compute module check missing.wat").is(
        2,
        "",
        "error: cannot read `missing.wat`: No such file or directory (os error 2)\n",
    );
    here.file("typo.wat", "(module\n  (func (bogus)))");
    let said =
        "error: cannot use `typo.wat`: it is not the text of a module: unknown operator or unexpected token at 2:10\n";
    here.run("compute module add typo.wat").is(2, "", said);
    here.run("compute module check typo.wat").is(2, "", said);
}

#[test]
fn limits_that_are_tightened_hold_for_what_is_stored() {
    let here = Workplace::new();
    here.file("one.wat", text("one"));
    here.file("data", "a slice");
    here.run("compute module add one.wat --name first").output();
    fs::write(here.path("node-data/config.toml"), "[gate]\nimports = 0\n").unwrap();
    here.run("compute run --module first data").is(
        2,
        "",
        "error: node-data/config.toml:2: `gate.imports` is 0; it must be from 1 to 16\n",
    );
    fs::write(here.path("node-data/config.toml"), "[gate]\nname_bytes = 11\n").unwrap();
    let ran = here.run("compute run --module first data");
    let refused = "error: cannot run `first`: the stored module is not admitted any more: \
                   the module has 12 bytes in one name; at most 11 are admitted";
    assert!(ran.code == 2 && ran.stderr.starts_with(refused), "{}", ran.stderr);
    assert_eq!(here.run("compute module check one.wat").code, 1);
    assert_eq!(here.run("compute module add one.wat").code, 1);
}

/// Creates a store through the library.
fn store(here: &Workplace, quota: Quota) -> StoredModules {
    StoredModules::new(here.path("modules"), quota)
}

const ROOM: Quota = Quota { modules_max: 100_000, bytes_max: 1 << 30 };

fn record(wasm: &[u8]) -> ModuleRecord {
    ModuleRecord::new(wasm.len() as u64, "compute".to_owned(), 1, "a test".to_owned())
}

fn add(store: &StoredModules, word: &str) -> Result<AddedModule, StoredError> {
    store.add(&digest(word), &wasm(word), &record(&wasm(word)))
}

#[test]
fn damage_is_noticed_named_and_mended_by_adding_again() {
    let here = Workplace::new();
    let store = store(&here, ROOM);
    let one = digest("one");
    let paths = [here.path(format!("modules/{one}.wasm")), here.path(format!("modules/{one}.json"))];
    for path in &paths {
        for damaged in [None, Some(&b""[..]), Some(b"{}"), Some(&[0; 1 << 20])] {
            assert_eq!(add(&store, "one").unwrap(), AddedModule::New, "it was damaged, or not there");
            assert_eq!(add(&store, "one").unwrap(), AddedModule::Already);
            assert_eq!(store.read(&one).unwrap(), wasm("one"));
            match damaged {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            let error = store.read(&one).unwrap_err().to_string();
            assert!(error.contains(&one.to_string()), "{error}");
        }
    }
    assert_eq!(add(&store, "one").unwrap(), AddedModule::New);
    let mut changed = wasm("one");
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&paths[0], changed).unwrap();
    let error = store.read(&one).unwrap_err();
    assert!(matches!(&error, StoredError::Damaged { .. }) && error.to_string().contains("add it again"), "{error}");
}

#[test]
fn what_is_damaged_can_be_mended_also_where_there_is_no_room_for_more() {
    let here = Workplace::new();
    let store = store(&here, Quota { modules_max: 1, bytes_max: wasm("one").len() as u64 });
    for ending in ["wasm", "json"] {
        add(&store, "one").unwrap();
        fs::write(here.path(format!("modules/{}.{ending}", digest("one"))), "damaged").unwrap();
        assert_eq!(add(&store, "one").unwrap(), AddedModule::New);
        assert!(matches!(add(&store, "two"), Err(StoredError::TooMany { count: 1, .. })));
    }
}

#[test]
fn a_damaged_record_hides_no_other_module() {
    let here = Workplace::new();
    for word in ["one", "two"] {
        here.file(format!("{word}.wat"), text(word));
        here.run(&format!("compute module add {word}.wat --name {word}")).output();
    }
    let damaged = here.file(format!("node-data/state/modules/{}.json", digest("one")), "{}");
    let ran = here.run("compute module list");
    assert_eq!((ran.code, ran.stdout.lines().count()), (2, 1));
    assert!(ran.stdout.starts_with(&digest("two").to_string()));
    let said = format!(
        "error: `{}` is not what was stored; remove the module `{}`, and add it again\n",
        damaged.strip_prefix(here.path("")).unwrap().display(),
        digest("one")
    );
    assert_eq!(ran.stderr, said);
    here.run("compute module remove one").is(0, &format!("removed {}\n", digest("one")), "");
    assert_eq!(here.run("compute module list").output().lines().count(), 1);
}

#[test]
fn what_a_crash_left_is_removed_and_counts_for_nothing() {
    let here = Workplace::new();
    here.file(format!("modules/{}.wasm", digest("half")), wasm("half"));
    here.file("modules/.new-abc", "half");
    here.file("modules/names/.new-abc", "half");
    here.file("modules/notes.txt", "not ours");
    let store = store(&here, Quota { modules_max: 1, bytes_max: wasm("one").len() as u64 });
    assert_eq!(store.page(None, 9).unwrap().modules.len(), 0);
    assert_eq!(add(&store, "one").unwrap(), AddedModule::New, "there is room for it");
    let mut left: Vec<_> = fs::read_dir(here.path("modules"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    let mut expected = vec![format!("{}.json", digest("one")), format!("{}.wasm", digest("one"))];
    expected.extend(["names".to_owned(), "notes.txt".to_owned()]);
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn quotas_hold_and_removing_makes_room() {
    let here = Workplace::new();
    let bytes = wasm("one").len() as u64;
    let two = store(&here, Quota { modules_max: 2, bytes_max: 1 << 20 });
    add(&two, "one").unwrap();
    add(&two, "two").unwrap();
    assert_eq!(add(&two, "one").unwrap(), AddedModule::Already, "what is there needs no room");
    let error = add(&two, "six").unwrap_err();
    assert!(
        matches!(error, StoredError::TooMany { count: 2, max: 2 }) && error.to_string().contains("modules.modules_max")
    );
    two.remove(&ModuleKey::Digest(digest("one"))).unwrap();
    add(&two, "six").unwrap();
    drop(two);
    let full = store(&here, Quota { modules_max: 10, bytes_max: 3 * bytes - 1 });
    let error = add(&full, "one").unwrap_err();
    assert!(
        matches!(error, StoredError::TooLarge { .. }) && error.to_string().contains("modules.bytes_max"),
        "{error}"
    );
    assert!(!full.contains(&digest("one")));
}

#[test]
fn ten_thousand_modules_can_be_added_one_after_another_and_thirty_two_at_once() {
    // In memory: each module is flushed to disk twice, and a disk is slow.
    let here = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = StoredModules::new(here.path().to_owned(), ROOM);
    let store = &store;
    let add = move |i: u32| {
        let admitted = Admitted::new(wasm(&format!("{i:08}"))).unwrap();
        store.add(&admitted.digest(), admitted.wasm(), &record(admitted.wasm())).unwrap()
    };
    for i in 0..10_000 {
        assert_eq!(add(i), AddedModule::New);
    }
    std::thread::scope(|scope| {
        for thread in 0..32 {
            scope.spawn(move || {
                for i in 0..20 {
                    assert_eq!(add(20_000 + 20 * thread + i), AddedModule::New);
                    // Modules that other threads add as well.
                    add(30_000 + i);
                }
            });
        }
    });
    let listed = store.page(None, usize::MAX).unwrap().modules;
    assert_eq!(listed.len(), 10_000 + 32 * 20 + 20);
    for Listed { digest, .. } in listed.iter().step_by(97) {
        assert_eq!(Digest::of(&store.read(digest).unwrap()), *digest);
    }
}

#[test]
fn two_nodes_add_by_turns() {
    let here = Workplace::new();
    let words = ["one", "two", "six", "ten"];
    let children = words.map(|word| {
        let file = here.file(format!("{word}.wat"), text(word));
        let mut command = here.command(["compute", "module", "add", "--name", word]);
        command.arg(file).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().unwrap()
    });
    assert!(children.into_iter().all(|mut child| child.wait().unwrap().success()));
    assert_eq!(here.run("compute module list").output().lines().count(), 4);
}

#[test]
fn a_full_disk_stores_nothing_by_halves() {
    let here = Workplace::new();
    fs::create_dir(here.path("small")).unwrap();
    here.file("one.wat", text("one"));
    here.file("two.wat", text("two"));
    here.file("data", "a slice");
    let script = "mount -t tmpfs -o size=1m tmpfs small || exit 77
        $NODE compute module add --data-dir small/data one.wat --name one || exit 78
        head -c 2m /dev/zero > small/filler 2>/dev/null
        $NODE compute module add --data-dir small/data two.wat --name two > full.out 2> full.err; echo $? > full.code
        rm small/filler
        ls small/data/state/modules small/data/state/modules/names > left
        $NODE compute module list --data-dir small/data > after.out 2> after.err; echo $? > after.code
        $NODE compute run --data-dir small/data --module two data > gone.out 2> gone.err; echo $? > gone.code
        $NODE compute module add --data-dir small/data two.wat --name two > again.out 2> again.err; echo $? > again.code";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script]).current_dir(here.path(""));
    command.env("NODE", NODE).env_remove("RUST_BACKTRACE");
    let ran = Ran::of(command);
    assert_eq!(ran.code, 0, "a mount namespace is needed: {ran:?}");
    let read = |name: &str| fs::read_to_string(here.path(name)).unwrap();
    assert_eq!((&*read("full.code"), &*read("full.out")), ("2\n", ""), "{}", read("full.err"));
    let said = ["No space left on device", "`store.reserve_bytes`"];
    assert!(said.iter().any(|said| read("full.err").contains(said)), "{}", read("full.err"));
    assert!(!read("left").contains(".new-") && !read("left").contains("two"), "{}", read("left"));
    assert_eq!((&*read("after.code"), &*read("after.err")), ("0\n", ""));
    assert!(read("after.out").starts_with(&digest("one").to_string()) && read("after.out").lines().count() == 1);
    assert_eq!((&*read("gone.code"), &*read("again.code")), ("2\n", "0\n"), "{}", read("again.err"));
}

#[test]
fn a_host_without_memory_says_so_and_is_well_afterwards() {
    let here = Workplace::new();
    here.file("data", "a slice");
    // A guest that grows its memory to 200 MB, writes to it, and outputs 60 MB.
    here.file(
        "large.wat",
        r#"(module (import "compute" "output_write" (func $write (param i32 i32))) (memory (export "memory") 1)
             (func (export "run") (result i32) (drop (memory.grow (i32.const 3100)))
               (memory.fill (i32.const 0) (i32.const 1) (i32.const 200000000))
               (call $write (i32.const 0) (i32.const 60000000)) (i32.const 0)))"#,
    );
    let run = |limit: &str| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -v {limit}; exec $NODE compute run --jobs 1 --no-cache --module ./large.wat data");
        command.args(["-c", &script]).current_dir(here.path("")).env("NODE", NODE).env_remove("RUST_BACKTRACE");
        Ran::of(command)
    };
    let well = run("unlimited").output();
    // Limits from far too little for the pool, through too little for the output, to enough.
    for limit in (4_200_000..5_300_000).step_by(50_000) {
        let ran = run(&limit.to_string());
        let said = [
            "cannot reserve address space",
            "the host has no memory",
            "the compiler",
            "cannot start a thread",
            "cannot start the threads",
        ];
        let is_clear = ran.code == 2 && said.iter().any(|message| ran.stderr.contains(message));
        assert!(is_clear || (ran.code, &ran.stdout) == (0, &well), "{limit}: {ran:?}");
    }
    assert_eq!(run("unlimited").output(), well);
}
