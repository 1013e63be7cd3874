//! `slipring prune`: memory of named channels that killed processes have left behind.

use std::fmt::Write as _;

use slipring::named::{self, Stale};

use crate::error::Error;
use crate::stdio::Stdout;

/// Lists what is left behind, and removes it if asked to.
pub(crate) fn run(removes: bool) -> Result<(), Error> {
    let failed = |e: slipring::Error| Error::failure(format!("{e:#}"));
    let found = named::stale().map_err(failed)?;
    let mut text = String::new();
    let mut failures = Vec::new();
    for stale in &found {
        let done = match removes {
            false => "left behind",
            true => match stale.remove() {
                Ok(()) => "removed",
                Err(error) => {
                    failures.push(format!("{}: {error:#}", stale.name()));
                    "not removed"
                }
            },
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", line(stale, done));
    }
    let bytes: u64 = found.iter().map(Stale::bytes).sum();
    let _ = writeln!(
        text,
        "{}",
        match (found.len(), removes) {
            (0, _) => "nothing is left behind".to_owned(),
            (count, true) => format!("{count} channels, {bytes} bytes"),
            (count, false) => format!("{count} channels, {bytes} bytes; --remove removes them"),
        }
    );
    Stdout::open()?.print(&text)?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::failure(format!("not removed: {}", failures.join("; ")))),
    }
}

fn line(stale: &Stale, done: &str) -> String {
    let by = stale.pid().map_or("a process that was killed at once".to_owned(), |pid| {
        format!("process {pid}, which has ended")
    });
    format!("{}: {done}, {} bytes, by {by}", stale.name(), stale.bytes())
}
