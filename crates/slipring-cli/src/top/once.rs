//! `--once`: one table for scripts and for terminals without a screen, or JSON.

use std::fmt::Write as _;

use super::lines::Line;
use super::text::{bound, rate, short, time, width};

pub(super) const TITLES: [&str; 11] =
    ["HOST", "ROLE", "STATE", "REQ/S", "B/S", "FLY", "WAIT", "OLDEST", "RING", "P99", "ERRORS"];

/// The cells of a line, under [`TITLES`].
pub(super) fn cells(line: &Line) -> [String; 11] {
    [
        line.host.to_string(),
        line.name.clone(),
        line.state.to_owned(),
        rate(line.rate),
        rate(line.bytes),
        line.in_flight.to_string(),
        line.queued.to_string(),
        time(line.oldest),
        format!("{}%", line.ring),
        bound(line.p99),
        short(super::lines::as_f64(line.errors)),
    ]
}

/// A table whose columns are as wide as they must be.
pub(super) fn table(lines: &[Line]) -> String {
    let rows: Vec<[String; 11]> = lines.iter().map(cells).collect();
    let mut text = String::new();
    let widths: Vec<usize> = TITLES
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| width(cell)).max().unwrap_or(0).max(title.len())
        })
        .collect();
    let titles = TITLES.map(str::to_owned);
    for row in std::iter::once(&titles).chain(&rows) {
        let mut line = String::new();
        for (column, (cell, wanted)) in row.iter().zip(&widths).enumerate() {
            let room = wanted.saturating_sub(width(cell));
            // Names to the left, numbers to the right. Writing to a string does not fail.
            let _ = match column {
                1 | 2 => write!(line, "{cell}{:room$}  ", ""),
                _ => write!(line, "{:room$}{cell}  ", ""),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_leave_the_columns_below_each_other() {
        let line = |name: &str| Line { name: name.to_owned(), state: "idle", ..Line::default() };
        let text = table(&[
            line("\u{57cb}\u{3081}\u{8fbc}\u{307f} 7"),
            line("embed 7"),
            line("e\u{301} 7"),
        ]);
        let ends = text.lines().skip(1).map(|line| width(line.split_once("idle").unwrap().0));
        assert_eq!(ends.collect::<Vec<_>>(), [18, 18, 18], "{text}");
    }
}
