//! Table of SECURITY.md: the tests that it names exist.

use std::collections::HashSet;

use crate::common::root;
use crate::tidy::sources;

/// Returns the names of all functions below `host/` and `tests/` with a test attribute.
fn tests() -> HashSet<String> {
    let mut names = HashSet::new();
    for file in ["host", "tests"].iter().flat_map(|folder| sources(&root().join(folder))) {
        let text = std::fs::read_to_string(file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim_start) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let after = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
            if let Some((name, _)) = after.and_then(|after| after.split_once('('))
                && std::mem::take(&mut is_test)
            {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

#[test]
fn each_line_of_the_security_table_names_its_tests() {
    let text = std::fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with("|--")).skip(1);
    let rows: Vec<&str> = table.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    let tests = tests();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 5, "{row}");
        let named: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test is named: {row}");
        for name in named {
            assert!(tests.contains(name), "there is no test `{name}`: {row}");
        }
    }
}
