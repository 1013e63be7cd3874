//! Whether this process was started as a worker that has not attached yet, and by whom.
//!
//! A variable of the environment says whose worker is meant. All that a worker starts
//! inherits it, so it proves nothing. What proves it is the standard input: a worker's is
//! one end of a socket pair, and the kernel knows which process has made that.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;

use super::sys::fd::maker_of_peer;
use crate::error::{Error, ErrorKind, Result};
use crate::protocol::hello::WORKER_ENV;

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
    let parent = parent_in(env::var_os(WORKER_ENV).as_deref())?;
    let maker = maker_of_peer(io::stdin().as_fd()).map_err(|e| {
        let message = not_a_worker("its standard input is no socket");
        Error::with_source(ErrorKind::Handshake, message, e)
    })?;
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

fn parent_in(variable: Option<&OsStr>) -> Result<u32> {
    let Some(value) = variable else {
        return Err(none(&format!("{WORKER_ENV} is not set")));
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| none(&format!("{WORKER_ENV} is {value:?}, which is no process id")))
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
    fn the_variable_must_name_a_process() {
        assert_eq!(parent_in(Some(OsStr::new("4711"))).unwrap(), 4711);
        for (value, why) in
            [(None, "is not set"), (Some(""), "no process id"), (Some("yes"), "yes")]
        {
            let error = parent_in(value.map(OsStr::new)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Handshake);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
