//! Compares two results of `slipring bench --json`: what has changed from one to the other.
//!
//! Rows are compared only with rows of the same work, transport and placement. Where both have a
//! ratio to the limit, that ratio is compared: a machine that was slower for a while was so for
//! the limit as well. Limits, pipes and sockets are compared by their times.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::figures::Ratio;
use crate::report::{FORMAT, time};

/// The longest file that is read, in bytes: a result has some hundred KiB, and a device has no end.
const LONGEST: u64 = 64 << 20;

/// Rounds below which an interval says nothing.
const FEW: usize = 3;

/// Why a file cannot be compared.
#[derive(Debug)]
#[non_exhaustive]
pub enum CompareError {
    /// The file cannot be read.
    Read(io::Error),
    /// The file is no result of `slipring bench --json`. Says what is wrong with it.
    NoResult(String),
    /// The file is a result in another format than this version reads.
    OtherFormat(u64),
}

impl fmt::Display for CompareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(f, "cannot be read: {error}"),
            Self::NoResult(why) => write!(f, "is no result of `slipring bench --json`: {why}"),
            Self::OtherFormat(format) => write!(
                f,
                "is a result of format {format}, of another version of slipring; this one reads \
                 format {FORMAT}"
            ),
        }
    }
}

impl std::error::Error for CompareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            Self::NoResult(_) | Self::OtherFormat(_) => None,
        }
    }
}

/// The result of a run, as far as it is compared.
#[derive(Debug, Clone, Deserialize)]
pub struct Figures {
    slipring: String,
    machine: Machine,
    command: String,
    probes: Probes,
    rows: Vec<Figure>,
}

#[derive(Debug, Clone, Deserialize)]
struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    date: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Probes {
    near: usize,
    far: usize,
    disturbed: usize,
}

#[derive(Debug, Clone, Deserialize)]
struct Figure {
    workload: String,
    what: String,
    sizes: String,
    transport: String,
    role: String,
    failure: Option<String>,
    /// `None` after a failure, as the figures below.
    placement: Option<String>,
    round_ns: Option<f64>,
    round_low_ns: Option<f64>,
    round_high_ns: Option<f64>,
    rounds: Option<usize>,
    ratio_to_limit: Option<f64>,
    ratio_low: Option<f64>,
    ratio_high: Option<f64>,
    ratio_of: Option<String>,
    pairs: Option<usize>,
    cpu_ms: Option<f64>,
    wakeups: Option<f64>,
}

impl Figures {
    /// Reads a file that `slipring bench --json` has written.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is something else, or has another format.
    pub fn read(path: &Path) -> Result<Self, CompareError> {
        let mut text = Vec::new();
        let file = File::open(path).map_err(CompareError::Read)?;
        file.take(LONGEST + 1).read_to_end(&mut text).map_err(CompareError::Read)?;
        if text.len() as u64 > LONGEST {
            return Err(CompareError::NoResult(format!("it has over {} MiB", LONGEST >> 20)));
        }
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self, CompareError> {
        let wrong = |error: serde_json::Error| CompareError::NoResult(error.to_string());
        let value: Value = serde_json::from_slice(text).map_err(wrong)?;
        match value.get("format").map(Value::as_u64) {
            Some(Some(FORMAT)) => serde_json::from_value(value).map_err(wrong),
            Some(Some(format)) => Err(CompareError::OtherFormat(format)),
            // The first results had no format.
            None if value.get("in_words").is_some() && value.get("rows").is_some() => {
                Err(CompareError::OtherFormat(0))
            }
            _ => Err(CompareError::NoResult("it has no format".to_owned())),
        }
    }

    fn summary(&self) -> String {
        let Machine { cpu, cores, kernel, date } = &self.machine;
        let Probes { near, far, disturbed } = self.probes;
        format!(
            "{date} UTC, slipring {}, {cpu}, {cores} cores, Linux {kernel}\n        \
             probes: {near} near, {far} far, {disturbed} disturbed; {}",
            self.slipring, self.command
        )
    }

    /// The placement of most probes.
    fn mostly(&self) -> &'static str {
        let Probes { near, far, disturbed } = self.probes;
        let all = [(near, "near"), (far, "far"), (disturbed, "disturbed")];
        all.into_iter().max_by_key(|(count, _)| *count).map_or("", |(_, name)| name)
    }
}

impl Figure {
    fn is_same(&self, other: &Self) -> bool {
        let key = |it: &Self| {
            let Self { workload, what, sizes, transport, placement, .. } = it.clone();
            (workload, what, sizes, transport, placement)
        };
        key(self) == key(other)
    }

    fn title(&self) -> String {
        format!("{} {}: {}", self.workload, self.what, self.sizes)
    }

    fn name_or_failure(&self) -> String {
        match &self.failure {
            Some(failure) => format!("{}: {failure}", self.transport),
            None => self.transport.clone(),
        }
    }

    fn placement(&self) -> &str {
        self.placement.as_deref().unwrap_or("failed")
    }

