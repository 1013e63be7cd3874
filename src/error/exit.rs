//! How a process ended.

use std::fmt;

/// How a worker process ended.
///
/// ```
/// use slipring::ExitCause;
///
/// assert_eq!(ExitCause::Exited(3).to_string(), "exited with code 3");
/// assert_eq!(ExitCause::Signaled(9).to_string(), "killed by signal SIGKILL (9)");
/// assert_eq!(ExitCause::Signaled(11).signal_name(), Some("SIGSEGV"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ExitCause {
    /// The process called exit, with this code.
    Exited(i32),
    /// This signal killed the process.
    Signaled(i32),
    /// The status is lost: other code of the program reaped the process.
    Unknown,
}

impl ExitCause {
    /// Returns the signal's name, `SIGKILL` for 9; `None` if no signal is involved.
    #[must_use]
    pub fn signal_name(self) -> Option<&'static str> {
        match self {
            Self::Signaled(number) => Some(signal_name(number)),
            Self::Exited(_) | Self::Unknown => None,
        }
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signaled(n) => write!(f, "killed by signal {} ({n})", signal_name(*n)),
            Self::Unknown => f.write_str("ended, status unknown (reaped elsewhere)"),
        }
    }
}

/// The name of a signal on Linux.
fn signal_name(number: i32) -> &'static str {
    const NAMES: [(i32, &str); 31] = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGSTKFLT, "SIGSTKFLT"),
        (libc::SIGCHLD, "SIGCHLD"),
        (libc::SIGCONT, "SIGCONT"),
        (libc::SIGSTOP, "SIGSTOP"),
        (libc::SIGTSTP, "SIGTSTP"),
        (libc::SIGTTIN, "SIGTTIN"),
        (libc::SIGTTOU, "SIGTTOU"),
        (libc::SIGURG, "SIGURG"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGVTALRM, "SIGVTALRM"),
        (libc::SIGPROF, "SIGPROF"),
        (libc::SIGWINCH, "SIGWINCH"),
        (libc::SIGIO, "SIGIO"),
        (libc::SIGPWR, "SIGPWR"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    match NAMES.iter().find(|(n, _)| *n == number) {
        Some((_, name)) => name,
        None if (32..=64).contains(&number) => "real-time signal",
        None => "unknown signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_name() {
        for number in 1..=31 {
            assert!(signal_name(number).starts_with("SIG"), "{number}");
        }
        assert_eq!(signal_name(99), "unknown signal");
    }
}
