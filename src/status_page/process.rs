//! What `/proc` tells of a process that may be a host.

use std::fs::File;
use std::io::{self, Read};

use crate::error::shown;

/// In bytes.
const LONGEST_COMMAND: u64 = 4096;

/// The ids of a process, that in its own pid namespace last, and before it those in the namespaces around
/// it, up to that of `/proc`.
pub(super) fn ids(pid: u32) -> io::Result<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ids: Vec<u32> = ids.into_iter().flat_map(numbers).collect();
    // Kernels that do not tell have one namespace.
    Ok(if ids.is_empty() { vec![pid] } else { ids })
}

/// The numbers of a list.
pub(super) fn numbers(list: &str) -> Vec<u32> {
    list.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
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
        assert_eq!(ids(pid).unwrap().first(), Some(&pid));
        assert!(!command(pid).unwrap().is_empty());
        assert!(ids(4_194_305).is_err() && command(4_194_305).is_err());
    }
}
