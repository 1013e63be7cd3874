//! Which modules the code of a file mentions, read off its text.

use std::collections::{BTreeMap, BTreeSet};

/// The names of a path, from the crate's root.
pub(crate) type ModulePath = Vec<String>;

/// A file of the library.
pub(crate) struct Source {
    /// From `src` on.
    pub(crate) name: String,
    pub(crate) module: ModulePath,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn new(name: String, text: String) -> Self {
        let mut module: Vec<_> = name.trim_end_matches(".rs").split('/').collect();
        module.pop_if(|last| ["mod", "mod_loom", "lib"].contains(last));
        // What stands in for a module in some builds counts as that module.
        let suffixes = ["_loom", "_tsan", "_other", "_aarch64", "_armed"];
        let plain = |part: &str| {
            let plain = suffixes.iter().find_map(|suffix| part.strip_suffix(suffix));
            plain.unwrap_or(part).to_owned()
        };
        let module = module.into_iter().map(plain).collect();
        Self { name, module, text }
    }

    /// Code that only tests compile may reach upwards, to build what it tests.
    pub(crate) fn is_test_only(&self) -> bool {
        let parts = self.module.iter().skip(1);
        parts.into_iter().any(|part| {
            part.ends_with("tests") || ["testing", "models", "mutants"].contains(&part.as_str())
        }) || self.name == "payload/vectors.rs"
    }
}

/// A path in a file's code, as it is written.
struct Mention {
    path: Vec<String>,
    /// In how many modules inside the file.
    depth: usize,
    /// The name under which a `pub use` offers what the path leads to.
    offered_as: Option<String>,
}

#[derive(Debug, PartialEq, Clone, Copy)]
enum Token<'a> {
    Name(&'a str),
    Separator,
    Sign(char),
}

