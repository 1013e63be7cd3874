//! Text of other processes, as it may be shown: what it holds neither steers the terminal nor turns the
//! direction of what follows.

use std::fmt;
use std::fmt::Write as _;

/// Displays a text with those characters escaped that do something other than to appear. A tab stays.
pub(crate) struct Shown<T>(pub(crate) T);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| match c {
            '\t' => self.0.write_char(c),
            c if steers(c) => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

/// One line of JSON. Such characters are in its strings only, where they can be escaped.
pub(crate) fn json(value: &serde_json::Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        match steers(c) {
            // All of them have four digits at most. Writing to a string does not fail.
            true => drop(write!(line, "\\u{:04x}", u32::from(c))),
            false => line.push(c),
        }
    }
    line.push('\n');
    line
}

/// Whether a character controls a terminal, begins a line, or turns the direction of what follows.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_as_text_and_in_json() {
        let text = "a\tb\n\x1b[2J\u{7f}\u{9b}2J\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{2028}\u{e9}";
        let escaped = r"b\n\u{1b}[2J\u{7f}\u{9b}2J\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}\u{2028}";
        assert_eq!(Shown(text).to_string(), format!("a\t{escaped}\u{e9}"));
        let line = json(&serde_json::json!({ "text": text }));
        let (shown, end) = line.split_at(line.len() - 1);
        assert_eq!((shown.chars().find(|c| steers(*c)), end), (None, "\n"), "{line:?}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["text"], text);
    }
}
