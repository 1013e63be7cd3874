//! The `slipring` program: embeds texts through worker processes.
//!
//! One text's trip: [`input`] cuts lines into a [`batch`]; the [`pipeline`]
//! hands it to the pool of [`worker`]s, processes that run this same program, where the
//! [`embedder`] turns it into vectors; the pipeline puts the answers back in
//! order; [`output`] writes them. [`embed`] puts these parts together.
//! [`bench`] measures instead; [`soak`] looks for faults; [`top`] and [`stat`] show what hosts count,
//! [`inspect`] what lies in the memory of a host's channels, and [`prune`] what hosts have left behind;
//! [`doctor`] says what this machine gives slipring; [`replay`] sends again what was recorded. A command
//! that is a program of its own
//! is left to that: [`external`]. What was inherited is looked at
//! once, at the start: the standard streams by [`stdio`], signals by [`signals`]. [`shown`] escapes what
//! other processes have written.
// Tests may panic; code that ships may not.
#![cfg_attr(
    not(test),
    warn(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::as_conversions)
)]

mod args;
mod batch;
mod bench;
mod doctor;
mod embed;
mod embedder;
mod error;
mod external;
mod input;
mod inspect;
mod manual;
mod output;
mod pipeline;
mod progress;
mod prune;
mod queue;
mod replay;
mod shown;
mod signals;
mod soak;
mod stat;
mod stats;
mod stdio;
mod sys;
mod top;
mod worker;

use std::process::ExitCode;

use args::{Command, Parsed};
use error::Error;
use stdio::Stdout;

fn main() -> ExitCode {
    if let Some(exit) = bench::serve_if_worker() {
        return exit;
    }
    if let Some(exit) = soak::serve_if_worker() {
        return exit;
    }
    if let Some(exit) = doctor::serve_if_trials() {
        return exit;
    }
    if slipring::worker::is_worker() {
        return worker::serve();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.report();
            ExitCode::from(error.exit().code())
        }
    }
}

fn run() -> Result<(), Error> {
    let command = match args::parse(std::env::args_os().skip(1))? {
        Parsed::Text(text) => return print(&text),
        Parsed::Command(command) => command,
    };
    signals::reset().map_err(|e| Error::failure(format!("cannot handle signals: {e}")))?;
    match command {
        Command::Embed(options) => embed::run(&options),
        Command::Bench(request) => bench::run(&request.into()),
        Command::Soak(options) => soak::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Stat { pids } => stat::run(&pids),
        Command::Top(options) => top::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Prune { remove } => prune::run(remove),
        Command::Replay(options) => replay::run(&options),
        Command::Gateway { args } => Err(external::become_program("slipring-gateway", &args)),
        Command::Completions { shell } => print(&manual::completions(shell)),
        Command::Man { command } => print(&manual::page(command.as_deref())?),
    }
}

fn print(text: &str) -> Result<(), Error> {
    Stdout::open()?.print(text)
}
