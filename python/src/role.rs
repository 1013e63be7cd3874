//! What the host has configured for a worker.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::prelude::*;

/// What the host has configured for a worker.
#[pyclass(frozen, get_all, module = "slipring")]
pub(crate) struct Role {
    role: String,
    model: Option<PathBuf>,
    mode: Option<String>,
    extra: BTreeMap<String, String>,
    blob: Vec<u8>,
}

impl Role {
    pub(crate) fn new(role: &slipring::RoleConfig) -> Self {
        Self {
            role: role.role.clone(),
            model: role.model.clone(),
            mode: role.mode.clone(),
            extra: role.extras.iter().cloned().collect(),
            blob: role.blob.to_vec(),
        }
    }
}

#[pymethods]
impl Role {
    fn __repr__(&self) -> String {
        format!("<Role {}>", self.role)
    }
}
