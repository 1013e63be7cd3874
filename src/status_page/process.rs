//! What `/proc` tells of a process that may be a host.

use std::io;

/// When a process began, in clock ticks since the machine's start. `pid` may be `self`.
pub(super) fn start_time(pid: &str) -> io::Result<u64> {
    stat(pid).map(|(_, start_time)| start_time)
}

/// Whether a process is stopped, by a signal or a debugger.
pub(super) fn is_stopped(pid: &str) -> io::Result<bool> {
    stat(pid).map(|(state, _)| matches!(state, 'T' | 't'))
}

fn stat(pid: &str) -> io::Result<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The third and the 22nd field. The second is in parentheses and can contain anything.
fn parse(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The id that a process has in its own pid namespace.
pub(super) fn own_id(pid: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = ids.and_then(|ids| ids.split_ascii_whitespace().last()?.parse().ok());
    // Kernels that do not tell have one namespace.
    Ok(own.unwrap_or(pid))
}

/// The command line, as one would type it, without control characters.
pub(super) fn command(pid: u32) -> io::Result<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let shown = |c: char| if c.is_control() { '\u{FFFD}' } else { c };
    Ok(words.join(" ").chars().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_does_not_stand_still() {
        let pid = std::process::id();
        assert_eq!(start_time("self").unwrap(), start_time(&pid.to_string()).unwrap());
        assert!(!is_stopped("self").unwrap());
        assert_eq!(own_id(pid).unwrap(), pid);
        assert!(!command(pid).unwrap().is_empty());
        assert!(start_time("4194305").is_err());
    }
}
