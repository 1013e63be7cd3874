//! What follows from a run, in words: what the machine does well, which routine copies best where,
//! and what to set. Only what the run has measured is said.

use std::fmt::Write;

use crate::cases::{
    CALL, CALL_SPIN, LARGE_RING, PINNED_CALLS, RAW, RAW_BATCHES, SMALL_RING, UNPINNED_CALLS,
};
use crate::figures::Ratio;
use crate::measure::{Role, Row};
use crate::report::{Report, time};
use crate::words::{is_same_case, placement_of};

/// The transports as programs use them.
const PLAIN_USE: [&str; 4] = [RAW, CALL, "Channel::stream", "Channel"];
/// A difference below this part is not worth a setting.
const WORTH: f64 = 0.05;

/// Returns the parts of the verdict that say what to do, or nothing if nothing follows.
pub(crate) fn of(report: &Report) -> String {
    let is_judged =
        |row: &&Row| row.failure.is_none() && row.placement == placement_of(row, &report.rows);
    let rows: Vec<&Row> = report.rows.iter().filter(is_judged).collect();
    let mut out = String::new();
    for (title, lines) in [
        ("What this machine does well", strengths(&rows)),
        ("Which routine copies best", copies(&rows)),
        ("What to set", settings(&rows)),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(out, "  {title}");
            lines.iter().for_each(|line| wrap(line, &mut out));
        }
    }
    out
}

/// Appends a line that is cut between words, so that it fits the width of the table.
fn wrap(line: &str, out: &mut String) {
    const WIDTH: usize = 100;
    let mut used = WIDTH;
    for (index, word) in line.split(' ').enumerate() {
        let len = word.chars().count() + 1;
        if used + len > WIDTH {
            let indent = if index == 0 { "   " } else { "\n     " };
            out.push_str(indent);
            used = indent.trim_start_matches('\n').len();
        }
        out.extend([" ", word]);
        used += len;
    }
    out.push('\n');
}

/// How close a row is to its limit: 1 is the limit, whatever the ratio is of.
fn closeness(row: &Row) -> Option<f64> {
    let ratio = row.ratio?.median;
    Some(if row.is_rate { ratio } else { 1.0 / ratio })
}

fn figure(row: &Row) -> String {
    if row.is_rate { format!("{:.1} GB/s", row.gb_s) } else { time(row.p50_ns) }
}

fn strengths(rows: &[&Row]) -> Vec<String> {
    // The variants of a transport are there for comparisons.
    let is_figure = |row: &&&Row| {
        row.role == Role::Own && row.msgs_s > 0.0 && PLAIN_USE.contains(&row.transport.as_str())
    };
    let own: Vec<&Row> = rows.iter().filter(is_figure).copied().collect();
    let mut lines = Vec::new();
    let mut said = Vec::new();
    for first in &own {
        let work = (first.workload, first.what);
        if said.contains(&work) {
            continue;
        }
        said.push(work);
        let mut best: Vec<&Row> = Vec::new();
        for row in own.iter().filter(|row| (row.workload, row.what) == work) {
            let speed = |row: &Row| if row.is_rate { row.gb_s } else { row.msgs_s };
            match best.iter_mut().find(|best| best.transport == row.transport) {
                Some(best) if speed(best) < speed(row) => *best = row,
                Some(_) => {}
                None => best.push(row),
            }
        }
        let is_one_size = best.iter().all(|row| row.sizes == first.sizes);
        let texts: Vec<String> = best
            .iter()
            .map(|row| match is_one_size {
                true => format!("{} {}", row.transport, figure(row)),
                false => format!("{} {} ({})", row.transport, figure(row), row.sizes),
            })
            .collect();
        let sizes = if is_one_size { format!(", {}", first.sizes) } else { String::new() };
        lines.push(format!("{} {}{sizes}: {}", work.0, work.1, texts.join(", ")));
    }
    let of = |row: &Row| closeness(row).unwrap_or(0.0);
    let by_closeness = |a: &&&Row, b: &&&Row| of(a).total_cmp(&of(b));
    let judged = || own.iter().filter(|row| closeness(row).is_some());
    let place = |row: &Row| {
        let Row { transport, workload, what, sizes, .. } = row;
        format!("{transport}, {workload} {what}, {sizes} ({:.2} of its speed)", of(row))
    };
    if let (Some(near), Some(far)) = (judged().max_by(by_closeness), judged().min_by(by_closeness))
        && judged().count() > 1
    {
        lines.push(format!("Nearest to its limit: {}", place(near)));
        lines.push(format!("Furthest from it: {}", place(far)));
    }
    lines
}

