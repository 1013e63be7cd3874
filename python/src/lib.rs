//! The extension module of the Python package `slipring`: the Rust library's channels and workers
//! as Python objects.
//!
//! ```text
//!   spawner.rs channel.rs pending.rs stream.rs    the host's objects
//!   pool.rs pool_*.rs role_handle.rs              the host's pools
//!   tasks.rs                                      a channel for tasks of asyncio
//!   reply.rs lease.rs                             replies, and what views of them hold on to
//!   worker.rs request.rs role.rs                  the worker's objects
//!   serve_inbox.rs inbox.rs feed.rs               a worker that answers later
//!     incoming_request.rs answers.rs              its requests, and how they are answered
//!   connection.rs                                 an end of a pipe
//!     receiving.rs sending.rs turn.rs             its messages, and the threads that share it
//!   |
//!   shared.rs                                     the channel that the host's objects share
//!   outgoing.rs buffer.rs                         Python objects as payloads
//!   incoming.rs fresh.rs                          payloads as Python objects
//!   packed.rs                                     pickles with their buffers
//!   operation.rs completions.rs chunks.rs         how tasks wait for futures of the library
//!   polling.rs waiting.rs wait.rs                 how threads of Python wait
//!   convert.rs report.rs error.rs                 arguments, plain values, errors
//!   lock.rs interpreter.rs                        small things
//! ```
//!
//! Nothing here panics: an error of the library becomes an exception of `slipring/_errors.py`.

mod answers;
mod buffer;
mod channel;
mod chunks;
mod completions;
mod connection;
mod convert;
mod descriptor;
mod error;
mod feed;
mod fresh;
mod inbox;
mod incoming;
mod incoming_request;
mod interpreter;
mod lease;
mod lock;
mod look;
mod operation;
mod outgoing;
mod packed;
mod pending;
mod polling;
mod pool;
mod pool_events;
mod pool_pending;
mod pool_report;
mod pool_settings;
mod pool_stream;
mod receiving;
mod reply;
mod report;
mod request;
mod role;
mod role_handle;
mod sending;
mod serve_inbox;
mod shared;
mod spawner;
mod stream;
mod tasks;
mod turn;
mod wait;
mod waiting;
mod worker;

use pyo3::prelude::*;

/// The module, which starts no thread. It needs the interpreter lock until a free-threaded build
/// was tested.
#[pymodule(gil_used = true)]
fn _slipring(module: &Bound<'_, PyModule>) -> PyResult<()> {
    interpreter::refuse_subinterpreters()?;
    turn::watch_forks(module.py())?;
    // These read the environment once. Later, Python may change it while they do.
    let _ = (slipring::worker::is_worker(), std::backtrace::Backtrace::capture());
    module.add_class::<spawner::Spawner>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<reply::Reply>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<error::Unsettled>()?;
    module.add_class::<error::CrashReport>()?;
    module.add_class::<report::ExitCause>()?;
    module.add_class::<report::Health>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<role::Role>()?;
    module.add_class::<operation::Operation>()?;
    module.add_class::<tasks::TaskChannel>()?;
    module.add_class::<chunks::TaskStream>()?;
    module.add_function(wrap_pyfunction!(tasks::spawn_for_tasks, module)?)?;
    module.add_function(wrap_pyfunction!(tasks::spawn_for_tasks_blocking, module)?)?;
    module.add_class::<serve_inbox::AbortFlag>()?;
    module.add_class::<inbox::Inbox>()?;
    module.add_class::<feed::Feed>()?;
    module.add_class::<incoming_request::Incoming>()?;
    module.add_function(wrap_pyfunction!(serve_inbox::serve_inbox, module)?)?;
    module.add_class::<pool::Pool>()?;
    module.add_class::<pool_settings::PoolRole>()?;
    module.add_class::<pool_settings::WorkerSlot>()?;
    module.add_class::<role_handle::RoleHandle>()?;
    module.add_class::<pool_pending::PoolPending>()?;
    module.add_class::<pool_stream::PoolStream>()?;
    module.add_class::<pool_events::PoolEvents>()?;
    module.add_class::<pool_events::PoolEvent>()?;
    module.add_class::<pool_report::PoolHealth>()?;
    module.add_class::<pool_report::RoleHealth>()?;
    module.add_class::<pool_report::Load>()?;
    module.add_class::<pool_report::WorkerHealth>()?;
    module.add_class::<pool_report::RoleMetrics>()?;
    module.add_class::<pool_report::Histogram>()?;
    module.add_class::<completions::Completions>()?;
    module.add_class::<connection::BytesConnection>()?;
    module.add_function(wrap_pyfunction!(connection::make_pipe, module)?)?;
    module.add_function(wrap_pyfunction!(packed::pack, module)?)?;
    module.add_function(wrap_pyfunction!(packed::unpack, module)?)?;
    module.add_function(wrap_pyfunction!(worker::is_worker, module)?)?;
    module.add_function(wrap_pyfunction!(worker::serve, module)?)?;
    Ok(())
}
