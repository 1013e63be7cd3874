//! The verdict on a run in words: which figures are good, which are off, and why.

use std::fmt::Write;

use crate::advice;
use crate::machine::Placement;
use crate::measure::{Role, Row};
use crate::report::{Report, time};

/// The target of a figure.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// At most this multiple of the limit's time.
    Times(f64),
    /// At least this part of the limit's rate.
    Rate(f64),
    /// At most this many nanoseconds.
    Nanos(f64),
    /// At most this many wake-ups.
    Wakes(f64),
}

/// What is expected of the rows of a workload.
struct Expectation {
    workload: &'static str,
    /// A part of what is done, and the start of the contender's name.
    what: &'static str,
    transport: &'static str,
    target: Target,
    /// What is known to cost time where the target is missed.
    known_cost: &'static str,
}

const fn expect(
    [workload, what, transport]: [&'static str; 3],
    target: Target,
    known_cost: &'static str,
) -> Expectation {
    Expectation { workload, what, transport, target, known_cost }
}

/// The first one that fits a row is used; an empty text fits all rows.
const EXPECTATIONS: [Expectation; 14] = [
    expect(
        ["W1", "", "raw ring"],
        Target::Times(1.25),
        "a ring moves on through its memory, and the limit uses one place again and again",
    ),
    expect(
        ["W1", "", "Channel::call"],
        Target::Times(2.5),
        "a call keeps account of its request, on top of what a raw ring takes",
    ),
    expect(
        ["W2", "", ""],
        Target::Times(1.1),
        "a sleep drives code from the caches, and the limit's is a few lines",
    ),
    expect(
        ["W3", "", "raw ring"],
        Target::Rate(0.95),
        "a frame's header is checked, which shows where messages are short",
    ),
    expect(
        ["W3", "", "Channel::stream, batches"],
        Target::Rate(0.8),
        "each chunk's header is checked, and its credit is counted",
    ),
    // None is known: its pieces are long, and are read where they lie.
    expect(["W3", "", "Channel::stream, pieces"], Target::Rate(0.8), ""),
    expect(["W3", "in place", ""], Target::Rate(0.8), "each chunk is handed out by itself"),
    expect(
        ["W3", "", "Channel::stream"],
        Target::Rate(0.8),
        "each chunk is handed out by itself, and a message beyond a frame is copied once more",
    ),
    expect(
        ["W4", "", "Channel::call, typed"],
        Target::Times(1.1),
        "the benchmark itself makes and compares 24,576 values one by one in it",
    ),
    expect(
        ["W4", crate::cases::PINNED_CALLS, ""],
        Target::Times(1.5),
        "both sides sleep and wake when the other is not in time",
    ),
    expect(
        ["W4", "", ""],
        Target::Times(1.1),
        "both sides sleep and wake when the other is not in time",
    ),
    expect(["W5", "", ""], Target::Wakes(10.0), "something wakes an idle channel"),
    expect(["W6", "", ""], Target::Nanos(3e6), "the rings' memory is reserved and entered"),
    expect(["", "", ""], Target::Times(1.25), ""),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Good,
    Off,
    /// The target lies inside the interval.
    Unclear,
}

impl Judgement {
    const ALL: [(Self, &str); 3] = [
        (Self::Good, "Good: the target is met"),
        (Self::Off, "Off"),
        (Self::Unclear, "Unclear: the target lies inside the interval"),
    ];

    fn new(is_met: bool, may_be_met: bool) -> Self {
        match (is_met, may_be_met) {
            (true, _) => Self::Good,
            (false, true) => Self::Unclear,
            (false, false) => Self::Off,
        }
    }
}

struct Finding<'a> {
    row: &'a Row,
    judgement: Judgement,
    text: String,
}