    /// The time of a message, over the rounds.
    fn time(&self) -> Option<Ratio> {
        Some(Ratio {
            median: self.round_ns?,
            low: self.round_low_ns?,
            high: self.round_high_ns?,
            pairs: self.rounds?,
        })
    }

    /// The ratio to the limit as one of times, so that less is better.
    fn ratio(&self) -> Option<Ratio> {
        let ratio = Ratio {
            median: self.ratio_to_limit?,
            low: self.ratio_low?,
            high: self.ratio_high?,
            pairs: self.pairs?,
        };
        let Ratio { median, low, high, pairs } = ratio;
        Some(match self.ratio_of.as_deref() {
            Some("rate") => Ratio { median: 1.0 / median, low: 1.0 / high, high: 1.0 / low, pairs },
            _ => ratio,
        })
    }
}

/// How a row has changed, by the intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Faster, and the intervals do not overlap.
    Better,
    /// Slower, and the intervals do not overlap.
    Worse,
    /// The intervals overlap.
    WithinNoise,
    /// One of the two has too few rounds for an interval, another program ran, or the work has no
    /// time of its own.
    NotJudged,
}

impl Judgement {
    const ALL: [Self; 4] = [Self::Better, Self::Worse, Self::WithinNoise, Self::NotJudged];

    fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::WithinNoise => "within noise",
            Self::NotJudged => "not judged",
        }
    }
}

/// A row that both results have.
#[derive(Debug)]
struct Pair<'a> {
    before: &'a Figure,
    after: &'a Figure,
    /// How many times as fast it is now, by the time of a message.
    speed: Option<Ratio>,
    /// The same beside the limit of its own run.
    beside_limit: Option<Ratio>,
    judgement: Judgement,
}

/// How many times as fast the second is, with the interval that both intervals allow.
fn faster(before: Ratio, after: Ratio) -> Ratio {
    Ratio {
        median: before.median / after.median,
        low: before.low / after.high,
        high: before.high / after.low,
        pairs: before.pairs.min(after.pairs),
    }
}

impl<'a> Pair<'a> {
    fn new(before: &'a Figure, after: &'a Figure) -> Self {
        let speed = before.time().zip(after.time()).map(|(before, after)| faster(before, after));
        // An idle wait is as long as it was asked to be.
        let speed = speed.filter(|_| before.workload != "W5");
        let is_compared = |role: &str| role == "slipring" || role == "peer";
        let ratios = before.ratio().zip(after.ratio());
        let beside_limit = ratios
            .filter(|_| is_compared(&before.role))
            .map(|(before, after)| faster(before, after));
        let judgement = match beside_limit.or(speed) {
            _ if before.placement() == "disturbed" => Judgement::NotJudged,
            Some(change) if change.pairs < FEW => Judgement::NotJudged,
            Some(change) if change.low > 1.0 => Judgement::Better,
            Some(change) if change.high < 1.0 => Judgement::Worse,
            Some(_) => Judgement::WithinNoise,
            None => Judgement::NotJudged,
        };
        Self { before, after, speed, beside_limit, judgement }
    }
}

/// Two results side by side.
#[derive(Debug)]
pub struct Comparison<'a> {
    before: &'a Figures,
    after: &'a Figures,
    pairs: Vec<Pair<'a>>,
    only_before: Vec<&'a Figure>,
    only_after: Vec<&'a Figure>,
}

