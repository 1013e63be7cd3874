//! Starting a worker: regions, process, handshake.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::Channel;
use crate::channel::core::Core;
use crate::channel::handshake::{Handshake, Shipment, end_and_reap};
use crate::channel::health::HealthClient;
use crate::channel::spawn_checks::{
    check_blob, check_cpus, check_limits, check_role, check_timeout,
};
use crate::channel::state::State;
use crate::channel::worker_exit::{PATIENCE, WorkerExit};
use crate::channel::worker_handle::WorkerHandle;
use crate::config::Config;
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::link::{Duplex, ParentLink, ParentWords};
use crate::process::log::Log;
use crate::process::service::run_detached;
use crate::process::spawn::Program;
use crate::process::worker_env::{self, WORKER_ENV};
use crate::process::{own_exe, socket, starter, watch};
use crate::protocol::handshake::{Limits, WorkerSetup};
use crate::protocol::role::check_fd_name;
use crate::protocol::{RoleConfig, blob};
use crate::raw::{End, RawLink};
use crate::ring::doorbell::Alarm;
use crate::shm::layout::as_u64;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::sys::wake_fd::WakeFd;
use crate::trace::{event, span};

/// A worker that starts itself as its host does would do so without end.
const NEVER_ASKED: &str = "this process was itself started as a slipring worker, and has not \
    attached; its `main`, or the test that it was started for, must begin with \
    `if slipring::worker::is_worker() { return Worker::new(…).serve(); }`";

/// Describes a worker, and starts it.
///
/// The worker runs in a process group of its own with an empty signal mask, standard
/// input that is not the host's, standard output and error in its log, and none of the
/// host's descriptors. The host's address space is never forked. The worker dies with
/// its parent.
///
/// A relative path starts at the directory that the host is in when the path is given,
/// wherever the host, or the worker, goes later. What cannot work is refused by
/// [`Spawner::spawn`], before anything is started.
///
/// The process that is started is the worker as far as its end is concerned. A program that
/// only wraps the worker's must become it by `exec`, or stay until it has ended: when the
/// wrapper ends, the channel is over, and what is left of its process group is killed. Only a
/// process that has left that group, and has not attached, outlives it.
///
/// ```no_run
/// use slipring::{Kind, Spawner};
/// use std::time::Duration;
///
/// let channel = Spawner::program("/usr/lib/app/embedder")
///     .role("embed")
///     .model("/models/minilm")
///     .log_dir("/var/log/app")
///     .spawn()?;
/// let reply = channel.call(Kind::EMBED, b"bytes", Duration::from_secs(5))?;
/// # Ok::<(), slipring::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Spawner {
    program: Program,
    role: RoleConfig,
    instance: Option<u32>,
    log_dir: Option<PathBuf>,
    config: Config,
    handshake_timeout: Duration,
    exit_status_timeout: Duration,
    limits: Limits,
    is_pollable: bool,
    /// Passed to every worker. Open until the last clone of the spawner is dropped.
    fds: Vec<(String, Arc<OwnedFd>)>,
    /// The first error of a setter.
    refused: Option<Error>,
}

impl Spawner {
    /// A worker that runs the program at `path`; one without a slash is looked up in
    /// `PATH`, as the worker has it, when the worker is started.
    ///
    /// The program may be one that runs the worker and stays, as `timeout` or a shell does.
    /// Then it is what [`Channel::pid`], signals and the exit status are about; the worker's
    /// own death is noticed all the same.
    pub fn program(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let mut spawner = Self::of(Program::default());
        let is_name = !path.as_os_str().as_bytes().contains(&b'/');
        if is_name {
            // Only relative entries of `PATH` need it, so that it may be unknown.
            spawner.program.search_from = std::env::current_dir().ok();
        }
        spawner.program.path = if is_name { path } else { spawner.absolute("program", path) };
        spawner
    }

    fn of(program: Program) -> Self {
        Self {
            program,
            role: RoleConfig { role: "worker".to_owned(), ..RoleConfig::default() },
            instance: None,
            log_dir: None,
            config: Config::default(),
            handshake_timeout: Duration::from_secs(10),
            exit_status_timeout: PATIENCE,
            limits: Limits::default(),
            is_pollable: false,
            fds: Vec::new(),
            refused: None,
        }
    }

