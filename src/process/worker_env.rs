//! How a process knows that it was started as a worker that has not attached yet.
//!
//! The environment variable `SLIPRING_WORKER` names the parent and the socket that the worker
//! has as its standard input. All processes that a worker starts inherit the variable, so it
//! proves nothing by itself. The proof is the standard input: the kernel tells its inode number,
//! which no other socket of the machine has, and the process that has made it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use super::socket::inode;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::fd::maker_of_peer;

/// The environment variable of a program that is started as a worker.
pub(crate) const WORKER_ENV: &str = "SLIPRING_WORKER";

/// The process that has started this one as a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParentId {
    /// Its process id in its own pid namespace.
    pub(crate) pid: u32,
    /// Its process id in this process's pid namespace; `None` if it is outside of that.
    pub(crate) pid_here: Option<u32>,
}

/// Returns the process that has started this one as a worker.
///
/// # Errors
///
/// [`ErrorKind::Handshake`] if this process is no worker, or has attached already; the message
/// tells what shows that.
pub(crate) fn parent() -> Result<ParentId> {
    let (parent, socket) = parse(variable())?;
    let no_socket = |e| {
        let message = not_a_worker("its standard input is no socket");
        Error::with_source(ErrorKind::Handshake, message, e)
    };
    let maker = maker_of_peer(io::stdin().as_fd()).map_err(no_socket)?;
    let found = inode(io::stdin().as_fd()).map_err(no_socket)?;
    if found != socket {
        return Err(no_worker(&format!(
            "its standard input is socket {found}, and {WORKER_ENV} names socket {socket}"
        )));
    }
    match maker {
        // Zero stands for every process outside of this pid namespace. The maker is one of these,
        // and none of the processes inside.
        Some(0) => Ok(ParentId { pid: parent, pid_here: None }),
        Some(maker) if maker == parent => Ok(ParentId { pid: parent, pid_here: Some(maker) }),
        Some(maker) => Err(no_worker(&format!(
            "its standard input is a socket of process {maker}, and {WORKER_ENV} names process \
             {parent}"
        ))),
        None => Err(no_worker("its standard input is no end of a pair of Unix sockets")),
    }
}

/// The variable's value, which is read once: code that the standard library does not know of, such as
/// that of another language, may change the environment later, and must not while it is read.
fn variable() -> Option<&'static OsStr> {
    static VALUE: OnceLock<Option<OsString>> = OnceLock::new();
    VALUE.get_or_init(|| env::var_os(WORKER_ENV)).as_deref()
}

/// Returns the variable's value for a worker of this process that gets `socket` as its standard
/// input.
///
/// # Errors
///
/// [`ErrorKind::Os`] if the kernel does not tell the socket's inode number.
pub(crate) fn value_for(socket: BorrowedFd<'_>) -> Result<String> {
    let number = inode(socket).map_err(|e| Error::os("cannot look at the bootstrap socket", e))?;
    Ok(format!("{}:{number}", std::process::id()))
}

fn parse(variable: Option<&OsStr>) -> Result<(u32, u64)> {
    let Some(value) = variable else {
        return Err(no_worker(&format!("{WORKER_ENV} is not set")));
    };
    let parts = value.to_str().and_then(|text| text.split_once(':'));
    let numbers =
        parts.and_then(|(parent, socket)| Some((parent.parse().ok()?, socket.parse().ok()?)));
    numbers.ok_or_else(|| {
        no_worker(&format!(
            "{WORKER_ENV} is {value:?}, which is no process id and number of a socket"
        ))
    })
}

fn no_worker(why: &str) -> Error {
    Error::new(ErrorKind::Handshake, not_a_worker(why))
}

fn not_a_worker(why: &str) -> String {
    format!("this process was not started as a slipring worker: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_must_name_a_process_and_a_socket() {
        assert_eq!(parse(Some(OsStr::new("4711:12"))).unwrap(), (4711, 12));
        for (value, why) in [
            (None, "is not set"),
            (Some(""), "no process id"),
            (Some("yes"), "yes"),
            (Some("4711"), "4711"),
            (Some("4711:"), "4711"),
            (Some(":12"), "12"),
        ] {
            let error = parse(value.map(OsStr::new)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Handshake);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
