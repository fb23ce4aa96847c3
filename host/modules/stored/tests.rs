//! Tests of several adders, their names and their shares. tests/it/modules.rs tests a single adder.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

const ROOM: Quota = Quota { modules_max: 100, bytes_max: 1 << 20 };

fn wasm(module: u8) -> Vec<u8> {
    vec![module; 10]
}

fn digest(module: u8) -> Digest {
    Digest::of(&wasm(module))
}

fn name(text: &str) -> ModuleName {
    text.parse().unwrap()
}

fn open(directory: &Path, quota: Quota) -> StoredModules {
    StoredModules::new(directory.to_owned(), quota)
}

fn record(by: &str) -> ModuleRecord {
    ModuleRecord::new(10, "compute".to_owned(), 7, by.to_owned())
}

fn add(store: &StoredModules, by: &str, module: u8, named: Option<&str>) -> Result<AddedParts, StoredError> {
    let named = named.map(name);
    let claim = named.as_ref().map(|name| NameClaim { name, takes_over: by == "owner" });
    store.add_named(&digest(module), &wasm(module), &record(by), claim)
}

fn leads_to(store: &StoredModules, named: &str) -> Option<Digest> {
    store.find(&ModuleKey::Name(name(named))).ok()
}

#[test]
fn a_name_belongs_to_who_was_given_it_not_to_who_brought_the_bytes() {
    let here = tempfile::tempdir().unwrap();
    let store = open(here.path(), ROOM);
    add(&store, "token a", 1, None).unwrap();
    add(&store, "token b", 1, Some("prod")).unwrap();
    assert!(matches!(add(&store, "token a", 2, Some("prod")), Err(StoredError::NameTaken { .. })));
    assert!(!store.contains(&digest(2)), "nothing is stored of an upload whose name is refused");
    assert!(matches!(add(&store, "token a", 1, Some("prod")), Err(StoredError::NameTaken { .. })), "nor to its bytes");
    let moved = add(&store, "token b", 2, Some("prod")).unwrap();
    assert_eq!((moved.renamed, leads_to(&store, "prod")), (Some(digest(1)), Some(digest(2))));
    add(&store, "owner", 3, Some("prod")).unwrap();
    let store = open(here.path(), ROOM);
    assert_eq!(leads_to(&store, "prod"), Some(digest(3)));
    assert!(matches!(add(&store, "token b", 2, Some("prod")), Err(StoredError::NameTaken { .. })));
}

#[test]
fn a_module_goes_with_the_last_of_its_adders() {
    let here = tempfile::tempdir().unwrap();
    let store = open(here.path(), ROOM);
    add(&store, "token a", 1, Some("a")).unwrap();
    add(&store, "token b", 1, Some("b")).unwrap();
    add(&store, "token b", 1, Some("bb")).unwrap();
    let by_digest = ModuleKey::Digest(digest(1));
    for key in [&by_digest, &ModuleKey::Name(name("a")), &ModuleKey::Name(name("b"))] {
        assert!(matches!(store.remove_for(key, "token c"), Err(StoredError::NotYours(_))), "{key}");
    }
    assert!(!store.remove_for(&by_digest, "token a").unwrap());
    let store = open(here.path(), ROOM);
    assert_eq!((leads_to(&store, "a"), leads_to(&store, "b")), (None, Some(digest(1))));
    assert_eq!(store.record(&digest(1)).unwrap().added_by, "token b");
    assert!(!store.remove_for(&ModuleKey::Name(name("b")), "token b").unwrap(), "it has another name of the adder");
    assert!(store.remove_for(&ModuleKey::Name(name("bb")), "token b").unwrap());
    assert_eq!((store.page(None, 9).unwrap().modules.len(), store.stored().unwrap()), (0, StoredTotals::default()));
}

#[test]
fn the_owner_of_the_node_removes_what_others_added() {
    let here = tempfile::tempdir().unwrap();
    let store = open(here.path(), ROOM);
    for by in ["token a", "token b"] {
        add(&store, by, 1, Some(&by[6..])).unwrap();
    }
    assert!(store.remove(&ModuleKey::Digest(digest(1))).unwrap());
    assert_eq!((leads_to(&store, "a"), leads_to(&store, "b")), (None, None));
}

#[test]
fn one_token_leaves_others_a_part_of_the_store() {
    let here = tempfile::tempdir().unwrap();
    let quota = [Quota { modules_max: 20, ..ROOM }, Quota { bytes_max: 200, ..ROOM }];
    for (quota, directory) in quota.into_iter().zip(["count", "bytes"]) {
        let store = open(&here.path().join(directory), quota);
        let fill = |store: &StoredModules, by: &str, from: u8| -> usize {
            (from..from + 60).take_while(|module| add(store, by, *module, None).is_ok()).count()
        };
        assert_eq!(fill(&store, "token a", 0), 18, "nine tenths");
        let store = open(&here.path().join(directory), quota);
        assert_eq!(fill(&store, "token a", 100), 0, "also after a restart");
        assert_eq!((fill(&store, "token b", 60), fill(&store, "owner", 180)), (1, 1));
        assert!(store.remove_for(&ModuleKey::Digest(digest(0)), "token a").unwrap());
        assert_eq!(fill(&store, "owner", 100), 1, "what is freed is free at once");
    }
}

