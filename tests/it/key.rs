//! Keys of the node: its own, its former ones, and the trusted ones.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use compute_host::key::{KeyError, KeyOwner, Keyring, NodeKey, PublicKey, Rotation, Signer};
use serde_json::Value;

use crate::common::{Ran, Workplace};

fn shown(here: &Workplace) -> Value {
    here.run("key show --json").json().remove(0)
}

fn key(here: &Workplace) -> String {
    shown(here)["public_key"].as_str().unwrap().to_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_key_is_made_once_and_shown() {
    let here = Workplace::new();
    let text = here.run("key show").output();
    let shown = shown(&here);
    let key = shown["public_key"].as_str().unwrap();
    assert!(text.starts_with(&format!("key     {key}\nshort   {}\nmade    20", shown["short"].as_str().unwrap())));
    assert!(text.ends_with("file    node-data/state/node.key\n"), "{text}");
    assert_eq!(shown["former"], serde_json::json!([]));
    let secret = std::fs::read_to_string(here.path("node-data/state/node.key")).unwrap();
    let secret = secret.lines().find_map(|line| line.strip_prefix("secret ")).unwrap();
    assert!(!text.contains(secret) && !shown.to_string().contains(secret), "the secret is shown nowhere");
    assert_eq!(mode(&here.path("node-data/state/node.key")), 0o600);

    here.file("transcode.slice", "a slice");
    let line = here.run("compute run --json transcode.slice").json().remove(0);
    assert_eq!(line["signer"], key);
}

#[test]
fn two_at_once_make_one_key() {
    for _ in 0..5 {
        let here = Workplace::new();
        let started: Vec<_> = (0..4)
            .map(|_| {
                here.command(["key", "show", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let mut keys: Vec<Value> = started
            .into_iter()
            .map(|node| Ran::from(node.wait_with_output().unwrap()).json().remove(0)["public_key"].clone())
            .collect();
        keys.dedup();
        assert_eq!(keys, [key(&here)]);
        let left: Vec<_> =
            std::fs::read_dir(here.path("node-data/state")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".tmp")), "{left:?}");
    }
}

#[test]
fn a_key_that_is_damaged_or_not_private_is_never_replaced() {
    let here = Workplace::new();
    here.file("transcode.slice", "a slice");
    let before = key(&here);
    let path = here.path("node-data/state/node.key");
    let kept = std::fs::read(&path).unwrap();
    let mut flipped = kept.clone();
    flipped[60] ^= 1;
    for damage in [&b""[..], &kept[..100], &flipped, b"text", &[0xff; 2000]] {
        std::fs::write(&path, damage).unwrap();
        for line in ["key show", "key rotate", "key export copy.key", "compute run transcode.slice"] {
            let ran = here.run(line);
            assert_eq!((ran.code, &*ran.stdout), (2, ""), "{line}");
            let named = ran.stderr.contains("node-data/state/node.key`");
            assert!(named && !ran.stderr.contains("panicked"), "{line}: {}", ran.stderr);
        }
        assert_eq!(std::fs::read(&path).unwrap(), damage);
    }
    let remedy = "error: the node's key `node-data/state/node.key` is damaged: its first line is not `compute-host node key \
                  v1`. Nothing replaces it by itself, for it is what the node is known by: move it away, and `node key \
                  import` a backup of it, or go on with a new key\n";
    std::fs::write(&path, "text").unwrap();
    here.run("key show").is(2, "", remedy);

    std::fs::write(&path, &kept).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let ran = here.run("key show");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("`node-data/state/node.key` must be its user's alone, but belongs to user "),
        "{ran:?}"
    );
    assert!(
        ran.stderr
            .contains("has mode 644; take the rights of others away with `chmod -R go= node-data/state/node.key`"),
        "{ran:?}"
    );
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(key(&here), before);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(here.run("key show").code, 2, "a directory is no key");
}

#[test]
fn a_backup_makes_another_machine_the_same_node() {
    let here = Workplace::new();
    let before = key(&here);
    here.run("key export backup.key").is(0, &format!("{before}  backup.key\n"), "");
    assert_eq!(mode(&here.path("backup.key")), 0o600);
    here.run("key export backup.key").is(0, &format!("{before}  backup.key\n"), "");
    here.run("--data-dir new key import backup.key").is(0, &format!("{before}\n"), "");
    here.run("--data-dir new key import backup.key").is(0, &format!("{before}\n"), "");
    assert_eq!(here.run("--data-dir new key show --json").json()[0]["public_key"], before);
    assert_eq!(mode(&here.path("new/state/node.key")), 0o600);

    let other = here.run("--data-dir other key show --json").json().remove(0)["public_key"].clone();
    let taken = format!(
        "error: this node has a key already, {}; to have another one in its place, `node key export` it and move \
         `other/state/node.key` away\n",
        other.as_str().unwrap()
    );
    here.run("--data-dir other key import backup.key").is(2, "", &taken);
    let taken = "error: `backup.key` is there already, and is no backup of this node's key; choose another file\n";
    here.run("--data-dir other key export backup.key").is(2, "", taken);
    here.file("words.txt", "words");
    here.run("key export words.txt").is(2, "", &taken.replace("backup.key", "words.txt"));
    assert_eq!(std::fs::read(here.path("words.txt")).unwrap(), b"words");
    std::fs::set_permissions(here.path("words.txt"), Permissions::from_mode(0o600)).unwrap();
    let none = "error: `words.txt` is no backup of a node's key: its first line is not `compute-host node key v1`; `node key \
                export` makes one\n";
    here.run("--data-dir third key import words.txt").is(2, "", none);
    std::fs::set_permissions(here.path("backup.key"), Permissions::from_mode(0o640)).unwrap();
    let ran = here.run("--data-dir third key import backup.key");
    assert!(ran.code == 2 && ran.stderr.contains("`chmod -R go= "), "{ran:?}");
    assert!(!here.path("third/state/node.key").exists());
}

#[test]
fn a_rotation_leaves_a_statement_that_others_follow() {
    let (here, there) = (Workplace::new(), Workplace::new());
    let first = key(&here);
    let secret = std::fs::read_to_string(here.path("node-data/state/node.key")).unwrap();
    there.run(&format!("key trust add studio-b {first}")).is(0, &format!("{first}  studio-b\n"), "");
    here.file("transcode.slice", "a slice");
    here.run("compute run --out . transcode.slice").output();

    let rotated = here.run("key rotate --json").json().remove(0);
    let second = key(&here);
    assert_eq!((&rotated["public_key"], &rotated["former"]), (&Value::from(&*second), &Value::from(&*first)));
    let former = shown(&here)["former"].clone();
    assert_eq!((&former[0]["public_key"], &former[0]["successor"]), (&Value::from(&*first), &Value::from(&*second)));
    assert!(here.run("key show").output().contains(&format!("\nformer  {first}\n        from 20")));
    let statement = here.path(rotated["statement"].as_str().unwrap());
    let secret = secret.lines().find_map(|line| line.strip_prefix("secret ")).unwrap();
    for entry in ["node-data/state/node.key", "node-data/state/node.key.next"].map(|name| here.path(name)) {
        assert!(!std::fs::read_to_string(entry).unwrap_or_default().contains(secret), "the former secret is gone");
    }

    let line = format!("key trust follow {}", statement.display());
    there.run(&line).is(0, &format!("{second}  studio-b\n"), "");
    there.run("key trust list").is(0, &format!("{second}  studio-b\n"), "");
    let proof = here.path("transcode.slice.proof");
    let validate = format!("compute proof validate --signer studio-b {}", proof.display());
    assert!(there.run(&validate).output().ends_with("(trusted as studio-b, with a former key)\n"));

    let stranger = Workplace::new();
    let refused = format!(
        "error: no trusted key is {first}, which the statement retires; if you trust its successor, `node key trust add` \
         that one\n"
    );
    stranger.run(&line).is(2, "", &refused);
    let text = std::fs::read_to_string(&statement).unwrap();
    let forged = here.file("forged", text.replace(&first, &key(&stranger)));
    let ran = there.run(&format!("key trust follow {}", forged.display()));
    assert!(ran.code == 2 && ran.stderr.contains("its signature by the former key is not that key's"), "{ran:?}");
}

#[test]
fn keys_are_trusted_by_name() {
    let here = Workplace::new();
    let [one, two] = [1, 2].map(|secret| NodeKey::from_secret([secret; 32]).public());
    here.run(&format!("key trust add b {one}")).is(0, &format!("{one}  b\n"), "");
    here.run(&format!("key trust add a {two}")).is(0, &format!("{two}  a\n"), "");
    here.run("key trust list").is(0, &format!("{one}  b\n{two}  a\n"), "");
    let taken = format!("error: `b` stands for the key {one} already; remove it first, or use another name\n");
    here.run(&format!("key trust add b {two}")).is(2, "", &taken);
    here.run(&format!("key trust add c {two}")).is(
        2,
        "",
        &format!("error: the key {two} is trusted already, as `a`\n"),
    );
    here.run("key trust remove b").is(0, &format!("removed {one}  b\n"), "");
    let none = "error: no trusted key has the name `b`; `node key trust list` shows those that are\n";
    here.run("key trust remove b").is(2, "", none);
    let list = here.run("key trust list --json").json();
    assert_eq!(list, [serde_json::json!({ "name": "a", "public_key": two, "former": [] })]);
    for wrong in [two.to_string().to_uppercase(), "00".repeat(32), "words".to_owned()] {
        let ran = here.run(&format!("key trust add c {wrong}"));
        assert!(ran.code == 2 && ran.stderr.contains("is not a public key: 64 lowercase hex"), "{ran:?}");
    }
    let ran = here.run(&format!("key trust add self {one}"));
    assert!(ran.code == 2 && ran.stderr.contains("is not `self`"), "{ran:?}");

    here.file("node-data/state/keys/trusted", "compute-host trusted keys v1\na nonsense\n");
    let damaged = "error: the list of trusted keys `node-data/state/keys/trusted` is damaged: line 2 is not a name and its \
                   keys, or has what another line has; mend it, or move it away and add the keys again\n";
    here.run("key trust list").is(2, "", damaged);
}

#[test]
fn none_of_many_changes_at_once_is_lost() {
    let here = Workplace::new();
    here.run("key show").output();
    let keyring = Keyring::new(here.path("node-data/state"));
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let keyring = &keyring;
            scope.spawn(move || {
                for i in 0..5 {
                    let key = NodeKey::from_secret([thread * 5 + i + 1; 32]).public();
                    let name = format!("node-{thread}-{i}").parse().unwrap();
                    keyring.change_trusted(|trusted| trusted.add(&name, key)).unwrap();
                }
            });
        }
    });
    assert_eq!(keyring.trusted().unwrap().list().len(), 20);
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

