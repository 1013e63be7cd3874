//! How a process that is ending will have ended, before the kernel hands out its status.
//!
//! The kernel hands the status out when it has torn the process down, tenths of a second after
//! the death of a big one. The code is shown in `/proc/<pid>/stat` from the moment in which the process as a whole
//! begins to end, and does not change any more. A zero there means nothing: it stands for a
//! process that goes on as well, and for one that this process may not look into.

use std::fs;

use crate::error::ExitCause;

/// Returns how the process will have ended; `None` if that is not shown, or if it goes on. The caller vouches that
/// the number stands for the process that it means. Never blocks.
pub(super) fn cause(pid: u32) -> Option<ExitCause> {
    cause_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn cause_in(stat: &str) -> Option<ExitCause> {
    // The name, in brackets, can have brackets and spaces itself. After it come the state and,
    // 49 fields later, the code.
    let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
    // The signal that has stopped a process stands in the same place.
    let is_stopped = matches!(fields.next()?, "T" | "t");
    let code: i32 = fields.nth(48)?.parse().ok()?;
    match (code & 0x7F, (code >> 8) & 0xFF) {
        _ if is_stopped => None,
        (0, 0) => None,
        (0, code) => Some(ExitCause::Exited(code)),
        (signal, _) => Some(ExitCause::Signaled(signal)),
    }
}

/// Set in the flags of a thread from the moment in which it begins to end (`PF_EXITING`): it
/// does not run a program's instructions any more.
const EXITING: u64 = 4;

/// Whether no thread of the process runs the program any more. The caller vouches that the
/// number stands for the process that it means. Never blocks.
pub(super) fn has_stopped(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let mut count = 0;
    for thread in threads {
        let Ok(thread) = thread else { return false };
        count += 1;
        match fs::read_to_string(thread.path().join("stat")) {
            Ok(stat) if is_exiting(&stat) => {}
            // One that is gone between the two looks has stopped as well.
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
        assert!(own.split_whitespace().count() >= 52 && cause_in(&own).is_none(), "{own}");
        assert_eq!(cause_in(&stat("S", 9)), Some(ExitCause::Signaled(9)));
        assert_eq!(cause_in(&stat("D", 0x8B)), Some(ExitCause::Signaled(11)));
        assert_eq!(cause_in(&stat("R", 3 << 8)), Some(ExitCause::Exited(3)));
        for (state, code) in [("T", 19), ("t", 5), ("R", 0), ("Z", 0)] {
            assert_eq!(cause_in(&stat(state, code)), None, "{state} {code}");
        }
        for text in ["", "77 (a", "77 (a) R 1 2 3", "77 (a) R x"] {
            assert_eq!(cause_in(text), None, "{text}");
        }
    }
}
