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
    /// The status is not known: other code of the program reaped the process, or the process is not
    /// a child of this one, as on a channel by name and for the worker's end of a raw link.
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
            Self::Unknown => f.write_str("ended, status unknown"),
        }
    }
}

/// The names of the signals from 1 on.
const SIGNALS: &str = "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 \
    SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN \
    SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS";
// MIPS numbers them in another way, and is refused here.
const _: () = assert!(libc::SIGBUS == 7 && libc::SIGUSR1 == 10 && libc::SIGCHLD == 17);
const _: () = assert!(libc::SIGIO == 29 && libc::SIGSYS == 31);

fn signal_name(number: i32) -> &'static str {
    match (1..).zip(SIGNALS.split(' ')).find(|(n, _)| *n == number) {
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
