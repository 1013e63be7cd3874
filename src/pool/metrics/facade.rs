//! A pool's metrics for the recorder of the crate `metrics`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};

use super::families::{Family, FamilyKind, Sample, Value};
use super::histogram::Histogram;
use super::snapshot::PoolMetrics;

const METADATA: Metadata<'static> = Metadata::new("slipring", Level::INFO, Some("slipring::pool"));

/// Tells the metrics of a pool to the recorder of the crate `metrics` that the host has installed.
///
/// The host calls [`publish`](Self::publish) now and then, such as each ten seconds or before its
/// exporter is asked: then requests do not pay for the recorder. Times are told as the bound of
/// their bucket in the pool's [`Histogram`], at most 3.2 % too long.
///
/// ```no_run
/// # fn example(pool: &slipring::pool::Pool) {
/// let mut publisher = pool.metrics_publisher();
/// std::thread::spawn(move || {
///     loop {
///         publisher.publish();
///         std::thread::sleep(std::time::Duration::from_secs(10));
///     }
/// });
/// # }
/// ```
///
#[doc = include_str!("../../../docs/METRICS.md")]
pub struct MetricsPublisher {
    take: Box<dyn Fn() -> PoolMetrics + Send + Sync>,
    publisher: Publisher,
}

/// What was told to the recorder.
#[derive(Debug, Default)]
pub struct Publisher {
    is_described: bool,
    /// What was told of each histogram.
    told: BTreeMap<(&'static str, String), Histogram>,
}

impl fmt::Debug for MetricsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsPublisher").finish_non_exhaustive()
    }
}

impl MetricsPublisher {
    pub(crate) fn new(take: impl Fn() -> PoolMetrics + Send + Sync + 'static) -> Self {
        Self { take: Box::new(take), publisher: Publisher::default() }
    }

    /// Tells the recorder what the numbers are now, and all times that were counted since the last
    /// call. Runs the recorder's code, and blocks no longer than that and
    /// [`Pool::metrics`](crate::pool::Pool::metrics) do.
    pub fn publish(&mut self) {
        self.publisher.publish(&(self.take)().families());
    }
}

impl Publisher {
    /// Tells the recorder what these families have now.
    pub fn publish(&mut self, families: &[Family<'_>]) {
        metrics::with_recorder(|recorder| {
            for family in families {
                if !self.is_described {
                    describe(recorder, family);
                }
                for sample in &family.samples {
                    self.publish_sample(recorder, family, sample);
                }
            }
        });
        self.is_described = true;
    }

    fn publish_sample(
        &mut self,
        recorder: &dyn Recorder,
        family: &Family<'_>,
        sample: &Sample<'_>,
    ) {
        let labels = sample.labels.iter().map(|(key, value)| Label::new(*key, value.clone()));
        let key = Key::from_parts(family.full_name(), labels.collect::<Vec<_>>());
        match (family.kind, sample.value) {
            (FamilyKind::Counter, Value::Number(count)) => {
                recorder.register_counter(&key, &METADATA).absolute(count);
            }
            (_, Value::Number(number)) => {
                // There is no other conversion of a `u64` than `as`.
                let value = Duration::from_secs(number).as_secs_f64();
                recorder.register_gauge(&key, &METADATA).set(value);
            }
            (_, Value::Seconds(time)) => {
                recorder.register_gauge(&key, &METADATA).set(time.as_secs_f64());
            }
            (_, Value::Times(times)) => {
                let recorder = recorder.register_histogram(&key, &METADATA);
                let role = sample.labels.first().map_or_else(String::new, |(_, role)| role.clone());
                let told = self.told.entry((family.name, role)).or_default();
                for (bound, count) in times.buckets_since(told) {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    recorder.record_many(bound.as_secs_f64(), count);
                }
                *told = times.clone();
            }
        }
    }
}

fn describe(recorder: &dyn Recorder, family: &Family<'_>) {
    let (name, help) = (KeyName::from(family.full_name()), SharedString::from(family.help));
    let unit = match family.unit() {
        "seconds" => Unit::Seconds,
        "bytes" => Unit::Bytes,
        _ => Unit::Count,
    };
    match family.kind {
        FamilyKind::Counter => recorder.describe_counter(name, Some(unit), help),
        FamilyKind::Gauge => recorder.describe_gauge(name, Some(unit), help),
        FamilyKind::Histogram => recorder.describe_histogram(name, Some(unit), help),
    }
}
