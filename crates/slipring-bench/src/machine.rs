//! The machine: what it is, how far apart its processors are, and whether it is quiet.

use std::fmt;
use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::limits::mailbox::Wait;
use crate::limits::sys;
use crate::links;
use crate::work::{Session, Work};

/// The description of the machine that every figure needs.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this program may use.
    pub cores: usize,
    /// The kernel's version.
    pub kernel: String,
    /// Day and time, UTC.
    pub date: String,
}

impl Machine {
    /// Describes this machine, now.
    #[must_use]
    pub fn read() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let named = |key: &str| {
            let line = info.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let cpu = named("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            cpu,
            cores: sys::allowed_cpus().len(),
            kernel: kernel.trim().to_owned(),
            date: date(now.as_secs()),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, kernel, date } = self;
        write!(f, "{cpu}, {cores} cores, Linux {kernel}, {date} UTC")
    }
}

/// Returns the bytes of memory that are available without swapping, or zero if that is unknown.
pub(crate) fn available_memory() -> usize {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Returns the load average of the last minute, or zero if the kernel does not tell.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

/// Returns the day and minute of a time in seconds since 1970.
fn date(seconds: u64) -> String {
    // Days are counted from 1 March of year 0, so that a leap day ends its year.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + 400 * era + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// How far apart the two processors are at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// They share a cache.
    Near,
    /// They share no cache.
    Far,
    /// A cache line takes longer than on any hardware: another program is running.
    Disturbed,
}

impl Placement {
    pub(crate) const ALL: [Self; 3] = [Self::Near, Self::Far, Self::Disturbed];
    /// Below this round trip of a cache line the processors are near, in nanoseconds.
    pub(crate) const NEAR_NS: f64 = 220.0;
    /// Below this one they are far.
    pub(crate) const FAR_NS: f64 = 900.0;

    /// Classifies the time of a cache line's round trip.
    #[must_use]
    pub fn of(line_ns: f64) -> Self {
        match line_ns {
            ns if ns < Self::NEAR_NS => Self::Near,
            ns if ns < Self::FAR_NS => Self::Far,
            _ => Self::Disturbed,
        }
    }

    /// Returns the name of the placement, one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Disturbed => "disturbed",
        }
    }
}

/// Returns the two processors to measure on, the parent's first: the requested ones, or else
/// chosen ones.
///
/// # Errors
///
/// `InvalidInput` if this process may not use a requested processor, or if both are the same: the
/// two sides wait for each other without yielding the processor.
pub fn processors(asked: Option<(usize, usize)>, allowed: &[usize]) -> io::Result<(usize, usize)> {
    let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let Some((parent, worker)) = asked else {
        return two_cpus(allowed)
            .ok_or_else(|| io::Error::other("two processors are needed to measure on"));
    };
    if let Some(missing) = [parent, worker].iter().find(|cpu| !allowed.contains(cpu)) {
        return invalid(format!(
            "there is no processor {missing}; this process may use {}",
            ranges(allowed)
        ));
    }
    if parent == worker {
        return invalid(format!("the two must differ, and both are processor {parent}"));
    }
    Ok((parent, worker))
}

/// Writes ascending numbers as `0,1` or `0-3,8`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).flat_map(|run| match run {
        [first, .., last] if run.len() > 2 => vec![format!("{first}-{last}")],
        _ => run.iter().map(usize::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// Returns the first two processors that do not share a core.
fn two_cpus(allowed: &[usize]) -> Option<(usize, usize)> {
    let first = *allowed.first()?;
    let path = format!("/sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list");
    let siblings = fs::read_to_string(path).unwrap_or_default();
    let is_sibling = |cpu: usize| {
        siblings.trim().split(',').any(|range| {
            let mut ends = range.split('-').filter_map(|end| end.parse::<usize>().ok());
            let Some(from) = ends.next() else { return false };
            (from..=ends.next().unwrap_or(from)).contains(&cpu)
        })
    };
    let second = allowed.iter().copied().find(|cpu| *cpu != first && !is_sibling(*cpu));
    Some((first, second.or_else(|| allowed.get(1).copied())?))
}

/// Measures a cache line's round trip between the two processors.
pub struct Probe {
    session: Box<dyn Session>,
    /// All results so far, in nanoseconds.
    pub history: Vec<f64>,
}

impl Probe {
    /// # Errors
    ///
    /// Fails if the system call fails.
    pub fn new(worker_cpu: usize) -> io::Result<Self> {
        let mut session = links::mailbox(true, Wait::Spin)?;
        session.pin(worker_cpu)?;
        sys::set_stopped(session.pid(), true);
        Ok(Self { session, history: Vec::new() })
    }

    /// Measures the round trip from the calling thread, in nanoseconds.
    ///
    /// # Errors
    ///
    /// Fails if the system call fails.
    pub fn take(&mut self) -> io::Result<f64> {
        sys::set_stopped(self.session.pid(), false);
        let slice = self.session.run(Work::RoundTrip { len: 48 }, 1024);
        sys::set_stopped(self.session.pid(), true);
        let mut samples = slice?.samples;
        samples.sort_by(f64::total_cmp);
        let median = samples.get(samples.len() / 2).copied().unwrap_or(f64::MAX);
        self.history.push(median);
        Ok(median)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        sys::set_stopped(self.session.pid(), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_different_processors_that_may_be_used_are_measured_on() {
        let asked = |a, b| processors(Some((a, b)), &[0, 1, 2, 3, 6, 8, 9]);
        assert_eq!(asked(8, 0).unwrap(), (8, 0));
        for ((a, b), why) in [
            ((0, 99), "there is no processor 99; this process may use 0-3,6,8,9"),
            ((7, 0), "there is no processor 7; this process may use 0-3,6,8,9"),
            ((1, 1), "the two must differ, and both are processor 1"),
        ] {
            let error = asked(a, b).unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (io::ErrorKind::InvalidInput, why)
            );
        }
        assert!(processors(None, &[0]).is_err());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (951_782_399, "2000-02-28 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_709_251_199, "2024-02-29 23:59"),
            (4_102_444_800, "2100-01-01 00:00"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
