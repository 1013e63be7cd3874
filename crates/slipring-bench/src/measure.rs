//! Runs the contenders of a case in turns, and makes rows of their times.
//!
//! All contenders of a case exist at the same time, each with its worker. A worker is stopped
//! while it is not its turn, so that it does not spin on a processor that is measured. In a round
//! each contender has one slice of work, with a probe of the cache line before and after it.
//! A ratio is taken within one round, and only between slices of one placement.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use crate::figures::{Ratio, median, quantile};
use crate::limits::sys;
use crate::machine::{Placement, Probe};
use crate::work::{Session, Slice, Work};

/// The role of a contender in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The least code that does the work.
    Limit,
    /// slipring.
    Own,
    /// A pipe or a socket, which every system has.
    Plain,
    /// Another library.
    Peer,
}

impl Role {
    /// Returns the name of the role, one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Own => "slipring",
            Self::Plain => "plain",
            Self::Peer => "peer",
        }
    }
}

type Start = Box<dyn Fn() -> io::Result<Box<dyn Session>>>;

/// A contender: something that does the work of a case.
pub struct Contender {
    /// Its name in rows.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its work, if that differs from the work of the case.
    pub work: Option<Work>,
    /// The routine that it copies with, if it is one for which routines are compared.
    pub copies: Option<&'static str>,
    start: Start,
}

impl Contender {
    /// Makes a contender that `start` starts anew for each case.
    pub fn new(
        name: impl Into<String>,
        role: Role,
        start: impl Fn() -> io::Result<Box<dyn Session>> + 'static,
    ) -> Self {
        Self { name: name.into(), role, work: None, copies: None, start: Box::new(start) }
    }

    /// Gives the contender work of its own.
    #[must_use]
    pub fn doing(mut self, work: Work) -> Self {
        self.work = Some(work);
        self
    }

    /// Names the routine that the contender copies with.
    #[must_use]
    pub fn copying(mut self, routine: &'static str) -> Self {
        self.copies = Some(routine);
        self
    }
}

/// One comparison.
pub struct Case {
    /// `W1` to `W6`.
    pub workload: &'static str,
    /// The work, in a few words.
    pub what: &'static str,
    /// The work.
    pub work: Work,
    /// Whether each side stays on its processor.
    pub is_pinned: bool,
    /// Whether starting the worker is what is measured.
    pub is_spawn: bool,
    /// The contender to compare with, if that is not the best of limits and peers.
    pub yardstick: Option<&'static str>,
    /// The contenders.
    pub contenders: Vec<Contender>,
}

impl Case {
    /// Returns the workload and the sizes of its messages, in one line.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{} {}: {}", self.workload, self.what, self.work.sizes())
    }

    /// Whether workers spin, so that they must be stopped while it is not their turn.
    fn spins(&self, work: Work) -> bool {
        self.is_pinned && !work.sleeps()
    }
}

/// The number of rounds, and how long they take.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds: pairs for each ratio.
    pub rounds: usize,
    /// The intended duration of a slice.
    pub slice: Duration,
    /// How long a contender streams before its first slice: a ring that finds out how to copy has
    /// found it by then. The same for all.
    pub warm_up: Duration,
    /// The longest duration of a case.
    pub case: Duration,
}

/// The result of one contender in one placement.
#[derive(Debug, Clone)]
pub struct Row {
    /// `W1` to `W6`.
    pub workload: &'static str,
    /// The work, in a few words.
    pub what: &'static str,
    /// The messages and their sizes: see [`Work::sizes`].
    pub sizes: String,
    /// Whether each side stayed on its processor.
    pub is_pinned: bool,
    /// The name of the contender.
    pub transport: String,
    /// Its role.
    pub role: Role,
    /// Bytes of a message.
    pub size: usize,
    /// How far apart the processors were.
    pub placement: Placement,
    /// Nanoseconds for one message.
    pub p50_ns: f64,
    /// The 99th percentile of the same.
    pub p99_ns: f64,
    /// Messages a second.
    pub msgs_s: f64,
    /// Billions of bytes a second.
    pub gb_s: f64,
    /// Nanoseconds for one message, as a median over the rounds with its interval.
    pub rounds: Option<Ratio>,
    /// The ratio to the best limit: of rates for streams, of times for all other work.
    pub ratio: Option<Ratio>,
    /// Whether the ratio is one of rates.
    pub is_rate: bool,
    /// Processor time of both processes in one slice.
    pub cpu_ms: f64,
    /// Wake-ups of all threads of both processes in one slice.
    pub wakeups: f64,
    /// The routine with which the contender copies such messages, if that is known.
    pub copies: Option<String>,
    /// The reason if there are no figures.
    pub failure: Option<String>,
}

