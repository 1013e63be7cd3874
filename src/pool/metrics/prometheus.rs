//! A pool's metrics for a registry of the crate `prometheus_client`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::families::{Family, FamilyKind, Value};
use super::snapshot::PoolMetrics;

/// Collects the metrics of a pool each time that a registry of `prometheus_client` is encoded: as
/// text of Prometheus or of OpenMetrics, as the host chooses.
///
/// The histograms have a bucket for each power of two of nanoseconds, from one microsecond to
/// 69 seconds. Two pools in one registry need sub-registries with prefixes, for they have the same
/// names.
///
/// ```
/// # use std::time::Duration;
/// # use slipring::pool::{Pool, Role};
/// # use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
/// # const ECHO: Kind = Kind::named("echo");
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let make = || Worker::new(|_| Ok(()))
/// #     .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?));
/// # let role = Role::with_channels(move |_| {
/// #     testing::spawn_thread(&Config::small(), RoleConfig::default(), make)
/// # });
/// use prometheus_client::encoding::prometheus_text::encode;
/// use prometheus_client::registry::Registry;
///
/// let pool = Pool::builder().role("echo", role.kind_name(ECHO, "echo")).build()?;
/// let mut registry = Registry::default();
/// registry.register_collector(Box::new(pool.collector()));
///
/// pool.role("echo")?.call(ECHO, "hello", Duration::from_secs(10))?;
/// let mut text = String::new();
/// encode(&mut text, &registry)?;
/// let line = r#"slipring_requests_total{role="echo",kind="echo",outcome="ok"} 1"#;
/// assert!(text.lines().any(|each| each == line), "{text}");
/// # Ok(pool.close(Duration::from_secs(10))?) }
/// ```
///
#[doc = include_str!("../../../docs/METRICS.md")]
pub struct PoolCollector(Box<dyn Fn() -> PoolMetrics + Send + Sync>);

impl PoolCollector {
    pub(crate) fn new(take: impl Fn() -> PoolMetrics + Send + Sync + 'static) -> Self {
        Self(Box::new(take))
    }
}

impl fmt::Debug for PoolCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCollector").finish_non_exhaustive()
    }
}

impl Collector for PoolCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode(&(self.0)().families(), encoder)
    }
}

/// Writes families for a collector.
///
/// # Errors
///
/// The encoder's.
pub fn encode(families: &[Family<'_>], mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    for family in families {
        let kind = match family.kind {
            FamilyKind::Counter => MetricType::Counter,
            FamilyKind::Gauge => MetricType::Gauge,
            FamilyKind::Histogram => MetricType::Histogram,
        };
        let mut all = encoder.encode_descriptor(family.name, family.help, None, kind)?;
        for sample in &family.samples {
            write(all.encode_family(&sample.labels)?, family.kind, sample.value)?;
        }
    }
    Ok(())
}

fn write(mut encoder: MetricEncoder<'_>, kind: FamilyKind, value: Value<'_>) -> fmt::Result {
    match (kind, value) {
        (FamilyKind::Counter, Value::Number(count)) => {
            encoder.encode_counter::<NoLabelSet, u64, f64>(&count, None)
        }
        (_, Value::Number(number)) => encoder.encode_gauge(&number),
        (_, Value::Seconds(time)) => encoder.encode_gauge(&time.as_secs_f64()),
        (_, Value::Times(times)) => {
            // Not cumulated: the encoder does that.
            let mut before = 0;
            let mut buckets: Vec<_> = times
                .by_powers_of_two()
                .map(|(bound, count)| {
                    (bound, count.saturating_sub(std::mem::replace(&mut before, count)))
                })
                .collect();
            let count = times.count();
            buckets.push((f64::INFINITY, count.saturating_sub(before)));
            let sum = times.sum().as_secs_f64();
            encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}