/// The code without comments, literals and lifetimes.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            "r#\"\"#".len() + raw.find("\"#").unwrap()
        } else if first == '"' || rest.starts_with("b\"") || rest.starts_with("c\"") {
            quoted(rest, '"')
        } else if rest.starts_with("b'") {
            quoted(rest, '\'')
        } else if first == '\'' {
            let mut inside = rest.chars().skip(1);
            let is_literal = inside.next() == Some('\\') || inside.next() == Some('\'');
            if is_literal { quoted(rest, '\'') } else { 1 }
        } else if is_name(first) {
            let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            found.push(Token::Name(&rest[..len]));
            len
        } else if rest.starts_with("::") {
            found.push(Token::Separator);
            2
        } else {
            if !first.is_whitespace() {
                found.push(Token::Sign(first));
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    found
}

/// The length of the literal at the start of the text.
fn quoted(text: &str, mark: char) -> usize {
    let start = text.find(mark).unwrap() + 1;
    let mut is_escaped = false;
    let end = text[start..].find(|c| {
        let is_end = c == mark && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    start + end.unwrap() + 1
}

/// The paths in a file's code, without those of its tests.
fn mentions(text: &str) -> Vec<Mention> {
    use Token::{Name, Separator, Sign};
    let tokens = tokens(text);
    let mut found = Vec::new();
    // For each open brace whether it is that of a module.
    let mut braces = Vec::new();
    let mut at = 0;
    while let Some(&token) = tokens.get(at) {
        let depth = braces.iter().filter(|is_module| **is_module).count();
        let is_first = at == 0 || ![Separator, Sign('.'), Sign('$')].contains(&tokens[at - 1]);
        match (token, &tokens[at + 1..]) {
            (Name("mod"), [Name("tests"), Sign('{'), ..]) => {
                at = after_block(&tokens, at + 2);
                continue;
            }
            (Name("mod"), [Name(_), Sign('{'), ..]) => {
                braces.push(true);
                at += 3;
                continue;
            }
            (Sign('{'), _) => braces.push(false),
            (Sign('}'), _) => drop(braces.pop()),
            (Name("use"), [next, ..]) if *next != Sign('<') => {
                let is_offered = at > 0 && [Name("pub"), Sign(')')].contains(&tokens[at - 1]);
                at += 1;
                let mut paths = Vec::new();
                tree(&tokens, &mut at, &[], &mut paths);
                found.extend(paths.into_iter().map(|(path, name)| Mention {
                    path,
                    depth,
                    offered_as: is_offered.then_some(name),
                }));
                continue;
            }
            (Name(first), [Separator, ..]) if is_first => {
                let mut path = vec![first.to_owned()];
                while let [Separator, Name(next), ..] = tokens[at + 1..] {
                    path.push(next.to_owned());
                    at += 2;
                }
                found.push(Mention { path, depth, offered_as: None });
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The place after the block that opens at `open`.
fn after_block(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// The paths of a use tree, each with the name that it brings in.
fn tree(
    tokens: &[Token<'_>],
    at: &mut usize,
    before: &[String],
    paths: &mut Vec<(Vec<String>, String)>,
) {
    use Token::{Name, Separator, Sign};
    let mut path = before.to_vec();
    loop {
        match tokens[*at..] {
            [Separator, ..] => *at += 1,
            [Sign('{'), ..] => {
                *at += 1;
                while tokens[*at] != Sign('}') {
                    tree(tokens, at, &path, paths);
                    if tokens[*at] == Sign(',') {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            [Name("as"), Name(name), ..] => {
                *at += 2;
                return paths.push((path, name.to_owned()));
            }
            [Name(name), ..] => {
                // `a::{self}` is `a`.
                if name != "self" || path.is_empty() {
                    path.push(name.to_owned());
                }
                *at += 1;
            }
            [Sign('*'), ..] => {
                path.push("*".to_owned());
                *at += 1;
            }
            _ => {
                let name = path.last().cloned().unwrap();
                return paths.push((path, name));
            }
        }
    }
}

/// Which module of a file's crate each of its paths leads to.
pub(crate) struct Imports {
    modules: BTreeSet<ModulePath>,
    /// What modules offer that stands in others.
    offered: BTreeMap<(ModulePath, String), ModulePath>,
}

impl Imports {
    pub(crate) fn of(sources: &[Source]) -> Self {
        let modules: BTreeSet<_> = sources.iter().map(|source| source.module.clone()).collect();
        let mut this = Self { modules, offered: BTreeMap::new() };
        let mut offered = BTreeMap::new();
        for source in sources {
            for mention in mentions(&source.text) {
                let path = this.absolute(source, &mention);
                if let (Some(path), Some(name)) = (path, mention.offered_as) {
                    offered.insert((source.module.clone(), name), path);
                }
            }
        }
        this.offered = offered;
        this
    }

    /// The paths from the crate's root that this file's code uses. Passing on what other
    /// modules offer is no use.
    pub(crate) fn paths(&self, source: &Source) -> Vec<ModulePath> {
        let uses = mentions(&source.text).into_iter().filter(|found| found.offered_as.is_none());
        uses.filter_map(|mention| self.absolute(source, &mention)).collect()
    }

    /// The modules in which that stands which this file's code uses.
    pub(crate) fn used(&self, source: &Source) -> BTreeSet<ModulePath> {
        self.paths(source).iter().map(|path| self.home(path)).collect()
    }

    /// The path from the crate's root; `None` if it leads to another crate.
    fn absolute(&self, source: &Source, mention: &Mention) -> Option<ModulePath> {
        let mut base = source.module.clone();
        let mut inside = mention.depth;
        let mut rest = mention.path.iter().peekable();
        match rest.peek()?.as_str() {
            "crate" => {
                base.clear();
                rest.next();
            }
            "self" => drop(rest.next()),
            "super" => {
                while rest.next_if(|part| *part == "super").is_some() {
                    match inside.checked_sub(1) {
                        Some(less) => inside = less,
                        None => drop(base.pop()),
                    }
                }
            }
            first => {
                let child = [base.clone(), vec![first.to_owned()]].concat();
                if !self.modules.contains(&child) {
                    return None;
                }
            }
        }
        base.extend(rest.cloned());
        Some(base)
    }

    /// The module in which that stands to which the path leads.
    fn home(&self, path: &[String]) -> ModulePath {
        let len = (0..=path.len()).rev().find(|len| self.modules.contains(&path[..*len]));
        let (module, rest) = path.split_at(len.unwrap());
        let offered = rest.first().and_then(|name| {
            self.offered.get(&(module.to_vec(), name.clone())).filter(|to| to.as_slice() != path)
        });
        match offered {
            Some(to) => self.home(to),
            None => module.to_vec(),
        }
    }
}
