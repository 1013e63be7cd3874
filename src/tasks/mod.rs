//! Channels for async programs: the same requests, awaited by tasks of any executor.
//!
//! ```
//! # #[cfg(not(feature = "async"))]
//! # fn main() {}
//! # #[cfg(feature = "async")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use slipring::tasks::AsyncChannel;
//! use slipring::{Config, Kind, RoleConfig, testing, worker::Worker};
//!
//! const ECHO: Kind = Kind::named("echo");
//! let make = || {
//!     Worker::new(|_role| Ok(()))
//!         .on(ECHO, |(), request, responder| Ok(responder.send(&request.to_vec())?))
//! };
//! // A thread in the place of a process; a program uses `AsyncChannel::spawn`.
//! let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
//! # #[cfg(feature = "tokio")]
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let channel = AsyncChannel::new(channel)?;
//! let timeout = Duration::from_secs(10);
//! // Many requests may be in flight; each is a future.
//! let (first, second) =
//!     (channel.submit(ECHO, "1", timeout).await?, channel.submit(ECHO, "2", timeout).await?);
//! assert_eq!(second.await?.to_vec(), b"2");
//! assert_eq!(first.await?.to_vec(), b"1");
//! channel.close(timeout).await?;
//! # Ok::<(), slipring::Error>(())
//! # })?;
//! # Ok(()) }
//! ```
//!
//! A small thread of the library's reads for the tasks of all channels of the process
//! ([`AsyncChannel::new`]), or the reactor of tokio does ([`AsyncChannel::on_tokio`], feature
//! `tokio`). Threads and tasks may use one channel at the same time: [`AsyncChannel::blocking`].
//!
//! Unless its method says otherwise, a future here may be dropped at any await. Its request is
//! then cancelled, its room in the ring is used again, and nothing of it reaches another call.
//! Timeouts count on the channel's own clock, whatever the runtime's timers do.
//!
//! # Wakers
//!
//! A waker runs without any lock, on the thread that has news for its task: one of the
//! library's own, or a caller's thread that reads. A waker must not block. A waker that blocks
//! never delays what threads wait for (replies, deadlines, deaths, closes), except on the thread
//! that runs the waker. It does delay tasks, of other channels too: one thread of the library's
//! wakes the tasks of all channels for replies and deadlines. At the end of a channel its tasks are
//! woken by a thread that is started for that.

mod channel;
pub(crate) mod driver;
pub(crate) mod health;
mod reader;
pub(crate) mod requests;
mod send;
mod spawn;
pub(crate) mod timer;
mod traced;
mod wait;
mod writer;

#[cfg(feature = "tokio")]
pub(crate) mod tokio_driver;

pub use channel::AsyncChannel;
pub use reader::AsyncMessageReader;
pub use traced::AsyncTracedChannel;
pub use wait::{AsyncPending, AsyncStream};
pub use writer::AsyncMessageWriter;
