//! What is told of a pool: plain values.

use std::collections::BTreeMap;

use pyo3::prelude::*;
use slipring::Overload;

use crate::report::Health;

/// How a pool is.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct PoolHealth {
    roles: BTreeMap<String, Py<RoleHealth>>,
    events_dropped: u64,
    is_ready: bool,
}

/// How a role is.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct RoleHealth {
    role: String,
    is_ready: bool,
    is_degraded: bool,
    load: Py<Load>,
    workers: Vec<Py<WorkerHealth>>,
}

/// How full a role is.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct Load {
    queued: usize,
    limit: usize,
    in_flight: usize,
    oldest_wait: f64,
    retry_after: f64,
}

/// How a worker of a role is.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct WorkerHealth {
    index: usize,
    pid: Option<u32>,
    is_alive: bool,
    health: Option<Py<Health>>,
}

/// What a role has counted since the pool was built.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct RoleMetrics {
    role: String,
    /// How many requests of each kind have ended how.
    requests: BTreeMap<(String, &'static str), u64>,
    queue_times: Py<Histogram>,
    service_times: Py<Histogram>,
    resent_unbegun: u64,
    resent_begun: u64,
    overflowed: u64,
    overflowed_back: u64,
    workers: BTreeMap<&'static str, u64>,
    recycled: BTreeMap<String, u64>,
    load: Py<Load>,
    channels: BTreeMap<&'static str, u64>,
}

/// How often something took how long.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Histogram(slipring::pool::Histogram);

impl PoolHealth {
    pub(crate) fn new(py: Python<'_>, health: slipring::pool::PoolHealth) -> PyResult<Self> {
        let (is_ready, events_dropped) = (health.is_ready(), health.events_dropped);
        let mut roles = BTreeMap::new();
        for role in health.roles {
            roles.insert(role.role.clone(), Py::new(py, RoleHealth::new(py, role)?)?);
        }
        Ok(Self { roles, events_dropped, is_ready })
    }
}

impl RoleHealth {
    pub(crate) fn new(py: Python<'_>, health: slipring::pool::RoleHealth) -> PyResult<Self> {
        let mut workers = Vec::with_capacity(health.workers.len());
        for worker in health.workers {
            let health =
                worker.health.map(|health| Py::new(py, Health::new(health))).transpose()?;
            let (index, pid, is_alive) = (worker.index, worker.pid, worker.is_alive);
            workers.push(Py::new(py, WorkerHealth { index, pid, is_alive, health })?);
        }
        Ok(Self {
            role: health.role,
            is_ready: health.is_ready,
            is_degraded: health.is_degraded,
            load: Load::new(py, health.load)?,
            workers,
        })
    }
}

impl Load {
    fn new(py: Python<'_>, load: Overload) -> PyResult<Py<Self>> {
        let load = Self {
            queued: load.queued,
            limit: load.limit,
            in_flight: load.in_flight,
            oldest_wait: load.oldest_wait.as_secs_f64(),
            retry_after: load.retry_after.as_secs_f64(),
        };
        Py::new(py, load)
    }
}

impl RoleMetrics {
    pub(crate) fn new(py: Python<'_>, metrics: slipring::pool::RoleMetrics) -> PyResult<Self> {
        let (workers, channels) = (metrics.workers, metrics.channels);
        let mut requests = BTreeMap::new();
        for counted in metrics.requests {
            requests.insert((counted.kind_name, counted.outcome.name()), counted.count);
        }
        let mut recycled = BTreeMap::new();
        for (reason, count) in workers.recycled {
            recycled.insert(format!("{reason:?}").to_lowercase(), count);
        }
        Ok(Self {
            role: metrics.role,
            requests,
            queue_times: Py::new(py, Histogram(metrics.queue_times))?,
            service_times: Py::new(py, Histogram(metrics.service_times))?,
            resent_unbegun: metrics.resent_unbegun,
            resent_begun: metrics.resent_begun,
            overflowed: metrics.overflowed,
            overflowed_back: metrics.overflowed_back,
            workers: BTreeMap::from([
                ("started", workers.started),
                ("restarted", workers.restarted),
                ("failed_to_start", workers.failed_to_start),
                ("died_serving", workers.died_serving),
                ("died_idle", workers.died_idle),
                ("killed_idle", workers.killed_idle),
                ("hung", workers.hung),
            ]),
            recycled,
            load: Load::new(py, metrics.load)?,
            channels: BTreeMap::from([
                ("bytes_sent", channels.bytes_sent),
                ("bytes_received", channels.bytes_received),
                ("chunks", channels.chunks),
                ("spins", channels.spins),
                ("parks", channels.parks),
                ("wakes", channels.wakes),
                ("recorded_frames", channels.recorded_frames),
                ("unrecorded_frames", channels.unrecorded_frames),
                ("ring_high_water", channels.ring_high_water),
                ("workers", channels.workers),
                ("ring_used", channels.ring_used),
                ("ring_capacity", channels.ring_capacity),
                ("reply_ring_used", channels.reply_ring_used),
                ("reply_ring_capacity", channels.reply_ring_capacity),
                ("reply_ring_high_water", channels.reply_ring_high_water),
                ("reply_leases", channels.reply_leases),
            ]),
        })
    }
}

#[pymethods]
impl Histogram {
    #[getter]
    fn count(&self) -> u64 {
        self.0.count()
    }

    #[getter]
    fn sum(&self) -> f64 {
        self.0.sum().as_secs_f64()
    }

    /// Returns the time in seconds that this share of all times did not exceed.
    fn quantile(&self, share: f64) -> Option<f64> {
        self.0.quantile(share).map(|time| time.as_secs_f64())
    }

    fn __repr__(&self) -> String {
        format!("<Histogram of {} times>", self.0.count())
    }
}

#[pymethods]
impl Load {
    fn __repr__(&self) -> String {
        format!("<Load: {} of {} wait, {} in flight>", self.queued, self.limit, self.in_flight)
    }
}

#[pymethods]
impl WorkerHealth {
    fn __repr__(&self) -> String {
        let state = if self.is_alive { "alive" } else { "not alive" };
        format!("<WorkerHealth {}: {state}>", self.index)
    }
}

#[pymethods]
impl RoleHealth {
    fn __repr__(&self) -> String {
        let state = if self.is_ready { "ready" } else { "not ready" };
        format!("<RoleHealth of {}: {state}, {} workers>", self.role, self.workers.len())
    }
}

#[pymethods]
impl PoolHealth {
    fn __repr__(&self) -> String {
        let state = if self.is_ready { "ready" } else { "not ready" };
        format!("<PoolHealth: {state}, {} roles>", self.roles.len())
    }
}
