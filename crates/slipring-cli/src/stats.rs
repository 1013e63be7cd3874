//! The figures of the summary at the end.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Buckets a power of two: a percentile is exact to one part in 16.
const STEPS: u64 = 16;
const BUCKETS: usize = 64 * 16;

/// A histogram of durations in constant memory, logarithmic, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Returns the duration that `percent` of all durations do not exceed,
    /// rounded up to the end of its bucket.
    pub(crate) fn percentile(&self, percent: u64) -> Duration {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(upper_end(bucket));
            }
        }
        Duration::ZERO
    }
}

/// Below `STEPS` each value has a bucket; above, the four bits after the
/// leading one choose among the 16 buckets of its power of two.
fn bucket(nanos: u64) -> usize {
    let index = match nanos.checked_ilog2() {
        Some(log) if nanos >= STEPS => {
            let shift = log - STEPS.ilog2();
            u64::from(shift) * STEPS + (nanos >> shift)
        }
        _ => nanos,
    };
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let start = (STEPS + bucket % STEPS) << shift;
    start + ((1 << shift) - 1)
}

/// Bytes of requests and replies that went through the rings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) request_bytes: u64,
    pub(crate) reply_bytes: u64,
}

/// What was done because workers died.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) restarts: u64,
    /// How often a batch was sent to another worker.
    pub(crate) sent_again: u64,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number, one: &str, many: &str| {
            format!("{} {}", Thousands(number), if number == 1 { one } else { many })
        };
        if self.restarts > 0 {
            let workers = count(self.restarts, "worker", "workers");
            write!(f, ", {workers} restarted")?;
        }
        if self.sent_again > 0 {
            write!(f, ", {} sent again", count(self.sent_again, "batch", "batches"))?;
        }
        Ok(())
    }
}

/// The figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    pub(crate) texts: u64,
    pub(crate) batches: u64,
    pub(crate) elapsed: Duration,
    pub(crate) traffic: Traffic,
    pub(crate) recovery: Recovery,
    /// From the submission of a batch to its reply.
    pub(crate) latency: Histogram,
    /// Processor time of the worker processes, if the kernel tells it and none was restarted.
    pub(crate) worker_cpu: Option<Duration>,
    /// How long the thread that writes had nothing to do.
    pub(crate) waited: Duration,
    /// Processor time of the threads that do nothing but encode batches into the rings,
    /// wait, and decode vectors out of them.
    pub(crate) in_slipring: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} texts in {:.2} s ({} texts/s), requests {}, replies {}",
            Thousands(self.texts),
            self.elapsed.as_secs_f64(),
            Thousands(rate(self.texts, self.elapsed)),
            Bytes(self.traffic.request_bytes),
            Bytes(self.traffic.reply_bytes),
        )?;
        if self.batches > 0 {
            write!(
                f,
                ", {} batches: p50 {}, p99 {}",
                Thousands(self.batches),
                Millis(self.latency.percentile(50)),
                Millis(self.latency.percentile(99)),
            )?;
        }
        if let Some(cpu) = self.worker_cpu {
            write!(f, ", worker CPU {:.2} s", cpu.as_secs_f64())?;
        }
        let share =
            |part: Duration| 100.0 * part.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9);
        write!(f, ", parent waited {:.0} %", share(self.waited).min(100.0))?;
        write!(f, ", slipring {:.1} %{}", share(self.in_slipring), self.recovery)
    }
}

/// Processor time of a thread, by its folder in `/proc`, in nanoseconds; `None` if the kernel
/// does not tell.
pub(crate) fn cpu_ns(task: &Path) -> Option<u64> {
    let schedstat = fs::read_to_string(task.join("schedstat")).ok()?;
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Returns texts a second.
pub(crate) fn rate(texts: u64, elapsed: Duration) -> u64 {
    let nanos = elapsed.as_nanos().max(1);
    u64::try_from(u128::from(texts) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// Writes a number with a comma at every third digit.
pub(crate) struct Thousands(pub(crate) u64);

impl fmt::Display for Thousands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        // The first group has what is left over by the groups of three.
        let (first, rest) = digits.split_at((digits.len() - 1) % 3 + 1);
        f.write_str(first)?;
        let groups = rest.as_bytes().chunks(3);
        groups.into_iter().try_for_each(|group| write!(f, ",{}", group.escape_ascii()))
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in units {
            if self.0 >> shift > 0 {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return write!(f, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms", self.0.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_in_a_bucket_that_ends_within_a_sixteenth_of_it() {
        let values = (0..2000).chain((4..64).flat_map(|s| [(1 << s) - 1, 1 << s, 3 << (s - 2)]));
        for nanos in values.chain([u64::MAX]) {
            let end = upper_end(bucket(nanos));
            assert!(end >= nanos && end - nanos <= nanos / 16, "{nanos}: {end}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_recorded_durations() {
        let mut histogram = Histogram::default();
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let near = |percent, millis: f64| {
            let got = histogram.percentile(percent).as_secs_f64() * 1000.0;
            assert!(got >= millis && got <= millis * 1.0626, "{got} for {millis}");
        };
        near(50, 50.0);
        near(99, 99.0);
        near(100, 100.0);
        assert_eq!(Histogram::default().percentile(50), Duration::ZERO);
    }

    #[test]
    fn the_summary_is_one_line_with_all_its_numbers() {
        let mut summary = Summary {
            texts: 5000,
            batches: 79,
            elapsed: Duration::from_millis(500),
            traffic: Traffic { request_bytes: 1536, reply_bytes: 7_680_000 },
            recovery: Recovery::default(),
            latency: Histogram::default(),
            worker_cpu: Some(Duration::from_millis(450)),
            waited: Duration::from_millis(430),
            in_slipring: Duration::from_micros(6_200),
        };
        for _ in 0..79 {
            summary.latency.record(Duration::from_nanos(15));
        }
        assert_eq!(
            summary.to_string(),
            "5,000 texts in 0.50 s (10,000 texts/s), requests 1.5 KiB, replies 7.3 MiB, \
             79 batches: p50 0.00 ms, p99 0.00 ms, worker CPU 0.45 s, parent waited 86 %, \
             slipring 1.2 %"
        );
        summary.recovery = Recovery { restarts: 1, sent_again: 3 };
        let told = summary.to_string();
        assert!(told.ends_with(" %, 1 worker restarted, 3 batches sent again"), "{told}");
        let nothing = Summary::default().to_string();
        assert!(
            nothing.ends_with("replies 0 bytes, parent waited 0 %, slipring 0.0 %"),
            "{nothing}"
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1000, 1_234_567].map(|n| Thousands(n).to_string());
        assert_eq!(texts, ["0", "999", "1,000", "1,234,567"]);
    }
}
