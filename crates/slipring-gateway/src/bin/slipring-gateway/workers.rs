//! The pool of workers, and what it tells.

use std::sync::{Arc, OnceLock};

use slipring::pool::{Event, EventKind, Pool, Role, WorkerSlot};
use slipring::{Config, CrashReports, Error, ErrorKind, Spawner};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, channel};

use crate::args::Options;
use crate::error::{Failure, say};

/// The workers of the gateway's role.
pub(crate) struct Workers {
    pub(crate) pool: Pool,
    events: Receiver<Event>,
    /// How many there should be.
    wanted: usize,
}

impl Workers {
    /// Begins to start them. Must be called in the runtime of the gateway.
    pub(crate) fn start(options: &Options) -> Result<Self, Failure> {
        let refused = |error: Error| match error.kind() {
            ErrorKind::InvalidConfig => Failure::usage(error),
            _ => Failure::other(error.to_string()),
        };
        let config = Config::builder().max_message(options.max_message).build().map_err(refused)?;
        let (program, args) = options.command.split_first().ok_or_else(no_program)?;
        let worker = Spawner::program(program).args(args).config(config);
        let worker = match &options.log_dir {
            Some(directory) => worker.log_dir(directory),
            None => worker.inherit_stdio(),
        };
        let worker = match &options.crash_reports {
            Some(directory) => worker.crash_reports(CrashReports::in_dir(directory)),
            None => worker,
        };
        // No worker is started before its events are read.
        let are_read = Arc::new(OnceLock::new());
        let wait = Arc::clone(&are_read);
        let recipe = move |slot: &WorkerSlot| {
            wait.wait();
            Ok(worker.clone().role(slot.role.as_str()))
        };
        let role = Role::new(recipe)
            .min_idle(options.workers)
            .max_size(options.workers)
            .concurrency(options.concurrency)
            .prefetch(options.prefetch)
            .max_waiting(options.max_waiting)
            .on_tokio(Handle::current());
        let role = options.idempotent_kinds().fold(role, Role::idempotent);
        let names = options.kind_names()?;
        let role = names.into_iter().fold(role, |role, (kind, name)| role.kind_name(kind, name));
        let pool = Pool::builder().role(options.role.as_str(), role).build().map_err(refused)?;
        let (sender, events) = channel(64);
        let all = pool.events();
        let read = move || all.into_iter().try_for_each(|event| sender.blocking_send(event));
        let thread = std::thread::Builder::new().name("events".into());
        let started = thread.spawn(read);
        started.map_err(|e| Failure::other(format!("cannot start a thread: {e}")))?;
        let _ = are_read.set(());
        Ok(Self { pool, events, wanted: options.workers })
    }

    /// Waits until one of them is ready. It is an error if all have failed that are to be started first: one that
    /// fails is started again.
    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        let mut first = FirstStarts { left: self.wanted, begun: Vec::new() };
        while let Some(event) = self.events.recv().await {
            match &event.kind {
                EventKind::Ready(_) => return Ok(()),
                EventKind::Started => first.begin(event.worker),
                EventKind::StartFailed(error) | EventKind::Died(error) => {
                    first.fail(event.worker);
                    if first.are_over() {
                        return Err(Failure::workers(
                            format!("no worker starts: {}", told(error)),
                            error.log_tail(),
                        ));
                    }
                    say_of(&event);
                }
                _ => {}
            }
        }
        Err(Failure::other("the pool has ended"))
    }

    /// Tells what happens to them, until the pool ends.
    pub(crate) async fn tell(&mut self) {
        while let Some(event) = self.events.recv().await {
            say_of(&event);
        }
    }
}

/// The first starts of workers. Those of workers that have failed once come behind them.
struct FirstStarts {
    /// How many have not begun.
    left: usize,
    /// The places of those that have begun, and have not failed.
    begun: Vec<Option<usize>>,
}

impl FirstStarts {
    fn begin(&mut self, place: Option<usize>) {
        if let Some(left) = self.left.checked_sub(1) {
            self.left = left;
            self.begun.push(place);
        }
    }

    fn fail(&mut self, place: Option<usize>) {
        match self.begun.iter().position(|begun| *begun == place) {
            Some(which) => drop(self.begun.swap_remove(which)),
            // It has not come as far as a start.
            None => self.left = self.left.saturating_sub(1),
        }
    }

    fn are_over(&self) -> bool {
        self.left == 0 && self.begun.is_empty()
    }
}

fn say_of(event: &Event) {
    let what = match &event.kind {
        EventKind::Died(error) => told(error),
        EventKind::StartFailed(error) => format!("a worker does not start: {}", told(error)),
        EventKind::Hung { .. } => "is killed: its request makes no progress".to_owned(),
        EventKind::Unresponsive => "does not answer".to_owned(),
        EventKind::Degraded => "its workers have failed too often".to_owned(),
        EventKind::Healed => "its workers start again".to_owned(),
        _ => return,
    };
    match event.worker {
        Some(number) => say(format_args!("{} {number}: {what}", event.role)),
        None => say(format_args!("{}: {what}", event.role)),
    }
}

/// An error with its cause, in a line. The log has lines of its own.
fn told(error: &Error) -> String {
    let text = format!("{error:#}");
    let line = text.lines().next().unwrap_or_default().trim_end_matches("; the log ends:");
    // A user of the program has an option in place of the library's method.
    line.replace("`Spawner::log_dir`", "--log-dir")
}

fn no_program() -> Failure {
    Failure::usage("the worker's program is missing")
}
