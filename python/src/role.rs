//! What the host has configured for a worker.

use std::collections::BTreeMap;
use std::os::fd::{IntoRawFd, RawFd};
use std::path::PathBuf;

use pyo3::prelude::*;
use slipring::RoleConfig;

use crate::error::exception;

/// What the host has configured for a worker.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Role {
    #[pyo3(get)]
    role: String,
    #[pyo3(get)]
    model: Option<PathBuf>,
    #[pyo3(get)]
    mode: Option<String>,
    #[pyo3(get)]
    extra: BTreeMap<String, String>,
    #[pyo3(get)]
    blob: Vec<u8>,
    /// Has the descriptors.
    config: RoleConfig,
}

impl Role {
    pub(crate) fn new(role: &RoleConfig) -> Self {
        Self {
            role: role.role.clone(),
            model: role.model.clone(),
            mode: role.mode.clone(),
            extra: role.extras.iter().cloned().collect(),
            blob: role.blob.to_vec(),
            config: role.clone(),
        }
    }
}

#[pymethods]
impl Role {
    fn take_fd(&self, py: Python<'_>, name: &str) -> PyResult<RawFd> {
        let descriptor = self.config.take_fd(name).map_err(|error| exception(py, &error))?;
        Ok(descriptor.into_raw_fd())
    }

    fn __repr__(&self) -> String {
        format!("<Role {}>", self.role)
    }
}
