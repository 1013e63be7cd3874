//! Looks at the channels of another process, without asking it: for `slipring inspect` and other tools.
//!
//! What a host counts stands on its [status page](crate::status_page). The memory of its channels can be
//! read as well if the host was asked to keep descriptors of it: by
//! [`Spawner::inspectable`](crate::Spawner::inspectable), or by `SLIPRING_INSPECT=1` in its environment.
//! [`process`] reads both, of a process that runs, is stopped or hangs, and says which checks the memory
//! passes. It needs no right to trace, and the process does not notice.
//!
//! The memory is read while both sides go on. It is copied by `pread` and not mapped: so a look takes no
//! memory of the rings, and a file that is cut is an error and no signal. Nothing that stands there is
//! trusted.

mod channel;
mod find;
mod memory;
mod report;
mod ring;
mod tables;
#[cfg(test)]
mod tests;

#[cfg(slipring_fuzzing)]
pub(crate) use channel::{Source, examine};
#[cfg(slipring_fuzzing)]
pub(crate) use memory::Memory;

pub use report::{
    ChannelMemory, Check, FrameInRing, Inspection, Layout, Options, Refusal, RequestMark,
    RingMemory, Verdict, WaitWord, WorkerLines,
};

#[cfg(feature = "named")]
pub(crate) use find::examine_files;

use crate::error::Result;

/// Looks at a process. Blocks only while the files are read.
///
/// ```
/// use slipring::inspect::{self, Options};
///
/// let this = inspect::process(std::process::id(), &Options::default())?;
/// assert!(this.channels.is_empty(), "no channel that may be looked at");
/// assert!(inspect::process(4_194_305, &Options::default()).is_err(), "no process has this id");
/// # Ok::<(), slipring::Error>(())
/// ```
///
/// # Errors
///
/// [`ErrorKind::Os`](crate::ErrorKind::Os) if there is no such process, or if this one may not look into
/// it: it belongs to another user, or has forbidden it. What is wrong with a page or a region is no error
/// of this function, but part of what it returns.
pub fn process(pid: u32, options: &Options) -> Result<Inspection> {
    find::inspect(pid, options)
}
