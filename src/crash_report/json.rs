//! JSON that people read, too: a value that fits one line stands on one.

use std::fmt::Write as _;
use std::time::Duration;

use crate::error::steers;

/// The longest line of a list or an object. An object in a list stands on one line, however long it is.
const LINE: usize = 110;

/// A value of JSON.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(i128),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    /// Returns the text, which ends with a line break.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, 0);
        text.push('\n');
        text
    }

    /// Adds a field to an object. Does nothing to other values.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<Self>) {
        if let Self::Object(fields) = self {
            fields.push((name, value.into()));
        }
    }

    fn write(&self, text: &mut String, depth: usize) {
        let before = text.len();
        self.write_flat(text);
        if text.len() - before + 2 * depth <= LINE {
            return;
        }
        match self {
            Self::List(items) if !items.is_empty() => {
                text.truncate(before);
                write_lines(text, depth, ['[', ']'], items.iter().map(|item| (None, item)));
            }
            Self::Object(fields) if !fields.is_empty() => {
                text.truncate(before);
                let fields = fields.iter().map(|(name, value)| (Some(*name), value));
                write_lines(text, depth, ['{', '}'], fields);
            }
            _ => {}
        }
    }

    fn write_flat(&self, text: &mut String) {
        match self {
            Self::Null => text.push_str("null"),
            Self::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
            Self::Number(number) => text.push_str(&number.to_string()),
            Self::Text(value) => write_text(text, value),
            Self::List(items) => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    item.write_flat(text);
                }
                text.push(']');
            }
            Self::Object(fields) => {
                text.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    text.push_str(if index == 0 { "" } else { ", " });
                    write_text(text, name);
                    text.push_str(": ");
                    value.write_flat(text);
                }
                text.push('}');
            }
        }
    }
}

/// Writes each item on lines of its own.
fn write_lines<'a>(
    text: &mut String,
    depth: usize,
    [open, close]: [char; 2],
    items: impl Iterator<Item = (Option<&'static str>, &'a Json)>,
) {
    text.push(open);
    for (index, (name, value)) in items.enumerate() {
        text.push_str(if index == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        if let Some(name) = name {
            write_text(text, name);
            text.push_str(": ");
        }
        match (name, value) {
            (None, Json::Object(_)) => value.write_flat(text),
            _ => value.write(text, depth + 1),
        }
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
}

/// Writes a string. What steers a terminal is escaped, also where JSON would allow it: a terminal that
/// shows the file must not obey a worker's log.
fn write_text(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if steers(c) => {
                // All of them are in the first plane. A write to a string cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(number: u64) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Json {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i32> for Json {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Json {
    fn from(number: usize) -> Self {
        Self::from(crate::shm::layout::as_u64(number))
    }
}

/// In milliseconds.
impl From<Duration> for Json {
    fn from(time: Duration) -> Self {
        Self::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

impl<T: Into<Self>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Self>> FromIterator<T> for Json {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: impl Iterator<Item = u8>) -> String {
    bytes.fold(String::new(), |mut text, byte| {
        // A write to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// An object with these fields.
macro_rules! object {
    ($($name:literal: $value:expr),* $(,)?) => {
        $crate::crash_report::json::Json::Object(vec![$(($name, $value.into())),*])
    };
}
pub(crate) use object;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_fits_a_line_stands_on_one_and_the_rest_is_indented() {
        let long = "x".repeat(200);
        let requests: Json =
            [1_u64, 2].map(|id| object! { "id": id, "kind": long.as_str() }).into_iter().collect();
        let text = object! { "a": 1_u64, "none": None::<u64>, "requests": requests }.to_text();
        let expected = format!(
            "{{\n  \"a\": 1,\n  \"none\": null,\n  \"requests\": [\n    \
             {{\"id\": 1, \"kind\": \"{long}\"}},\n    {{\"id\": 2, \"kind\": \"{long}\"}}\n  ]\n}}\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn no_control_character_is_written_as_it_is() {
        let all: String = (0..0x2100_u32).filter_map(char::from_u32).collect();
        let text = Json::from(all.clone()).to_text();
        assert!(!text.trim_end().contains(steers), "{text}");
        assert!(text.contains("\\u001b") && text.contains("\\u009b") && text.contains("\\n"));
        let read: String = serde_json::from_str(&text).unwrap();
        assert_eq!(read, all);
    }
}
