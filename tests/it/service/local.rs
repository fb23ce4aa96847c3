//! Command line beside a running node on the same directory: the node executes the commands, with
//! the same output.

use std::os::unix::fs::PermissionsExt as _;

use super::{ECHO, Service};
use crate::common::{Ran, Workplace, blake3, noise};

const THROUGH: &str = "note: the running node does this\n";

/// Asserts that the running node executed the command, and removes that note.
#[track_caller]
fn through(ran: Ran) -> Ran {
    let stderr = ran.stderr.strip_prefix(THROUGH).unwrap_or_else(|| panic!("{ran:?}")).to_owned();
    Ran { stderr, ..ran }
}

#[test]
fn slices_are_run_by_the_node() {
    let service = Service::start();
    let (small, large) = (noise(1, 100), noise(2, 3_000_000));
    let here = &service.here;
    here.file("transcode-a.slice", &small);
    here.file("deep/transcode-b.slice", &large);
    here.file("what.slice", "?");
    let ran = through(here.run("compute run --out proofs transcode-a.slice what.slice deep missing.slice"));
    let lines = format!("{}  transcode-a.slice\n{}  deep/transcode-b.slice\n", blake3(&small), blake3(&large));
    assert_eq!((ran.code, &*ran.stdout), (2, &*lines), "{ran:?}");
    assert!(ran.stderr.contains("cannot tell the workload of `") && ran.stderr.contains("missing.slice"), "{ran:?}");
    for proof in ["proofs/transcode-a.slice.proof", "proofs/transcode-b.slice.proof"] {
        assert_eq!(here.run(&format!("compute proof validate {proof}")).code, 0);
    }
    // One store exists, and the node answers from it.
    let again = through(here.run("compute run --json transcode-a.slice")).json();
    assert_eq!((&again[0]["source"], &again[0]["file"]), (&"memory".into(), &"transcode-a.slice".into()));
    let id = again[0]["slice_id"].as_str().unwrap();
    assert_eq!(service.get(&format!("/v1/proofs/{id}")).json()["proof"], blake3(&small));
}

#[test]
fn modules_are_added_run_and_removed_by_the_node() {
    let service = Service::start();
    let here = &service.here;
    here.file("echo.wat", ECHO);
    here.file("data", "data");
    here.file("weights", "weights");
    let digest = blake3(wat::parse_str(ECHO).unwrap());
    through(here.run("compute module add echo.wat --name echo")).is(0, &format!("{digest}  echo\n"), "");
    assert_eq!(service.get("/v1/modules/echo").json()["digest"], digest);
    // Commands that only read need no running node.
    assert!(here.run("compute module list").output().starts_with(&digest));
    here.run("compute module export echo copy.wasm").output();
    assert_eq!(here.run("compute verify --module echo data --runs 1 --arg x").code, 0);

    for module in ["echo", "echo.wat", "copy.wasm"] {
        let line = format!("compute run --module {module} --arg a --arg b --asset w=weights --out out data");
        let ran = through(here.run(&line));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(std::fs::read(here.path("out/data.output")).unwrap(), b"a\0b");
    }
    let failed = through(here.run("compute run --module echo data"));
    assert_eq!((failed.code, &*failed.stdout), (1, "failed  data\n"));
    let unknown = here.run("compute run --module nothing data");
    assert!(unknown.code == 2 && unknown.stderr.contains("neither a stored module nor a file"), "{unknown:?}");

    through(here.run("compute module remove echo")).is(0, &format!("removed {digest}\n"), "");
    assert_eq!(service.get("/v1/modules/echo").status(), 404);
    let gone = through(here.run("compute module remove nothing"));
    assert!(gone.code == 2 && gone.stderr.contains("no module `nothing` is stored"), "{gone:?}");
}

#[test]
fn prices_are_the_nodes() {
    let service = Service::start();
    for (price, provider) in [(10, "a"), (20, "b"), (30, "c"), (40, "d"), (50, "e")] {
        through(service.here.run(&format!("compute price offer {price} --provider {provider}"))).output();
    }
    let bands = through(service.here.run("compute price bands --json")).json();
    assert_eq!(service.get("/v1/prices/bands").json()["median"], bands[0]["median"]);
    let (here, code) = (service.here, service.node.stop());
    let kept = here.run("compute price bands --json").json();
    assert_eq!((code, &kept[0]["samples"], &kept[0]["median"]), (0, &5.into(), &bands[0]["median"]));
}

