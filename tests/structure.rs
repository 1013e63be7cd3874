//! The structure of the code, enforced: levels, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// A module imports only from lower levels, or from its own folder.
const LEVELS: [(&str, u32); 19] = [
    ("error", 0),
    ("config", 0),
    ("id", 0),
    ("sync", 0),
    ("trace", 0),
    ("failpoint", 0),
    ("sys", 1),
    ("shm", 2),
    ("ring", 3),
    ("link", 4),
    ("payload", 5),
    ("protocol", 5),
    ("process", 6),
    ("raw", 6),
    ("channel", 7),
    ("worker", 7),
    ("tasks", 8),
    ("named", 8),
    ("testing", 8),
];

/// The only files that may contain `unsafe`, each with a reason at its head.
const UNSAFE: [&str; 22] = [
    "failpoint.rs",
    "process/robust_futex.rs",
    "process/stdio.rs",
    "process/testing.rs",
    "shm/bytes.rs",
    "shm/mapped.rs",
    "shm/named.rs",
    "shm/region.rs",
    "shm/region_loom.rs",
    "shm/slots.rs",
    "sys/clock.rs",
    "sys/copy.rs",
    "sys/cpu.rs",
    "sys/fd.rs",
    "sys/fork.rs",
    "sys/futex.rs",
    "sys/futex_words.rs",
    "sys/memfd.rs",
    "sys/posix_spawn.rs",
    "sys/process.rs",
    "sys/signal.rs",
    "sys/wake_fd.rs",
];

fn sources() -> Vec<(String, String)> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    let all: Vec<_> = found.into_iter().filter(|p| p.extension().is_some()).map(read).collect();
    assert!(all.len() > 30, "the sources were not found");
    all
}

fn level(module: &str) -> Option<u32> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

/// Code that only tests compile may reach upwards, to build what it tests.
fn is_test_only(name: &str) -> bool {
    let stem = name.rsplit('/').next().unwrap();
    name.contains('/')
        && (stem.ends_with("tests.rs")
            || ["testing.rs", "models.rs", "mutants.rs", "vectors.rs"].contains(&stem))
}

/// Names of the top-level modules that the code before the file's tests mentions.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code = code.split("#[cfg(all(test, not(loom)))]\nmod tests").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text: String = lines.collect::<Vec<_>>().join("\n");
    text.match_indices("crate::")
        // Not `$crate::`, and not the end of a longer name.
        .filter(|(at, _)| {
            !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$')
        })
        .map(|(at, found)| {
            let rest = &text[at + found.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            rest[..end].to_owned()
        })
        .collect()
}

#[test]
fn modules_import_only_from_lower_levels() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let own = name.split('/').next().unwrap().trim_end_matches(".rs");
        if own == "lib" || is_test_only(&name) {
            continue;
        }
        let own_level = level(own).unwrap_or_else(|| panic!("{name}: give `{own}` a level"));
        for import in imports(&text) {
            // Only names of modules have a level; items of the crate's root are not used.
            let Some(theirs) = level(&import) else {
                wrong.push(format!("{name}: crate::{import} is no module"));
                continue;
            };
            if import != own && theirs >= own_level && own_level > 0 {
                wrong.push(format!("{name} (level {own_level}) imports {import} ({theirs})"));
            }
            if own_level == 0 && theirs > 0 {
                wrong.push(format!("{name} (level 0) imports {import} ({theirs})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stands_only_where_the_list_says() {
    for (name, text) in sources() {
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let uses = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
            .iter()
            .any(|word| code.contains(word));
        let opens = text.contains("allow(unsafe_code");
        let listed = UNSAFE.contains(&name.as_str());
        assert_eq!((uses, opens), (listed, listed), "{name}");
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for (name, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let is_unsafe = line.contains("unsafe {") || line.contains("unsafe impl");
            if !is_unsafe || line.trim_start().starts_with("//") {
                continue;
            }
            // Somewhere in the statement's own comment, at most a few lines up.
            let from = number.saturating_sub(8);
            let above = lines[from..=number].join("\n");
            assert!(above.contains("SAFETY"), "{name}:{}", number + 1);
        }
    }
}
