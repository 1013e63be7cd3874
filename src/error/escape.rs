//! Text of other processes, as it may be shown.

use std::fmt::{self, Write as _};

/// Displays text of another process so that it stays in its line and does nothing to the terminal: each
/// character is escaped that controls a terminal, begins a line, or turns the direction of what follows. A
/// tab stays.
///
/// `{}` writes escapes as Rust does. `{:#}` writes them as JSON does, for a whole line of JSON, in which such
/// characters can be in strings only.
///
/// ```
/// use slipring::Escaped;
///
/// let said = "done\n\u{1b}[2J";
/// assert_eq!(Escaped(said).to_string(), r"done\n\u{1b}[2J");
/// assert_eq!(format!("{:#}", Escaped("\"\u{9b}2J\"")), r#""\u009b2J""#);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Escaped<T>(pub T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.contains(steers) {
            return self.0.write_str(text);
        }
        text.chars().try_for_each(|c| match c {
            '\t' => self.0.write_char(c),
            // All of them have four digits at most.
            c if steers(c) && self.0.alternate() => write!(self.0, "\\u{:04x}", u32::from(c)),
            c if steers(c) => write!(self.0, "{}", c.escape_default()),
            c => self.0.write_char(c),
        })
    }
}

/// Whether a character does something to a terminal other than to appear: those that control it, begin a
/// line, or turn the direction of what follows.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A text that another process has written, as it may be shown in a terminal or a table.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_or_turns_text_is_escaped_and_nothing_else() {
        let codes = [
            0..=0x1f,
            0x7f..=0x9f,
            0x61c..=0x61c,
            0x200e..=0x200f,
            0x2028..=0x202e,
            0x2066..=0x2069,
        ];
        for c in '\0'..='\u{ffff}' {
            let is_escaped = codes.iter().any(|range| range.contains(&u32::from(c)));
            let plain = Escaped(c).to_string();
            match is_escaped && c != '\t' {
                true => {
                    assert!(plain.starts_with('\\') && plain.is_ascii(), "{c:?}");
                    assert_eq!(format!("{:#}", Escaped(c)), format!("\\u{:04x}", u32::from(c)));
                }
                false => assert_eq!(plain, c.to_string()),
            }
            assert_eq!(shown(&c.to_string()) == "\u{fffd}", is_escaped || c == '\u{fffd}', "{c:?}");
        }
        assert_eq!(
            Escaped("a\tb\n\u{2028}\u{202e}\u{e9}").to_string(),
            "a\tb\\n\\u{2028}\\u{202e}\u{e9}"
        );
    }
}
