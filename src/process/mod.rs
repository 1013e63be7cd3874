//! Processes: how a worker is started, watched, ended and reaped, and how its exit is told.
//!
//! | job | files |
//! |---|---|
//! | start | [`starter`] (a thread), [`spawn`], [`own_exe`] and [`maps`], [`worker_env`], [`socket`] |
//! | watch | [`watch`] and [`robust_futex`]; [`parent_watch`] for the other direction |
//! | end | [`child`], on [`pid_handle`]; [`external`]; what both have: [`worker_process`] |
//! | reap | [`supervisor`] (a thread), [`reap`] |
//! | exit cause | [`exit_record`], [`proc_stat`], [`oom`] |
//! | log | [`log`] |
//! | in the worker | [`limits`], [`stdio`] |
//!
//! Nothing here knows of rings or frames.

pub(crate) mod child;
mod exit_record;
#[allow(dead_code, reason = "only the features `testing` and `named` have such workers")]
pub(crate) mod external;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod maps;
pub(crate) mod oom;
pub(crate) mod own_exe;
pub(crate) mod parent_watch;
mod pid_handle;
pub(crate) mod proc_stat;
mod reap;
pub(crate) mod robust_futex;
pub(crate) mod service;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod starter;
pub(crate) mod stdio;
mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod watch;
pub(crate) mod worker_env;
pub(crate) mod worker_process;
