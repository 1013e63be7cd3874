//! Errors of the program: one line on standard error, and an exit code as that of `slipring`.

use std::fmt;
use std::io::Write as _;

use slipring::Escaped;

/// Lines of a worker's log that are shown.
const LOG_LINES: usize = 12;

/// Why the program ends.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    log_tail: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), log_tail: String::new() }
    }

    /// An address, a file or a request that was not finished.
    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(1, message)
    }

    /// The command line.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(2, format!("{message} (see slipring gateway --help)"))
    }

    /// Worker processes cannot live.
    pub(crate) fn workers(message: impl Into<String>, log_tail: Option<&str>) -> Self {
        Self { log_tail: log_tail.unwrap_or_default().to_owned(), ..Self::new(3, message) }
    }

    /// A second signal.
    pub(crate) fn signal(number: u8, message: impl Into<String>) -> Self {
        Self::new(128_u8.saturating_add(number), message)
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.message))?;
        let lines = self.log_tail.lines().count();
        for line in self.log_tail.lines().skip(lines.saturating_sub(LOG_LINES)) {
            write!(f, "\n    | {}", Escaped(line))?;
        }
        Ok(())
    }
}

/// Writes `slipring-gateway: …` to standard error, if it can still be written to.
pub(crate) fn say(message: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "slipring-gateway: {message}");
}

/// Writes to standard output, if it can still be written to.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_or_turns_the_direction_is_escaped() {
        let failure = Failure::workers("a\tb\n\u{9b}2J", Some("\u{202e}c\n\u{2066}d\u{e9}"));
        let shown = "a\tb\\n\\u{9b}2J\n    | \\u{202e}c\n    | \\u{2066}d\u{e9}";
        assert_eq!(failure.to_string(), shown);
    }
}
