//! Processes: how a worker is started, watched, ended and explained.
//!
//! On a byte's trip this is the ground under both ends: [`spawn`] starts the
//! worker's program, [`socket`] carries the descriptors of its regions to it,
//! [`watch`] and [`supervisor`] notice its death, and [`robust`] and [`limits`]
//! are its own half of that bargain. Nothing here knows of rings or frames.

pub(crate) mod birth;
mod ending;
pub(crate) mod exit;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod notifier;
mod oom;
mod orphans;
pub(crate) mod own_exe;
pub(crate) mod robust;
pub(crate) mod service;
pub(crate) mod socket;
pub(crate) mod spawn;
mod starter;
pub(crate) mod stdio;
pub(crate) mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(any(feature = "testing", feature = "named"))]
pub(crate) mod thread;
pub(crate) mod watch;
