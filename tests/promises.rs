//! What the documents promise is there: tests that they name, numbers that they give.

#[path = "promises/architecture.rs"]
mod architecture;

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
    let text = read("docs/CRASHES.md");
    // The text before the first section explains the form.
    let entries = text.split("\n## ").skip(1).flat_map(|section| section.split("\n* ").skip(1));
    let mut count = 0;
    for entry in entries {
        let name = entry.split('`').find(|part| part.contains("::"));
        let name = name.unwrap_or_else(|| panic!("an entry without a test: {entry}"));
        let (file, test) = name.split_once("::").unwrap();
        let own = format!("tests/{file}.rs");
        let is_binary = root().join(&own).exists();
        let text = read(&if is_binary { own } else { format!("tests/it/{file}.rs") });
        assert!(text.contains(&format!("#[test]\nfn {test}()")), "{name} does not exist");
        count += 1;
    }
    assert!(count > 40, "{count}");
}

/// The documents that are read on a screen or a page, not only searched.
fn documents() -> Vec<(String, String)> {
    let listed = fs::read_dir(root().join("docs")).unwrap();
    let mut names: Vec<String> =
        listed.map(|entry| format!("docs/{}", entry.unwrap().file_name().display())).collect();
    names.retain(|name| name.ends_with(".md"));
    names.push("README.md".to_owned());
    assert!(names.len() > 6, "{names:?}");
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

#[test]
fn no_line_of_the_documents_is_too_long_to_read() {
    let mut long = Vec::new();
    for (name, text) in documents() {
        let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > 110);
        long.extend(lines.map(|(number, line)| format!("{name}:{}: {line}", number + 1)));
    }
    assert!(long.is_empty(), "more than 110 columns: {long:#?}");
}

#[test]
fn every_link_between_documents_leads_to_a_file() {
    for (name, text) in documents() {
        let folder = root().join(&name).parent().unwrap().to_owned();
        for rest in text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            if !target.is_empty() && !target.starts_with("http") {
                assert!(folder.join(target).exists(), "{name}: {target}");
            }
        }
    }
}

/// All Rust files below a folder; none where a package does not have it.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut directories = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            match path.extension() {
                Some(end) if end == "rs" => found.push(path),
                _ if path.is_dir() => directories.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Files of the library with `unsafe`, how often, and the reason at their head.
fn inventory() -> BTreeMap<String, (usize, String)> {
    let mut found = BTreeMap::new();
    for path in sources("src") {
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
        let name = path.strip_prefix(root().join("src")).unwrap().display().to_string();
        found.insert(name, (count, reason));
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

/// A change of what a public type promises is a breaking one, and does not compile.
#[test]
fn public_types_can_be_sent_and_shared_as_promised() {
    use slipring::payload::*;
    use slipring::ring::*;
    use slipring::worker::*;
    use slipring::*;

    fn all<T: Send + Sync + Unpin>() {}
    fn owned<T: Send + Sync + Unpin + 'static>() {}
    fn send<T: Send + Unpin>() {}
    fn unpin<T: Unpin>() {}

    owned::<Channel>();
    owned::<Spawner>();
    owned::<(Stats, ErrorCounts, LatencyHistogram)>();
    // A reply may be kept, moved to other threads and shared among them: it owns its bytes.
    owned::<Reply>();
    owned::<Pending>();
    owned::<Stream>();
    owned::<(StreamTimeouts, StreamTimeout)>();
    all::<MessageWriter<'_>>();
    owned::<MessageReader<'static>>();
    owned::<(Config, ConfigBuilder, RingConfig, WaitStrategy, RoleConfig)>();
    owned::<(Error, ErrorKind, ExitCause, WorkerDeath, HandlerFailure)>();
    owned::<Escaped<String>>();
    owned::<(Health, Kind, RequestId, WorkerState)>();
    owned::<(slipring::pool::RoleHandle, slipring::pool::PoolPending)>();

    all::<PeerBytes<'_>>();
    all::<(Matrix<'_>, MatrixWriter<'_>, MatrixReader<&[u8]>, MatrixShape, ElementType)>();
    all::<(Texts, TextsIter<'_>, TextBatch<'_, &str>, TextBatchSize)>();
    all::<PayloadReader<&Reply>>();
    owned::<PayloadReader<Reply>>();

    send::<(RawLink, RawSender, RawReceiver)>();
    owned::<(Lease, Header)>();
    all::<(Claim<'_>, Batch<'_>, Frame<'_>)>();

    all::<(Request<'_>, CancelToken, AbortFlag)>();
    all::<(Responder<'_>, ReplySlot<'_>, ReplyStream<'_>, ReplyWriter<'_>, Done)>();
    owned::<HandlerError>();
    // A worker is built on the thread that serves it, of closures that may own anything.
    unpin::<Worker<u8>>();

    #[cfg(feature = "async")]
    {
        owned::<slipring::tasks::AsyncChannel>();
        owned::<slipring::tasks::AsyncStream>();
        all::<slipring::tasks::AsyncMessageWriter<'_>>();
        send::<slipring::tasks::AsyncPending>();
        owned::<slipring::pool::AsyncRoleHandle>();
        send::<slipring::pool::AsyncPoolStream>();
    }
    #[cfg(feature = "pipe")]
    {
        use slipring::pipe::{PipeEnd, PipeReader, PipeWatch, PipeWriter};
        owned::<(PipeEnd, PipeReader, PipeWatch, PipeWriter)>();
    }
    #[cfg(feature = "named")]
    owned::<(slipring::named::NamedHost, slipring::named::Stale)>();
}

/// The names of the tests in a file: of functions after `#[test]`, and of those that
/// `conformance!` lists.
fn tests_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in text.match_indices("#[test]") {
        let function = text[at..].split_once("fn ").map_or("", |(_, rest)| rest);
        names.extend(function.split('(').next().map(str::to_owned));
    }
    for (at, start) in text.match_indices("\nconformance! {\n") {
        let list = text[at + start.len()..].split("\n}\n").next().unwrap_or_default();
        let lines = list.lines().filter_map(|line| line.trim().strip_suffix(','));
        names.extend(lines.filter(|line| !line.contains([':', ']'])).map(str::to_owned));
    }
    names
}

#[test]
fn every_test_has_a_name_of_at_most_seventy_characters() {
    let mut long = Vec::new();
    let mut count = 0;
    for path in ["src", "tests", "crates"].into_iter().flat_map(sources) {
        let names = tests_in(&fs::read_to_string(&path).unwrap());
        count += names.len();
        let longer = names.into_iter().filter(|name| name.len() > 70);
        long.extend(longer.map(|name| format!("{}: {name}", path.display())));
    }
    assert!(count > 500, "only {count} tests were found");
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn examples_handle_their_errors() {
    for path in sources("examples") {
        let path = path.strip_prefix(root()).unwrap();
        if path.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let text = read(path.to_str().unwrap());
        let text = text.split("#[cfg(test)]").next().unwrap();
        for word in [".unwrap()", ".expect(", "panic!"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}
