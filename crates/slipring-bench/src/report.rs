//! Prints a run as a table for people and as JSON for programs.

use std::fmt::Write;

use crate::figures::Ratio;
use crate::machine::{Machine, Placement};
use crate::measure::Row;
use crate::reference::Verdict;
use crate::words;

/// The results of a run.
#[derive(Debug)]
pub struct Report {
    /// The machine.
    pub machine: Machine,
    /// The probes of the cache line, in nanoseconds.
    pub probes: Vec<f64>,
    /// The load average before the run.
    pub load: f64,
    /// The figures.
    pub rows: Vec<Row>,
    /// Whether the run counts.
    pub verdict: Verdict,
    /// The command line.
    pub command: String,
}

/// The format of the JSON of a run. A program that reads one refuses another.
pub(crate) const FORMAT: u64 = 1;
/// The version of the library, which has that of this crate.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Report {
    /// How many of the probes found the processors so far apart.
    pub(crate) fn probes_in(&self, placement: Placement) -> usize {
        self.probes.iter().filter(|ns| Placement::of(**ns) == placement).count()
    }

    fn placements(&self) -> String {
        let of = |placement| format!("{} {}", self.probes_in(placement), placement.name());
        let mut probes = self.probes.clone();
        let median = crate::figures::median(&mut probes);
        format!(
            "cache line there and back {median:.0} ns; of {} probes {}, {}, {}",
            probes.len(),
            of(Placement::Near),
            of(Placement::Far),
            of(Placement::Disturbed)
        )
    }

    /// Makes the table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = format!("{}\n{}\n{}", self.machine, self.placements(), legend());
        let mut title = String::new();
        for row in &self.rows {
            let next = format!("{} {}: {}", row.workload, row.what, row.sizes);
            if next != title {
                title = next;
                let _ = writeln!(
                    out,
                    "\n{title}\n  {:27} {:9} {:>9} {:>9} {:>8} {:>8}  {:22} {:>8} {:>7}",
                    "",
                    "placement",
                    "p50",
                    "p99",
                    "msgs/s",
                    "GB/s",
                    "of the limit",
                    "cpu ms",
                    "wakes"
                );
            }
            let _ = writeln!(out, "{}", line(row));
        }
        out.push_str(&words::of(self));
        out
    }

    /// Makes the JSON for programs.
    #[must_use]
    pub fn json(&self) -> String {
        let Machine { cpu, cores, kernel, date } = &self.machine;
        let mut out = format!(
            "{{\n  \"format\": {FORMAT},\n  \"slipring\": {},\n  \"machine\": {{\"cpu\": {}, \"cores\": {cores}, \"kernel\": {}, \"date\": {}}},\n",
            quote(VERSION),
            quote(cpu),
            quote(kernel),
            quote(date)
        );
        let _ = writeln!(out, "  \"command\": {},", quote(&self.command));
        let _ = writeln!(out, "  \"placement\": {},", quote(&self.placements()));
        let counts = Placement::ALL
            .map(|placement| format!("{}: {}", quote(placement.name()), self.probes_in(placement)));
        let _ = writeln!(out, "  \"probes\": {{{}}},", counts.join(", "));
        let _ = writeln!(out, "  \"counts\": {},", self.verdict.counts_as_json());
        let _ = writeln!(out, "  \"verdict\": {},", quote(&self.verdict.to_string()));
        let _ = writeln!(out, "  \"in_words\": {},", quote(words::of(self).trim()));
        let rows: Vec<String> = self.rows.iter().map(json_row).collect();
        let _ = writeln!(out, "  \"rows\": [\n    {}\n  ]\n}}", rows.join(",\n    "));
        out
    }
}

/// Explains the words of the table.
fn legend() -> String {
    format!(
        "\nnear       the two processors share a cache: a line's round trip takes less than {} ns\n\
         far        they do not: each line that changes hands takes several times as long\n\
         disturbed  over {} ns: another program ran. Compare rows of one placement only\n\
         p50, p99   the time of one message: the median, and the 99th percentile\n\
         of the limit  median [95 % interval] /rounds, compared with the least code that does\n\
         \x20          the work at all: of times (lower is better), for W3 of rates (higher is better)\n\
         cpu, wakes    processor time and wake-ups of both processes, for one slice of work\n",
        Placement::NEAR_NS,
        Placement::FAR_NS
    )
}

