//! The structure of the code, enforced: levels, no circles, and where `unsafe` may stand.

#[path = "structure/imports.rs"]
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{Imports, Source};

/// A module imports only from lower levels, or from its own folder.
const LEVELS: [(&str, u32); 28] = [
    ("error", 0),
    ("config", 0),
    ("id", 0),
    ("priority", 0),
    ("sync", 0),
    ("trace", 0),
    ("failpoint", 0),
    ("sys", 1),
    ("trace_context", 1),
    ("shm", 2),
    ("ring", 3),
    ("link", 4),
    ("pipe", 4),
    ("payload", 5),
    ("protocol", 5),
    ("process", 6),
    ("raw", 6),
    ("recording", 7),
    ("status_page", 7),
    ("crash_report", 7),
    ("inspect", 8),
    ("channel", 8),
    ("worker", 8),
    ("tasks", 9),
    ("named", 9),
    ("testing", 9),
    ("backend", 9),
    ("pool", 10),
];

/// The same of the gateway's crate.
const UNSAFE_IN_GATEWAY: [&str; 1] = ["wire/socket.rs"];

/// The only files that may contain `unsafe`, each with a reason at its head.
const UNSAFE: [&str; 34] = [
    "failpoint_armed.rs",
    "named/segment.rs",
    "process/robust_futex.rs",
    "process/stdio.rs",
    "process/testing.rs",
    "ring/open_slot.rs",
    "shm/byte_ring.rs",
    "shm/bytes.rs",
    "shm/file_map.rs",
    "shm/model.rs",
    "shm/region.rs",
    "shm/second_map.rs",
    "shm/shared_map.rs",
    "shm/slots.rs",
    "shm/status_memory.rs",
    "shm/transport.rs",
    "shm/words.rs",
    "sys/arch.rs",
    "sys/arch_aarch64.rs",
    "sys/arch_other.rs",
    "sys/clock.rs",
    "sys/copy.rs",
    "sys/cpu.rs",
    "sys/exit.rs",
    "sys/fd.rs",
    "sys/fork.rs",
    "sys/futex.rs",
    "sys/memfd.rs",
    "sys/posix_spawn.rs",
    "sys/process.rs",
    "sys/signal.rs",
    "sys/thread.rs",
    "sys/wake_fd.rs",
    "sys/wake_socket.rs",
];

/// The only files that read the clock of the system, which can be set: for moments that are told to people,
/// times of files, dates of certificates, and an event of another library. No timeout goes by it.
const SYSTEM_CLOCK: [&str; 5] = [
    "channel/crash_report.rs",
    "channel/start.rs",
    "named/slices.rs",
    "named/stale.rs",
    "recording/info.rs",
];

const SYSTEM_CLOCK_IN_GATEWAY: [&str; 2] = ["tls/make_certs.rs", "tls/reload.rs"];

fn sources() -> Vec<Source> {
    sources_in("src")
}

/// None in the library's package, which does not have them.
fn gateway_sources() -> Vec<Source> {
    sources_if_there("crates/slipring-gateway/src")
}

fn sources_if_there(folder: &str) -> Vec<Source> {
    let is_here = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).exists();
    if is_here { sources_in(folder) } else { Vec::new() }
}

fn sources_in(folder: &str) -> Vec<Source> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    walk(&root, &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        Source::new(name, fs::read_to_string(path).unwrap())
    };
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let all: Vec<_> = found.into_iter().filter(is_rust).map(read).collect();
    assert!(all.len() > 30, "the sources were not found");
    all
}

fn level(module: &str) -> Option<u32> {
    LEVELS.iter().find(|(name, _)| *name == module).map(|(_, level)| *level)
}

