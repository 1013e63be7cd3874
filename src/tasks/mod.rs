//! The async view of a channel: the same requests, awaited by tasks.
//!
//! Level 7. The protocol is the blocking channel's own: a task waits in the pending
//! table where a thread would, and a frame wakes it. What is added is who reads the ring
//! when no thread does: whoever finds the channel's descriptor readable. That is a small
//! thread that serves all channels of the process ([`AsyncChannel::new`]), so that any
//! executor works, or the reactor of tokio ([`AsyncChannel::on_tokio`], feature `tokio`).
//!
//! Threads and tasks may use one channel at the same time: [`AsyncChannel::blocking`].
//!
//! Every future here may be dropped at any await: its request is then given up, the
//! worker is told, its space comes back, and nothing of it reaches another call.
//! Timeouts count on the channel's own clock, whatever the runtime's timers do.
//!
//! Wakers run on the thread that has news for their task, and without any lock: on a thread
//! of the library's own, or on a caller's that reads. One that blocks, which no executor's
//! should, holds up that thread, and neither the deadlines of others nor the news of a death.

mod channel;
pub(crate) mod driver;
mod send;
mod timer;
mod wait;

#[cfg(feature = "tokio")]
mod tokio_driver;

pub use channel::AsyncChannel;
pub use wait::{AsyncPending, AsyncStream};
