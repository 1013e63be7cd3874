//! Links other than slipring: the limits, pipes and sockets.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::end::{End, put_stamp};
use crate::limits::mailbox::{Mailbox, Wait};
use crate::limits::memory::Memory;
use crate::limits::ring::{Ring, Style};
use crate::limits::sys;
use crate::work::{self, Session, Slice, Work};

/// The first argument of a worker process.
pub const WORKER: &str = "bench-worker";

/// A worker process that was started without slipring. Dropping it kills the process.
#[derive(Debug)]
pub struct WorkerProcess(Child);

impl WorkerProcess {
    /// Runs this program as a worker with these arguments.
    ///
    /// # Errors
    ///
    /// Fails if the process cannot be started.
    pub fn start(args: &[&str], stdin: Stdio, stdout: Stdio) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(WORKER).args(args).stdin(stdin).stdout(stdout);
        Ok(Self(command.spawn()?))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl WorkerProcess {
    /// Waits for its end, but not for ever.
    fn wait_for_end(&mut self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// A session over a link with two equal ends.
#[derive(Debug)]
pub struct EndSession<E: End> {
    end: E,
    worker: WorkerProcess,
    has_failed: bool,
}

impl<E: End + 'static> EndSession<E> {
    /// Waits until the worker answers.
    ///
    /// # Errors
    ///
    /// Fails if the link fails.
    pub fn begin(mut end: E, worker: WorkerProcess) -> io::Result<Box<dyn Session>> {
        work::ready(&mut end)?;
        Ok(Box::new(Self { end, worker, has_failed: false }))
    }
}

impl<E: End> Drop for EndSession<E> {
    fn drop(&mut self) {
        // Some links leave files behind unless both ends are dropped. After an error no command
        // reaches the worker, and it is killed.
        if !self.has_failed && work::quit(&mut self.end).is_ok() {
            self.worker.wait_for_end();
        }
    }
}

impl<E: End> Session for EndSession<E> {
    fn pid(&self) -> u32 {
        self.worker.pid()
    }

    fn pin(&mut self, cpu: usize) -> io::Result<()> {
        work::pin(&mut self.end, cpu)
    }

    fn run(&mut self, work: Work, count: u64) -> io::Result<Slice> {
        let done = work::drive(&mut self.end, work, count);
        self.has_failed |= done.is_err();
        done
    }
}

/// Starts a limit: one message at a time.
///
/// # Errors
///
/// Fails if the system call fails.
pub fn mailbox(has_one_line: bool, wait: Wait) -> io::Result<Box<dyn Session>> {
    let (memory, file) = Memory::create(Mailbox::memory_len(128 << 10))?;
    let lines = if has_one_line { "one" } else { "two" };
    let wait_name = match wait {
        Wait::Spin => "spin",
        Wait::Futex => "futex",
        Wait::Waitv => "waitv",
    };
    let worker =
        WorkerProcess::start(&["mailbox", lines, wait_name], file.into(), Stdio::inherit())?;
    EndSession::begin(Mailbox::new(memory, true, has_one_line, wait), worker)
}

/// Starts a limit: rings of `capacity` bytes.
///
/// # Errors
///
/// Fails if the system call fails.
pub fn ring(capacity: usize, style: Style) -> io::Result<Box<dyn Session>> {
    let (memory, file) = Memory::create(Ring::memory_len(capacity))?;
    let name = match style {
        Style::Fenced => "fenced",
        Style::Plain => "plain",
        Style::Lagging => "lagging",
        Style::Uncleared => "uncleared",
        Style::AroundCaches => "around-caches",
        Style::Library => "library",
        Style::Repeated => "repeated",
        Style::Index => "index",
    };
    let worker = WorkerProcess::start(&["limit-ring", name], file.into(), Stdio::inherit())?;
    EndSession::begin(Ring::new(memory, true, style), worker)
}

/// Starts two pipes, each of the largest capacity that the kernel grants a user.
///
/// # Errors
///
/// Fails if the system call fails.
pub fn pipe() -> io::Result<Box<dyn Session>> {
    let (down, to_worker) = io::pipe()?;
    let (from_worker, up) = io::pipe()?;
    for pipe in [&to_worker.as_fd(), &from_worker.as_fd()] {
        sys::set_pipe_size(pipe, 1 << 20);
    }
    let worker = WorkerProcess::start(&["pipe"], down.into(), up.into())?;
    EndSession::begin(Bytes::new(from_worker, to_worker), worker)
}

/// Starts a Unix stream socket.
///
/// # Errors
///
/// Fails if the system call fails.
pub fn socket() -> io::Result<Box<dyn Session>> {
    let (ours, theirs) = UnixStream::pair()?;
    let worker = WorkerProcess::start(&["socket"], OwnedFd::from(theirs).into(), Stdio::inherit())?;
    EndSession::begin(Bytes::new(ours.try_clone()?, ours), worker)
}

/// A byte stream in each direction, cut into messages by their lengths.
#[derive(Debug)]
struct Bytes<R, W> {
    read: R,
    write: W,
    incoming: Vec<u8>,
    out: Vec<u8>,
}

impl<R: Read, W: Write> Bytes<R, W> {
    fn new(read: R, write: W) -> Self {
        Self { read, write, incoming: Vec::new(), out: Vec::new() }
    }

    /// Writes two parts as one, without copying them together.
    fn write_both(&mut self, first: &[u8], second: &[u8]) -> io::Result<()> {
        let mut slices = [io::IoSlice::new(first), io::IoSlice::new(second)];
        let mut slices = &mut slices[..];
        while slices.iter().any(|slice| !slice.is_empty()) {
            match self.write.write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => io::IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<R: Read, W: Write> End for Bytes<R, W> {
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut out = std::mem::take(&mut self.out);
        out.resize(len, 0);
        fill(&mut out);
        let sent = self.write_both(&(len as u64).to_le_bytes(), &out);
        self.out = out;
        sent
    }

    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        // The stamp is sent with the length, so that the message need not be copied.
        let mut head = [0; 16];
        let (len, first) = head.split_at_mut(8);
        put_stamp(len, source.len() as u64);
        put_stamp(first, stamp);
        self.write_both(&head, source.get(8..).unwrap_or_default())
    }

    fn recv<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let mut len = [0; 8];
        self.read.read_exact(&mut len)?;
        let len = u64::from_le_bytes(len) as usize;
        // The buffer only grows, so that it is not zeroed for each message.
        if self.incoming.len() < len {
            self.incoming.resize(len, 0);
        }
        let message = self.incoming.get_mut(..len).unwrap_or_default();
        self.read.read_exact(message)?;
        Ok(read(message))
    }
}

/// Runs the worker's side of the links of this module; `None` if `args` name none of them.
pub(crate) fn serve(args: &[&str]) -> Option<io::Result<()>> {
    let file = || io::stdin().as_fd().try_clone_to_owned();
    let served = match *args {
        ["mailbox", lines, wait] => {
            let wait = match wait {
                "futex" => Wait::Futex,
                "waitv" => Wait::Waitv,
                _ => Wait::Spin,
            };
            let end = || Ok(Mailbox::new(Memory::map(&file()?)?, false, lines == "one", wait));
            serve_over(end())
        }
        ["limit-ring", style] => {
            let style = match style {
                "fenced" => Style::Fenced,
                "around-caches" => Style::AroundCaches,
                "library" => Style::Library,
                "repeated" => Style::Repeated,
                "index" => Style::Index,
                "lagging" => Style::Lagging,
                "uncleared" => Style::Uncleared,
                _ => Style::Plain,
            };
            let end = || Ok(Ring::new(Memory::map(&file()?)?, false, style));
            serve_over(end())
        }
        ["pipe"] => {
            let stdout = || io::stdout().as_fd().try_clone_to_owned();
            let end =
                || Ok(Bytes::new(std::fs::File::from(file()?), std::fs::File::from(stdout()?)));
            serve_over(end())
        }
        ["socket"] => {
            let end = || {
                let socket = UnixStream::from(file()?);
                Ok(Bytes::new(socket.try_clone()?, socket))
            };
            serve_over(end())
        }
        _ => return None,
    };
    Some(served)
}

/// Serves a link until the parent is gone.
///
/// # Errors
///
/// Fails if the link fails.
pub fn serve_over<E: End>(end: io::Result<E>) -> io::Result<()> {
    sys::die_with_parent();
    work::serve(&mut end?)
}
