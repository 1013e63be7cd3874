//! `slipring bench`: measures slipring on this machine, beside the machine's limits.
//!
//! `slipring-bench` measures; this file has the options and the output.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use slipring_bench::compare::{Comparison, Figures};
use slipring_bench::links::WORKER;
use slipring_bench::{Options, cases};

use crate::args::usage;
use crate::error::{Error, say};
use crate::output::{Place, Sink};
use crate::signals;
use crate::stdio::Stdout;

/// The options of `bench`.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) run: Options,
    pub(crate) json: bool,
    pub(crate) plot: Option<Place>,
    /// The two results to compare, the earlier first.
    pub(crate) compare: Option<[PathBuf; 2]>,
}

/// If this process is a worker of `bench`, does its work.
pub(crate) fn serve_if_worker() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next()? != WORKER {
        return None;
    }
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    Some(slipring_bench::worker_main(&args))
}

pub(crate) fn run(request: &Request) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::failure(format!("cannot measure: {error}"));
    let Request { run, json, plot, compare } = request;
    if let Some([before, after]) = compare {
        return show_changes(before, after, *json);
    }
    let progress = |what: &str| say(format_args!("{what} …"));
    if let Err(error) = run.processors()
        && error.kind() == ErrorKind::InvalidInput
    {
        return Err(usage(format_args!("--cpus: {error}")));
    }
    // The output is opened first: a mistake in its path must not cost a measurement.
    if let Some(place) = plot {
        let mut sink = Sink::open(place, &[])?;
        signals::clean_up().map_err(failed)?;
        let drawing = slipring_bench::scaling::plot(run, progress).map_err(failed)?;
        sink.write_all(drawing.as_bytes())?;
        return sink.finish();
    }
    let stdout = Stdout::open()?;
    let report = slipring_bench::run(run, cases::all(run.is_quick), progress).map_err(failed)?;
    if *json { stdout.print(report.json()) } else { stdout.print(report.table()) }
}

/// Prints what has changed between two results.
fn show_changes(before: &Path, after: &Path, is_json: bool) -> Result<(), Error> {
    let read = |path: &Path| {
        let failed = |error| Error::failure(format!("{} {error}", path.display()));
        Figures::read(path).map_err(failed)
    };
    let (before, after) = (read(before)?, read(after)?);
    let comparison = Comparison::new(&before, &after);
    let stdout = Stdout::open()?;
    if is_json { stdout.print(comparison.json()) } else { stdout.print(comparison.table()) }
}