#[test]
fn modules_import_only_from_lower_levels() {
    let sources = sources();
    let imports = Imports::of(&sources);
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test_only()) {
        let Source { name, module, .. } = source;
        let Some(own) = module.first() else { continue };
        let own_level = level(own).unwrap_or_else(|| panic!("{name}: give `{own}` a level"));
        for path in imports.paths(source) {
            // Only names of modules have a level; items of the crate's root are not used.
            let import = path.first().map_or("", String::as_str);
            let Some(theirs) = level(import) else {
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

/// For each folder, which of its files import which others. A file and the folder of the same
/// name count as one; the file that a folder is a module by is called `mod` inside it.
type Graphs = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn graphs() -> Graphs {
    let sources = sources();
    let imports = Imports::of(&sources);
    let mut graphs = Graphs::new();
    for source in sources.iter().filter(|source| !source.is_test_only()) {
        for used in imports.used(source) {
            for depth in 0..=source.module.len() {
                let (folder, own) = source.module.split_at(depth);
                let Some(used) = used.strip_prefix(folder) else { break };
                let name = |path: &[String]| path.first().map_or("mod", String::as_str).to_owned();
                let (own, used) = (name(own), name(used));
                if own != used {
                    let graph = graphs.entry(folder.join("/")).or_default();
                    graph.entry(own).or_default().insert(used);
                }
            }
        }
    }
    graphs
}

/// The files that can be reached from themselves, and over what.
fn circles(graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeMap<&str, Vec<&str>> {
    fn reached<'a>(
        graph: &'a BTreeMap<String, BTreeSet<String>>,
        from: &'a str,
    ) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut next = vec![from];
        while let Some(file) = next.pop() {
            let imported = graph.get(file).into_iter().flatten().map(String::as_str);
            next.extend(imported.filter(|file| found.insert(*file)));
        }
        found
    }
    let files = graph.keys().map(String::as_str);
    let in_circles = files.filter(|file| reached(graph, file).contains(file));
    in_circles
        .map(|file| {
            let imported = graph[file].iter().map(String::as_str);
            (file, imported.filter(|other| reached(graph, other).contains(file)).collect())
        })
        .collect()
}

#[test]
fn files_of_a_folder_import_each_other_without_circles() {
    let graphs = graphs();
    assert!(graphs["shm"]["region"].contains("layout"), "the imports were not found");
    let mut wrong = Vec::new();
    for (folder, graph) in &graphs {
        for (file, others) in circles(graph) {
            wrong.push(format!("{folder}/{file} imports {others:?}, which lead back to it"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stands_only_where_the_list_says() {
    stands_only_in(&UNSAFE, sources());
    stands_only_in(&UNSAFE_IN_GATEWAY, gateway_sources());
}

fn stands_only_in(list: &[&str], sources: Vec<Source>) {
    for Source { name, text, .. } in sources {
        let code: String =
            text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        let uses = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"]
            .iter()
            .any(|word| code.contains(word));
        let opens = text.contains("allow(unsafe_code");
        let listed = list.contains(&name.as_str());
        assert_eq!((uses, opens), (listed, listed), "{name}");
    }
}

#[test]
fn the_systems_clock_is_read_only_where_the_list_says() {
    for (list, sources) in
        [(&SYSTEM_CLOCK[..], sources()), (&SYSTEM_CLOCK_IN_GATEWAY, gateway_sources())]
    {
        for Source { name, text, .. } in sources {
            let code = text.split("\nmod tests {").next().unwrap_or_default();
            let words = ["SystemTime::now", "UnixTime::now", "CLOCK_REALTIME"];
            let reads = words.iter().any(|word| code.contains(word));
            assert_eq!(reads, list.contains(&name.as_str()), "{name}");
        }
    }
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let folders = ["src", "tests", "crates", "python/src"];
    for Source { name, text, .. } in folders.into_iter().flat_map(sources_if_there) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let is_unsafe = line.contains("unsafe {") || line.contains("unsafe impl");
            // Two tests look for these words in the code.
            if !is_unsafe || line.trim_start().starts_with("//") || line.contains("\"unsafe") {
                continue;
            }
            // In the comment right above it, but for attributes.
            let above = lines[..number].iter().rev().map(|line| line.trim_start());
            let above = above.skip_while(|line| line.starts_with("#["));
            let mut comment = above.take_while(|line| line.starts_with("//"));
            assert!(comment.any(|line| line.contains("SAFETY")), "{name}:{}", number + 1);
        }
    }
}
