//! The parent's half of the handshake, and the end of a worker that does not attach.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, NO_LOG, Result};
use crate::link::ParentLink;
use crate::process::child::Child;
use crate::process::log::Log;
use crate::process::socket;
use crate::process::worker_process::WorkerProcess;
use crate::protocol::handshake::{AttachReply, MAX_LEN};

/// How long the error of a failed handshake waits for the exit status, within the handshake's
/// timeout.
const EXIT_STATUS_WAIT: Duration = Duration::from_millis(200);
/// How long a killed worker may take to end.
const KILLED_WAIT: Duration = Duration::from_secs(5);
/// How long a worker that this process may not kill may take to notice that its socket is shut
/// down.
const HANG_UP_WAIT: Duration = Duration::from_secs(1);

/// What the worker is sent.
pub(super) struct Shipment<'a> {
    /// The encoded [`WorkerSetup`](crate::protocol::handshake::WorkerSetup).
    pub(super) setup: Vec<u8>,
    /// The library's own descriptors, which are closed when they are sent.
    pub(super) own: Vec<OwnedFd>,
    /// Those of the host, which stay open.
    pub(super) passed: &'a [(String, Arc<OwnedFd>)],
}

/// The parent's half of the handshake with a worker that was started.
pub(super) struct Handshake<'a> {
    pub(super) child: &'a Child,
    pub(super) socket: &'a UnixStream,
    pub(super) role: &'a str,
    pub(super) deadline: Instant,
}

impl Handshake<'_> {
    /// Sends the setup and waits for the reply. Ends at the deadline at the latest. If the
    /// process ends before that, its socket is shut down, so that this returns what the worker
    /// has sent, or an error that tells how it ended.
    pub(super) fn run(&self, shipment: Shipment<'_>, link: &ParentLink) -> Result<()> {
        let Self { socket, deadline, .. } = *self;
        let Shipment { setup, own, passed } = shipment;
        let own_fds = own.iter().map(AsFd::as_fd);
        let fds: Vec<_> = own_fds.chain(passed.iter().map(|(_, fd)| fd.as_fd())).collect();
        crate::failpoint::failpoint!("before setup");
        let sent = socket::send(socket.as_fd(), &setup, &fds, deadline);
        drop(fds);
        drop(own);
        match sent {
            // The worker may have sent a reason before it ended or closed its end.
            Err(error) if error.kind() == ErrorKind::Handshake => {}
            sent => sent.map_err(|e| self.never_attached(&format!("{e:#}")))?,
        }
        crate::failpoint::failpoint!("after setup");
        let reply = match socket::recv(socket.as_fd(), MAX_LEN, 0, Some(deadline)) {
            Ok(socket::Received::Message { bytes, .. }) => match AttachReply::decode(&bytes) {
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
        match reply {
            AttachReply::Attached(_) => link.answer.check_attached().map(drop),
            AttachReply::Mismatch(why) => Err(self.could_not(ErrorKind::Mismatch, &why)),
            AttachReply::Failed(why) => Err(self.could_not(ErrorKind::Handshake, &why)),
        }
    }

    fn could_not(&self, kind: ErrorKind, why: &str) -> Error {
        Error::new(kind, format!("worker {} could not attach: {why}", self.role))
    }

    fn never_attached(&self, why: &str) -> Error {
        let Self { child, role, deadline, .. } = *self;
        let cause = child.wait(deadline.min(Instant::now() + EXIT_STATUS_WAIT));
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

/// Ends a worker that did not attach, and waits until it is reaped and its log is complete, so
/// that the next worker can use that.
pub(super) fn end_and_reap(child: &Child) {
    child.hang_up();
    let patience = if child.kill() { KILLED_WAIT } else { HANG_UP_WAIT };
    let deadline = Instant::now() + patience;
    if child.wait(deadline).is_some() {
        child.wait_for_log(deadline);
    }
}