struct Entrant<'a> {
    contender: &'a Contender,
    session: Option<Box<dyn Session>>,
    count: u64,
    turns: Vec<Turn>,
    copies: Option<String>,
    failure: Option<String>,
}

struct Turn {
    round: usize,
    placement: Option<Placement>,
    slice: Slice,
    cpu: Duration,
    wakeups: u64,
}

/// The two measured processors, and all that the process may use.
#[derive(Debug, Clone)]
pub struct Cpus {
    /// The parent's processor.
    pub parent: usize,
    /// The workers' processor.
    pub worker: usize,
    /// All processors that the process may use.
    pub all: Vec<usize>,
}

/// Measures a case.
///
/// # Errors
///
/// If the probe fails. A contender that fails becomes a row that says so.
pub fn run(case: &Case, effort: Effort, cpus: &Cpus, probe: &mut Probe) -> io::Result<Vec<Row>> {
    let mut entrants: Vec<Entrant<'_>> =
        case.contenders.iter().map(|contender| start(contender, case, effort, cpus)).collect();
    let begun = Instant::now();
    let mut before = placement(probe, cpus)?;
    for round in 0..effort.rounds {
        // The first contender of one round is the last of the next.
        let shift = round % entrants.len().max(1);
        let (late, early) = entrants.split_at_mut(shift);
        for entrant in early.iter_mut().chain(late) {
            place(case, cpus)?;
            let turn = entrant.turn(case, round, cpus);
            let after = placement(probe, cpus)?;
            if let Some(mut turn) = turn {
                turn.placement = (before == after).then_some(before);
                entrant.turns.push(turn);
            }
            before = after;
        }
        if begun.elapsed() > effort.case {
            break;
        }
    }
    for entrant in &mut entrants {
        if matches!(case.work, Work::Stream { .. }) {
            let piece = case.work.piece();
            let found = entrant.session.as_ref().and_then(|session| session.copies(piece));
            entrant.copies = entrant.contender.copies.map(str::to_owned).or(found);
        }
        entrant.wake();
        entrant.session = None;
    }
    sys::run_on(&cpus.all)?;
    Ok(rows(case, &entrants))
}

fn placement(probe: &mut Probe, cpus: &Cpus) -> io::Result<Placement> {
    sys::run_on(&[cpus.parent])?;
    probe.take().map(Placement::of)
}

fn place(case: &Case, cpus: &Cpus) -> io::Result<()> {
    if case.is_pinned { sys::run_on(&[cpus.parent]) } else { sys::run_on(&cpus.all) }
}

fn start<'a>(contender: &'a Contender, case: &Case, effort: Effort, cpus: &Cpus) -> Entrant<'a> {
    let mut entrant = Entrant {
        contender,
        session: None,
        count: 1,
        turns: Vec::new(),
        copies: None,
        failure: None,
    };
    let started = (|| {
        // Workers inherit the processors of this thread.
        sys::run_on(&cpus.all)?;
        let mut session = (contender.start)()?;
        if case.is_spawn {
            return Ok(None);
        }
        place(case, cpus)?;
        if case.is_pinned {
            session.pin(cpus.worker)?;
        }
        let work = contender.work.unwrap_or(case.work);
        entrant.count = calibrate(session.as_mut(), work, effort.slice)?;
        if work.is_stream() {
            entrant.count = warm_up(session.as_mut(), work, entrant.count, effort)?;
        }
        if case.spins(work) {
            sys::set_stopped(session.pid(), true);
        }
        Ok(Some(session))
    })();
    match started {
        Ok(session) => entrant.session = session,
        Err(error) => entrant.failure = Some(io::Error::to_string(&error)),
    }
    entrant
}

