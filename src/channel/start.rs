//! Starting a worker: its memory, its process, the handshake.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::channel::crash_contents::Facts;
use crate::channel::crash_report::Reporter;
use crate::channel::handshake::{Handshake, Shipment, end_and_reap};
use crate::channel::health::HealthClient;
use crate::channel::raw_end;
use crate::channel::spawn_checks::{check_blob, check_limits, check_role, check_timeout};
use crate::channel::state::ChannelState;
use crate::channel::worker_exit::{EXIT_STATUS_TIMEOUT, WorkerExit};
use crate::channel::worker_handle::WorkerHandle;
use crate::config::Config;
use crate::crash_report::CrashReports;
use crate::error::{Error, ErrorKind, Result};
use crate::link::{Duplex, ParentLink, ParentWords};
use crate::process::log::Log;
use crate::process::service::run_detached;
use crate::process::spawn::Program;
use crate::process::worker_env::{self, WORKER_ENV};
use crate::process::{socket, starter, watch};
use crate::protocol::Kind;
use crate::protocol::handshake::{Limits, WorkerSetup};
use crate::protocol::{RoleConfig, blob};
use crate::raw::RawLink;
use crate::recording::Recording;
use crate::ring::copy_choice::FINDINGS;
use crate::shm::layout::as_u64;
use crate::shm::memfd;
use crate::sys::clock::Deadline;
use crate::sys::wake_fd::WakeFd;
use crate::sys::{cpu, fork, variables};
use crate::trace::{event, span};

/// A worker that starts its own program again, which does not know that it is a worker, would
/// never stop starting processes.
const NEVER_ASKED: &str = "this process was itself started as a slipring worker, and has not \
    attached; its `main`, or the test that it was started for, must begin with \
    `if slipring::worker::is_worker() { return Worker::new(…).serve(); }`";

/// What a [`Spawner`](super::Spawner) was given.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub(super) program: Program,
    pub(super) role: RoleConfig,
    pub(super) instance: Option<u32>,
    pub(super) log_dir: Option<PathBuf>,
    pub(super) config: Config,
    pub(super) handshake_timeout: Duration,
    pub(super) exit_status_timeout: Duration,
    pub(super) limits: Limits,
    pub(super) is_pollable: bool,
    /// Passed to every worker, and open until the last clone is dropped.
    pub(super) fds: Vec<(String, Arc<OwnedFd>)>,
    /// What a worker serves before it counts as ready.
    pub(super) warm_up: Option<(Kind, Vec<u8>)>,
    /// Whether other processes may look at the channel's memory.
    pub(super) is_inspectable: bool,
    /// `None`: as the environment says.
    pub(super) crash_reports: Option<CrashReports>,
    pub(super) recording: Option<Recording>,
}