#[test]
fn the_key_is_rotated_by_the_node_which_signs_with_the_new_one_from_then_on() {
    let service = Service::start();
    let here = &service.here;
    let run = |name: &str| {
        here.file(format!("transcode-{name}.slice"), name);
        let ran = through(here.run(&format!("compute run --json --out proofs transcode-{name}.slice")));
        ran.json()[0]["signer"].as_str().unwrap().to_owned()
    };
    let former = run("a");
    here.run("key export backup.key").output();
    let rotated = through(here.run("key rotate --json")).json().remove(0);
    let shown = here.run("key show --json").json().remove(0);
    assert_eq!((&rotated["public_key"], &rotated["former"]), (&shown["public_key"], &former.clone().into()));
    assert_eq!(
        (&rotated["statement"], &shown["former"][0]["public_key"]),
        (&shown["former"][0]["statement"], &former.into())
    );
    assert_eq!((run("b").into(), service.get("/v1/openapi.json").status()), (shown["public_key"].clone(), 200));
    for proof in ["a", "b"] {
        let line = format!("compute proof validate --signer self proofs/transcode-{proof}.slice.proof");
        assert_eq!(here.run(&line).code, 0, "{proof}");
    }
    // The courier uses the same key: a peer with that key would be the node itself.
    let own = shown["public_key"].as_str().unwrap();
    let ran = through(here.run(&format!("compute courier peer add me {own}")));
    assert!(ran.code == 2 && ran.stderr.contains("is this node's own"), "{ran:?}");

    let taken = through(here.run("key import backup.key"));
    assert!(taken.code == 2 && taken.stderr.contains("this node has a key already"), "{taken:?}");
    // The running node signs only with the key in its file; if they differ, it refuses to rotate.
    std::fs::rename(here.path("node-data/state/node.key"), here.path("moved.key")).unwrap();
    let replaced = through(here.run("key rotate"));
    assert!(
        replaced.code == 2 && replaced.stderr.contains(&format!("the running node signs with {own}")),
        "{replaced:?}"
    );
    std::fs::rename(here.path("moved.key"), here.path("node-data/state/node.key")).unwrap();
    here.run("key export own.key").output();
    through(here.run("key import own.key")).is(0, &format!("{own}\n"), "");
    assert_eq!(run("c"), own);
}

#[test]
fn the_couriers_store_is_looked_through_by_the_node() {
    let service = Service::start();
    let here = &service.here;
    here.file("bundle.bin", "a bundle");
    let id = through(here.run("compute courier send bundle.bin alice")).output().trim_end().to_owned();
    here.file("bundle.bin", "another bundle");
    through(here.run("compute courier send bundle.bin alice")).output();
    let sound = "2 receipts, 0 received, 0 acknowledgements\nsound\n";
    through(here.run("compute courier fsck")).is(0, sound, "");
    let name = blake3("a bundle");
    let bundle = here.path(format!("node-data/state/courier/bundles/{}/{name}.bundle", &name[..2]));
    std::fs::write(&bundle, "a bundlf").unwrap();
    let ran = through(here.run("compute courier fsck --json"));
    let report = &ran.json()[0];
    assert_eq!((ran.code, &report["receipts"], &report["problems_count"]), (1, &2.into(), &1.into()), "{report}");
    assert!(report["problems"][0].as_str().unwrap().contains(&id) && !bundle.exists(), "{report}");
    let dead = through(here.run("compute courier list --dead --json")).json();
    assert_eq!((dead.len(), &dead[0]["id"]), (1, &id.clone().into()));
    // This is the remedy that the error names.
    through(here.run(&format!("compute courier drop {id}"))).output();
    here.file("bundle.bin", "a bundle");
    assert_eq!(through(here.run("compute courier send bundle.bin alice")).output().trim_end(), id);
    through(here.run("compute courier fsck")).is(0, sound, "");
}

/// The list is longer than one answer holds. It is in the order of the digests, from the files and
/// from the node.
#[test]
fn a_long_list_of_modules_is_told_by_the_node_that_runs_or_else_from_the_files() {
    let here = Workplace::new();
    let digests: Vec<String> = {
        let mut digests: Vec<String> = (0..250_u32).map(|number| blake3(number.to_le_bytes())).collect();
        digests.sort_unstable();
        digests
    };
    let record = r#"{"version":2,"bytes":4,"kind":"compute","added_unix_ms":7,"added_by":"owner"}"#;
    for (number, digest) in digests.iter().enumerate() {
        here.file(format!("node-data/state/modules/{digest}.json"), record);
        here.file(format!("node-data/state/modules/{digest}.wasm"), (number as u32).to_le_bytes());
    }
    let name = here.file("node-data/state/modules/names/named", format!("{}\nowner\n", digests[120]));
    std::fs::set_permissions(here.path("node-data/state"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let is_all = |listed: &str| {
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let listed: Vec<&str> = lines.iter().map(|line| line[0]).collect();
        assert_eq!(listed, digests);
        assert_eq!(lines[120].get(2), Some(&"named"), "{:?}", lines[120]);
    };
    is_all(&here.run("compute module list").output());
    let service = Service::again(here);
    // A reader of the files would now find no name. The node has the name in its index.
    std::fs::remove_file(name).unwrap();
    is_all(&service.here.run("compute module list").output());
    assert_eq!(service.node.stop(), 0);
}