/// Returns the verdict, which is printed below the table.
pub(crate) fn of(report: &Report) -> String {
    let findings: Vec<Finding<'_>> = report
        .rows
        .iter()
        .filter(|row| row.role == Role::Own && row.placement == placement_of(row, &report.rows))
        .filter_map(|row| judge(row, &report.rows))
        .collect();
    let mut out = String::from("\nVerdict\n");
    let count = |wanted| findings.iter().filter(|finding| finding.judgement == wanted).count();
    let _ = writeln!(
        out,
        "  Of {} figures of slipring {} are good, {} are off, {} are unclear.",
        findings.len(),
        count(Judgement::Good),
        count(Judgement::Off),
        count(Judgement::Unclear)
    );
    for (judgement, title) in Judgement::ALL {
        let mut these = findings.iter().filter(|finding| finding.judgement == judgement).peekable();
        if these.peek().is_none() {
            continue;
        }
        let _ = writeln!(out, "  {title}");
        let mut last = String::new();
        for finding in these {
            let Row { workload, what, sizes, .. } = finding.row;
            let case = format!("{workload} {what}: {sizes}");
            if case != last {
                let _ = writeln!(out, "    {case}");
                last = case;
            }
            let _ = writeln!(out, "      {}", finding.text);
        }
    }
    for row in &report.rows {
        if let (Some(failure), Role::Own) = (&row.failure, row.role) {
            let Row { workload, what, sizes, transport, .. } = row;
            let _ = writeln!(out, "  Failed\n    {workload} {what}: {sizes}");
            let _ = writeln!(out, "      {transport}: {failure}");
        }
    }
    out.push_str(&advice::of(report));
    let _ = writeln!(out, "  This machine");
    for line in machine(report).lines() {
        let _ = writeln!(out, "    {line}");
    }
    out
}

/// Returns the placement in which a case is judged: the one in which most of its rounds were, so that
/// a few rounds are not taken for the machine. Near, if neither has more.
pub(crate) fn placement_of(row: &Row, rows: &[Row]) -> Placement {
    let is_case = |other: &&Row| is_same_case(row, other) && other.failure.is_none();
    let measured = |placement| {
        let rows = rows.iter().filter(is_case).filter(|other| other.placement == placement);
        // A row without an interval was measured in a few rounds.
        rows.map(|other| other.rounds.as_ref().map_or(1, |rounds| rounds.pairs)).sum::<usize>()
    };
    match (measured(Placement::Near), measured(Placement::Far)) {
        (0, 0) => Placement::Disturbed,
        (near, far) if near >= far => Placement::Near,
        _ => Placement::Far,
    }
}

pub(crate) fn is_same_case(row: &Row, other: &Row) -> bool {
    (row.workload, row.what, row.size) == (other.workload, other.what, other.size)
}

fn judge<'a>(row: &'a Row, rows: &[Row]) -> Option<Finding<'a>> {
    if row.failure.is_some() {
        return None;
    }
    let expectation = EXPECTATIONS.iter().find(|expectation| {
        row.workload.starts_with(expectation.workload)
            && row.what.contains(expectation.what)
            && row.transport.starts_with(expectation.transport)
    })?;
    let (judgement, measured, aimed) = compare(row, expectation.target)?;
    let mut text = format!("{}: {measured}", row.transport);
    let mut reason = String::new();
    if judgement != Judgement::Good {
        let _ = write!(text, " (target: {aimed})");
        if let (Some(ratio), Judgement::Unclear) = (row.ratio, judgement) {
            let _ = write!(text, "; from {:.2} to {:.2}", ratio.low, ratio.high);
        }
        if judgement == Judgement::Off && !expectation.known_cost.is_empty() {
            reason = format!("\n        known cost: {}", expectation.known_cost);
        }
    }
    text.push_str(&beside_plain(row, rows));
    if row.placement != Placement::Near {
        let _ = write!(text, " ({})", row.placement.name());
    }
    text.push_str(&reason);
    Some(Finding { row, judgement, text })
}

