//! Prints what was found: as text, with colours if a terminal has them, or as JSON.

use std::fmt::Write as _;
use std::io::IsTerminal;

use serde_json::{Value, json};
use slipring::Escaped;

use super::Findings;
use super::item::{Item, State};
use crate::shown;

/// The groups, as they are titled.
const GROUPS: [(&str, &str); 8] = [
    ("kernel", "What the kernel offers"),
    ("limits", "Limits"),
    ("visibility", "What other processes show"),
    ("cgroup", "Control groups"),
    ("pages", "Pages of memory"),
    ("cores", "Processors"),
    ("copies", "Copies of payloads"),
    ("plan", "What slipring will use"),
];

/// How the text is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    has_colours: bool,
    width: usize,
}

impl Style {
    pub(super) fn of_the_terminal() -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_terminal = std::io::stdout().is_terminal();
        let is_dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
        let size = ratatui::crossterm::terminal::size().ok().filter(|_| is_terminal);
        let width = size.map_or(100, |(columns, _)| usize::from(columns)).clamp(40, 120);
        Self { has_colours: is_terminal && !is_dumb && !is_set("NO_COLOR"), width }
    }

    fn state(self, state: State) -> String {
        let name = format!("{:<4}", state.name());
        let colour = match state {
            _ if !self.has_colours => return name,
            State::Ok => 32,
            State::Note => 36,
            State::Warn => 33,
            State::Fail => 31,
        };
        format!("\x1b[{colour}m{name}\x1b[0m")
    }

    /// Appends text in lines of the width, those after the first with an indent.
    fn wrap(self, out: &mut String, used: usize, indent: usize, text: &str) {
        let mut used = used;
        for (place, word) in text.split_whitespace().enumerate() {
            let len = word.chars().count();
            if place > 0 && used + 1 + len > self.width {
                let _ = write!(out, "\n{:indent$}", "");
                used = indent;
            } else if place > 0 {
                out.push(' ');
                used += 1;
            }
            let _ = write!(out, "{}", Escaped(word));
            used += len;
        }
        out.push('\n');
    }
}

/// The report for people.
pub(super) fn text(findings: &Findings, style: Style) -> String {
    let Findings { items, pairs } = findings;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(out, "slipring {}: {}", env!("CARGO_PKG_VERSION"), counts(items));
    for (group, title) in GROUPS {
        let _ = writeln!(out, "\n{title}");
        for item in items.iter().filter(|item| item.group() == group) {
            line(&mut out, style, item);
        }
        if group == "cores" && !pairs.is_empty() {
            let _ = writeln!(out, "  one way between two processors, median and 99th percentile:");
            for pair in pairs {
                let ((one, other), relation) = (pair.cpus, pair.relation.name());
                let _ = writeln!(
                    out,
                    "      {one:>3} {other:>3} {:>6.0} ns {:>6.0} ns  {relation}",
                    pair.median, pair.p99
                );
            }
        }
    }
    let _ = writeln!(out, "\nWhat to change");
    let mut is_empty = true;
    for item in items {
        if let Some(change) = &item.change {
            is_empty = false;
            let start = format!("  {} {}: ", style.state(item.state), item.name);
            out.push_str(&start);
            style.wrap(&mut out, 9 + item.name.len(), 7, change);
        }
    }
    if is_empty {
        out.push_str("  nothing\n");
    }
    out
}

fn line(out: &mut String, style: Style, item: &Item) {
    const NAME: usize = 14;
    const INDENT: usize = 7 + NAME + 1;
    let _ = write!(out, "  {} {:<NAME$} ", style.state(item.state), item.short_name());
    let used = 7 + item.short_name().len().max(NAME) + 1;
    let separator = if item.meaning.is_empty() { "" } else { ". " };
    let text = format!("{}{separator}{}", item.value, item.meaning);
    style.wrap(out, used, INDENT, &text);
}

fn counts(items: &[Item]) -> String {
    let states = [State::Ok, State::Note, State::Warn, State::Fail];
    let counts =
        states.map(|state| (state, items.iter().filter(|item| item.state == state).count()));
    let shown = counts.iter().filter(|(_, count)| *count > 0);
    shown.map(|(state, count)| format!("{count} {}", state.name())).collect::<Vec<_>>().join(", ")
}

/// The report for scripts, one line.
pub(super) fn json(findings: &Findings) -> String {
    let Findings { items, pairs } = findings;
    let worst = items.iter().map(|item| item.state).max().unwrap_or(State::Ok);
    let pairs: Vec<Value> = pairs
        .iter()
        .map(|pair| {
            let (one, other) = pair.cpus;
            json!({
                "cpus": [one, other],
                "relation": pair.relation.key(),
                "median_ns": pair.median,
                "p99_ns": pair.p99,
            })
        })
        .collect();
    let items: Vec<Value> = items
        .iter()
        .map(|item| {
            json!({
                "name": item.name,
                "state": item.state.name(),
                "value": item.value,
                "meaning": item.meaning,
                "change": item.change,
                "data": item.data,
            })
        })
        .collect();
    let report = json!({
        "schema": 1,
        "slipring": env!("CARGO_PKG_VERSION"),
        "state": worst.name(),
        "items": items,
        "pairs": pairs,
    });
    shown::json(&report)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { has_colours: false, width: 60 };

    fn findings() -> Findings {
        let long = "It works, but slowly, as many words say that have no room on one line.";
        let note = Item::ok("limits.nofile", "64", "").but(State::Warn, long, "Raise it.");
        Findings {
            items: vec![Item::ok("kernel.memfd", "works", "Rings."), note],
            pairs: Vec::new(),
        }
    }

    #[test]
    fn lines_fit_the_width_and_changes_come_last() {
        let text = text(&findings(), PLAIN);
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("\n  ok   memfd          works. Rings.\n"), "{text}");
        assert!(text.ends_with("What to change\n  warn limits.nofile: Raise it.\n"), "{text}");
        assert!(text.starts_with(concat!(
            "slipring ",
            env!("CARGO_PKG_VERSION"),
            ": 1 ok, 1 warn\n"
        )));
        assert!(!text.contains('\x1b'), "{text:?}");
    }

    #[test]
    fn colours_are_on_the_state_only() {
        let style = Style { has_colours: true, ..PLAIN };
        let coloured = text(&findings(), style);
        assert!(coloured.contains("  \x1b[33mwarn\x1b[0m nofile"), "{coloured:?}");
        let plain = coloured.replace("\x1b[33m", "").replace("\x1b[32m", "").replace("\x1b[0m", "");
        assert_eq!(plain, text(&findings(), PLAIN));
    }

    #[test]
    fn nothing_to_change_is_said_too() {
        let items = vec![Item::ok("kernel.memfd", "works", "")];
        let text = text(&Findings { items, pairs: Vec::new() }, PLAIN);
        assert!(text.ends_with("What to change\n  nothing\n"), "{text}");
    }
}