/// Returns the number of messages for a slice of the intended duration. Warms up meanwhile.
fn calibrate(session: &mut dyn Session, work: Work, length: Duration) -> io::Result<u64> {
    if matches!(work, Work::Idle { .. }) {
        return Ok(1);
    }
    let mut count = 4;
    loop {
        let start = Instant::now();
        session.run(work, count)?;
        let took = start.elapsed();
        if took * 4 < length && count <= 1 << 26 {
            count *= 4;
            continue;
        }
        let share = length.as_secs_f64() / took.as_secs_f64().max(1e-9);
        let next = ((count as f64 * share) as u64).max(2);
        // The first messages cause page faults and wake processors: later ones may be much faster.
        if next <= 2 * count {
            return Ok(next);
        }
        count = next;
    }
}

/// Streams until the warm-up is over, and returns the number of messages for a slice anew: what has
/// been found out meanwhile may have changed the rate.
fn warm_up(session: &mut dyn Session, work: Work, count: u64, effort: Effort) -> io::Result<u64> {
    let start = Instant::now();
    loop {
        let took = session.run(work, count)?.total;
        if start.elapsed() >= effort.warm_up {
            let share = effort.slice.as_secs_f64() / took.as_secs_f64().max(1e-9);
            return Ok(((count as f64 * share) as u64).max(2));
        }
    }
}

impl Entrant<'_> {
    fn wake(&self) {
        if let Some(session) = &self.session {
            sys::set_stopped(session.pid(), false);
        }
    }

    fn turn(&mut self, case: &Case, round: usize, cpus: &Cpus) -> Option<Turn> {
        if self.failure.is_some() {
            return None;
        }
        let result = if case.is_spawn { self.spawn() } else { self.work(case) };
        match result {
            Ok(mut turn) => {
                turn.round = round;
                Some(turn)
            }
            Err(error) => {
                self.failure = Some(format!("{error:#}"));
                self.wake();
                self.session = None;
                // The worker may be in the middle of a slice.
                let _ = sys::run_on(&cpus.all);
                None
            }
        }
    }

    fn work(&mut self, case: &Case) -> io::Result<Turn> {
        let session = self.session.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let work = self.contender.work.unwrap_or(case.work);
        let pid = session.pid();
        if case.spins(work) {
            sys::set_stopped(pid, false);
            // Until the worker is back in the caches, and has handled the signal.
            session.run(work, (self.count / 16).max(1))?;
        }
        let before = Usage::of(pid);
        let slice = session.run(work, self.count)?;
        let after = Usage::of(pid);
        if case.spins(work) {
            sys::set_stopped(pid, true);
        }
        Ok(Turn {
            round: 0,
            placement: None,
            slice,
            cpu: after.cpu.saturating_sub(before.cpu),
            wakeups: after.wakeups.saturating_sub(before.wakeups),
        })
    }

    /// Starts a worker and waits for its first answer.
    fn spawn(&self) -> io::Result<Turn> {
        let before = Usage::of(std::process::id());
        let start = Instant::now();
        let session = (self.contender.start)()?;
        let total = start.elapsed();
        let after = Usage::of(std::process::id());
        drop(session);
        let slice = Slice { samples: vec![total.as_nanos() as f64], total, messages: 1 };
        let cpu = after.cpu.saturating_sub(before.cpu);
        let wakeups = after.wakeups.saturating_sub(before.wakeups);
        Ok(Turn { round: 0, placement: None, slice, cpu, wakeups })
    }
}

/// The processor time and the wake-ups of this process and another.
struct Usage {
    cpu: Duration,
    wakeups: u64,
}

impl Usage {
    fn of(worker: u32) -> Self {
        let own = std::process::id();
        let pids = if own == worker { vec![own] } else { vec![own, worker] };
        Self {
            cpu: pids.iter().map(|pid| sys::cpu_time(*pid)).sum(),
            wakeups: pids.iter().map(|pid| voluntary_switches(*pid)).sum(),
        }
    }
}

