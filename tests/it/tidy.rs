//! Rules for the sources, as the documents state them, and rules for the documents.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::root;

/// Longer files have more than one subject.
const LINES_MAX: usize = 400;

/// A longer map takes more than five minutes to read.
const MAP_BYTES_MAX: usize = 10_000;

/// Longer lines of prose are hard to read.
const COLUMNS_MAX: usize = 100;

/// The `.rs` files below a directory of the repository.
pub fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// The names of the modules that a file declares, in their order.
fn declared(file: &Path) -> Vec<String> {
    let name = |line: &str| {
        let line = line.trim_start_matches("pub ");
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    read(file).lines().filter_map(name).collect()
}

/// A module's sources: its file and all below its folder.
fn sources_of(parent: &Path, module: &str) -> Vec<PathBuf> {
    let mut files = vec![parent.join(format!("{module}.rs"))];
    let folder = parent.join(module);
    if folder.is_dir() {
        files.extend(sources(&folder));
    }
    files
}

/// The names that follow `prefix` (`crate::`, `super::`) in a source, also in braces behind it.
fn names_after(source: &str, prefix: &str) -> Vec<String> {
    let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let code = code.join("\n");
    let behind = code.split(prefix).skip(1);
    behind
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').map(|item| word(item.trim())).collect(),
            None => vec![word(rest)],
        })
        .collect()
}

/// The files of the program that declare modules, with the folder of these modules.
fn parents() -> Vec<(PathBuf, PathBuf)> {
    let host = root().join("host");
    let folder = |file: &PathBuf| if file.ends_with("lib.rs") { host.clone() } else { file.with_extension("") };
    let files = sources(&host).into_iter().filter(|file| !declared(file).is_empty());
    files.map(|file| (file.clone(), folder(&file))).collect()
}

/// Paths by which `source`, below `folder`, can name a module of `folder`.
fn prefixes(folder: &Path, source: &Path) -> Vec<String> {
    let host = root().join("host");
    let path: String = folder.strip_prefix(&host).unwrap().iter().map(|part| format!("{}::", part.display())).collect();
    let levels = source.strip_prefix(folder).unwrap().components().count();
    vec![format!("crate::{path}"), format!(" {}", "super::".repeat(levels))]
}

