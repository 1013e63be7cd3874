//! What starts workers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use slipring::{Config, CrashReports};

use crate::channel::Channel;
use crate::convert::Timeout;
use crate::descriptor;
use crate::error::exception;
use crate::wait::aside;

/// What starts workers of one kind.
#[pyclass(frozen, module = "slipring")]
pub(crate) struct Spawner {
    spawner: slipring::Spawner,
    has_role: bool,
    /// The variables that workers get beside those of this process.
    env: BTreeMap<OsString, OsString>,
}

impl Spawner {
    /// Returns the spawner for a worker of a pool, whose role has this name if the spawner was
    /// given none.
    pub(crate) fn of_role(&self, py: Python<'_>, name: &str) -> slipring::Spawner {
        let spawner = self.get(py);
        if self.has_role { spawner } else { spawner.role(name) }
    }

    /// Returns the spawner for one worker. It has the environment as it is now: a thread that does
    /// not hold the interpreter lock must not read it, since Python changes it under that lock, and
    /// the C library moves it then.
    pub(crate) fn get(&self, _: Python<'_>) -> slipring::Spawner {
        let variables = std::env::vars_os().chain(self.env.clone());
        variables.fold(self.spawner.clone().env_clear(), |spawner, (name, value)| {
            spawner.env(name, value)
        })
    }
}

#[pymethods]
impl Spawner {
    #[new]
    #[pyo3(signature = (program, args = Vec::new(), *, role = None, env = None, cwd = None,
        model = None, mode = None, extra = None, blob = None, log_dir = None, crash_reports = None,
        inherit_stdio = false, config = None, handshake_timeout = Timeout::seconds(10), memory_limit = None,
        nice = None, cpus = None, fds = None))]
    #[expect(clippy::too_many_arguments, reason = "Python passes them by name")]
    fn new(
        py: Python<'_>,
        program: PathBuf,
        args: Vec<PathBuf>,
        role: Option<String>,
        env: Option<BTreeMap<OsString, OsString>>,
        cwd: Option<PathBuf>,
        model: Option<PathBuf>,
        mode: Option<String>,
        extra: Option<BTreeMap<String, String>>,
        blob: Option<Vec<u8>>,
        log_dir: Option<PathBuf>,
        crash_reports: Option<PathBuf>,
        inherit_stdio: bool,
        config: Option<BTreeMap<String, usize>>,
        handshake_timeout: Timeout,
        memory_limit: Option<u64>,
        nice: Option<i32>,
        cpus: Option<Vec<u32>>,
        fds: Option<BTreeMap<String, RawFd>>,
    ) -> PyResult<Self> {
        let mut spawner = slipring::Spawner::program(program)
            .args(args)
            .config(configuration(py, config.unwrap_or_default())?)
            .handshake_timeout(handshake_timeout.0);
        let has_role = role.is_some();
        if let Some(role) = role {
            spawner = spawner.role(role);
        }
        if let Some(directory) = cwd {
            spawner = spawner.current_dir(directory);
        }
        if let Some(model) = model {
            spawner = spawner.model(model);
        }
        if let Some(mode) = mode {
            spawner = spawner.mode(mode);
        }
        for (name, value) in extra.unwrap_or_default() {
            spawner = spawner.extra(name, value);
        }
        if let Some(blob) = blob {
            spawner = spawner.blob(blob);
        }
        if inherit_stdio {
            spawner = spawner.inherit_stdio();
        }
        if let Some(directory) = log_dir {
            spawner = spawner.log_dir(directory);
        }
        if let Some(directory) = crash_reports {
            spawner = spawner.crash_reports(CrashReports::in_dir(directory));
        }
        if let Some(bytes) = memory_limit {
            spawner = spawner.memory_limit(bytes);
        }
        if let Some(nice) = nice {
            spawner = spawner.nice(nice);
        }
        if let Some(cpus) = cpus {
            spawner = spawner.cpus(cpus);
        }
        for (name, number) in fds.unwrap_or_default() {
            spawner = spawner.pass_fd(name, descriptor::copy(py, number)?);
        }
        Ok(Self { spawner, has_role, env: env.unwrap_or_default() })
    }

    fn spawn(&self, py: Python<'_>) -> PyResult<Channel> {
        let spawner = self.get(py);
        let channel = aside(py, move || spawner.spawn())?;
        channel.map(Channel::new).map_err(|error| exception(py, &error))
    }

    /// Returns a coroutine.
    fn spawn_async<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        static SPAWN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        SPAWN.import(slf.py(), "slipring._async", "spawn")?.call1((slf,))
    }
}

/// Returns the configuration with these values, which have the names of the library's.
fn configuration(py: Python<'_>, values: BTreeMap<String, usize>) -> PyResult<Config> {
    let mut config = Config::builder();
    for (name, value) in values {
        config = match name.as_str() {
            "request_ring" => config.request_ring(value),
            "reply_ring" => config.reply_ring(value),
            "health_ring" => config.health_ring(value),
            "max_request_frame" => config.max_request_frame(value),
            "max_reply_frame" => config.max_reply_frame(value),
            "max_message" => config.max_message(value),
            "max_in_flight" => config.max_in_flight(value),
            "stream_window" => config.stream_window(value),
            name => return Err(PyTypeError::new_err(format!("no configuration value '{name}'"))),
        };
    }
    config.build().map_err(|error| exception(py, &error))
}
