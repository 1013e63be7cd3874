//! Every file and function that the documents about the inside name exists, and stands where they
//! say.

use std::fs;

use super::root;

/// The names in a document that are code: what stands between backticks, outside of blocks.
fn names_of_code(text: &str) -> Vec<String> {
    let outside: Vec<&str> = text.split("```").step_by(2).collect();
    let outside = outside.join("\n");
    let spans = outside.split('`').skip(1).step_by(2);
    spans.map(|span| span.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// All files of a folder, with their paths from there.
fn files_of(folder: &str) -> Vec<(String, String)> {
    let base = root().join(folder);
    let (mut directories, mut found) = (vec![base.clone()], Vec::new());
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&base).unwrap().display().to_string();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

/// The blocks of a source that begin with such a line: up to the brace at the same depth.
fn blocks(text: &str, begins: impl Fn(&str) -> bool) -> Vec<Vec<&str>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.trim_start();
        if !begins(code) || code.ends_with('}') || code.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        blocks.push(lines.by_ref().take_while(|line| **line != end).collect());
    }
    blocks
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Whether code defines a function, constant or item of this name, with any visibility.
fn defines(code: &str, name: &str) -> bool {
    let mut words = words(code);
    let is_keyword = |word: &str| {
        ["fn", "const", "static", "struct", "enum", "trait", "mod", "type", "macro_rules"]
            .contains(&word)
    };
    words.by_ref().take(7).any(is_keyword) && {
        let mut words = self::words(code).skip_while(|word| !is_keyword(word));
        // `const fn`, `unsafe extern fn` have more than one such word.
        words.by_ref().take(3).any(|word| word == name)
    }
}

/// Whether `kind` has a method, constant, variant or field of this name.
fn is_member(sources: &[(String, String)], kind: &str, member: &str) -> bool {
    let is_of_kind = |code: &str| {
        let head = code.split(" where ").next().unwrap_or(code);
        ["impl", "enum", "trait", "pub", "struct"].iter().any(|word| head.starts_with(word))
            && words(head).any(|word| ["impl", "enum", "trait", "struct"].contains(&word))
            && words(head).any(|word| word == kind)
    };
    sources.iter().any(|(_, text)| {
        blocks(text, is_of_kind).iter().flatten().any(|line| {
            let code = line.trim_start();
            // A variant or field stands first on its line.
            let first = words(code.trim_start_matches("pub(crate) ").trim_start_matches("pub "));
            defines(code, member) || !code.starts_with("//") && first.take(1).any(|w| w == member)
        })
    })
}

/// Whether a name that a document gives to a file or a function is true; names of other
/// things always are.
fn is_there(sources: &[(String, String)], name: &str) -> bool {
    if name.ends_with(".rs") && !name.contains(' ') {
        let is_named_so = |path: &str| path == name || path.ends_with(&format!("/{name}"));
        return sources.iter().any(|(path, _)| is_named_so(path)) || root().join(name).is_file();
    }
    let path = name.split(['(', '<']).next().unwrap_or(name);
    let Some((before, member)) = path.rsplit_once("::") else { return true };
    if !before.chars().chain(member.chars()).all(|c| c.is_alphanumeric() || "_:".contains(c)) {
        return true;
    }
    let parent = before.rsplit("::").next().unwrap_or(before);
    if parent.starts_with(char::is_uppercase) {
        return is_member(sources, parent, member);
    }
    // A module's: of the file or the folder of that name, or of the library's root.
    let is_of_module =
        |path: &str| parent == "slipring" || path.split(['/', '.']).any(|part| part == parent);
    sources.iter().filter(|(path, _)| is_of_module(path)).any(|(path, text)| {
        text.lines().any(|line| defines(line.trim_start(), member))
            || path.split(['/', '.']).any(|part| part == member)
    })
}

/// The documents, each with the least number of files and of functions that it names.
const DOCUMENTS: [(&str, usize, usize); 3] =
    [("docs/ARCHITECTURE.md", 15, 10), ("docs/MEMORY.md", 5, 10), ("docs/SAFETY.md", 25, 3)];

/// Names in the documents of code that is on its way. To be empty again soon.
const ON_ITS_WAY: &[&str] = &[];

#[test]
fn every_file_and_function_that_the_documents_name_exists() {
    let sources = files_of("src");
    let mut done: Vec<&&str> = Vec::new();
    for (document, least_files, least_functions) in DOCUMENTS {
        let names = names_of_code(&fs::read_to_string(root().join(document)).unwrap());
        let files = names.iter().filter(|name| name.ends_with(".rs")).count();
        let functions = names.iter().filter(|name| name.contains("::")).count();
        assert!(files >= least_files, "{document}: {files} files: {names:?}");
        assert!(functions >= least_functions, "{document}: {functions} functions: {names:?}");
        let (there, gone): (Vec<_>, Vec<_>) =
            names.iter().map(String::as_str).partition(|name| is_there(&sources, name));
        let gone: Vec<&str> = gone.into_iter().filter(|name| !ON_ITS_WAY.contains(name)).collect();
        assert!(gone.is_empty(), "{document} names what does not exist: {gone:#?}");
        done.extend(ON_ITS_WAY.iter().filter(|name| there.contains(name)));
    }
    assert!(done.is_empty(), "these exist now: take them off the list: {done:#?}");
}

/// The names that a document gives with the file that has them, as in `name` (`folder/file.rs`).
fn names_with_files(text: &str) -> Vec<(String, String)> {
    let outside: Vec<&str> = text.split("```").step_by(2).collect();
    let outside = outside.join("\n");
    let parts: Vec<&str> = outside.split('`').collect();
    let named = parts.windows(4).skip(1).step_by(2).filter(|four| {
        let [_, between, file, after] = four else { return false };
        let between = between.split_whitespace().collect::<Vec<_>>().join(" ");
        (between == "(" && after.starts_with(')') || between == "in") && file.ends_with(".rs")
    });
    named.map(|four| (four[0].to_owned(), four[2].to_owned())).collect()
}

#[test]
fn what_the_documents_place_in_a_file_stands_there() {
    let sources = files_of("src");
    let (mut count, mut wrong) = (0, Vec::new());
    for (document, ..) in DOCUMENTS {
        for (name, file) in names_with_files(&fs::read_to_string(root().join(document)).unwrap()) {
            let Some((_, text)) = sources.iter().find(|(path, _)| *path == file) else { continue };
            let name = name.rsplit("::").next().unwrap();
            if words(name).ne([name]) {
                continue;
            }
            let stands = text.lines().any(|line| {
                let code = line.trim_start();
                let is_first = |code: &str| words(code).next() == Some(name);
                // A field or a variant stands first on its line.
                defines(code, name) || is_first(code.trim_start_matches("pub(super) "))
            });
            if !stands {
                wrong.push(format!("{document}: `{name}` is not in {file}"));
            }
            count += 1;
        }
    }
    assert!(count > 30 && wrong.is_empty(), "of {count}: {wrong:#?}");
}

#[test]
fn a_name_that_does_not_exist_is_found() {
    let sources = files_of("src");
    for name in [
        "channel/mod.rs",
        "tests/structure.rs",
        "Producer::try_claim",
        "Consumer::poll()",
        "ErrorKind::PeerDied",
        "slipring::payload",
        "worker::is_worker",
        "a word",
        "SIGTERM",
    ] {
        assert!(is_there(&sources, name), "{name}");
    }
    for name in [
        "channel/no_such_file.rs",
        "no_such_file.rs",
        "Producer::no_such_method",
        "NoSuchType::try_claim",
        "Consumer::try_claim",
        "ErrorKind::NoSuchKind",
        "slipring::no_such_module",
        "worker::no_such_function",
    ] {
        assert!(!is_there(&sources, name), "{name}");
    }
}
