//! The parent's half of the handshake, and the end of a worker that does not attach.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, NO_LOG, Result};
use crate::link::{LinkFiles, ParentLink};
use crate::process::child::Child;
use crate::process::log::Log;
use crate::process::socket;
use crate::process::worker_process::WorkerProcess;
use crate::protocol::handshake::{Answer, MAX_LEN};

/// How long a worker that failed the handshake may take to say how it ended, if the handshake
/// may last that long.
const POST_MORTEM: Duration = Duration::from_millis(200);
/// How long the end of a worker that did not attach is waited for.
const BURIAL: Duration = Duration::from_secs(5);
/// The same for one that this process may not kill, which was hung up on.
const HANG_UP: Duration = Duration::from_secs(1);

/// The wait for the answer of a worker that was started.
pub(super) struct Handshake<'a> {
    pub(super) child: &'a Child,
    pub(super) socket: &'a UnixStream,
    pub(super) role: &'a str,
    pub(super) deadline: Instant,
}

impl Handshake<'_> {
    /// Ends with the worker's answer, at the timeout, or when the process that was started has
    /// ended: then its socket is shut down, so that what it has sent is read first.
    pub(super) fn run(
        &self,
        hello: &[u8],
        (files, hint_fds): (LinkFiles, Vec<OwnedFd>),
        link: &ParentLink,
    ) -> Result<()> {
        let Self { socket, deadline, .. } = *self;
        let mut fds = vec![files.down.as_fd(), files.up.as_fd()];
        fds.extend(hint_fds.iter().map(AsFd::as_fd));
        crate::failpoint::failpoint!("before hello");
        let sent = socket::send(socket.as_fd(), hello, &fds, deadline);
        drop(fds);
        drop((files, hint_fds));
        match sent {
            // It may have said why before it ended, or closed its end.
            Err(error) if error.kind() == ErrorKind::Handshake => {}
            sent => sent.map_err(|e| self.never_attached(&format!("{e:#}")))?,
        }
        crate::failpoint::failpoint!("after hello");
        let answer = match socket::recv(socket.as_fd(), MAX_LEN, 0, Some(deadline)) {
            Ok(socket::Received::Message { bytes, .. }) => match Answer::decode(&bytes) {
                Err(error) if error.kind() != ErrorKind::Mismatch => {
                    return Err(self.never_attached(&format!("{error:#}")));
                }
                decoded => decoded?,
            },
            Ok(socket::Received::Eof) => {
                return Err(self.never_attached("it closed its standard input"));
            }
            Err(error) => return Err(self.never_attached(&format!("{error:#}"))),
        };
        match answer {
            Answer::Attached(_) => link.answer.check_attached().map(drop),
            Answer::Mismatch(why) => Err(self.could_not(ErrorKind::Mismatch, &why)),
            Answer::Failed(why) => Err(self.could_not(ErrorKind::Handshake, &why)),
        }
    }

    fn could_not(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, format!("worker {} could not attach: {why}", self.role))
    }

    fn never_attached(&self, why: &str) -> Error {
        let Self { child, role, deadline, .. } = *self;
        let cause = child.wait(deadline.min(Instant::now() + POST_MORTEM));
        let why = cause.map_or_else(|| why.to_owned(), |cause| cause.to_string());
        let pid = child.pid();
        let mut message = format!("worker {role} (pid {pid}) did not attach: {why}");
        match child.log() {
            Some(log) => message.push_str(&format!("; log {}", log.path().display())),
            None => message.push_str(NO_LOG),
        }
        Error::new(ErrorKind::Handshake, message).with_log_tail(child.log().and_then(Log::tail))
    }
}

/// Ends a worker that did not attach, by all means, and waits until it is reaped.
pub(super) fn end_and_reap(child: &Child) {
    child.hang_up();
    let patience = if child.kill() { BURIAL } else { HANG_UP };
    let deadline = Instant::now() + patience;
    if child.wait(deadline).is_some() {
        // The next worker shall find the log free.
        child.wait_for_log(deadline);
    }
}