/// The rows of limits that copy with routines of their own, the fastest of each routine, and the
/// fastest of all first.
fn routines<'a>(case: &Row, rows: &[&'a Row]) -> Vec<&'a Row> {
    let is_its =
        |row: &&&Row| is_same_case(case, row) && row.role == Role::Limit && row.copies.is_some();
    let mut limits: Vec<&Row> = rows.iter().filter(is_its).copied().collect();
    limits.sort_by(|a, b| b.msgs_s.total_cmp(&a.msgs_s));
    let mut best: Vec<&Row> = Vec::new();
    for row in limits {
        if best.iter().all(|other| other.copies != row.copies) {
            best.push(row);
        }
    }
    best
}

/// The rows of one case each, where routines are compared.
fn compared<'a>(rows: &[&'a Row]) -> Vec<(&'a Row, Vec<&'a Row>)> {
    let mut cases: Vec<(&Row, Vec<&Row>)> = Vec::new();
    for row in rows.iter().filter(|row| row.what.contains("copied in")) {
        if cases.iter().all(|(case, _)| !is_same_case(case, row)) {
            cases.push((row, routines(row, rows)));
        }
    }
    cases.retain(|(_, routines)| routines.len() > 1);
    cases
}

fn copies(rows: &[&Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for (case, routines) in compared(rows) {
        let Some((winner, others)) = routines.split_first() else { continue };
        let name = |row: &Row| row.copies.clone().unwrap_or_default();
        let mut line = format!(
            "W3, {} ({}): {} with {:.1} GB/s",
            case.sizes,
            case.placement.name(),
            name(winner),
            winner.gb_s
        );
        for other in others {
            let (share, is_level) = beside(winner, other);
            let _ = write!(line, ", {} {share:.2} of that", name(other));
            if is_level {
                line.push_str(" (no difference by the intervals)");
            }
        }
        for own in rows.iter().filter(|row| is_same_case(case, row) && row.role == Role::Own) {
            let is_plain = PLAIN_USE.contains(&own.transport.as_str());
            if let Some(found) = own.copies.as_ref().filter(|_| is_plain) {
                let _ = write!(line, "; {} has found: {found}", own.transport);
            }
        }
        lines.push(line);
    }
    lines
}

/// The rate of a limit beside that of the best, and whether the intervals allow that it is as high:
/// in the same rounds, if the best is what ratios were taken of.
fn beside(best: &Row, other: &Row) -> (f64, bool) {
    match (best.ratio, other.ratio) {
        (Some(one), Some(ratio)) if (one.low, one.high) == (1.0, 1.0) => {
            (ratio.median, ratio.high >= 1.0)
        }
        _ => (other.msgs_s / best.msgs_s.max(1e-9), is_level(best, other)),
    }
}

/// Whether the intervals of two rows overlap.
fn is_level(a: &Row, b: &Row) -> bool {
    match (a.rounds, b.rounds) {
        (Some(a), Some(b)) => a.low <= b.high && b.low <= a.high,
        _ => true,
    }
}

fn settings(rows: &[&Row]) -> Vec<String> {
    let find = |what: &str, transport: &str| {
        rows.iter().find(|row| row.what == what && row.transport == transport).copied()
    };
    let mut lines = Vec::new();
    if let (Some(default), Some(spin)) = (find(PINNED_CALLS, CALL), find(PINNED_CALLS, CALL_SPIN))
        && let Some(ratio) = default.ratio
    {
        lines.push(wait_strategy(default, spin, ratio));
    }
    if let (Some(pinned), Some(free)) = (find(PINNED_CALLS, CALL), find(UNPINNED_CALLS, CALL)) {
        lines.push(pinning("Busy calls", pinned, free));
    }
    let asleep = |is_pinned| {
        let mut own = rows.iter().filter(|row| row.workload == "W2" && row.transport == CALL);
        own.find(|row| row.is_pinned == is_pinned).copied()
    };
    if let (Some(pinned), Some(free)) = (asleep(true), asleep(false)) {
        lines.push(pinning("Calls after a sleep", pinned, free));
    }
    lines.extend(ring_size(rows));
    lines.extend(batches(rows));
    lines.extend(copy_routine(rows));
    lines
}

fn wait_strategy(default: &Row, spin: &Row, ratio: Ratio) -> String {
    let figures = format!(
        "{} with the default wait strategy, {} with `Spin` ({:.2} [{:.2}, {:.2}] times as long)",
        time(default.p50_ns),
        time(spin.p50_ns),
        ratio.median,
        ratio.low,
        ratio.high
    );
    let advice = if ratio.low > 1.0 + WORTH {
        "`Spin` pays where a call is all that counts, for a processor at 100 % on each side"
    } else if ratio.median > 1.0 + WORTH {
        "`Spin` may gain something, its interval is wide"
    } else {
        "keep the default, `Spin` gains nothing"
    };
    format!("Wait strategy, busy calls on processors of their own: {figures}: {advice}.")
}

fn pinning(what: &str, pinned: &Row, free: &Row) -> String {
    let (bound, unbound) = (time(pinned.p50_ns), time(free.p50_ns));
    let advice = match pinned.p50_ns / free.p50_ns.max(1e-9) {
        _ if is_level(pinned, free) => "no difference by the intervals",
        share if share < 1.0 - WORTH => "bind the two sides to processors of their own",
        share if share > 1.0 + WORTH => "leave the two sides unbound",
        _ => "it hardly matters",
    };
    format!("Processors: {what} take {bound} with both sides bound, {unbound} unbound: {advice}.")
}

fn ring_size(rows: &[&Row]) -> Option<String> {
    let mut pairs = Vec::new();
    for small in rows.iter().filter(|row| row.transport == SMALL_RING) {
        let is_its = |row: &&&Row| row.transport == LARGE_RING && is_same_case(small, row);
        if let Some(large) = rows.iter().find(is_its).filter(|large| !is_level(small, large)) {
            let share = small.msgs_s / large.msgs_s.max(1e-9);
            pairs.push((share, format!("{share:.2} ({})", small.sizes)));
        }
    }
    let does_pay = pairs.iter().all(|(share, _)| *share > 1.0 + WORTH);
    let shares: Vec<String> = pairs.into_iter().map(|(_, text)| text).collect();
    let advice = if does_pay { "a small one streams faster" } else { "keep the large one" };
    (!shares.is_empty()).then(|| {
        format!(
            "Ring size, by the limit's ring: 16 KiB reach the rate of 4 MiB times {}: {advice}.",
            shares.join(", ")
        )
    })
}

fn batches(rows: &[&Row]) -> Option<String> {
    let batches = rows.iter().filter(|row| row.transport == RAW_BATCHES);
    let gains: Vec<String> = batches
        .filter_map(|batched| {
            let is_its = |row: &&&Row| row.transport == RAW && is_same_case(batched, row);
            let single = rows.iter().find(is_its).filter(|single| !is_level(single, batched))?;
            let gain = batched.msgs_s / single.msgs_s.max(1e-9);
            Some(format!("{gain:.2} times the rate with {}", batched.sizes))
        })
        .collect();
    (!gains.is_empty())
        .then(|| format!("Batches of frames (`claim_batch`, `drain`): {}.", gains.join(", ")))
}

/// Advice about the routine, if the ring is behind and copies with another one than the best.
fn copy_routine(rows: &[&Row]) -> Option<String> {
    let cases = compared(rows);
    let missed: Vec<String> = cases
        .iter()
        .filter_map(|(case, routines)| {
            let winner = routines.first()?;
            let is_own = |row: &&&Row| row.transport == RAW && is_same_case(case, row);
            let own = rows.iter().find(is_own)?;
            let is_behind = own.ratio.is_some_and(|ratio| ratio.high < 1.0 - WORTH);
            (is_behind && own.copies.is_some() && own.copies != winner.copies)
                .then(|| format!("{} ({})", case.sizes, winner.copies.clone().unwrap_or_default()))
        })
        .collect();
    match missed.as_slice() {
        _ if cases.is_empty() => None,
        [] => Some("Copies: leave the routine to the ring.".to_owned()),
        missed => Some(format!(
            "Copies: the ring is behind with another routine than the best for {}: measure \
             `ConfigBuilder::copy_routine` with your own messages.",
            missed.join(", ")
        )),
    }
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;
