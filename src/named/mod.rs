//! Channels to processes that this one did not start, over named shared memory.
//!
//! The parent makes a channel under a name with [`create`] and waits for its worker with
//! [`NamedHost::accept`]; a process of the same user attaches to it with
//! [`Worker::serve_named`](crate::worker::Worker::serve_named). From then on it is a
//! [`Channel`](crate::Channel) as any other: calls, streams, pings, cancels and closing
//! work alike, over the same rings.
//!
//! ```no_run
//! use std::time::Duration;
//! use slipring::{Config, Kind, named};
//!
//! let mut host = named::create("embed", &Config::default())?;
//! let channel = host.accept(Duration::from_secs(60))?;
//! let reply = channel.call(Kind::EMBED, b"bytes", Duration::from_secs(5))?;
//! # Ok::<(), slipring::Error>(())
//! ```
//!
//! ```no_run
//! use std::time::Duration;
//! use slipring::{Kind, worker::Worker};
//!
//! Worker::new(|_role| Ok(()))
//!     .on(Kind::EMBED, |(), request, responder| Ok(responder.send(&request.to_vec())?))
//!     .serve_named("embed", Duration::from_secs(60))?;
//! # Ok::<(), slipring::Error>(())
//! ```
//!
//! # What is promised less
//!
//! The memory is two segments in `/dev/shm`, made and opened through the crate
//! `shared_memory`, and the doorbells are events of the crate `raw_sync` in them. Use
//! memfd channels, those of [`Spawner`](crate::Spawner), wherever the parent can start its
//! workers: these promises hold for them only.
//!
//! * **One writer for each region, seals.** Here both processes map both segments for
//!   reading and writing, and any process of the same user can write to the files or
//!   truncate them. A process that then reads a lost page is ended by SIGBUS. What a peer
//!   writes is checked as everywhere, but a peer that writes outside of its own lines is
//!   undefined behaviour: attach to nothing that you would not link into your program.
//! * **Death within milliseconds.** A thread of each side looks four times a second
//!   whether the other's process is still the one that attached. A killed peer is
//!   [`PeerDied`](crate::ErrorKind::PeerDied) within about half a second; there is no exit
//!   status and no log, and [`ExitCause::Unknown`](crate::ExitCause::Unknown) is all that
//!   is known. A peer that is killed in the few instructions in which it holds a lock
//!   inside the C library's condition variable can leave a thread of the survivor waiting
//!   for ever.
//! * **Monotonic waits.** The events wait on the wall clock. Their waits are cut in slices
//!   of at most 100 ms, after each of which the monotonic clock counts; but if the wall
//!   clock is set back during a slice, a timeout can come late by as much.
//! * **No CPU when idle.** Slices end: an idle channel wakes the parent ten times a second
//!   and the worker a few times more.
//! * **Nothing is started, so nothing is ended.** [`Channel::close`](crate::Channel::close)
//!   asks the worker to end and waits until it has detached. If it does not detach in time,
//!   the close returns [`Timeout`](crate::ErrorKind::Timeout): this process does not kill a
//!   process that it has not started. A dropped channel
//!   tells the worker to end. Limits and core dumps are the worker's own affair.
//! * **A descriptor for reactors.** No descriptor can be handed over, so there is no
//!   [`poll_fd`](crate::Channel::poll_fd) and no async view.
//!
//! Both processes must be in one pid namespace and use the same C library. Reserving the
//! pages needs Linux 5.14.
//!
//! # Names
//!
//! The segments of channel `x` are `slipring.x.down` and `slipring.x.up`, of mode 0600.
//! They are removed when the channel is dropped, or when the host is dropped before it has made
//! a channel. The segments of a process that was killed stay: [`stale`] finds them and
//! [`Stale::remove`] removes them. [`present`] finds the channels whose makers live, and
//! [`Present::inspect`] looks at their memory.

mod attach;
mod host;
mod layout;
mod names;
mod peer;
mod present;
mod segment;
mod segment_file;
mod slices;
mod stale;

pub use host::{NamedHost, create};
pub use present::{Present, PresentState, present};
pub use stale::{Stale, stale};
