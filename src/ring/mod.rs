//! One direction of a channel: a lock-free ring of frames with a single producer and a single
//! consumer, and the doorbell that wakes them. For a program that uses the rings themselves:
//! what it claims, fills, receives and keeps.
//!
//! The two ends are the halves of a [`RawLink`](crate::RawLink). The sender claims a slot
//! ([`Claim`], [`Batch`]), fills it in place and commits it. The receiver reads the frame where
//! it lies ([`Frame`]); dropping the frame gives its slot back, and a [`Lease`] keeps it for
//! longer.
//!
//! ```
//! # fn main() -> slipring::Result<()> {
//! use std::time::Duration;
//!
//! use slipring::ring::Header;
//! use slipring::testing::spawn_raw_thread;
//! use slipring::{Config, RoleConfig};
//!
//! // The other end runs in a thread here, and in a worker process otherwise.
//! let mut link = spawn_raw_thread(&Config::small(), RoleConfig::default(), |mut link, _| {
//!     let mut claim = link.claim(13, Duration::from_secs(1))?;
//!     claim.payload().copy_from_slice(b"hello, parent");
//!     claim.commit(Header { kind: 1, ..Header::default() });
//!     Ok(())
//! })?;
//! let frame = link.recv(Duration::from_secs(1))?;
//! assert_eq!(frame.header().kind, 1);
//! assert_eq!(frame.payload().to_vec(), b"hello, parent");
//! # Ok(()) }
//! ```

// Files import each other downwards only:
//
//     consumer        waits, rearms                 producer        room, waits
//       frame   pacing                                claim   batch
//       slot_reader   finds, checks, releases         slot_writer   fills, publishes, wakes
//       lease                                         open_slot     slots for any thread
//       reclaim       moves the head
//                           ends
//                          doorbell
//                        history   what was published and still lies in the ring
//                 header   commit   first_lap   position   copy_choice
mod batch;
mod claim;
pub(crate) mod commit;
pub(crate) mod consumer;
pub(crate) mod copy_choice;
pub(crate) mod doorbell;
pub(crate) mod ends;
mod first_lap;
mod frame;
mod header;
mod history;
mod lease;
pub(crate) mod open_slot;
mod pacing;
pub(crate) mod position;
pub(crate) mod producer;
mod reclaim;
mod slot_reader;
mod slot_writer;

#[cfg(all(test, loom))]
pub(crate) mod models;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;

pub use crate::config::CopyChoices;
pub use batch::Batch;
pub use claim::Claim;
pub(crate) use consumer::Consumer;
pub(crate) use copy_choice::PeerCopies;
pub use frame::Frame;
pub use header::Header;
pub(crate) use history::{History, PublishedFrame};
pub use lease::Lease;
pub(crate) use lease::{LeasedRun, LeasedSlot, ReaderGauge};
pub(crate) use producer::Producer;