/// Creates a keyring in a state directory of its own.
fn keyring(here: &Workplace) -> Keyring {
    let state = here.path("state");
    std::fs::create_dir_all(&state).unwrap();
    Keyring::new(state)
}

fn public(keyring: &Keyring) -> PublicKey {
    keyring.node_key(now()).unwrap().0.public()
}

/// A rotation that a crash interrupts has not happened; the next one continues it.
#[test]
fn an_interrupted_rotation_loses_no_key() {
    let here = Workplace::new();
    let keyring = keyring(&here);
    let first = public(&keyring);
    let (path, next) = (keyring.path(), here.path("state/node.key.next"));
    let former = std::fs::read(&path).unwrap();
    let done = keyring.rotate(now()).unwrap();
    assert!(!next.exists());

    // State after the statement was written, before the successor is in place.
    std::fs::rename(&path, &next).unwrap();
    std::fs::write(&path, &former).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(public(&keyring), first);
    assert_eq!(keyring.former().unwrap(), [], "what still signs is not retired");
    assert_eq!(keyring.owners().unwrap().of(&first), KeyOwner::ThisNode);
    let again = keyring.rotate(now()).unwrap();
    assert_eq!(again, done, "whoever has seen the first statement is not misled");
    assert_eq!(public(&keyring), done.rotation.successor());
    assert_eq!(keyring.owners().unwrap().of(&first), KeyOwner::ThisNodeFormerly);

    // A damaged successor was never used.
    std::fs::write(&next, "half a k").unwrap();
    std::fs::set_permissions(&next, Permissions::from_mode(0o600)).unwrap();
    let third = keyring.rotate(now() + Duration::from_secs(1)).unwrap().rotation;
    assert_eq!((third.former(), third.successor()), (done.rotation.successor(), public(&keyring)));
    let former: Vec<PublicKey> = keyring.former().unwrap().iter().map(|one| one.rotation.former()).collect();
    assert_eq!(former, [third.former(), first], "the last first");
}

