//! What `/proc` tells of a process that may be a host.

use std::fs::File;
use std::io::{self, Read};

use crate::error::shown;

/// In bytes.
const LONGEST_COMMAND: u64 = 4096;

/// The id that a process has in its own pid namespace.
pub(super) fn own_id(pid: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let own = ids.and_then(|ids| ids.split_ascii_whitespace().last()?.parse().ok());
    // Kernels that do not tell have one namespace.
    Ok(own.unwrap_or(pid))
}

/// The command line, as one would type it, without control characters. A long one is cut.
pub(super) fn command(pid: u32) -> io::Result<String> {
    let mut line = Vec::new();
    File::open(format!("/proc/{pid}/cmdline"))?.take(LONGEST_COMMAND).read_to_end(&mut line)?;
    let words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    Ok(shown(&words.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let pid = std::process::id();
        assert_eq!(own_id(pid).unwrap(), pid);
        assert!(!command(pid).unwrap().is_empty());
        assert!(own_id(4_194_305).is_err() && command(4_194_305).is_err());
    }
}