impl Options {
    pub(super) fn new(program: Program) -> Self {
        Self {
            program,
            role: RoleConfig { role: "worker".to_owned(), ..RoleConfig::default() },
            instance: None,
            log_dir: None,
            config: Config::default(),
            handshake_timeout: Duration::from_secs(10),
            exit_status_timeout: EXIT_STATUS_TIMEOUT,
            limits: Limits::default(),
            is_pollable: false,
            fds: Vec::new(),
            warm_up: None,
            is_inspectable: variables::value(variables::INSPECT).is_some_and(|value| value == "1"),
            crash_reports: None,
            recording: None,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        check_role(&self.role)?;
        check_blob(self.role.blob.len())?;
        check_limits(&self.limits, &self.config, self.role.blob.len())?;
        check_timeout(self.handshake_timeout)?;
        if worker_env::parent().is_ok() {
            return Err(Error::new(ErrorKind::Spawn, NEVER_ASKED));
        }
        Ok(())
    }

    pub(super) fn start(&self) -> Result<Started> {
        // Before the environment is looked at, for which another thread may have a lock for ever.
        fork::watch()?;
        let state = Arc::new(ChannelState::default());
        let reports = self.crash_reports.clone().or_else(CrashReports::from_env);
        let reporter = reports.map(|reports| Reporter::new(reports, self.facts(), &state));
        self.start_reported(state, reporter.clone()).map_err(|error| match reporter {
            Some(reporter) => reporter.note_failed_start(error),
            None => error,
        })
    }

    /// What a crash report says of the worker.
    fn facts(&self) -> Facts {
        Facts {
            environment: self.program.env.names(),
            program: self.program.clone(),
            role: self.role.clone(),
            limits: self.limits.clone(),
            config: self.config.clone(),
            started: SystemTime::now(),
        }
    }

    fn start_reported(
        &self,
        state: Arc<ChannelState>,
        reporter: Option<Arc<Reporter>>,
    ) -> Result<Started> {
        span!("spawn", role = self.role.role.as_str(), program = %self.program.path.display());
        let setup = self.setup().encode()?;
        let (wake_fd, wake_fds) = match self.is_pollable {
            true => {
                WakeFd::pair().map(|(wake_fd, fds)| (Some(Arc::new(wake_fd)), Vec::from(fds)))?
            }
            false => (None, Vec::new()),
        };
        let (ours, theirs) = socket::pair()?;
        let ours = Arc::new(UnixStream::from(ours));
        let log = self.log_dir.as_deref();
        let log = log.map(|dir| Log::open(dir, &self.role.role, self.instance)).transpose()?;
        crate::failpoint::failpoint!("before spawn");
        let mut program = self.program.clone();
        program.env.set(WORKER_ENV, worker_env::value_for(theirs.as_fd())?);

        let child = {
            let state = Arc::clone(&state);
            let on_exit = move |_| report_death(state.note_exit());
            let socket = Some(Arc::clone(&ours));
            starter::start(program, theirs, socket, log, Box::new(on_exit))?
        };
        if let Some(reporter) = &reporter {
            reporter.set_child(child.clone());
        }
        // While the worker loads its program: reserving memory takes as long as that.
        let made = match self.is_inspectable {
            true => memfd::create_to_keep(&self.config),
            false => memfd::create(&self.config),
        };
        let linked = made.and_then(|(regions, files)| {
            // Without descriptors to spare there is nothing to look at, and a worker all the same.
            let kept = self.is_inspectable.then(|| files.try_clone().ok()).flatten();
            let link = ParentLink::over(regions, self.config.tuning(), wake_fd.as_ref())?;
            // The first wait would have to find out.
            cpu::are_scarce();
            let mut own = vec![files.down.into(), files.up.into()];
            own.extend(wake_fds);
            if !self.role.blob.is_empty() {
                own.push(blob::write(&self.role.blob)?.into());
            }
            let shipment = Shipment { setup, own, passed: &self.fds };
            let deadline = Deadline::after(self.handshake_timeout).instant();
            let (child, socket, role) = (&child, &*ours, self.role.role.as_str());
            Handshake { child, socket, role, deadline }.run(shipment, &link)?;
            if let Some(files) = kept {
                memfd::keep(link.answer.peer(), files);
            }
            Ok(link)
        });
        drop(ours);
        let ParentLink { data, health, words, owner, .. } =
            linked.inspect_err(|_| end_and_reap(&child))?;
        let watched = {
            let (state, child) = (Arc::clone(&state), child.clone());
            let on_death = move || {
                // First: errors then need not wait for the cause.
                child.look_up_cause();
                report_death(state.note_death());
            };
            watch::watch(owner, Box::new(on_death))
        };
        crate::failpoint::failpoint!("after handshake");
        let (role, timeout) = (self.role.role.clone(), self.exit_status_timeout);
        let exit = WorkerExit::new(role, Box::new(child), timeout);
        let last_pong = reporter.as_deref().map(Reporter::last_pong);
        let health = HealthClient::new(health).keep_last_pong(last_pong);
        let worker = WorkerHandle::new(Arc::clone(&state), health, exit, Some(watched))
            .with_reporter(reporter);
        event!(INFO, role = self.role.role.as_str(), pid = worker.pid(), "worker attached");
        Ok(Started { data, words, worker, state, wake_fd })
    }

    fn setup(&self) -> WorkerSetup {
        WorkerSetup {
            parent: std::process::id(),
            tuning: self.config.tuning(),
            limits: self.limits.clone(),
            role: self.role.clone(),
            is_pollable: self.is_pollable,
            blob_len: as_u64(self.role.blob.len()),
            fd_names: self.fds.iter().map(|(name, _)| name.clone()).collect(),
            found_copies: FINDINGS.bits(),
        }
    }
}

/// Reports the first sign of a worker's end that was not asked for. The calling thread serves
/// all workers, so it must not wait for the subscriber, which is the host's code.
fn report_death(is_first: bool) {
    if cfg!(feature = "tracing") && is_first {
        run_detached("slipring-news", || {
            event!(WARN, "worker died");
        });
    }
}

/// A worker that has attached.
pub(super) struct Started {
    pub(super) data: Duplex,
    pub(super) words: ParentWords,
    pub(super) worker: WorkerHandle,
    pub(super) state: Arc<ChannelState>,
    pub(super) wake_fd: Option<Arc<WakeFd>>,
}

impl Started {
    pub(super) fn into_raw(self) -> RawLink {
        let Self { data, worker, state, wake_fd, .. } = self;
        if let Some(reporter) = worker.reporter() {
            reporter.watch(None);
        }
        raw_end::link_to(worker, state, data, wake_fd)
    }
}
