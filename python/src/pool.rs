//! A pool of workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::registry::Registry;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::convert::Timeout;
use crate::error::exception;
use crate::pool_events::PoolEvents;
use crate::pool_report::{PoolHealth, RoleMetrics};
use crate::pool_settings::PoolRole;
use crate::role_handle::RoleHandle;
use crate::wait::aside;

/// Workers of one or more roles, by name. `slipring/_pool.py` adds what is awaited.
#[pyclass(frozen, subclass, module = "slipring")]
pub(crate) struct Pool(Arc<slipring::pool::Pool>);

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (roles, *, max_starts = None))]
    fn new(
        py: Python<'_>,
        roles: BTreeMap<String, Py<PoolRole>>,
        max_starts: Option<usize>,
    ) -> PyResult<Self> {
        let mut pool = slipring::pool::Pool::builder();
        for (name, role) in roles {
            pool = pool.role(name, role.get().role());
        }
        if let Some(workers) = max_starts {
            pool = pool.max_starts(workers);
        }
        let pool = pool.build().map_err(|error| exception(py, &error))?;
        Ok(Self(Arc::new(pool)))
    }

    fn role(&self, py: Python<'_>, name: &str) -> PyResult<RoleHandle> {
        self.0.role(name).map(RoleHandle::new).map_err(|error| exception(py, &error))
    }

    fn health(&self, py: Python<'_>) -> PyResult<PoolHealth> {
        PoolHealth::new(py, py.detach(|| self.0.health()))
    }

    fn metrics(&self, py: Python<'_>) -> PyResult<BTreeMap<String, RoleMetrics>> {
        let metrics = py.detach(|| self.0.metrics());
        let named = |role: slipring::pool::RoleMetrics| {
            Ok((role.role.clone(), RoleMetrics::new(py, role)?))
        };
        metrics.roles.into_iter().map(named).collect()
    }

    fn prometheus(&self, py: Python<'_>) -> PyResult<String> {
        py.detach(|| {
            let mut registry = Registry::default();
            registry.register_collector(Box::new(self.0.collector()));
            let mut text = String::new();
            let encoded = prometheus_text::encode(&mut text, &registry);
            encoded.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
            Ok(text)
        })
    }

    fn events(&self) -> PoolEvents {
        PoolEvents::new(self.0.events())
    }

    #[pyo3(signature = (*, timeout = Timeout::seconds(30)))]
    fn close(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        let pool = Arc::clone(&self.0);
        aside(py, move || pool.close(timeout.0))?.map_err(|error| exception(py, &error))
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py, Timeout::seconds(30))
    }
}
