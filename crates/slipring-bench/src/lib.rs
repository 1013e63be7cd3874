//! Measures slipring between two processes, against what the machine itself can do.
//!
//! [`cases`] lists the comparisons. [`measure`] runs the contenders in turns, with the probe of
//! [`machine`] between them. [`report`] prints the results, [`mod@reference`] tells whether a run
//! counts, `words` has the verdict, and `advice` what follows from it. [`mod@compare`] puts two
//! results side by side. [`work`] has the loops of both sides, over an
//! [`end::End`]: those of [`limits`], of [`links`] and of [`own`]. Every byte is checked.
//!
//! A program that measures is its own worker: it calls [`worker_main`] when its first
//! argument is [`links::WORKER`].
// Figures: counts and times become floats, so `as` is allowed; lengths are 64 bits on every side.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing))]

mod advice;
pub mod cases;
pub mod compare;
#[cfg(all(feature = "counts", target_arch = "x86_64"))]
pub mod counts;
pub mod drawing;
pub mod end;
pub mod figures;
pub mod limits;
pub mod links;
pub mod machine;
pub mod measure;
pub mod own;
pub mod pattern;
pub mod reference;
pub mod report;
pub mod scaling;
mod words;
pub mod work;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use limits::sys;
use machine::{Machine, Probe};
use measure::{Case, Cpus, Effort};
use reference::Verdict;
use report::Report;

/// Which cases run, and where.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether only few rounds and sizes run, in under a minute.
    pub is_quick: bool,
    /// Workloads to run; all if empty.
    pub only: Vec<String>,
    /// The processors of the parent and of the workers; chosen if `None`.
    pub cpus: Option<(usize, usize)>,
}

impl Options {
    fn effort(&self) -> Effort {
        match self.is_quick {
            true => {
                let (slice, warm_up) = (Duration::from_millis(4), Duration::from_millis(50));
                Effort { rounds: 5, slice, warm_up, case: Duration::from_secs(5) }
            }
            false => Effort {
                rounds: 25,
                slice: Duration::from_millis(20),
                warm_up: Duration::from_millis(200),
                case: Duration::from_secs(300),
            },
        }
    }

    /// Returns the processors of the parent and of the workers: those given, or chosen ones.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if the given processors cannot be measured on; another error if this process
    /// may use one processor only.
    pub fn processors(&self) -> io::Result<(usize, usize)> {
        machine::processors(self.cpus, &sys::allowed_cpus())
    }

    /// Whether a workload was selected.
    #[must_use]
    pub fn wants(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == workload)
    }
}

/// Runs cases. Calls `progress` before each of them.
///
/// # Errors
///
/// Fails as [`Options::processors`] does, or if the probe cannot run.
pub fn run(
    options: &Options,
    cases: Vec<Case>,
    mut progress: impl FnMut(&str),
) -> io::Result<Report> {
    let all = sys::allowed_cpus();
    let (parent, worker) = machine::processors(options.cpus, &all)?;
    let cpus = Cpus { parent, worker, all };
    // Before the run, which is itself a load.
    let load = machine::load();
    let mut probe = Probe::new(worker)?;
    let mut rows = Vec::new();
    for case in cases.iter().filter(|case| options.wants(case.workload)) {
        progress(&case.title());
        rows.extend(measure::run(case, options.effort(), &cpus, &mut probe)?);
    }
    let machine = Machine::read();
    let verdict = Verdict::of(&machine, &rows);
    let args = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let command = format!("slipring {args}");
    Ok(Report { machine, probes: probe.history.clone(), load, rows, verdict, command })
}

/// Runs a worker process. `args` are the arguments after [`links::WORKER`].
#[must_use]
pub fn worker_main(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match links::serve(&args).or_else(|| own::serve(&args)) {
        // The worker of a limit ends when its parent kills it or is gone.
        Some(Ok(()) | Err(_)) => ExitCode::SUCCESS,
        None => {
            eprintln!("{} is for the program's own use", links::WORKER);
            ExitCode::from(2)
        }
    }
}