/// Compares a row with a target: the judgement, what was measured, and the target. `None`
/// if the row lacks what the target is about.
fn compare(row: &Row, target: Target) -> Option<(Judgement, String, String)> {
    let value = if row.is_rate { format!("{:.2} GB/s", row.gb_s) } else { time(row.p50_ns) };
    Some(match target {
        Target::Times(bound) | Target::Rate(bound) => {
            let (ratio, is_rate) = (row.ratio?, matches!(target, Target::Rate(_)));
            let is_met = |found: f64| if is_rate { found >= bound } else { found <= bound };
            let best = if is_rate { ratio.high } else { ratio.low };
            let of = if is_rate { "of" } else { "times" };
            (
                Judgement::new(is_met(ratio.median), is_met(best)),
                format!("{value}, {:.2} {of} the limit", ratio.median),
                bound.to_string(),
            )
        }
        Target::Nanos(most) => (Judgement::new(row.p50_ns <= most, false), value, time(most)),
        Target::Wakes(most) => (
            Judgement::new(row.wakeups <= most, false),
            format!("{:.0} wake-ups, {:.2} ms of processor time", row.wakeups, row.cpu_ms),
            format!("{most} wake-ups"),
        ),
    })
}

/// Compares a figure with the faster of a pipe and a socket.
fn beside_plain(row: &Row, rows: &[Row]) -> String {
    if !matches!(row.workload, "W1" | "W2" | "W3" | "W4") {
        return String::new();
    }
    let plain = rows.iter().filter(|other| {
        let is_here = is_same_case(row, other) && other.placement == row.placement;
        is_here && other.role == Role::Plain && other.msgs_s > 0.0
    });
    let Some(best) = plain.max_by(|a, b| a.msgs_s.total_cmp(&b.msgs_s)) else {
        return String::new();
    };
    match row.msgs_s / best.msgs_s {
        times if times >= 1.05 => format!("; {times:.1} times as fast as a {}", best.transport),
        times if times > 0.95 => format!("; as fast as a {}", best.transport),
        times => format!("; a {} is {:.1} times as fast", best.transport, 1.0 / times.max(1e-9)),
    }
}

/// Describes the machine's influence on the figures.
fn machine(report: &Report) -> String {
    let mut out = String::new();
    let count = |wanted| report.probes.iter().filter(|ns| Placement::of(**ns) == wanted).count();
    let (near, far) = (count(Placement::Near), count(Placement::Far));
    let (disturbed, all) = (count(Placement::Disturbed), report.probes.len());
    if near * 10 >= all * 9 {
        let _ = writeln!(out, "The two processors shared a cache: near in {near} of {all} probes.");
    } else if near > 0 {
        let _ = writeln!(
            out,
            "The two processors shared a cache for a part of the time: near in {near} of {all}\n\
             probes, far in {far}. On a virtual machine that changes by itself; each figure\n\
             is judged where most of its rounds were.",
        );
    } else if far > 0 {
        let _ = writeln!(
            out,
            "The two processors shared no cache: far in {far} of {all} probes. Each line that\n\
             changes hands costs several times as much, for the limits as well, and near figures\n\
             cannot be told from these. On a virtual machine the next run may find it otherwise.",
        );
        if report.machine.cores > 2 {
            let _ = writeln!(out, "--cpus A,B measures on two others.");
        }
    }
    if disturbed * 10 > all {
        let _ = writeln!(
            out,
            "Something else ran on these processors in {disturbed} of {all} probes: end it, and\n\
             measure again."
        );
    }
    if report.load > 0.5 {
        let _ = writeln!(
            out,
            "Before the run, {:.1} processes on average wanted to run on {} processors: figures of\n\
             a busy machine are worse, above all those of waking and of spawning.",
            report.load, report.machine.cores
        );
    }
    let few = report.rows.iter().filter_map(|row| row.ratio).map(|ratio| ratio.pairs).max();
    if few.is_some_and(|pairs| pairs < 6) {
        let _ = writeln!(
            out,
            "With {} rounds, an interval is just the extremes. Without --quick there are 25 rounds.",
            few.unwrap_or(0)
        );
    }
    let _ = writeln!(out, "{}", report.verdict);
    out
}

#[cfg(test)]
#[path = "words_tests.rs"]
pub(crate) mod tests;
