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
//! A waker runs without any lock, on the thread that has news for its task: one of the
//! library's own, or a caller's thread that reads. A waker must not block. One that does never
//! delays what threads wait for (replies, deadlines, deaths, closes), except on the thread
//! that runs it. It does delay tasks, of other channels too: two threads of the library's wake
//! the tasks of all channels, one for replies and deadlines and one for ends.

mod channel;
pub(crate) mod driver;
mod send;
mod timer;
mod wait;
mod writer;

#[cfg(feature = "tokio")]
mod tokio_driver;

pub use channel::AsyncChannel;
pub use wait::{AsyncPending, AsyncStream};
pub use writer::AsyncMessageWriter;