fn line(row: &Row) -> String {
    let name = &row.transport;
    if let Some(failure) = &row.failure {
        return format!("  {name:27} {failure}");
    }
    let ratio = row.ratio.map_or_else(String::new, |ratio| {
        format!("{:.2} [{:.2}, {:.2}] /{}", ratio.median, ratio.low, ratio.high, ratio.pairs)
    });
    let gb_s = if row.gb_s > 0.0 { format!("{:.2}", row.gb_s) } else { String::new() };
    let rate = if row.msgs_s > 0.0 { count(row.msgs_s) } else { String::new() };
    let line = format!(
        "  {name:27} {:9} {:>9} {:>9} {rate:>8} {gb_s:>8}  {ratio:22} {:>8.2} {:>7.0}",
        row.placement.name(),
        time(row.p50_ns),
        time(row.p99_ns),
        row.cpu_ms,
        row.wakeups
    );
    line.trim_end().to_owned()
}

pub(crate) fn time(ns: f64) -> String {
    match ns {
        ns if ns < 10.0 => format!("{ns:.1} ns"),
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e5 => format!("{:.1} us", ns / 1e3),
        ns if ns < 1e6 => format!("{:.0} us", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

fn count(number: f64) -> String {
    match number {
        n if n < 1e3 => format!("{n:.0}"),
        n if n < 1e6 => format!("{:.1} k", n / 1e3),
        n => format!("{:.1} M", n / 1e6),
    }
}

/// Returns a length as people write it.
#[must_use]
pub fn bytes(len: usize) -> String {
    match len {
        0..1024 => format!("{len} B"),
        1024..0x10_0000 if !len.is_multiple_of(1024) => {
            format!("{},{:03} B", len / 1000, len % 1000)
        }
        1024..0x10_0000 => format!("{} KiB", len >> 10),
        _ => format!("{} MiB", len >> 20),
    }
}

fn json_row(row: &Row) -> String {
    let mut out = format!(
        "{{\"workload\": {}, \"what\": {}, \"pinned\": {}, \"transport\": {}, \"role\": {}, \
         \"size\": {}, \"sizes\": {}",
        quote(row.workload),
        quote(row.what),
        row.is_pinned,
        quote(&row.transport),
        quote(row.role.name()),
        row.size,
        quote(&row.sizes)
    );
    if let Some(failure) = &row.failure {
        let _ = write!(out, ", \"failure\": {}}}", quote(failure));
        return out;
    }
    let _ = write!(
        out,
        ", \"placement\": {}, \"p50_ns\": {:.1}, \"p99_ns\": {:.1}, \"msgs_s\": {:.0}, \
         \"gb_s\": {:.3}, ",
        quote(row.placement.name()),
        row.p50_ns,
        row.p99_ns,
        row.msgs_s,
        row.gb_s
    );
    match row.ratio {
        Some(ratio) => {
            let of = if row.is_rate { "rate" } else { "time" };
            let _ = write!(
                out,
                "\"ratio_to_limit\": {:.3}, \"ratio_low\": {:.3}, \"ratio_high\": {:.3}, \
                 \"ratio_of\": {}, \"pairs\": {}, ",
                ratio.median,
                ratio.low,
                ratio.high,
                quote(of),
                ratio.pairs
            );
        }
        None => out.push_str("\"ratio_to_limit\": null, "),
    }
    if let Some(Ratio { median, low, high, pairs }) = row.rounds {
        let _ = write!(
            out,
            "\"round_ns\": {median:.2}, \"round_low_ns\": {low:.2}, \"round_high_ns\": {high:.2}, \
             \"rounds\": {pairs}, "
        );
    }
    if let Some(copies) = &row.copies {
        let _ = write!(out, "\"copies\": {}, ", quote(copies));
    }
    let _ = write!(out, "\"cpu_ms\": {:.3}, \"wakeups\": {:.0}}}", row.cpu_ms, row.wakeups);
    out
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_json_keeps_what_it_says() {
        assert_eq!(quote("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }

    #[test]
    fn times_and_lengths_read_as_people_write_them() {
        let times = [9.94, 100.0, 12_340.0, 340_000.0, 2e6].map(time);
        assert_eq!(times, ["9.9 ns", "100 ns", "12.3 us", "340 us", "2.0 ms"]);
        let lengths = [64, 4096, 12_800, 32 << 20].map(bytes);
        assert_eq!(lengths, ["64 B", "4 KiB", "12,800 B", "32 MiB"]);
    }
}
