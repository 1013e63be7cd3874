//! The page of all counters of one line.

use slipring::status_page::{Host, Row};

use crate::stat::{Counter, counters};

/// The lines of the page: what it is of, and a line for each counter, with the values below each other.
pub(super) fn lines(host: &Host, row: &Row, width: usize) -> Vec<String> {
    let Host { pid, command, library, heartbeat_age, .. } = host;
    let state = match (host.is_stopped, host.is_stale) {
        (true, _) => ", stopped",
        (false, true) => ", no heartbeat",
        (false, false) => "",
    };
    let mut lines = vec![
        format!("process {pid}{state}: {command}"),
        format!("{library}, written {:.1} s ago", heartbeat_age.as_secs_f64()),
    ];
    if !row.note.is_empty() {
        lines.push(format!("last error: {}", row.note));
    }
    lines.push(String::new());
    let counters = counters(row);
    let widest = |of: fn(&Counter) -> usize| counters.iter().map(of).max().unwrap_or(0);
    let names = widest(|counter| counter.field.len());
    let values = widest(|counter| counter.value.len());
    let units = widest(|counter| counter.unit.len());
    for Counter { field, value, unit, help } in &counters {
        let figures = format!("{field:<names$}  {value:>values$}  {unit:<units$}  ");
        lines.extend(wrapped(&figures, help, width));
    }
    lines
}

/// A text behind another one, in lines of a width if that leaves room for words.
fn wrapped(front: &str, text: &str, width: usize) -> Vec<String> {
    const LEAST: usize = 20;
    let indent = front.chars().count();
    let room = width.saturating_sub(indent).max(LEAST);
    let mut lines = vec![front.to_owned()];
    let mut used = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > room {
            lines.push(" ".repeat(indent));
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += len;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_help_goes_on_below_itself() {
        let lines = wrapped("parks  7  ", "Waits that went to sleep a while.", 34);
        assert_eq!(lines, ["parks  7  Waits that went to sleep", "          a while."]);
        assert_eq!(wrapped("parks  7  ", "Waits.", 200), ["parks  7  Waits."]);
        // Where there is no room, words are cut by the screen.
        assert_eq!(wrapped("parks  7  ", "Waits that went to sleep", 3).len(), 2);
    }
}