impl<'a> Comparison<'a> {
    /// Compares two results, the earlier first.
    #[must_use]
    pub fn new(before: &'a Figures, after: &'a Figures) -> Self {
        let missing = |these: &'a Figures, those: &Figures| {
            let is_missing = |row: &&Figure| {
                row.failure.is_some()
                    || !those.rows.iter().any(|r| r.failure.is_none() && r.is_same(row))
            };
            these.rows.iter().filter(is_missing).collect::<Vec<_>>()
        };
        let (only_before, only_after) = (missing(before, after), missing(after, before));
        let pairs = before.rows.iter().filter(|row| row.failure.is_none()).filter_map(|row| {
            let other = after.rows.iter().find(|r| r.failure.is_none() && r.is_same(row))?;
            Some(Pair::new(row, other))
        });
        Self { before, after, pairs: pairs.collect(), only_before, only_after }
    }

    /// What makes the two results hard to compare.
    fn warnings(&self) -> Vec<String> {
        let (before, after) = (self.before, self.after);
        let mut warnings = Vec::new();
        let mut differ = |what: &str, first: String, second: String, hint: &str| {
            if first != second {
                warnings.push(format!("{what} differ: {first}, then {second}{hint}"));
            }
        };
        let kind = |it: &Figures| format!("{}, {} cores", it.machine.cpu, it.machine.cores);
        differ(
            "the machines",
            kind(before),
            kind(after),
            "; only ratios to the limit mean anything",
        );
        differ("the kernels", before.machine.kernel.clone(), after.machine.kernel.clone(), "");
        differ("the versions of slipring", before.slipring.clone(), after.slipring.clone(), "");
        differ(
            "the placements of most probes",
            before.mostly().to_owned(),
            after.mostly().to_owned(),
            "; rows of different placements are not compared",
        );
        differ("the commands", before.command.clone(), after.command.clone(), "");
        warnings
    }

    fn count(&self, judgement: Judgement) -> usize {
        self.pairs.iter().filter(|pair| pair.judgement == judgement).count()
    }

    /// Makes the table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out =
            format!("before  {}\nafter   {}\n", self.before.summary(), self.after.summary());
        for warning in self.warnings() {
            let _ = writeln!(out, "Warning: {warning}.");
        }
        out.push_str(
            "\nspeed         how many times as fast a message is now [95 % interval]\n\
             beside limit  the same, with each time divided by that of its run's limit.\n\
             \x20             It decides where there is one\n",
        );
        let mut title = String::new();
        for pair in &self.pairs {
            let next = pair.before.title();
            if next != title {
                title = next;
                let _ = writeln!(
                    out,
                    "\n{title}\n  {:27} {:9} {:>9} {:>9}  judgement\n    {:25} {:22} beside limit",
                    "", "placement", "before", "after", "", "speed"
                );
            }
            let _ = writeln!(out, "{}", line(pair));
        }
        for (when, rows) in [("before", &self.only_before), ("after", &self.only_after)] {
            if !rows.is_empty() {
                let _ = writeln!(out, "\nOnly {when}");
            }
            let is_same_case =
                |a: &&Figure, b: &&Figure| (a.title(), a.placement()) == (b.title(), b.placement());
            for case in rows.chunk_by(is_same_case) {
                let names: Vec<String> = case.iter().map(|row| row.name_or_failure()).collect();
                let first = case.first().map(|row| (row.title(), row.placement()));
                let (title, placement) = first.unwrap_or_default();
                let _ = writeln!(out, "  {title} ({placement})\n    {}", names.join(", "));
            }
        }
        let counts = Judgement::ALL.map(|it| format!("{} {}", self.count(it), it.name()));
        let _ = writeln!(out, "\nOf {} rows: {}.", self.pairs.len(), counts.join(", "));
        out
    }

    /// Makes the JSON for programs.
    #[must_use]
    pub fn json(&self) -> String {
        let run = |it: &Figures| {
            let Machine { cpu, cores, kernel, date } = &it.machine;
            json!({
                "slipring": it.slipring, "command": it.command,
                "machine": {"cpu": cpu, "cores": cores, "kernel": kernel, "date": date},
            })
        };
        let name = |row: &Figure| {
            json!({
                "workload": row.workload, "what": row.what, "sizes": row.sizes,
                "transport": row.transport, "placement": row.placement,
            })
        };
        let ratio = |ratio: Option<Ratio>| {
            ratio.map(|Ratio { median, low, high, pairs }| {
                json!({"median": median, "low": low, "high": high, "pairs": pairs})
            })
        };
        let pairs: Vec<Value> = self
            .pairs
            .iter()
            .map(|pair| {
                let mut row = name(pair.before);
                if let Some(row) = row.as_object_mut() {
                    row.insert("before_ns".to_owned(), json!(pair.before.round_ns));
                    row.insert("after_ns".to_owned(), json!(pair.after.round_ns));
                    row.insert("speed".to_owned(), json!(ratio(pair.speed)));
                    row.insert("beside_limit".to_owned(), json!(ratio(pair.beside_limit)));
                    row.insert("judgement".to_owned(), json!(pair.judgement.name()));
                }
                row
            })
            .collect();
        let names = |rows: &[&Figure]| rows.iter().map(|row| name(row)).collect::<Vec<_>>();
        let all = json!({
            "format": FORMAT,
            "before": run(self.before),
            "after": run(self.after),
            "warnings": self.warnings(),
            "rows": pairs,
            "only_before": names(&self.only_before),
            "only_after": names(&self.only_after),
        });
        format!("{all:#}\n")
    }
}

fn line(pair: &Pair<'_>) -> String {
    let Pair { before, after, speed, beside_limit, judgement } = pair;
    let ratio = |ratio: &Option<Ratio>| {
        ratio.map_or_else(String::new, |Ratio { median, low, high, .. }| {
            format!("{median:.2} [{low:.2}, {high:.2}]")
        })
    };
    let (transport, placement) = (&before.transport, before.placement());
    if before.workload == "W5" {
        let used = |row: &Figure| {
            let (cpu, wakes) = (row.cpu_ms.unwrap_or(0.0), row.wakeups.unwrap_or(0.0));
            format!("{cpu:.2} ms and {wakes:.0} wake-ups")
        };
        let (before, after) = (used(before), used(after));
        return format!("  {transport:27} {placement:9} {before}\n  {:27} then      {after}", "");
    }
    let ns = |row: &Figure| row.round_ns.map_or_else(String::new, time);
    let times = format!(
        "  {transport:27} {placement:9} {:>9} {:>9}  {}",
        ns(before),
        ns(after),
        judgement.name()
    );
    if speed.is_none() && beside_limit.is_none() {
        return times;
    }
    let ratios = format!("    {:25} {:22} {}", "", ratio(speed), ratio(beside_limit));
    format!("{times}\n{}", ratios.trim_end())
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
