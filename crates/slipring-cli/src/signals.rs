//! SIGINT, SIGTERM and SIGHUP end the program in good order; SIGCHLD tells of a
//! worker's end, even while nobody waits for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::output::temporary;
use crate::pipeline::Event;

/// How long the main thread has for its clean-up. It may itself be blocked,
/// for instance in a write to a pipe that nobody reads.
const GRACE: Duration = Duration::from_secs(1);

/// Makes signals events for the main thread. If it does not end the program
/// soon when it should, the temporary file is removed and the program ends from
/// here; worker processes end when their parent is gone.
pub(crate) fn watch(events: Sender<Event>) -> io::Result<()> {
    let mut wanted = vec![SIGINT, SIGTERM, SIGCHLD];
    // `nohup` starts programs with SIGHUP ignored, and means it.
    if !ignored_at_start(SIGHUP) {
        wanted.push(SIGHUP);
    }
    // With a handler, a file beyond the size limit is an error of `write`, which
    // is reported like any other, and not the end of the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new(wanted)?;
    let run = move || {
        for signal in signals.forever() {
            // The main thread may be past its last look at the events.
            if signal == SIGCHLD {
                let _ = events.send(Event::ChildChanged);
                continue;
            }
            let _ = events.send(Event::Signal(signal));
            thread::sleep(GRACE);
            temporary::remove_current();
            std::process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(run).map(drop)
}

fn ignored_at_start(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

/// Reads the mask of ignored signals in the text of `/proc/PID/status`.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_signal_is_found_in_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, SIGHUP));
        assert!(ignores(status, 13));
        assert!(!ignores(status, SIGINT));
        assert!(!ignores("", SIGHUP));
    }
}
