//! What the documents promise is there: tests that they name, numbers that they give.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_test_that_is_named_for_a_crash_exists() {
    let mut count = 0;
    for line in read("docs/CRASHES.md").lines().filter(|line| line.starts_with("| ")) {
        let Some(name) = line.split('`').find(|part| part.contains("::")) else {
            assert!(line.contains("| test |"), "a row without a test: {line}");
            continue;
        };
        let (file, test) = name.split_once("::").unwrap();
        let own = format!("tests/{file}.rs");
        let is_binary = root().join(&own).exists();
        let text = read(&if is_binary { own } else { format!("tests/it/{file}.rs") });
        assert!(text.contains(&format!("#[test]\nfn {test}()")), "{name} does not exist");
        count += 1;
    }
    assert!(count > 20, "{count}");
}

/// Files of the library with `unsafe`, how often, and the reason at their head.
fn inventory() -> BTreeMap<String, (usize, String)> {
    let source = root().join("src");
    let mut directories = vec![source.clone()];
    let mut found = BTreeMap::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let uses =
                |line: &str| line.matches("unsafe {").count() + line.matches("unsafe impl").count();
            let count: usize = code.map(uses).sum();
            if count == 0 {
                continue;
            }
            let (_, rest) = text.split_once("allow(unsafe_code,").unwrap();
            let reason = rest.split('"').nth(1).unwrap().to_owned();
            let name = path.strip_prefix(&source).unwrap().display().to_string();
            found.insert(name, (count, reason));
        }
    }
    found
}

#[test]
fn the_inventory_of_unsafe_is_the_sources() {
    let mut told = BTreeMap::new();
    for line in read("docs/SAFETY.md").lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        told.insert(name, (cells[2].parse().unwrap(), cells[3].to_owned()));
    }
    assert_eq!(told, inventory(), "docs/SAFETY.md is not up to date");
}
