//! Whether a run counts: its limits must come near those of the reference machine.
//!
//! For a machine of another kind there is nothing to compare with: the intervals and the
//! placements have to tell.

use std::fmt;

use crate::machine::{Machine, Placement};
use crate::measure::{Role, Row};

/// The machine that the figures below are from.
const CPU: &str = "AMD EPYC";
const CORES: usize = 2;

/// Workload, work, size, and nanoseconds of the best limit when the processors are near.
const NEAR: [(&str, &str, usize, f64); 11] = [
    ("W1", "round trip, busy", 32, 100.0),
    ("W2", "after 1 ms idle, pinned", 64, 86_000.0),
    ("W2", "after 1 ms idle, unpinned", 64, 11_000.0),
    ("W3", "stream, copied in", 64, 1e9 / 97e6),
    ("W3", "stream, copied in", 4 << 10, 4096.0 / 37.0),
    ("W3", "stream, copied in", 96 << 10, 98_304.0 / 39.0),
    ("W3", "stream, copied in", 1 << 20, 1_048_576.0 / 32.0),
    ("W3", "stream, copied in", 32 << 20, 33_554_432.0 / 18.5),
    ("W3", "stream, in place", 1 << 20, 1_048_576.0 / 45.0),
    ("W4", "embedding call, busy", 98_304, 6_400.0),
    ("W6", "spawn to first answer", 8, 1_000_000.0),
];
/// The share of the reference that a run must reach.
const SHARE: f64 = 0.8;

/// Whether a run counts.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Its limits reach the reference.
    Counts,
    /// Its limits do not, or the processors were never near. Names what was missed.
    Disturbed(Vec<String>),
    /// The machine is not the reference machine.
    NoReference,
    /// The reference has no figure for anything that was run.
    NothingToCompare,
}

impl Verdict {
    /// Judges a run.
    #[must_use]
    pub fn of(machine: &Machine, rows: &[Row]) -> Self {
        if machine.cores != CORES || !machine.cpu.starts_with(CPU) {
            return Self::NoReference;
        }
        let (mut missed, mut never_near) = (Vec::new(), Vec::new());
        let mut compared = 0;
        for (workload, what, size, ns) in NEAR {
            let is_same = |row: &&Row| (row.workload, row.what, row.size) == (workload, what, size);
            let mut limits =
                rows.iter().filter(is_same).filter(|row| row.role == Role::Limit).peekable();
            if limits.peek().is_none() {
                continue;
            }
            compared += 1;
            let near = limits.filter(|row| row.placement == Placement::Near && row.msgs_s > 0.0);
            let best = near.map(|row| 1e9 / row.msgs_s).min_by(f64::total_cmp);
            let size = crate::report::bytes(size);
            match best {
                None => never_near.push(format!("{workload} {what}, {size}")),
                Some(best) if ns / best < SHARE => missed.push(format!(
                    "{workload} {what}, {size}: the limit reaches {:.0} % of its reference",
                    100.0 * ns / best
                )),
                Some(_) => {}
            }
        }
        if !never_near.is_empty() {
            missed.push(format!("never near: {}", never_near.join("; ")));
        }
        match compared {
            0 => Self::NothingToCompare,
            _ if missed.is_empty() => Self::Counts,
            _ => Self::Disturbed(missed),
        }
    }

    pub(crate) fn counts_as_json(&self) -> &'static str {
        match self {
            Self::Counts => "true",
            Self::Disturbed(_) => "false",
            Self::NoReference | Self::NothingToCompare => "null",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counts => f.write_str("The run counts: its limits reach the reference."),
            Self::NoReference => f.write_str(
                "There is no reference for this machine: compare ratios, not times, and only \
                 within one placement.",
            ),
            Self::NothingToCompare => {
                f.write_str("The reference has no figures for these workloads.")
            }
            Self::Disturbed(missed) => {
                f.write_str("This run does not count: its limits stay below their references.")?;
                missed.iter().try_for_each(|why| write!(f, "\n  {why}"))
            }
        }
    }
}
