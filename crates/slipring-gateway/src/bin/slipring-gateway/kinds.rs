//! The kinds of requests that the command line speaks of, and their names.

use std::collections::BTreeMap;

use slipring::Kind;

use crate::args::Options;
use crate::error::Failure;

/// The kinds of one `--idempotent`.
#[derive(Debug, Clone)]
pub(crate) struct Kinds {
    kinds: Vec<Kind>,
    /// `None` if it was given as a number.
    name: Option<String>,
}

/// The kind of one `--kind`.
#[derive(Debug, Clone)]
pub(crate) struct NamedKind {
    kind: Kind,
    name: String,
}

impl Options {
    /// All kinds that may be served twice.
    pub(crate) fn idempotent_kinds(&self) -> impl Iterator<Item = Kind> {
        self.idempotent.iter().flat_map(|given| {
            let named = self.kind.iter().filter(|it| given.name.as_ref() == Some(&it.name));
            given.kinds.iter().copied().chain(named.map(|it| it.kind))
        })
    }

    /// The names of kinds, of which requests carry the numbers only.
    ///
    /// # Errors
    ///
    /// If a kind has two names: by chance, two names can have the same number.
    pub(crate) fn kind_names(&self) -> Result<BTreeMap<Kind, &str>, Failure> {
        let given = self.idempotent.iter().filter_map(|it| it.name.as_deref());
        let given = given.map(|name| (Kind::named(name), name));
        let mut names = BTreeMap::new();
        for (kind, name) in given.chain(self.kind.iter().map(|it| (it.kind, it.name.as_str()))) {
            match names.insert(kind, name) {
                Some(other) if other != name => {
                    let code = kind.code();
                    return Err(Failure::usage(format!(
                        "the kinds '{other}' and '{name}' have the same number, {code}"
                    )));
                }
                _ => {}
            }
        }
        Ok(names)
    }
}

/// Parses the value of `--idempotent`.
pub(crate) fn kinds(text: &str) -> Result<Kinds, Failure> {
    if let Some(kind) = number("--idempotent", text)? {
        return Ok(Kinds { kinds: vec![kind], name: None });
    }
    if !is_name(text) {
        return Err(Failure::usage(format!(
            "--idempotent takes the name or the number of a kind, not '{text}'"
        )));
    }
    let of_the_library = match text {
        "embed" => Some(Kind::EMBED),
        "chat" => Some(Kind::CHAT),
        "rerank" => Some(Kind::RERANK),
        "vision" => Some(Kind::VISION),
        _ => None,
    };
    let kinds = [Kind::named(text)].into_iter().chain(of_the_library).collect();
    Ok(Kinds { kinds, name: Some(text.to_owned()) })
}

/// Parses the value of `--kind`.
pub(crate) fn named_kind(text: &str) -> Result<NamedKind, Failure> {
    let (name, kind) = match text.split_once('=') {
        None => (text, Some(Kind::named(text))),
        Some((name, code)) => (name, number("--kind", code)?),
    };
    match kind {
        Some(kind) if is_name(name) => Ok(NamedKind { kind, name: name.to_owned() }),
        _ => Err(Failure::usage(format!(
            "--kind takes the name of a kind, or NAME=NUMBER, not '{text}'"
        ))),
    }
}

/// The kind with the number that the text is; `None` if it is no number.
fn number(option: &str, text: &str) -> Result<Option<Kind>, Failure> {
    let Ok(code) = text.parse() else { return Ok(None) };
    match Kind::from_request_code(code) {
        None => Err(Failure::usage(format!("{option}: {code} is no number of a kind of request"))),
        kind => Ok(kind),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
}