#[test]
fn a_statement_that_is_damaged_is_named() {
    let here = Workplace::new();
    let keyring = keyring(&here);
    let done = keyring.rotate(now()).unwrap();
    assert_eq!(Rotation::read(&std::fs::read(&done.statement).unwrap()).as_ref(), Ok(&done.rotation));
    std::fs::write(&done.statement, "text").unwrap();
    let error = keyring.former().unwrap_err();
    assert!(matches!(&error, KeyError::Rotation { path, .. } if *path == done.statement), "{error}");
}

#[test]
fn what_signs_is_what_the_keyring_has() {
    let here = Workplace::new();
    let keyring = keyring(&here);
    let own = || keyring.node_key(now()).unwrap().0;
    let signer = Signer::new(own());
    let first = signer.public();
    let done = signer.rotate(&keyring, now()).unwrap();
    let second = signer.public();
    assert_eq!((done.rotation.former(), done.rotation.successor()), (first, second));
    assert_eq!(own().public(), second);

    // A backup is imported only if there is no other key.
    let backup = here.path("backup.key");
    keyring.export(&backup, now()).unwrap();
    signer.rotate(&keyring, now()).unwrap();
    let third = signer.public();
    signer.import(&keyring, &backup, now()).unwrap_err();
    assert_eq!(signer.public(), third);
    std::fs::remove_file(keyring.path()).unwrap();
    assert_eq!((signer.import(&keyring, &backup, now()).unwrap(), signer.public()), (second, second));
}

