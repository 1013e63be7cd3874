//! `slipring doctor`: what this machine gives slipring, what slipring makes of it, and what to change.
//!
//! [`kernel`] tries what slipring needs of the kernel, in a process of its own ([`trial`]), because a
//! filter of system calls may kill the one that makes them. [`limits`], [`visibility`], [`cgroup`],
//! [`cores`] and [`pages`] read what `/proc` and `/sys` tell, and say so where those are not there.
//! [`worker`], [`latency`] and [`copies`] measure. [`plan`] draws the conclusions, and [`print`] prints.

mod cgroup;
mod copies;
mod cores;
mod files;
mod item;
mod kernel;
mod latency;
mod limits;
mod pages;
mod plan;
mod print;
mod trial;
mod visibility;
mod worker;

use crate::error::Error;
use crate::stdio::Stdout;
use files::Files;
use item::{Item, State};
use kernel::BINDING;
use trial::Outcome;

pub(crate) use trial::serve_if_trials;

/// The options of `doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Measure nothing: no latency between cores, and no copies
    #[arg(long)]
    no_measure: bool,
}

/// What was found.
#[derive(Debug)]
struct Findings {
    items: Vec<Item>,
    pairs: Vec<latency::Pair>,
}

/// Prints what was found. Fails if slipring cannot work here.
pub(crate) fn run(options: &Options) -> Result<(), Error> {
    let stdout = Stdout::open()?;
    let findings = look(!options.no_measure);
    if options.json {
        stdout.print(print::json(&findings))?;
    } else {
        stdout.print(print::text(&findings, print::Style::of_the_terminal()))?;
    }
    let missing = findings.items.iter().filter(|item| item.state == State::Fail);
    let missing: Vec<&str> = missing.map(|item| item.name).collect();
    match missing.as_slice() {
        [] => Ok(()),
        missing => {
            Err(Error::failure(format!("slipring cannot work here: {}", missing.join(", "))))
        }
    }
}

fn look(does_measure: bool) -> Findings {
    let files = Files::of_the_machine();
    let outcomes = trial::outcomes();
    // What kills the process that makes a call must not be called here.
    let is_deadly = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Ended(_)));
    let mut items = kernel::items(&files, &outcomes);
    let worker = worker::item(is_deadly.then_some("what it needs kills the process, see above"));
    let why_not = match (does_measure, is_deadly) {
        (false, _) => Some("--no-measure"),
        (true, true) => Some("system calls kill the process, see above"),
        (true, false) => None,
    };
    let cannot_start = (worker.state == State::Fail).then_some("workers cannot be started");
    items.push(worker);
    items.extend(limits::items(&files));
    items.extend(visibility::items(&files));
    let groups = cgroup::Groups::read(&files);
    items.extend(cgroup::items(&files, &groups));
    items.extend(pages::items(&files));
    let cores = cores::Cores::read(&files);
    items.extend(cores::items(&files, &cores));
    let is_bindable = items.iter().any(|item| item.name == BINDING && item.state == State::Ok);
    let cannot_bind = (!is_bindable).then_some("threads cannot be bound to processors");
    let measured = latency::measure(&cores, why_not.or(cannot_bind));
    items.push(measured.item);
    items.extend(copies::items(why_not.or(cannot_start), cores.allowed.len()));
    items.extend(plan::items(&items, &cores, &groups));
    Findings { items, pairs: measured.pairs }
}
