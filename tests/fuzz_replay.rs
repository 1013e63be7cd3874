//! Replays the committed inputs of the fuzz targets, without a fuzzer.

#[path = "../fuzz/src/checks.rs"]
mod checks;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The committed inputs of each target, in a folder of `fuzz/`.
fn inputs(folder: &str) -> BTreeMap<String, Vec<PathBuf>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let list = |folder: &Path| -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
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
        if cfg!(not(feature = "testing")) && ["hostile_peer", "streams"].contains(&&*target) {
            println!("{target}: left out, it needs the feature `testing`");
            continue;
        }
        for file in files {
            let data = fs::read(&file).expect("a readable input");
            // Captured, and shown when the check fails.
            println!("{target}: {}", file.display());
            checks::run(&target, &data);
        }
    }
}

#[test]
fn every_target_has_seeds_and_a_binary_of_the_fuzz_package() {
    let seeds = inputs("seeds");
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let manifest = fs::read_to_string(targets.with_file_name("Cargo.toml")).expect("a manifest");
    for (target, _) in checks::TARGETS {
        assert!(seeds.get(*target).is_some_and(|files| !files.is_empty()), "seeds of {target}");
        assert!(targets.join(target).with_extension("rs").is_file(), "binary of {target}");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "manifest entry of {target}");
    }
}

#[test]
fn every_seed_passes() {
    replay("seeds");
}

#[test]
fn every_regression_stays_fixed() {
    replay("regressions");
}
