//! Replays the inputs in `seeds/` and `regressions/`, without a fuzzer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use slipring_fuzz::{TARGETS, check};

/// Lists the inputs in a folder of this package, by target.
fn inputs(folder: &str) -> BTreeMap<String, Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("a readable folder");
        entries.map(|entry| entry.expect("a readable folder").path()).collect()
    };
    let targets = list(&folder).into_iter().filter(|path| path.is_dir());
    targets
        .map(|target| {
            let name = target.file_name().expect("a folder").to_string_lossy().into_owned();
            let mut files = list(&target);
            files.sort();
            (name, files)
        })
        .collect()
}

fn replay(folder: &str) {
    for (target, files) in inputs(folder) {
        for file in files {
            let data = fs::read(&file).expect("a readable input");
            // Captured, and shown if the check fails.
            println!("{target}: {}", file.display());
            check(&target, &data);
        }
    }
}

#[test]
fn every_target_has_seeds_and_a_program() {
    let seeds = inputs("seeds");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
    for (target, _) in TARGETS {
        assert!(seeds.get(*target).is_some_and(|files| !files.is_empty()), "seeds of {target}");
        let program = root.join("fuzz_targets").join(target).with_extension("rs");
        assert!(program.is_file(), "program of {target}");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "manifest entry of {target}");
    }
}

#[test]
fn every_seed_passes() {
    replay("seeds");
}

#[test]
fn every_regression_stays_fixed() {
    assert!(inputs("regressions").len() >= 3, "the regressions were not found");
    replay("regressions");
}