#[test]
fn a_module_uses_only_modules_above_it() {
    let mut wrong = Vec::new();
    for (file, folder) in parents() {
        let order = declared(&file);
        for (i, module) in order.iter().enumerate() {
            // Tests may use all modules.
            let is_test = |source: &PathBuf| source.file_stem().is_some_and(|name| name == "tests");
            for source in sources_of(&folder, module).into_iter().filter(|source| !is_test(source)) {
                let text = read(&source);
                for used in prefixes(&folder, &source).iter().flat_map(|prefix| names_after(&text, prefix)) {
                    if order.iter().position(|other| *other == used).is_some_and(|j| j > i) {
                        let (source, file) = (source.display(), file.display());
                        wrong.push(format!("{source} uses `{used}`, which {file} declares below `{module}`"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names that Rust's users expect in several modules.
const NAMES_OF_SEVERAL_TYPES: [&str; 2] = ["Error", "Settings"];

#[test]
fn no_two_types_have_one_name() {
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources(&root().join("host")) {
        for line in read(&file).lines() {
            let line = line.strip_prefix("pub").map_or(line, |rest| rest.trim_start_matches(|c| c != ' ').trim_start());
            let kind = ["struct ", "enum ", "trait ", "type ", "union "].iter().find(|kind| line.starts_with(**kind));
            let Some(rest) = kind.and_then(|kind| line.strip_prefix(kind)) else { continue };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            declared.entry(name).or_default().push(file.display().to_string());
        }
    }
    assert!(declared.len() > 400, "only {} types are found", declared.len());
    declared.retain(|name, files| files.len() > 1 && !NAMES_OF_SEVERAL_TYPES.contains(&name.as_str()));
    assert!(declared.is_empty(), "{declared:#?}");
}

/// The rows of the table in docs/dependencies.md: a crate, and the modules that it is at home in.
fn homes() -> BTreeMap<String, Vec<String>> {
    let text = read(root().join("docs/dependencies.md"));
    let table = text.split("## Dependencies").nth(1).expect("docs/dependencies.md has a table of dependencies");
    let rows = table.lines().skip_while(|line| !line.starts_with("|--")).skip(1);
    rows.take_while(|line| line.starts_with('|'))
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().replace('`', "")).skip(1);
            let name = cells.next().unwrap();
            (name, cells.next().unwrap().split(", ").map(str::to_owned).collect())
        })
        .collect()
}

#[test]
fn each_dependency_has_a_reason_and_a_home() {
    let manifest: toml::Table = read(root().join("Cargo.toml")).parse().unwrap();
    let mut named: Vec<&String> = ["dependencies", "dev-dependencies"]
        .into_iter()
        .flat_map(|table| manifest[table].as_table().unwrap().keys())
        .collect();
    named.sort();
    let homes = homes();
    assert_eq!(named, homes.keys().collect::<Vec<_>>(), "Cargo.toml and docs/dependencies.md name other crates");

    let host = root().join("host");
    for module in declared(&host.join("lib.rs")) {
        for source in sources_of(&host, &module) {
            let text = read(&source);
            for (name, homes) in &homes {
                let path = format!("{}::", name.replace('-', "_"));
                let mut uses = text
                    .match_indices(&path)
                    .filter(|(at, _)| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':')));
                let at_home = homes.iter().any(|home| *home == module || home == "all");
                assert!(
                    at_home || uses.next().is_none(),
                    "{} uses `{name}`, which is at home in {homes:?}",
                    source.display()
                );
            }
        }
    }
}

#[test]
fn files_have_one_subject() {
    for folder in ["host", "tests", "benches", "examples"] {
        for file in sources(&root().join(folder)) {
            let lines = read(&file).lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines; {LINES_MAX} are enough", file.display());
            let name = file.file_stem().unwrap().to_str().unwrap();
            assert!(
                !["util", "utils", "common", "types", "manager", "helpers"].contains(&name)
                    || file.starts_with(root().join("tests"))
                    || file.starts_with(root().join("benches")),
                "{} is named for nothing",
                file.display()
            );
        }
    }
}

/// The documents at the top of the repository and in `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/design"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn the_map_is_short() {
    let bytes = read(root().join("ARCHITECTURE.md")).len();
    assert!(bytes <= MAP_BYTES_MAX, "ARCHITECTURE.md has {bytes} bytes; {MAP_BYTES_MAX} are enough");
}

/// Functions on the map are named as `Type::function`.
#[test]
fn each_function_on_the_map_exists() {
    let map = read(root().join("ARCHITECTURE.md"));
    let mut host = String::new();
    for source in sources(&root().join("host")) {
        host.push_str(&read(source));
    }
    let mut found = 0;
    for (owner, function) in map.split('`').filter_map(|span| span.split_once("::")) {
        found += 1;
        let is_there = host.contains(&format!("fn {function}(")) || host.contains(&format!("fn {function}<"));
        assert!(is_there && host.contains(owner), "ARCHITECTURE.md names `{owner}::{function}`, which is not there");
    }
    assert!(found >= 20, "only {found} functions were found");
}

/// Tables, code and lines with a link may be longer.
#[test]
fn prose_has_at_most_100_columns() {
    for document in documents() {
        let mut is_code = false;
        for (i, line) in read(&document).lines().enumerate() {
            if line.starts_with("```") {
                is_code = !is_code;
            }
            if is_code || line.starts_with('|') || line.contains("](") {
                continue;
            }
            let columns = line.chars().count();
            assert!(columns <= COLUMNS_MAX, "{}:{} has {columns} columns", document.display(), i + 1);
        }
    }
}

#[test]
fn each_link_between_documents_leads_somewhere() {
    for document in documents() {
        let folder = document.parent().unwrap();
        let text = read(&document);
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            let is_elsewhere = target.is_empty() || target.contains("://");
            assert!(is_elsewhere || folder.join(target).exists(), "{} links to `{target}`", document.display());
        }
    }
}

/// Sources of this repository that people write.
fn all_sources() -> Vec<PathBuf> {
    ["host", "tests", "benches", "examples"].iter().flat_map(|folder| sources(&root().join(folder))).collect()
}

/// A comment begins with the noun or the verb that a reader would search for.
#[test]
fn comments_begin_with_their_subject() {
    for source in all_sources() {
        let mut is_comment = false;
        for (i, line) in read(&source).lines().enumerate() {
            let comment = line.trim_start().strip_prefix("//").map(|text| text.trim_start_matches(['/', '!', ' ']));
            let first = comment.unwrap_or_default().split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            assert!(
                is_comment || !["What", "Who", "Whoever", "Has", "It"].contains(&first),
                "{}:{} begins with `{first}`",
                source.display(),
                i + 1
            );
            let columns = line.chars().count();
            assert!(
                comment.is_none() || columns <= COLUMNS_MAX,
                "{}:{} has {columns} columns",
                source.display(),
                i + 1
            );
            is_comment = comment.is_some();
        }
    }
}

/// CI breaks the meter with each of these (`tests/meter/faults/replay.py`).
#[test]
fn each_fault_that_is_kept_still_applies() {
    let faults = root().join("tests/meter/faults");
    let mut patches: Vec<PathBuf> = std::fs::read_dir(&faults).unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    assert!(patches.len() >= 10, "{}", patches.len());
    for patch in patches {
        let checked = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(root()).output().unwrap();
        assert!(checked.status.success(), "{}: {}", patch.display(), String::from_utf8_lossy(&checked.stderr));
    }
}
