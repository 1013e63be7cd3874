//! The description of a worker that is to be started.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::channel::core::Core;
use crate::channel::handle::Channel;
use crate::channel::recording;
use crate::channel::spawn_checks::check_cpus;
use crate::channel::start::{Options, Started};
use crate::channel::status_row;
use crate::channel::warm_up::WarmUp;
use crate::config::Config;
use crate::crash_report::CrashReports;
use crate::error::{Error, ErrorKind, Result};
use crate::payload::{Encoded, Payload};
use crate::process::own_exe;
use crate::process::spawn::Program;
use crate::protocol::Kind;
use crate::protocol::role::check_fd_name;
use crate::raw::RawLink;
use crate::recording::Recording;
use crate::sys::fork;

/// Describes a worker, and starts it. One spawner can start any number of workers.
///
/// A program can be its own worker:
///
/// ```standalone_crate
/// use slipring::{Kind, Spawner, worker};
/// use std::time::Duration;
///
/// const SHOUT: Kind = Kind::named("shout");
///
/// fn main() -> slipring::Result<()> {
///     if worker::is_worker() {
///         return worker::Worker::new(|_role| Ok(()))
///             .on(SHOUT, |(), request, responder| {
///                 Ok(responder.send(&request.text()?.to_uppercase())?)
///             })
///             .serve();
///     }
///     let channel = Spawner::current_exe()?.role("shout").spawn()?;
///     let reply = channel.call(SHOUT, "hello", Duration::from_secs(10))?;
///     assert_eq!(reply.to_vec(), b"HELLO");
///     channel.close(Duration::from_secs(10))?;
///     Ok(())
/// }
/// ```
///
/// # The worker's process
///
/// * It is started without a copy of the host's address space, and ends when its parent ends.
/// * It is in a process group of its own, has an empty signal mask, and handles no signal.
/// * It has none of the host's descriptors but those of [`pass_fd`](Self::pass_fd). Its standard
///   input is `/dev/null` once it has attached; its standard output and error go to its log, to
///   the host's, or to `/dev/null`: see [`log_dir`](Self::log_dir) and
///   [`inherit_stdio`](Self::inherit_stdio).
///
/// The program can be one that runs the worker and stays, as `timeout` or a shell does. Then
/// [`Channel::pid`], signals and the exit status are about that program. The death of the worker
/// itself is noticed all the same. When the program ends, the channel is over, and the rest of
/// its process group is killed. An attached worker that has left the group runs on for a moment,
/// and then ends by itself. A process that has left the group and never attached can run on.
///
/// # Relative paths
///
/// A relative path is resolved when it is given, against the host's working directory. Later
/// changes of that directory have no effect.
///
/// # Errors
///
/// Setters return no errors: [`spawn`](Self::spawn) refuses what cannot work, before it starts
/// anything.
///
/// ```
/// use slipring::{ErrorKind, Spawner};
///
/// let error = Spawner::program("/bin/true").nice(30).spawn().unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidConfig);
/// assert_eq!(error.to_string(), "nice value 30: it must be from -20 to 19");
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Spawner {
    options: Options,
    /// The first error of a setter.
    refused: Option<Error>,
}

impl Spawner {
    /// Describes a worker that runs the program at `path`. A path without a slash is looked up in
    /// the `PATH` of the worker's environment when the worker is started.
    ///
    /// ```
    /// use slipring::{ErrorKind, Spawner};
    ///
    /// let error = Spawner::program("/no/such/program").spawn().unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Spawn);
    /// ```
    pub fn program(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let mut spawner = Self::of(Program::default());
        let is_name = !path.as_os_str().as_bytes().contains(&b'/');
        if is_name {
            // Only needed for relative entries of `PATH`, so an error is ignored.
            spawner.options.program.search_from = std::env::current_dir().ok();
        }
        let path = if is_name { path } else { spawner.absolute("program", path) };
        spawner.options.program.path = path;
        spawner
    }

    /// Describes a worker that runs the program of this process, which must call
    /// [`is_worker`](crate::worker::is_worker) first in its `main`. The worker runs this very
    /// program also after its file was replaced or removed. See the [example](Self).
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

    fn of(program: Program) -> Self {
        Self { options: Options::new(program), refused: None }
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

    /// Adds an argument of the program. There are none by default.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.options.program.args.push(arg.into());
        self
    }

