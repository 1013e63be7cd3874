//! The ways that are compared, and the rows of the tables.

use std::time::Duration;

use crate::plan::{Table, Work};

/// The ways in the order of the columns.
pub const SOCKET: usize = 0;
pub const TONIC: usize = 1;
pub const ALIKE: usize = 2;
pub const IN_PROCESS: usize = 3;
pub const WORKER: usize = 4;
pub const THREADS: usize = 5;
pub const WAYS: usize = 6;

/// How many times as long as with tonic a single call may take with a worker.
const TARGET: f64 = 1.25;

/// What one way took in one round.
#[derive(Debug, Default)]
pub struct Took {
    /// For one call or chunk.
    pub each: Duration,
    /// For single calls, where several callers share the rate.
    pub calls: Vec<Duration>,
}

/// What each way took for one row.
pub struct Figures {
    work: Work,
    /// Seconds for one call or chunk, of each round.
    rounds: Vec<[f64; WAYS]>,
    /// Those of all rounds, by way.
    calls: [Vec<Duration>; WAYS],
}

impl Figures {
    pub fn new(work: Work) -> Self {
        Self { work, rounds: Vec::new(), calls: Default::default() }
    }

    pub fn push(&mut self, round: [Took; WAYS]) {
        self.rounds.push(round.each_ref().map(|took| took.each.as_secs_f64()));
        for (all, took) in self.calls.iter_mut().zip(round) {
            all.extend(took.calls);
        }
    }

    pub fn print_head(table: Table) {
        let head = match table {
            Table::Alone => {
                "| | socket | tonic | tonic, set alike | gateway, in process | gateway, worker \
                 | worker to tonic | worker to tonic, set alike | in process to the better tonic \
                 | the better tonic to socket |"
            }
            Table::Load => {
                "| calls/s (p50, p99 in µs) | tonic | tonic, set alike | gateway, in process \
                 | gateway, worker | gateway, worker with threads | worker to tonic \
                 | worker to tonic, set alike | in process to the better tonic \
                 | threads to the better tonic |"
            }
        };
        println!("\n{head}\n{}|", "|---".repeat(head.matches('|').count() - 1));
    }

    pub fn print(mut self, place: &str) {
        let better = if self.median(ALIKE) < self.median(TONIC) { ALIKE } else { TONIC };
        let mut cells = vec![format!("{place}: {}", self.name())];
        for way in self.work.table().ways() {
            cells.push(self.figure(way));
        }
        for tonic in [TONIC, ALIKE] {
            let ratio = self.ratio(WORKER, tonic);
            cells.push(match tonic == better {
                true if self.misses_target(tonic) => format!("**{ratio}** > {TARGET}"),
                true => format!("**{ratio}**"),
                false => ratio,
            });
        }
        cells.push(self.ratio(IN_PROCESS, better));
        cells.push(match self.work.table() {
            Table::Alone => self.ratio(better, SOCKET),
            Table::Load => self.ratio(THREADS, better),
        });
        println!("| {} |", cells.join(" | "));
    }

    fn name(&self) -> String {
        match self.work {
            Work::Calls { len, .. } => format!("call {}", bytes(len)),
            Work::Stream { len, .. } => format!("stream {}", bytes(len)),
            Work::Load { len, callers: 1, .. } => format!("1 caller, {}", bytes(len)),
            Work::Load { len, callers, .. } => format!("{callers} callers, {}", bytes(len)),
        }
    }

    fn median(&self, way: usize) -> f64 {
        median(self.rounds.iter().map(|round| round[way]).collect())
    }

    fn figure(&mut self, way: usize) -> String {
        let median = self.median(way);
        match self.work {
            Work::Calls { .. } => format!("{:.0} µs", median * 1e6),
            Work::Stream { len: 64, .. } => format!("{:.2} M/s", 1e-6 / median),
            Work::Stream { len, .. } => {
                format!("{:.0} MiB/s", len as f64 / f64::from(1 << 20) / median)
            }
            Work::Load { .. } => {
                let calls = &mut self.calls[way];
                calls.sort_unstable();
                let [p50, p99] = [50, 99].map(|part| calls[calls.len() * part / 100].as_micros());
                format!("{:.0} ({p50}, {p99})", 1.0 / median)
            }
        }
    }

    fn ratio(&self, one: usize, other: usize) -> String {
        spread(self.ratios(one, other))
    }

    /// Of times for single calls, and of rates for streams and several callers.
    fn ratios(&self, one: usize, other: usize) -> Vec<f64> {
        let ratios = self.rounds.iter().map(|round| match self.work {
            Work::Calls { .. } => round[one] / round[other],
            Work::Stream { .. } | Work::Load { .. } => round[other] / round[one],
        });
        ratios.collect()
    }

    fn misses_target(&self, tonic: usize) -> bool {
        matches!(self.work, Work::Calls { .. }) && median(self.ratios(WORKER, tonic)) > TARGET
    }
}

fn bytes(len: usize) -> String {
    match len >> 10 {
        0 => format!("{len} B"),
        1024.. => format!("{} MiB", len >> 20),
        kib => format!("{kib} KiB"),
    }
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The median, and between what 90 % of all figures lie.
pub fn spread(mut figures: Vec<f64>) -> String {
    figures.sort_unstable_by(f64::total_cmp);
    let out = (figures.len() as f64 * 0.05).round() as usize;
    let (least, most) = (figures[out], figures[figures.len() - 1 - out]);
    format!("{:.2} [{least:.2}, {most:.2}]", figures[figures.len() / 2])
}

/// Prints on what machine, when, and how it was measured.
pub fn print_machine() {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output();
    let date = date.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    println!("{model}, {cores} cores, Linux {}, {} UTC", kernel.trim(), date.trim());
    println!("load before: {}", load.split(' ').next().unwrap_or_default());
    println!("cargo bench -p slipring-gateway --bench network -- {}", words.join(" "));
}
