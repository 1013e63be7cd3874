//! The extension module of the Python package `slipring`: the Rust library's channels and workers
//! as Python objects.
//!
//! ```text
//!   spawner.rs channel.rs pending.rs stream.rs    the host's objects
//!   reply.rs lease.rs kept.rs                     replies, views of them, and what holds the ring
//!   worker.rs request.rs role.rs                  the worker's objects
//!   |
//!   outgoing.rs buffer.rs                         Python objects as payloads
//!   incoming.rs                                   payloads as Python objects
//!   wait.rs                                       how a thread of Python waits
//!   report.rs error.rs convert.rs interpreter.rs  plain values, errors, small conversions
//! ```
//!
//! Nothing here panics: an error of the library becomes an exception of `slipring/_errors.py`.

mod buffer;
mod channel;
mod convert;
mod error;
mod incoming;
mod interpreter;
mod kept;
mod lease;
mod outgoing;
mod pending;
mod reply;
mod report;
mod request;
mod role;
mod spawner;
mod stream;
mod wait;
mod worker;

use pyo3::prelude::*;

/// The module, which starts no thread. It needs the interpreter lock until a free-threaded build
/// was tested.
#[pymodule(gil_used = true)]
fn _slipring(module: &Bound<'_, PyModule>) -> PyResult<()> {
    interpreter::refuse_subinterpreters()?;
    module.add_class::<spawner::Spawner>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<pending::Pending>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<reply::Reply>()?;
    module.add_class::<lease::Lease>()?;
    module.add_class::<report::ExitCause>()?;
    module.add_class::<report::Health>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<role::Role>()?;
    module.add_function(wrap_pyfunction!(worker::is_worker, module)?)?;
    module.add_function(wrap_pyfunction!(worker::serve, module)?)?;
    Ok(())
}