    /// Adds arguments of the program. There are none by default.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let spawner = Spawner::program("python3").args(["-m", "embedder"]);
    /// ```
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.options.program.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the worker's environment. By default the worker inherits the
    /// environment that the host has when the worker is started.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.options.program.env.set(name, value);
        self
    }

    /// Removes a variable from the worker's environment. By default none is removed.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Self {
        self.options.program.env.remove(name);
        self
    }

    /// Lets the worker inherit no variable, and drops what [`env`](Self::env) has set so far. By
    /// default all variables are inherited.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").env_clear().env("LANG", "C");
    /// ```
    pub fn env_clear(mut self) -> Self {
        self.options.program.env.clear();
        self
    }

    /// Sets the worker's working directory. By default it is the one that the host has when the
    /// worker is started.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        let directory = self.absolute("working directory", directory.into());
        self.options.program.current_dir = Some(directory);
        self
    }

    /// Sets the worker's role: its name in logs, errors and process lists, and
    /// [`RoleConfig::role`](crate::RoleConfig::role). It is `worker` by default. A role is 1 to
    /// 32 letters, digits, `_`, `-` or `.`, and does not start with a dot.
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.options.role.role = role.into();
        self
    }

    /// Adds a number to the name of the worker's log, which is then
    /// `worker-<role>-<number>.log`. By default the name has none.
    pub fn instance(mut self, number: u32) -> Self {
        self.options.instance = Some(number);
        self
    }

    /// Sets the file or directory of the model that the worker loads,
    /// [`RoleConfig::model`](crate::RoleConfig::model). By default there is none. The name of a
    /// model that is no path is better an [`extra`](Self::extra).
    pub fn model(mut self, path: impl Into<PathBuf>) -> Self {
        self.options.role.model = Some(self.absolute("model", path.into()));
        self
    }

    /// Sets how the worker runs its model, [`RoleConfig::mode`](crate::RoleConfig::mode): not an
    /// empty text. By default there is none.
    pub fn mode(mut self, mode: impl Into<String>) -> Self {
        self.options.role.mode = Some(mode.into());
        self
    }

    /// Adds a name and a value for the worker: see
    /// [`RoleConfig::extra`](crate::RoleConfig::extra). There are none by default. Role, model,
    /// mode and extras together have at most 64 KiB; see [`blob`](Self::blob) for more.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let spawner = Spawner::program("/usr/lib/app/embedder")
    ///     .role("embed")
    ///     .model("/models/minilm")
    ///     .mode("int8")
    ///     .extra("dim", "384");
    /// ```
    pub fn extra(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.role.extras.push((name.into(), value.into()));
        self
    }

    /// Gives the worker bytes of any format, [`RoleConfig::blob`](crate::RoleConfig::blob): at
    /// most 64 MiB. Empty by default. Each worker gets a copy in memory of its own.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let settings = r#"{"layers": 12}"#;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").blob(settings);
    /// ```
    pub fn blob(mut self, blob: impl Into<Vec<u8>>) -> Self {
        self.options.role.blob = blob.into().into();
        self
    }

    /// Passes a descriptor to the worker, which takes it by its name with
    /// [`RoleConfig::take_fd`](crate::RoleConfig::take_fd). None is passed by default, and at
    /// most 16 can be. A name is 1 to 32 letters, digits, `_`, `-` or `.`, does not start with a
    /// dot, and is given once.
    ///
    /// The spawner owns the descriptor and passes it to every worker that it starts, until the
    /// last clone of the spawner is dropped. So if a worker is to see the end of a pipe, drop
    /// the spawner that has the other end. A spawn that fails leaves the descriptor as it was.
    ///
    /// The descriptor may be close-on-exec or not. In the worker it is close-on-exec, and has a
    /// number of its own.
    ///
    /// ```standalone_crate
    /// use slipring::{Kind, Spawner, worker};
    /// use std::fs::File;
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    ///
    /// const READ: Kind = Kind::named("read");
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     if worker::is_worker() {
    ///         let worker = worker::Worker::new(|role| Ok(File::from(role.take_fd("text")?)));
    ///         return Ok(worker
    ///             .on(READ, |file, _, responder| {
    ///                 let mut text = String::new();
    ///                 file.read_to_string(&mut text)?;
    ///                 Ok(responder.send(text.as_str())?)
    ///             })
    ///             .serve()?);
    ///     }
    ///     let (reader, mut writer) = std::io::pipe()?;
    ///     let channel = Spawner::current_exe()?.pass_fd("text", reader).spawn()?;
    ///     writer.write_all(b"through a pipe")?;
    ///     drop(writer);
    ///     let reply = channel.call(READ, b"", Duration::from_secs(10))?;
    ///     assert_eq!(reply.to_vec(), b"through a pipe");
    ///     Ok(())
    /// }
    /// ```
    pub fn pass_fd(mut self, name: impl Into<String>, fd: impl Into<OwnedFd>) -> Self {
        let name = name.into();
        match check_fd_name(&name, self.options.fds.iter().map(|(name, _)| name.as_str())) {
            Ok(()) => self.options.fds.push((name, Arc::new(fd.into()))),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Appends what the worker writes to its standard output and error to a log in this
    /// directory, `worker-<role>.log`. The directory is made if it is missing. By default there
    /// is no log: the output is discarded, and errors have no log to show.
    ///
    /// While another worker uses that file, the log is `worker-<role>.2.log`, and so on, also if
    /// that is a worker of another host. So an error never shows lines of another worker, and
    /// there are never more files than there were workers at a time. [`Channel::log_path`]
    /// returns the path.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// # let dir = std::env::temp_dir().join(format!("slipring-doc-{}", std::process::id()));
    /// let spawner = Spawner::program("/bin/sh").args(["-c", "echo no model; exit 3"]);
    /// let error = spawner.log_dir(&dir).spawn().unwrap_err();
    /// assert!(error.log_tail().unwrap().starts_with("no model\n"));
    /// # std::fs::remove_dir_all(dir)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn log_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.options.log_dir = Some(self.absolute("log directory", directory.as_ref().to_owned()));
        self.options.program.inherits_output = false;
        self
    }

    /// Lets the worker write to the standard output and error that the host has when the worker
    /// is started. There is no log then. Off by default. The later call of this and
    /// [`log_dir`](Self::log_dir) counts.
    pub fn inherit_stdio(mut self) -> Self {
        self.options.program.inherits_output = true;
        self.options.log_dir = None;
        self
    }

    /// Has a crash report written when a worker ends without having been closed, writes garbage, or cannot
    /// be started: see [`CrashReports`]. By default that is what `SLIPRING_CRASH_REPORTS` says:
    /// [`CrashReports::from_env`].
    pub fn crash_reports(mut self, reports: CrashReports) -> Self {
        self.options.crash_reports = Some(reports);
        self
    }

    /// Sets the sizes and the behaviour of the channel. [`Config::default`] by default.
    pub fn config(mut self, config: Config) -> Self {
        self.options.config = config;
        self
    }

    /// Sets how long the worker may take to attach: 10 seconds by default, not zero. See
    /// [Timeouts](crate#timeouts) for [`Duration::MAX`]. The worker builds its session after it
    /// has attached; see [`Channel::wait_ready`].
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.handshake_timeout = timeout;
        self
    }

    /// Sets how long errors that tell of the worker's death wait for its exit status: 50
    /// milliseconds by default.
    ///
    /// Mostly the exit status is known as soon as the death is. If it is not, an error waits
    /// until the kernel has torn the process down: some milliseconds for a small process, a
    /// tenth of a second for one with some hundred megabytes of memory. An error that waits in
    /// vain says that the status is not known yet;
    /// [`WorkerDeath::cause`](crate::WorkerDeath::cause) returns it later.
    ///
    /// The time counts from the first such error of a worker, and all errors of that worker
    /// share it. An operation never waits beyond its own timeout, and one that never blocks does
    /// not wait.
    pub fn exit_status_timeout(mut self, timeout: Duration) -> Self {
        self.options.exit_status_timeout = timeout;
        self
    }

    /// Names a request that each worker serves before it counts as ready:
    /// [`Channel::wait_ready`] sends it once the session is built, and returns when it was
    /// answered. Many models are slow the first time that they are used, and so is memory. The
    /// payload is encoded now. None by default; [`spawn_raw`](Self::spawn_raw) sends none.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use slipring::{Kind, Spawner};
    ///
    /// # fn main() -> slipring::Result<()> {
    /// let spawner = Spawner::program("./embedder").warm_up(Kind::EMBED, "any text");
    /// let channel = spawner.spawn()?;
    /// channel.wait_ready(Duration::from_secs(60))?;
    /// # Ok(()) }
    /// ```
    pub fn warm_up<P: Payload + ?Sized>(mut self, kind: Kind, payload: &P) -> Self {
        let encoded = Encoded::of(payload, payload.encoded_len());
        match encoded.map(Encoded::into_vec) {
            Ok(payload) => self.options.warm_up = Some((kind, payload)),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Gives both ends a descriptor that is readable when there is something to read, for
    /// reactors: see [`Channel::read_ready`] and [`RawLink::rearm`]. Off by default. Costs two
    /// descriptors on each side, and nothing else until one of them is used.
    pub fn pollable(mut self) -> Self {
        self.options.is_pollable = true;
        self
    }

    /// Sets whether other processes of the same user may read the channel's memory, all payloads among
    /// it, as `slipring inspect` does. They cannot write it. Costs two descriptors while the channel is
    /// there. Off by default, unless the host's environment has `SLIPRING_INSPECT=1`.
    ///
    /// If there is no descriptor to spare, the worker is started all the same and cannot be inspected.
    /// A worker with an older version of this library refuses such a channel.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").inspectable(true);
    /// ```
    pub fn inspectable(mut self, is_inspectable: bool) -> Self {
        self.options.is_inspectable = is_inspectable;
        self
    }

    /// Has the frames of each worker recorded, in a file of its own: see [`Recording`]. By default they
    /// are recorded if the variable `SLIPRING_RECORD` of the host's environment names a directory.
    /// [`spawn_raw`](Self::spawn_raw) records nothing.
    ///
    /// A spawn fails if the file cannot be made; a call never fails because of the recording.
    pub fn record(mut self, recording: Recording) -> Self {
        match recording.check() {
            Ok(()) => {
                let directory = self.absolute("directory of recordings", recording.directory);
                self.options.recording = Some(Recording { directory, ..recording });
            }
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Lets the worker dump core. Off by default, because the kernel tells of the worker's death
    /// only when the dump is written, which takes seconds for a big process.
    pub fn allow_core_dumps(mut self) -> Self {
        self.options.limits.allow_core_dumps = true;
        self
    }

    /// Sets the nice value of the worker's serving thread and of the threads that it starts
    /// later: from -20 to 19. By default it is that of the host. A value below the host's needs
    /// privileges.
    pub fn nice(mut self, nice: i32) -> Self {
        self.options.limits.nice = Some(nice);
        self
    }

    /// Limits the worker's address space to as many bytes, which include its program, the memory
    /// of the channel and the blob. By default the limit is the host's.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").memory_limit(4 << 30).nice(10);
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.options.limits.memory = Some(bytes);
        self
    }

    /// Sets the processors that the worker may run on: at least one, numbered from 0 to 65,535.
    /// By default they are those of the host's main thread.
    ///
    /// ```
    /// # use slipring::Spawner;
    /// let spawner = Spawner::program("/usr/lib/app/embedder").cpus(0..4);
    /// ```
    pub fn cpus(mut self, cpus: impl IntoIterator<Item = u32>) -> Self {
        match check_cpus(cpus) {
            Ok(cpus) => self.options.limits.cpus = cpus,
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Starts a worker and waits until it has attached.
    ///
    /// Blocks for the time that the kernel takes to start the process, and for at most the
    /// handshake timeout after that. Workers are started one after the other, so this also waits
    /// for the starts that other threads have asked for before. If the worker does not attach, this
    /// also blocks until the worker is ended and reaped, for at most 5 seconds.
    ///
    /// The spawner stays usable in any case. If this fails nothing is left behind.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::InvalidConfig`]: something that was given cannot work. The message has the
    ///   value and what it may be.
    /// * [`ErrorKind::Spawn`]: the program cannot be started, or this process is itself a worker
    ///   that has not attached.
    /// * [`ErrorKind::Handshake`]: the process ended, which is noticed at once, or did not
    ///   attach in time. The message tells how it ended, if it has;
    ///   [`Error::log_tail`](crate::Error::log_tail) is the end of its log.
    /// * [`ErrorKind::Mismatch`]: the two sides do not agree. The message has both values.
    /// * [`ErrorKind::Os`]: memory, descriptors or threads ran out.
    /// * [`ErrorKind::Forked`]: this process is a forked child of one that has used the library.
    pub fn spawn(&self) -> Result<Channel> {
        // Before the environment is looked at, for which another thread may have a lock for ever.
        fork::watch()?;
        // What cannot be recorded is not started.
        let of_environment = match self.options.recording {
            None => Recording::of_environment()?,
            Some(_) => None,
        };
        let Started { data, words, worker, state, wake_fd } = self.start()?;
        let recorder = match self.options.recording.as_ref().or(of_environment.as_ref()) {
            None => None,
            Some(wanted) => {
                let begun = recording::begin(wanted, &self.options, &worker, &state);
                let recorder = begun.inspect_err(|_| drop(worker.close(Duration::ZERO)))?;
                if let Some(reporter) = worker.reporter() {
                    reporter.set_recording(recorder.path());
                }
                Some(recorder)
            }
        };
        let tap = recording::tap(recorder.as_ref(), &state);
        let core = Core::new(data, words, &self.options.config, state, wake_fd, tap);
        status_row::add(&core);
        if let Some(reporter) = worker.reporter() {
            reporter.watch(Some(&core));
        }
        let warm_up = self.options.warm_up.clone().map(WarmUp::new);
        Ok(Channel::new(core, worker, warm_up, recorder))
    }

    /// Starts a worker whose rings carry frames of any meaning, without requests and replies.
    /// The worker must call [`worker::attach_raw`](crate::worker::attach_raw). Blocks as
    /// [`spawn`](Self::spawn) does.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn).
    pub fn spawn_raw(&self) -> Result<RawLink> {
        self.start().map(Started::into_raw)
    }

    fn start(&self) -> Result<Started> {
        self.refused.clone().map_or(Ok(()), Err)?;
        self.options.check()?;
        self.options.start()
    }
}