/// A directory in the format of version 1: a record has one adder, and a name has none.
#[test]
fn modules_and_names_of_version_1_are_read() {
    let here = tempfile::tempdir().unwrap();
    fs::create_dir_all(here.path().join("names")).unwrap();
    for (module, by) in [(1, "token a"), (2, "user 1000")] {
        let record = r#"{"version":1,"bytes":10,"kind":"compute","added_unix_ms":7,"added_by":"BY"}"#.replace("BY", by);
        fs::write(here.path().join(format!("{}.json", digest(module))), record).unwrap();
        fs::write(here.path().join(format!("{}.wasm", digest(module))), wasm(module)).unwrap();
        fs::write(here.path().join(format!("names/name-{module}")), format!("{}\n", digest(module))).unwrap();
    }
    fs::write(here.path().join("names/dangling"), format!("{}\n", digest(3))).unwrap();
    let store = open(here.path(), ROOM);
    assert_eq!(store.stored().unwrap(), StoredTotals { modules: 2, bytes: 20 });
    for module in [1, 2] {
        assert_eq!(leads_to(&store, &format!("name-{module}")), Some(digest(module)));
        assert_eq!(store.read(&digest(module)).unwrap(), wasm(module));
        assert_eq!(store.names_of(&digest(module)).unwrap(), [name(&format!("name-{module}"))]);
        let taken = add(&store, "token b", 4, Some(&format!("name-{module}")));
        assert!(matches!(taken, Err(StoredError::NameTaken { .. })));
    }
    add(&store, "token b", 4, Some("dangling")).unwrap();
    add(&store, "token a", 4, Some("name-1")).unwrap();
    add(&store, "owner", 4, Some("name-2")).unwrap();
    assert!(store.remove_for(&ModuleKey::Digest(digest(1)), "token a").unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    Add { by: usize, module: u8, named: Option<usize> },
    Remove { by: usize, module: u8 },
    RemoveName { by: usize, named: usize },
    Restart,
}

const ADDERS: [&str; 4] = ["owner", "token a", "token b", "token c"];
const NAMES: [&str; 3] = ["x", "y", "z"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (by, module, named) = (0..ADDERS.len(), 0..4_u8, 0..NAMES.len());
    let step = prop_oneof![
        4 => (by.clone(), module.clone(), prop::option::of(named.clone()))
            .prop_map(|(by, module, named)| Step::Add { by, module, named }),
        2 => (by.clone(), module).prop_map(|(by, module)| Step::Remove { by, module }),
        2 => (by, named).prop_map(|(by, named)| Step::RemoveName { by, named }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A token's names and modules stay unchanged, whatever others do, until the token or the
    /// node's owner changes them. The index in memory always equals the files.
    #[test]
    fn nobody_changes_what_is_anothers(steps in steps()) {
        let here = tempfile::tempdir().unwrap();
        let mut store = open(here.path(), ROOM);
        for step in steps {
            let owned = |store: &StoredModules| -> BTreeMap<String, (Tenant, Digest)> {
                let owned = store.look(|index| NAMES.map(|named| index.named(&name(named)).cloned())).unwrap();
                NAMES.iter().zip(owned).filter_map(|(n, o)| o.map(|o| ((*n).to_owned(), (o.by, o.digest)))).collect()
            };
            let adders = |store: &StoredModules| -> Vec<(Tenant, Digest)> {
                let pairs = |listed: Listed| {
                    let scopes: Vec<Tenant> = listed.record.unwrap().adders().map(|by| scope_of(by)).collect();
                    scopes.into_iter().map(move |scope| (scope, listed.digest))
                };
                store.page(None, 99).unwrap().modules.into_iter().flat_map(pairs).collect()
            };
            let (names, modules) = (owned(&store), adders(&store));
            let by = match &step {
                Step::Add { by, module, named } => {
                    let _ = add(&store, ADDERS[*by], *module, named.map(|named| NAMES[named]));
                    Some(*by)
                }
                Step::Remove { by, module } => {
                    let key = ModuleKey::Digest(digest(*module));
                    let _ = if *by == 0 { store.remove(&key) } else { store.remove_for(&key, ADDERS[*by]) };
                    Some(*by)
                }
                Step::RemoveName { by, named } => {
                    let key = ModuleKey::Name(name(NAMES[*named]));
                    let _ = if *by == 0 { store.remove(&key) } else { store.remove_for(&key, ADDERS[*by]) };
                    Some(*by)
                }
                Step::Restart => {
                    store = open(here.path(), ROOM);
                    None
                }
            };
            if by == Some(0) {
                continue;
            }
            let is_others = |scope: &Tenant| by.is_none_or(|by| *scope != scope_of(ADDERS[by]));
            let (names_now, modules_now) = (owned(&store), adders(&store));
            for (name, owned) in names.iter().filter(|(_, (scope, _))| is_others(scope)) {
                prop_assert_eq!(names_now.get(name), Some(owned), "{:?}", step);
            }
            for module in modules.iter().filter(|(scope, _)| is_others(scope)) {
                prop_assert!(modules_now.contains(module), "{:?}", step);
            }
            let again = open(here.path(), ROOM);
            prop_assert_eq!((owned(&again), adders(&again)), (names_now, modules_now));
            prop_assert_eq!(again.stored().unwrap(), store.stored().unwrap());
        }
    }
}
