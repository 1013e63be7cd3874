//! `slipring bench`: how fast slipring is on this machine, and how near to its limits.
//!
//! The measuring is `slipring-bench`'s; here are its options and its output.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use slipring_bench::links::WORKER;
use slipring_bench::{Options, cases};

use crate::error::{Error, say};

/// The options of `bench`.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) run: Options,
    pub(crate) json: bool,
    pub(crate) plot: Option<PathBuf>,
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
    let Request { run, json, plot } = request;
    let progress = |what: &str| say(format_args!("{what} …"));
    if let Some(path) = plot {
        let drawing = slipring_bench::scaling::plot(run, progress).map_err(failed)?;
        return fs::write(path, drawing)
            .map_err(|error| Error::write(path.display().to_string(), &error));
    }
    let report = slipring_bench::run(run, cases::all(run.is_quick), progress).map_err(failed)?;
    if *json { crate::print(report.json()) } else { crate::print(report.table()) }
}