#[test]
fn a_key_that_somebody_put_there_is_not_rotated_in_the_place_of_the_one_that_signs() {
    let here = Workplace::new();
    let keyring = keyring(&here);
    let signer = Signer::new(keyring.node_key(now()).unwrap().0);
    let signing = signer.public();
    std::fs::remove_file(keyring.path()).unwrap();
    let error = signer.rotate(&keyring, now()).unwrap_err();
    assert!(matches!(error, KeyError::Replaced { signing: known, .. } if known == signing), "{error}");
    assert_eq!((signer.public(), keyring.former().unwrap()), (signing, Vec::new()));
}

/// A former secret is overwritten in place, so that even an open file does not show it.
#[test]
fn a_former_secret_is_destroyed() {
    use std::io::{Read as _, Seek as _};
    let here = Workplace::new();
    let keyring = keyring(&here);
    public(&keyring);
    let mut held = std::fs::File::open(keyring.path()).unwrap();
    let mut before = String::new();
    held.read_to_string(&mut before).unwrap();
    keyring.rotate(now()).unwrap();
    held.rewind().unwrap();
    let mut after = Vec::new();
    held.read_to_end(&mut after).unwrap();
    assert!(before.contains("secret ") && after.iter().all(|byte| *byte == 0), "{} bytes", after.len());
}

/// A rotation does not replace the key of a node at work.
#[test]
fn a_rotation_waits_for_the_node_to_be_done() {
    use std::io::{BufRead as _, BufReader};
    let here = Workplace::new();
    let before = key(&here);
    let lock = std::fs::File::open(here.path("node-data/state/lock")).unwrap();
    lock.lock().unwrap();
    let mut rotating = here.command(["key", "rotate"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut note = String::new();
    BufReader::new(rotating.stderr.take().unwrap()).read_line(&mut note).unwrap();
    assert_eq!(note, "note: waiting for another node to be done with `node-data`\n");
    assert_eq!(key(&here), before);
    lock.unlock().unwrap();
    assert!(rotating.wait().unwrap().success());
    assert_ne!(key(&here), before);
}
