//! What a role of a pool is.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use slipring::Error;
use slipring::pool::{Role, WorkerSlot as Slot};

use crate::convert::{Kind, Timeout};
use crate::spawner::Spawner;

/// A role of a pool: how its workers are started, how many there are, and what bounds them.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct PoolRole(Role);

/// The place of a worker that is about to be started.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct WorkerSlot {
    role: String,
    index: usize,
    restarts: u64,
}

/// A time in seconds, or how many in how many seconds.
type Seconds = f64;

impl PoolRole {
    pub(crate) fn role(&self) -> Role {
        self.0.clone()
    }
}

#[pymethods]
impl PoolRole {
    #[new]
    #[pyo3(signature = (recipe, *, min_idle = None, max_size = None, spares = None, lazy = false,
        max_starts = None, concurrency = None, prefetch = None, max_waiting = None,
        grow_after = None, idle_timeout = Some(600.0), max_lifetime = None, max_requests = None,
        max_rss = None, stop_first = false, backoff = None, max_failures = None,
        retry_budget = None, max_attempts = None, idempotent = Vec::new(), kinds = Vec::new(),
        start_timeout = Timeout::seconds(300), stop_timeout = None, hang_timeout = None,
        ping_interval = None))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn new(
        recipe: &Bound<'_, PyAny>,
        min_idle: Option<usize>,
        max_size: Option<usize>,
        spares: Option<usize>,
        lazy: bool,
        max_starts: Option<usize>,
        concurrency: Option<usize>,
        prefetch: Option<usize>,
        max_waiting: Option<usize>,
        grow_after: Option<Seconds>,
        idle_timeout: Option<Seconds>,
        max_lifetime: Option<Seconds>,
        max_requests: Option<u64>,
        max_rss: Option<u64>,
        stop_first: bool,
        backoff: Option<(Seconds, Seconds, Seconds)>,
        max_failures: Option<(usize, Seconds)>,
        retry_budget: Option<(usize, usize, Seconds)>,
        max_attempts: Option<u32>,
        idempotent: Vec<Bound<'_, PyAny>>,
        kinds: Vec<Bound<'_, PyAny>>,
        start_timeout: Timeout,
        stop_timeout: Option<Seconds>,
        hang_timeout: Option<Seconds>,
        ping_interval: Option<Seconds>,
    ) -> PyResult<Self> {
        let mut role = with_recipe(recipe)?;
        role = set(role, min_idle, Role::min_idle);
        role = set(role, max_size, Role::max_size);
        role = set(role, spares, Role::spares);
        role = set(role, max_starts, Role::max_starts);
        role = set(role, concurrency, Role::concurrency);
        role = set(role, prefetch, Role::prefetch);
        role = set(role, max_waiting, Role::max_waiting);
        role = set(role, time(grow_after)?, Role::grow_after);
        role = role.idle_timeout(time(idle_timeout)?);
        role = set(role, time(max_lifetime)?, Role::max_lifetime);
        role = set(role, max_requests, Role::max_requests);
        role = set(role, max_rss, Role::max_rss);
        if let Some((first, most, period)) = backoff {
            role = role.backoff(needed(first)?, needed(most)?, needed(period)?);
        }
        if let Some((failures, period)) = max_failures {
            role = role.max_failures(failures, needed(period)?);
        }
        if let Some((percent, least, period)) = retry_budget {
            role = role.retry_budget(percent, least, needed(period)?);
        }
        role = set(role, max_attempts, Role::max_attempts);
        role = role.start_timeout(start_timeout.0);
        role = set(role, time(stop_timeout)?, Role::stop_timeout);
        role = set(role, time(hang_timeout)?, Role::hang_timeout);
        role = set(role, time(ping_interval)?, Role::ping_interval);
        if lazy {
            role = role.lazy();
        }
        if stop_first {
            role = role.stop_first();
        }
        for name in &idempotent {
            role = role.idempotent(name.extract::<Kind>()?.0);
        }
        for name in idempotent.iter().chain(&kinds) {
            role = role.kind_name(name.extract::<Kind>()?.0, name.str()?.to_string());
        }
        Ok(Self(role))
    }
}

#[pymethods]
impl WorkerSlot {
    fn __repr__(&self) -> String {
        format!("<WorkerSlot {} of {}>", self.index, self.role)
    }
}

/// Returns a role whose workers are started by a spawner, or by those that a callable returns.
fn with_recipe(recipe: &Bound<'_, PyAny>) -> PyResult<Role> {
    if let Ok(spawner) = recipe.cast::<Spawner>() {
        let spawner = spawner.clone().unbind();
        return Ok(Role::new(move |slot| {
            let spawner = Python::try_attach(|py| spawner.get().of_role(py, &slot.role));
            spawner.ok_or_else(|| Error::spawn_failed("the interpreter ends"))
        }));
    }
    if !recipe.is_callable() {
        let class = recipe.get_type().name()?;
        let message = format!("a recipe is a Spawner or a callable that returns one, not {class}");
        return Err(PyTypeError::new_err(message));
    }
    let callable = recipe.clone().unbind();
    Ok(Role::new(move |slot| {
        let made = Python::try_attach(|py| call(callable.bind(py), slot));
        made.unwrap_or_else(|| Err(Error::spawn_failed("the interpreter ends")))
    }))
}

/// Calls a recipe, on a thread of the pool's that holds no lock.
fn call(recipe: &Bound<'_, PyAny>, slot: &Slot) -> slipring::Result<slipring::Spawner> {
    let py = recipe.py();
    let place = || {
        let (role, index, restarts) = (slot.role.clone(), slot.index, slot.restarts);
        Bound::new(py, WorkerSlot { role, index, restarts })
    };
    let spawner = place().and_then(|place| recipe.call1((place,))).and_then(|made| {
        let spawner = made.cast::<Spawner>().map(|spawner| spawner.get().of_role(py, &slot.role));
        spawner.map_err(|_| PyTypeError::new_err("a recipe returns a Spawner"))
    });
    spawner.map_err(Error::spawn_failed)
}

fn set<T>(role: Role, value: Option<T>, set: impl FnOnce(Role, T) -> Role) -> Role {
    match value {
        Some(value) => set(role, value),
        None => role,
    }
}

fn time(seconds: Option<Seconds>) -> PyResult<Option<Duration>> {
    seconds.map(needed).transpose()
}

/// Returns a time that is not without end.
fn needed(seconds: Seconds) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        PyValueError::new_err(format!("a time of {seconds} seconds: it must be finite, 0 or more"))
    })
}
