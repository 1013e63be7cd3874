//! The program `slipring-gateway`, which `slipring gateway` runs: it starts workers on this machine, and
//! serves them to others.
//!
//! [`args`] reads the command line, [`workers`] starts the pool, [`serve`] takes connections until a
//! [signal](signals) ends it. [`metrics`] has a page of its own. [`certificates`] are for mutual TLS.
//! An [`error`] is one line and an exit code.
#![warn(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::as_conversions)]

mod args;
mod certificates;
mod error;
mod kinds;
mod metrics;
mod serve;
mod signals;
mod workers;

use std::process::ExitCode;

use args::Parsed;
use error::Failure;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error::say(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run() -> Result<(), Failure> {
    let options = match args::parse(std::env::args_os().skip(1))? {
        Parsed::Text(text) => {
            error::print(&text);
            return Ok(());
        }
        Parsed::Options(options) => *options,
    };
    if let Some(directory) = &options.make_certs {
        return certificates::make(&options, directory);
    }
    // It only carries bytes. The other processors are for the workers.
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::other(format!("cannot start threads: {e}")))?;
    if options.log_requests {
        log_requests()?;
    }
    let done = runtime.block_on(serve::run(options));
    // A thread may still wait for workers that do not end.
    runtime.shutdown_background();
    done
}

/// Has a line on standard error for each request, with its trace.
fn log_requests() -> Result<(), Failure> {
    use tracing_subscriber::filter::LevelFilter;

    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    // A line of the connections' own code says nothing of requests.
    let lines = lines.finish();
    let lines = tracing_subscriber::layer::SubscriberExt::with(lines, of_slipring());
    tracing::subscriber::set_global_default(lines).map_err(|e| Failure::other(e.to_string()))
}

/// Lets through what is of target `slipring`.
fn of_slipring() -> tracing_subscriber::filter::FilterFn {
    tracing_subscriber::filter::filter_fn(|metadata| metadata.target() == "slipring")
}
