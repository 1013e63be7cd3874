//! Lines of JSON, as they may be shown: what another process wrote neither steers the terminal nor turns
//! the direction of what follows.

use slipring::Escaped;

/// One line of JSON.
pub(crate) fn json(value: &serde_json::Value) -> String {
    format!("{:#}\n", Escaped(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_in_a_line_of_json() {
        let text = "a\tb\n\x1b[2J\u{7f}\u{9b}2J\u{61c}\u{202e}\u{2069}\u{2028}\u{e9}";
        let line = json(&serde_json::json!({ "text": text }));
        let escaped = r"a\tb\n\u001b[2J\u007f\u009b2J\u061c\u202e\u2069\u2028";
        assert_eq!(line, format!("{{\"text\":\"{escaped}\u{e9}\"}}\n"));
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["text"], text);
    }
}
