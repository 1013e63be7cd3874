//! Errors of the program: one line on standard error and an exit code.

use std::fmt;
use std::io;

use slipring::Escaped;

use crate::stdio;

/// Why the program fails. The exit codes are part of the program's interface
/// and are listed in `--help` and, by command, in `README.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Input, output, or a worker that answers but fails.
    Failure,
    /// The command line.
    Usage,
    /// A worker process is gone.
    WorkerDied,
    /// Some of what was asked for is shown, and some is refused or gone.
    Partly,
    /// A signal asked the program to end.
    Signal(i32),
    /// Standard output has no reader any more, which is no fault.
    BrokenPipe,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::WorkerDied => 3,
            Self::Partly => 4,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// Lines of a dead worker's log that are shown.
const LOG_LINES: usize = 12;

/// An error of the program: the exit code, one line, and for a dead worker the
/// last lines of its log.
#[derive(Clone, Debug)]
pub(crate) struct Error {
    exit: Exit,
    message: String,
    log_tail: String,
}

impl Error {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), log_tail: String::new() }
    }

    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    pub(crate) fn partly(message: impl Into<String>) -> Self {
        Self::new(Exit::Partly, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn worker_died(message: impl Into<String>, log_tail: impl Into<String>) -> Self {
        Self { log_tail: log_tail.into(), ..Self::new(Exit::WorkerDied, message) }
    }

    pub(crate) fn signal(signal: i32) -> Self {
        let name = match signal_hook::low_level::signal_name(signal) {
            Some(name) => name.to_owned(),
            None => format!("signal {signal}"),
        };
        Self::new(Exit::Signal(signal), format!("ended by {name}"))
    }

    /// Makes the error of a failed write. A pipe without a reader ends the
    /// program quietly.
    pub(crate) fn write(what: impl fmt::Display, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::BrokenPipe, ""),
            _ => Self::failure(format!("cannot write {what}: {error}")),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes the error to standard error.
    pub(crate) fn report(&self) {
        if self.exit != Exit::BrokenPipe {
            stdio::warn(&format!("slipring: {self}\n"));
        }
    }
}

/// Writes `slipring: …` to standard error, if it can still be written to.
pub(crate) fn say(message: impl fmt::Display) {
    let lines =
        message.to_string().lines().map(|line| Escaped(line).to_string()).collect::<Vec<_>>();
    stdio::warn(&format!("slipring: {}\n", lines.join("\n")));
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file name may hold a line break or an escape sequence; the message
        // is one line and does not steer the terminal.
        write!(f, "{}", Escaped(&self.message))?;
        let lines = self.log_tail.lines().count();
        for line in self.log_tail.lines().skip(lines.saturating_sub(LOG_LINES)) {
            write!(f, "\n    | {}", Escaped(line))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_the_file_is_called() {
        let error = Error::failure("cannot read a\nb\x1b[31m: gone");
        assert_eq!(error.to_string(), "cannot read a\\nb\\u{1b}[31m: gone");
        let error = Error::failure("cannot read a\u{202e}b\u{2066}c\u{61c}d\u{2028}e");
        assert_eq!(error.to_string(), "cannot read a\\u{202e}b\\u{2066}c\\u{61c}d\\u{2028}e");
    }

    #[test]
    fn the_log_tail_of_a_dead_worker_follows_its_message() {
        let error = Error::worker_died("worker 0 died", "loading\nout of memory\n");
        let expected = "worker 0 died\n    | loading\n    | out of memory";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.exit().code(), 3);
        let long: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let shown = Error::worker_died("worker 0 died", long).to_string();
        assert!(shown.starts_with("worker 0 died\n    | line 88\n"), "{shown}");
        assert!(shown.ends_with("| line 99"), "{shown}");
    }

    #[test]
    fn signals_give_the_shell_s_exit_codes() {
        assert_eq!(Error::signal(2).exit().code(), 130);
        assert_eq!(Error::signal(15).exit().code(), 143);
        assert_eq!(Error::signal(2).to_string(), "ended by SIGINT");
    }

    #[test]
    fn a_broken_pipe_is_no_fault() {
        let error = Error::write("standard output", &io::ErrorKind::BrokenPipe.into());
        assert_eq!(error.exit().code(), 0);
    }
}