/// Returns how often the threads of a process have gone to sleep.
fn voluntary_switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_task = |path: std::path::PathBuf| -> Option<u64> {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    tasks.flatten().filter_map(|task| of_task(task.path())).sum()
}

fn rows(case: &Case, entrants: &[Entrant<'_>]) -> Vec<Row> {
    let mut rows = Vec::new();
    for placement in Placement::ALL {
        let turns = |entrant: &Entrant<'_>| -> Vec<(usize, f64)> {
            let here = entrant.turns.iter().filter(|turn| turn.placement == Some(placement));
            here.map(|turn| (turn.round, turn.slice.typical_ns())).collect()
        };
        let typical = |entrant: &Entrant<'_>| {
            let mut times: Vec<f64> = turns(entrant).iter().map(|(_, time)| *time).collect();
            median(&mut times)
        };
        let limit = entrants
            .iter()
            .filter(|e| match case.yardstick {
                Some(name) => e.contender.name == name,
                None => matches!(e.contender.role, Role::Limit | Role::Peer),
            })
            .filter(|e| !turns(e).is_empty())
            .min_by(|a, b| typical(a).total_cmp(&typical(b)));
        let limit = limit.map(turns).unwrap_or_default();
        for entrant in entrants {
            let own = turns(entrant);
            if own.is_empty() {
                continue;
            }
            rows.push(row(case, entrant, placement, &own, &limit));
        }
    }
    for entrant in entrants {
        if let Some(failure) = &entrant.failure {
            let mut row = row(case, entrant, Placement::Disturbed, &[], &[]);
            row.failure = Some(failure.clone());
            rows.push(row);
        }
    }
    rows
}

fn row(
    case: &Case,
    entrant: &Entrant<'_>,
    placement: Placement,
    own: &[(usize, f64)],
    limit: &[(usize, f64)],
) -> Row {
    let work = entrant.contender.work.unwrap_or(case.work);
    let here = || entrant.turns.iter().filter(|turn| turn.placement == Some(placement));
    let mut samples: Vec<f64> =
        here().flat_map(|turn| turn.slice.samples.iter().copied()).collect();
    let rounds = Ratio::of(own.iter().map(|(_, time)| *time).collect());
    let time = rounds.map_or(0.0, |rounds| rounds.median);
    let is_rate = work.is_stream();
    let ratios = own.iter().filter_map(|(round, time)| {
        let (_, limit) = limit.iter().find(|(other, _)| other == round)?;
        Some(if is_rate { limit / time } else { time / limit })
    });
    let has_rate = time > 0.0 && !matches!(work, Work::Idle { .. });
    let msgs_s = if has_rate { 1e9 / time } else { 0.0 };
    let median_of = |value: fn(&Turn) -> f64| median(&mut here().map(value).collect::<Vec<_>>());
    let is_idle = matches!(work, Work::Idle { .. });
    // slipring beside itself has no limit to be compared with.
    let is_own_yardstick = entrant.contender.role == Role::Own
        && case.yardstick.is_some_and(|name| name == entrant.contender.name);
    Row {
        workload: case.workload,
        what: case.what,
        sizes: case.work.sizes(),
        is_pinned: case.is_pinned,
        transport: entrant.contender.name.clone(),
        role: entrant.contender.role,
        size: work.size(),
        placement,
        p50_ns: quantile(&mut samples, 0.5),
        p99_ns: quantile(&mut samples, 0.99),
        msgs_s,
        gb_s: if is_rate { msgs_s * work.size() as f64 / 1e9 } else { 0.0 },
        rounds,
        ratio: if is_idle || is_own_yardstick { None } else { Ratio::of(ratios.collect()) },
        is_rate,
        cpu_ms: median_of(|turn| turn.cpu.as_secs_f64() * 1e3),
        wakeups: median_of(|turn| turn.wakeups as f64),
        copies: entrant.copies.clone(),
        failure: None,
    }
}
