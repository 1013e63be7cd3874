//! Whether this process was started as a worker that has not attached yet, and by whom.
//!
//! A variable of the environment says whose worker is meant, and which socket it has as its
//! standard input. All that a worker starts inherits the variable, so it proves nothing. What
//! proves it is the standard input itself: that very socket, whose number no other socket of
//! the machine has, made by that very process, as the kernel knows.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::socket::inode;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::handshake::WORKER_ENV;
use crate::sys::fd::maker_of_peer;

/// Who started this process as a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Birth {
    /// The process, as it names itself.
    pub(crate) parent: u32,
    /// The same process, as it is known in this process's pid namespace. `None`: it is
    /// outside of that.
    pub(crate) known_as: Option<u32>,
}

/// How this process came to be a worker.
///
/// # Errors
///
/// [`ErrorKind::Handshake`] if it is none, or has attached already, with what shows that.
pub(crate) fn birth() -> Result<Birth> {
    let (parent, socket) = named_in(env::var_os(WORKER_ENV).as_deref())?;
    let no_socket = |e| {
        let message = not_a_worker("its standard input is no socket");
        Error::with_source(ErrorKind::Handshake, message, e)
    };
    let maker = maker_of_peer(io::stdin().as_fd()).map_err(no_socket)?;
    let found = inode(io::stdin().as_fd()).map_err(no_socket)?;
    if found != socket {
        return Err(none(&format!(
            "its standard input is socket {found}, and {WORKER_ENV} names socket {socket}"
        )));
    }
    match maker {
        // A process outside of this one's namespace has no number here. No process in here
        // can have made the pair then, as those have.
        Some(0) => Ok(Birth { parent, known_as: None }),
        Some(maker) if maker == parent => Ok(Birth { parent, known_as: Some(maker) }),
        Some(maker) => Err(none(&format!(
            "its standard input is a socket of process {maker}, and {WORKER_ENV} names process \
             {parent}"
        ))),
        None => Err(none("its standard input is no end of a pair of Unix sockets")),
    }
}

/// The variable's value for a worker of this process with `socket` as its standard input.
///
/// # Errors
///
/// [`ErrorKind::Os`] if the kernel does not tell the socket's number.
pub(crate) fn variable(socket: BorrowedFd<'_>) -> Result<String> {
    let number = inode(socket).map_err(|e| Error::os("cannot look at the bootstrap socket", e))?;
    Ok(format!("{}:{number}", std::process::id()))
}

fn named_in(variable: Option<&OsStr>) -> Result<(u32, u64)> {
    let Some(value) = variable else {
        return Err(none(&format!("{WORKER_ENV} is not set")));
    };
    let parts = value.to_str().and_then(|text| text.split_once(':'));
    let numbers =
        parts.and_then(|(parent, socket)| Some((parent.parse().ok()?, socket.parse().ok()?)));
    numbers.ok_or_else(|| {
        none(&format!("{WORKER_ENV} is {value:?}, which is no process id and number of a socket"))
    })
}

fn none(why: &str) -> Error {
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
        assert_eq!(named_in(Some(OsStr::new("4711:12"))).unwrap(), (4711, 12));
        for (value, why) in [
            (None, "is not set"),
            (Some(""), "no process id"),
            (Some("yes"), "yes"),
            (Some("4711"), "4711"),
            (Some("4711:"), "4711"),
            (Some(":12"), "12"),
        ] {
            let error = named_in(value.map(OsStr::new)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Handshake);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
