//! The columns of the screen, and which of them fit.

use super::lines::{Line, as_f64};
use super::text::{bound, rate, short, time, width as width_of};

/// A column. The order here is that on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Column {
    Host,
    Role,
    Worker,
    State,
    Rate,
    Bytes,
    InFlight,
    Waiting,
    Oldest,
    Ring,
    P50,
    P99,
    Errors,
    Done,
    Died,
    Sleeps,
    Command,
    LastError,
}

use Column as C;

/// The most important first: narrow screens leave out the last of them. The first of them are shown
/// however narrow it is.
const BY_IMPORTANCE: [Column; 18] = [
    C::Role,
    C::State,
    C::Rate,
    C::InFlight,
    C::Oldest,
    C::Errors,
    C::Host,
    C::Worker,
    C::Waiting,
    C::P99,
    C::Ring,
    C::Bytes,
    C::Done,
    C::Died,
    C::P50,
    C::Sleeps,
    C::Command,
    C::LastError,
];
const LEAST: usize = 2;
/// How wide the name of a role and the command line are, at least and at most, and the last error at least,
/// which takes all that is left.
const ROLE: (u16, u16) = (12, 28);
const COMMAND: (u16, u16) = (20, 60);
const LAST_ERROR: u16 = 20;

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            C::Host => "HOST",
            C::Role => "ROLE",
            C::Worker => "WORKER",
            C::State => "STATE",
            C::Rate => "REQ/S",
            C::Bytes => "B/S",
            C::InFlight => "FLY",
            C::Waiting => "WAIT",
            C::Oldest => "OLDEST",
            C::Ring => "RING",
            C::P50 => "P50",
            C::P99 => "P99",
            C::Errors => "ERRORS",
            C::Done => "DONE",
            C::Died => "DIED",
            C::Sleeps => "SLEEPS/S",
            C::Command => "COMMAND",
            C::LastError => "LAST ERROR",
        }
    }

    /// Words are set to the left, numbers to the right.
    pub(super) fn is_number(self) -> bool {
        !matches!(self, C::Role | C::State | C::Command | C::LastError)
    }

    fn least_width(self) -> u16 {
        match self {
            C::Role => ROLE.0,
            C::Host | C::Worker => 7,
            C::State => 9,
            C::Rate | C::Bytes | C::P50 | C::P99 | C::Done => 5,
            C::InFlight | C::Waiting | C::Ring | C::Died => 4,
            C::Oldest | C::Errors => 6,
            C::Sleeps => 8,
            C::Command => COMMAND.0,
            C::LastError => LAST_ERROR,
        }
    }

    pub(super) fn cell(self, line: &Line) -> String {
        match self {
            C::Host => line.host.to_string(),
            C::Role => line.role.clone(),
            // A role of a pool has some.
            C::Worker if line.is_role => format!("x{}", short(as_f64(line.worker))),
            // A page can hold any numbers, and the kernel gives none above 4194304.
            C::Worker if line.worker > 9_999_999 => "?".to_owned(),
            C::Worker if line.worker == 0 => "-".to_owned(),
            C::Worker => line.worker.to_string(),
            C::State => line.state.to_owned(),
            C::Rate => rate(line.rate),
            C::Bytes => rate(line.bytes),
            C::InFlight => short(as_f64(line.in_flight)),
            C::Waiting => short(as_f64(line.queued)),
            C::Oldest => time(line.oldest),
            C::Ring => format!("{}%", line.ring.min(999)),
            C::P50 => bound(line.p50),
            C::P99 => bound(line.p99),
            C::Errors => short(as_f64(line.errors)),
            C::Done => short(as_f64(line.done)),
            C::Died => line.died.map_or("-".to_owned(), |died| short(as_f64(died))),
            C::Sleeps => rate(line.sleeps),
            C::Command => line.command.clone(),
            C::LastError => line.note.clone(),
        }
    }
}