    /// Keeps an error for [`Spawner::spawn`] to return.
    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }

    fn absolute(&mut self, what: &str, path: PathBuf) -> PathBuf {
        std::path::absolute(&path).unwrap_or_else(|e| {
            let message = format!("cannot tell where the {what} {path:?} is");
            self.refuse(Error::with_source(ErrorKind::InvalidConfig, message, e));
            path
        })
    }

    /// A worker that runs the program that is running now, which must look at
    /// [`is_worker`](crate::worker::is_worker) when it starts. It stays the same program when
    /// its file is replaced by an update or removed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Spawn`] if the path of the running program is not known.
    pub fn current_exe() -> Result<Self> {
        let path = own_exe::name().map_err(|e| {
            Error::with_source(ErrorKind::Spawn, "the running program's path is not known", e)
        })?;
        Ok(Self::of(Program { path, is_own: true, ..Program::default() }))
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.program.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.program.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the worker's environment, which is otherwise inherited.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.program.env.set(name, value);
        self
    }

    /// Removes a variable from the worker's environment.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.program.env.remove(name);
        self
    }

    /// Inherits no variable.
    pub fn env_clear(mut self) -> Self {
        self.program.env.clear();
        self
    }

    /// The worker's working directory.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.program.current_dir = Some(self.absolute("working directory", directory.into()));
        self
    }

    /// The worker's role: the name in logs, errors and process lists. Letters, digits,
    /// `_`, `-` and `.`, at most 32 of them, not starting with a dot; `worker` by default.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role.role = role.into();
        self
    }

    /// Tells workers of the same role apart: the log is then `worker-<role>-<n>.log`.
    pub fn instance(mut self, number: u32) -> Self {
        self.instance = Some(number);
        self
    }

    /// The file or directory of the model that the session loads. A model that has a name
    /// and no path is an [`extra`](Self::extra).
    pub fn model(mut self, path: impl Into<PathBuf>) -> Self {
        self.role.model = Some(self.absolute("model", path.into()));
        self
    }

    /// How the session runs it.
    pub fn mode(mut self, mode: impl Into<String>) -> Self {
        self.role.mode = Some(mode.into());
        self
    }

    /// Anything else that the session's builder wants to know.
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.role.extras.push((name.into(), value.into()));
        self
    }

    /// Gives the worker bytes of any format, at most 64 MiB of them: it finds them in
    /// [`RoleConfig::blob`]. Empty by default. Each worker gets a copy, in memory of its own.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let settings = r#"{"layers": 12}"#;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").blob(settings);
    /// ```
    pub fn blob(mut self, blob: impl Into<Vec<u8>>) -> Self {
        self.role.blob = blob.into().into();
        self
    }

    /// Passes the worker a descriptor, which it takes by name with [`RoleConfig::take_fd`]: a
    /// pipe, a socket, a file that only the host may open. None by default, at most 16. A name
    /// is 1 to 32 letters, digits, `_`, `-` or `.`, does not start with a dot, and is given once.
    ///
    /// The spawner keeps the descriptor open, and passes it to every worker that it starts,
    /// until the last clone of the spawner is dropped. So the end of a pipe that the host passes
    /// is only closed when the spawner is dropped as well. Whether the descriptor is
    /// close-on-exec does not matter; the worker's is.
    ///
    /// ```no_run
    /// use slipring::Spawner;
    ///
    /// let (reader, writer) = std::io::pipe()?;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").pass_fd("samples", reader);
    /// let channel = spawner.spawn()?;
    /// drop(spawner);
    /// // What is written to `writer` now, the worker reads.
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pass_fd(mut self, name: impl Into<String>, fd: impl Into<OwnedFd>) -> Self {
        let name = name.into();
        match check_fd_name(&name, self.fds.iter().map(|(name, _)| name.as_str())) {
            Ok(()) => self.fds.push((name, Arc::new(fd.into()))),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Keeps what the worker writes to its standard output and error in this directory, in
    /// `worker-<role>.log`, which is appended to. Without it the output is discarded, and
    /// errors have no log to show.
    ///
    /// While another worker uses that file, be it one of another host, the log is
    /// `worker-<role>.2.log`, and so on: an error never shows the lines of another worker.
    /// The files are used again, so that there are never more of them than there were workers
    /// at a time. [`Channel::log_path`] says which one it is.
    pub fn log_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.log_dir = Some(self.absolute("log directory", directory.as_ref().to_owned()));
        self.program.inherits_output = false;
        self
    }

    /// Lets the worker write to the host's own standard output and error, as they are when it
    /// is started: to see what it says while a program is being developed. There is no log
    /// then. Of this and [`Spawner::log_dir`], the later call holds.
    pub fn inherit_stdio(mut self) -> Self {
        self.program.inherits_output = true;
        self.log_dir = None;
        self
    }

    /// Geometry and behaviour of the channel.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// How long the worker may take to attach, ten seconds by default; not zero. Building its
    /// session comes after that; see [`Channel::wait_ready`].
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// How long the errors that tell of the worker's death wait until it is known how it died,
    /// at most: 50 milliseconds by default. Most often that is known as soon as the death is.
    /// Where the kernel does not show it before it hands out the exit status, which is when it
    /// has torn the process down, it takes a few milliseconds for a small process and a tenth
    /// of a second for one of some hundred megabytes. An error that does not wait so long says
    /// that the status is not known yet; [`WorkerDeath::cause`](crate::WorkerDeath::cause)
    /// returns it later.
    ///
    /// The time counts from the first such error of a worker and is shared by all, so that no
    /// number of them adds up. A timeout of the operation's own that ends sooner is kept, and
    /// operations that never block do not wait.
    pub fn exit_status_timeout(mut self, timeout: Duration) -> Self {
        self.exit_status_timeout = timeout;
        self
    }

    /// Gives both ends a descriptor that is readable when there is something to read, for
    /// reactors: see [`Channel::drive`] and [`RawLink::settle`]. Costs two descriptors on
    /// each side, and nothing else until one of them is used.
    pub fn pollable(mut self) -> Self {
        self.is_pollable = true;
        self
    }

    /// Lets the worker dump core. The kernel then tells of its death only when the dump
    /// is written: seconds for a big process.
    pub fn allow_core_dumps(mut self) -> Self {
        self.limits.allow_core_dumps = true;
        self
    }

    /// Niceness of the worker's serving thread and of the threads that it starts later,
    /// from -20 to 19; below this process's needs privileges.
    pub fn nice(mut self, nice: i32) -> Self {
        self.limits.nice = Some(nice);
        self
    }

    /// Most bytes of address space that the worker may use, its own program and the memory of
    /// the channel among them.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// Processors that the worker may run on, at least one, from 0 to 65,535.
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = u32>) -> Self {
        match check_cpus(cpus) {
            Ok(cpus) => self.limits.cpus = cpus,
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Starts the worker and waits until it has attached. Blocks for at most the
    /// handshake timeout, the time that the kernel takes to start a process, which includes
    /// starts that other threads have asked for before, and, if the worker does not attach, the
    /// time that it takes to end one: five seconds at most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] for anything that was given and cannot work, with the
    /// value and what it may be;
    /// [`ErrorKind::Os`] if memory or descriptors run out; [`ErrorKind::Spawn`] if the
    /// program cannot be started, or if this process is itself a worker that has not attached;
    /// [`ErrorKind::Handshake`] if it ends or stays silent;
    /// [`ErrorKind::Mismatch`] if the two sides do not agree, with both values. The
    /// process is gone and reaped then, and nothing is left behind. A program that ends is
    /// told of at once; one that ends before it has answered, with how it ended.
    pub fn spawn(&self) -> Result<Channel> {
        let Started { data, words, worker, state, wake_fd } = self.start()?;
        let core = Core::new(data, words, &self.config, state, wake_fd);
        Ok(Channel { core, worker })
    }

    /// Starts a worker that uses the data rings as they are, without requests and
    /// replies: it must call [`worker::attach_raw`](crate::worker::attach_raw).
    ///
    /// # Errors
    ///
    /// As [`Spawner::spawn`].
    pub fn spawn_raw(&self) -> Result<RawLink> {
        let Started { data, worker, state, wake_fd, .. } = self.start()?;
        if let Some(wake_fd) = wake_fd.clone() {
            // The state has just been made for this link: nobody else has set it. What
            // happened before is seen by the first `settle`.
            state.on_end(move || wake_fd.wake_self());
        }
        Ok(RawLink::new(data, wake_fd, Box::new(RawEnd { worker, state })))
    }

    fn start(&self) -> Result<Started> {
        self.check()?;
        span!("spawn", role = self.role.role.as_str(), program = %self.program.path.display());
        fork::watch()?;
        let setup = WorkerSetup {
            parent: std::process::id(),
            wait: self.config.wait,
            limits: self.limits.clone(),
            role: self.role.clone(),
            is_pollable: self.is_pollable,
            blob_len: as_u64(self.role.blob.len()),
            fd_names: self.fds.iter().map(|(name, _)| name.clone()).collect(),
        };
        let setup = setup.encode()?;
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

        let state = Arc::new(State::default());
        let child = {
            let state = Arc::clone(&state);
            let on_exit = move |_| told_of_death(state.has_ended());
            let socket = Some(Arc::clone(&ours));
            starter::start(program, theirs, socket, log, Box::new(on_exit))?
        };
        // While the program is loaded: reserving memory takes as long as that.
        let linked =
            ParentLink::create(&self.config, wake_fd.as_ref()).and_then(|(link, files)| {
                let deadline = Deadline::after(self.handshake_timeout).instant();
                let (child, socket, role) = (&child, &*ours, self.role.role.as_str());
                let mut own = vec![files.down.into(), files.up.into()];
                own.extend(wake_fds);
                if !self.role.blob.is_empty() {
                    own.push(blob::write(&self.role.blob)?.into());
                }
                let shipment = Shipment { setup, own, passed: &self.fds };
                Handshake { child, socket, role, deadline }.run(shipment, &link)?;
                Ok(link)
            });
        drop(ours);
        let ParentLink { data, health, words, owner, .. } =
            linked.inspect_err(|_| end_and_reap(&child))?;
        let watched = {
            let (state, child) = (Arc::clone(&state), child.clone());
            let on_death = move || {
                // First, so that the errors need not wait for it.
                child.look_up_cause();
                told_of_death(state.die());
            };
            watch::watch(owner, Box::new(on_death))
        };
        crate::failpoint::failpoint!("after handshake");
        let (role, patience) = (self.role.role.clone(), self.exit_status_timeout);
        let exit = WorkerExit::new(role, Box::new(child), patience);
        let health = HealthClient::new(health);
        let worker = WorkerHandle::new(Arc::clone(&state), health, exit, Some(watched));
        event!(INFO, role = self.role.role.as_str(), pid = worker.pid(), "worker attached");
        Ok(Started { data, words, worker, state, wake_fd })
    }

    fn check(&self) -> Result<()> {
        self.refused.clone().map_or(Ok(()), Err)?;
        check_role(&self.role)?;
        check_limits(&self.limits, &self.config, self.role.blob.len())?;
        check_blob(self.role.blob.len())?;
        check_timeout(self.handshake_timeout)?;
        if worker_env::parent().is_ok() {
            return Err(Error::new(ErrorKind::Spawn, NEVER_ASKED));
        }
        Ok(())
    }
}

/// A worker that has attached.
struct Started {
    data: Duplex,
    words: ParentWords,
    worker: WorkerHandle,
    state: Arc<State>,
    wake_fd: Option<Arc<WakeFd>>,
}

/// The parent's end of a raw link.
#[derive(Debug)]
struct RawEnd {
    worker: WorkerHandle,
    state: Arc<State>,
}

impl End for RawEnd {
    fn check(&self) -> Result<()> {
        self.state.check_open()
    }

    fn alarm(&self) -> &Alarm {
        &self.state.alarm
    }

    fn explain(&self, error: Error, deadline: Deadline) -> Error {
        self.state.with_status(error, deadline)
    }

    fn close(&self, timeout: Duration) -> Result<ExitCause> {
        self.worker.close(timeout)
    }
}

/// The first sign of a worker's end that nobody asked for. Told on a thread that serves all
/// workers, which the subscriber, code of the host's, must not hold up.
fn told_of_death(is_first: bool) {
    if cfg!(feature = "tracing") && is_first {
        run_detached("slipring-news", || {
            event!(WARN, "worker died");
        });
    }
}
