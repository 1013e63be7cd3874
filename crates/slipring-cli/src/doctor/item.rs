//! One thing that was looked at.

use serde_json::Value;

/// What a finding means for slipring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Ok,
    /// It works, but something could be better, or was not found out.
    Note,
    /// It works, but something will fail or be slow under load.
    Warn,
    /// slipring needs it.
    Fail,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The group, a dot, and the name in it. It never changes: scripts look for it.
    pub(super) name: &'static str,
    pub(super) state: State,
    /// What was found.
    pub(super) value: String,
    /// What that means for slipring.
    pub(super) meaning: String,
    /// What to do about it.
    pub(super) change: Option<String>,
    /// The figures in it, for scripts.
    pub(super) data: Value,
}

impl Item {
    pub(super) fn ok(
        name: &'static str,
        value: impl Into<String>,
        meaning: impl Into<String>,
    ) -> Self {
        let (value, meaning) = (value.into(), meaning.into());
        Self { name, state: State::Ok, value, meaning, change: None, data: Value::Null }
    }

    /// Makes it a note, a warning or a failure.
    pub(super) fn but(
        self,
        state: State,
        meaning: impl Into<String>,
        change: impl Into<String>,
    ) -> Self {
        let change = Some(change.into()).filter(|change| !change.is_empty());
        Self { state, meaning: meaning.into(), change, ..self }
    }

    pub(super) fn with(self, data: Value) -> Self {
        Self { data, ..self }
    }

    /// Something that could not be read.
    pub(super) fn unknown(name: &'static str, why: impl Into<String>, meaning: &str) -> Self {
        Self::ok(name, format!("not known: {}", why.into()), "").but(State::Note, meaning, "")
    }

    /// The part of the name before the dot.
    pub(super) fn group(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(group, _)| group)
    }

    /// The part of the name behind the dot.
    pub(super) fn short_name(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, name)| name)
    }
}

/// Bytes, as `8 MiB`.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut scaled, mut rest, mut unit) = (count, 0, 0);
    while scaled >= 1024 && unit + 1 < units.len() {
        (rest, scaled, unit) = (scaled % 1024, scaled / 1024, unit + 1);
    }
    let name = units.get(unit).copied().unwrap_or_default();
    match rest * 10 / 1024 {
        tenth if tenth > 0 && scaled < 10 => format!("{scaled}.{tenth} {name}"),
        _ => format!("{scaled} {name}"),
    }
}