/// The columns that fit, with their widths.
pub(super) fn fitting(width: u16, lines: &[Line]) -> Vec<(Column, u16)> {
    let mut chosen: Vec<(Column, u16)> = Vec::new();
    let mut left = width;
    for column in BY_IMPORTANCE {
        // What is beside a role's name is of use only if names are whole.
        if column == C::Done {
            left -= grow(&mut chosen, C::Role, longest(lines, C::Role).min(ROLE.1), left);
        }
        // A column has a space before it, but the first.
        let space = u16::from(!chosen.is_empty());
        let least = column.least_width() + space;
        if least > left && chosen.len() >= LEAST {
            break;
        }
        left = left.saturating_sub(least);
        chosen.push((column, column.least_width()));
    }
    left -= grow(&mut chosen, C::Role, longest(lines, C::Role).min(ROLE.1), left);
    // What went wrong needs more room than what is known.
    let wanted = longest(lines, C::Command).min(COMMAND.1).min(COMMAND.0 + left / 3);
    left -= grow(&mut chosen, C::Command, wanted, left);
    grow(&mut chosen, C::LastError, u16::MAX, left);
    chosen.sort_unstable_by_key(|(column, _)| *column);
    chosen
}

/// Makes a column as wide as it should be, if there is room. Returns by how much.
fn grow(chosen: &mut [(Column, u16)], column: Column, wanted: u16, left: u16) -> u16 {
    let Some((_, width)) = chosen.iter_mut().find(|(other, _)| *other == column) else { return 0 };
    let by = wanted.saturating_sub(*width).min(left);
    *width += by;
    by
}

fn longest(lines: &[Line], column: Column) -> u16 {
    let widths = lines.iter().map(|line| width_of(&column.cell(line)));
    u16::try_from(widths.max().unwrap_or(0)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn titles(width: u16, lines: &[Line]) -> String {
        let columns = fitting(width, lines);
        let sum: u16 = columns.iter().map(|(_, width)| width + 1).sum();
        assert!(sum <= width + 1, "{sum} of {width}: {columns:?}");
        columns.iter().map(|(column, _)| column.title()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn wider_screens_have_more_columns_and_none_more_than_fit() {
        for (width, expected) in [
            (22, "ROLE STATE"),
            (40, "ROLE STATE REQ/S FLY OLDEST"),
            (80, "HOST ROLE WORKER STATE REQ/S FLY WAIT OLDEST RING P99 ERRORS"),
        ] {
            assert_eq!(titles(width, &[]), expected, "{width}");
        }
        let all = titles(200, &[]);
        for title in BY_IMPORTANCE.map(Column::title) {
            assert!(all.contains(title), "{title}: {all}");
        }
        let mut before = 0;
        for width in 22..300 {
            let count = titles(width, &[]).split(' ').count();
            assert!(count >= before, "{width}");
            before = count;
        }
    }

    #[test]
    fn no_number_is_wider_than_its_column_which_would_cut_it_in_front() {
        let numbers = [0, 7, 994, 995, 999, 9_949, 9_960, 99_960, 999_499, 999_960, 9_960_000];
        for number in numbers.into_iter().chain([4_194_304, 10_u64.pow(15) - 1, u64::MAX]) {
            let (rate, time) = (Some(as_f64(number)), Duration::from_nanos(number));
            for is_role in [false, true] {
                let line = Line {
                    is_role,
                    host: u32::try_from(number).unwrap_or(u32::MAX).min(4_194_304),
                    worker: number,
                    in_flight: number,
                    queued: number,
                    ring: number,
                    errors: number,
                    done: number,
                    died: Some(number),
                    rate,
                    bytes: rate,
                    sleeps: rate,
                    oldest: time,
                    p50: Some(time),
                    p99: Some(time),
                    ..Line::default()
                };
                for column in BY_IMPORTANCE.into_iter().filter(|column| column.is_number()) {
                    let cell = column.cell(&line);
                    let room = usize::from(column.least_width());
                    assert!(cell.len() <= room, "{}: {cell} of {number}", column.title());
                }
            }
        }
    }

    #[test]
    fn every_column_has_its_place_by_importance() {
        let mut all = BY_IMPORTANCE.to_vec();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), BY_IMPORTANCE.len());
        assert_eq!((all.first(), all.last()), (Some(&C::Host), Some(&C::LastError)));
    }
}
