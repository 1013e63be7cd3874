//! What `/proc/<pid>/stat` shows of a process: by which it is told from a later one with its id, and how
//! one that is ending will have ended, before the kernel hands out its exit status.
//!
//! The kernel hands the exit status out when it has torn the process down, which takes tenths
//! of a second for a big one. The exit code is shown here from the moment in which the process
//! as a whole begins to end, and does not change after that. A code of zero proves nothing: it
//! is also shown for a process that runs on, and for one that this process may not inspect.

use std::fs;
use std::io;

use crate::error::ExitCause;

/// The letter of a process's state, and when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcStat {
    pub(crate) state: char,
    /// In clock ticks since the machine's start.
    pub(crate) start_time: u64,
}

impl ProcStat {
    /// Reads it for a process id, or for `self`; `None` if there is no such process.
    pub(crate) fn of(pid: &str) -> io::Result<Option<Self>> {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => match Self::parse(&stat) {
                Some(found) => Ok(Some(found)),
                None => Err(io::ErrorKind::InvalidData.into()),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            // It ended while it was read.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The third and the 22nd field. The second is in brackets and can contain anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        Some(Self { state, start_time: fields.nth(18)?.parse().ok()? })
    }
}

/// Returns how the process will have ended; `None` if that is not shown, or if the process runs
/// on. The caller must know that `pid` has not been recycled. Never blocks.
pub(super) fn exit_cause(pid: u32) -> Option<ExitCause> {
    parse_cause(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_cause(stat: &str) -> Option<ExitCause> {
    // The name is in brackets, and can itself contain brackets and spaces. The state follows
    // it, and the code comes 49 fields after the state.
    let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
    // For a stopped process, this field is the signal that has stopped it.
    let is_stopped = matches!(fields.next()?, "T" | "t");
    let code: i32 = fields.nth(48)?.parse().ok()?;
    match (code & 0x7F, (code >> 8) & 0xFF) {
        _ if is_stopped => None,
        (0, 0) => None,
        (0, code) => Some(ExitCause::Exited(code)),
        (signal, _) => Some(ExitCause::Signaled(signal)),
    }
}

/// The flag of a thread that has begun to end (`PF_EXITING`): it executes no more instructions
/// of the program.
const EXITING: u64 = 4;

/// Returns whether no thread of the process executes the program any more. The caller must know
/// that `pid` has not been recycled. Never blocks.
pub(super) fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut count = 0;
    for thread in threads {
        let Ok(thread) = thread else { return false };
        count += 1;
        match fs::read_to_string(thread.path().join("stat")) {
            Ok(stat) if is_exiting(&stat) => {}
            // The thread has gone since the directory was read.
            Err(_) => {}
            Ok(_) => return false,
        }
    }
    count > 0
}

fn is_exiting(stat: &str) -> bool {
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let flags = fields.split_ascii_whitespace().nth(6).and_then(|flags| flags.parse().ok());
    flags.is_some_and(|flags: u64| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, code: i32) -> String {
        format!("77 (a) R (b) {state} {}{code}\n", "0 ".repeat(48))
    }

    #[test]
    fn a_process_can_have_any_name() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = format!("12 (a) Z ) b) S {}", numbers.join(" "));
        assert_eq!(ProcStat::parse(&stat), Some(ProcStat { state: 'S', start_time: 22 }));
        assert_eq!(ProcStat::parse("12 (a) S 4 5"), None);
        assert_eq!(ProcStat::parse(""), None);
        let own = ProcStat::of("self").unwrap().unwrap();
        assert_eq!(ProcStat::of(&std::process::id().to_string()).unwrap().unwrap(), own);
        assert_eq!(ProcStat::of("4194305").unwrap(), None);
    }

    #[test]
    fn a_thread_that_runs_has_not_stopped_and_one_that_ends_has() {
        assert!(!has_stopped(std::process::id()));
        assert!(is_exiting("77 (a) R (b) R 1 2 3 4 5 4194308 0"));
        assert!(!is_exiting("77 (a) R (b) R 1 2 3 4 5 4194304 0"));
        assert!(!is_exiting("77 (a"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while !has_stopped(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!has_stopped(child.id()), "there is none");
    }

    #[test]
    fn the_code_is_that_of_a_process_that_is_ending_and_of_no_other() {
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        assert!(own.split_whitespace().count() >= 52 && parse_cause(&own).is_none(), "{own}");
        assert_eq!(parse_cause(&stat("S", 9)), Some(ExitCause::Signaled(9)));
        assert_eq!(parse_cause(&stat("D", 0x8B)), Some(ExitCause::Signaled(11)));
        assert_eq!(parse_cause(&stat("R", 3 << 8)), Some(ExitCause::Exited(3)));
        for (state, code) in [("T", 19), ("t", 5), ("R", 0), ("Z", 0)] {
            assert_eq!(parse_cause(&stat(state, code)), None, "{state} {code}");
        }
        for text in ["", "77 (a", "77 (a) R 1 2 3", "77 (a) R x"] {
            assert_eq!(parse_cause(text), None, "{text}");
        }
    }
}
