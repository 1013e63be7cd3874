//! Pipes: messages of bytes, of any length, between two ends that any two processes can have.
//!
//! A pipe is memory with one or two rings, and a few sockets that wake whatever sleeps. An end is
//! three descriptors, which its program passes on as it likes: by a fork, over a socket, to a
//! program that it starts. Nothing is mapped before an end is used. An end may be held by several
//! processes, which use it one after the other.
//!
//! An end is closed when no process holds its descriptors any more, also when they were killed. The
//! other end notices then, without a thread: a wait for bytes or room ends.
//!
//! ```
//! use std::mem::MaybeUninit;
//! use std::time::Duration;
//!
//! use slipring::PeerBytes;
//! use slipring::pipe::{self, Progress, Wake};
//!
//! # fn main() -> slipring::Result<()> {
//! let (first, second) = pipe::pair(1 << 18, true)?;
//! let mut writer = first.attach()?.writer.unwrap();
//! // What another process does with the descriptors of the second end:
//! let mut reader = second.attach()?.reader.unwrap();
//!
//! writer.begin(5, 0)?;
//! assert_eq!(writer.write(PeerBytes::of(b"hello"))?, 5);
//!
//! assert_eq!(reader.watch().wait(Duration::from_secs(1)), Wake::Ready);
//! let message = reader.start()?.expect("there are bytes");
//! let mut bytes = vec![MaybeUninit::uninit(); message.len as usize];
//! assert_eq!(reader.read(&mut bytes)?, Progress::Whole(5));
//! drop((first, writer));
//! assert_eq!(reader.watch().wait(Duration::from_secs(1)), Wake::Closed);
//! # Ok(()) }
//! ```

//     mod
//       reader   writer
//         watch
//           bell   spin
//         sockets   layout
mod bell;
mod layout;
mod reader;
mod sockets;
mod spin;
mod watch;
mod writer;

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;

use bell::{Bell, QUIET, armed_at};
use layout::Direction;
use sockets::{Line, Sockets};
use spin::Spin;

use crate::error::Result;
use crate::shm::region::OwnRegion;
use crate::sync::Ordering;

pub use reader::{Message, PipeReader, Progress};
pub use watch::{PipeWatch, Wake};
pub use writer::PipeWriter;

cfg_if! {
    if #[cfg(loom)] {
    } else {
        mod end;

        pub use end::{Attached, PipeEnd, pair};
    }
}

/// Writes what the words of a new direction must be.
fn prepare(memory: &OwnRegion, at: &Direction) -> Result<()> {
    // The first message sends a byte, so that the descriptor is right whenever it is first polled.
    memory.u64_at(at.bytes_bell)?.store(armed_at(0), Ordering::Relaxed);
    memory.u64_at(at.room_bell)?.store(QUIET, Ordering::Relaxed);
    Ok(())
}

/// Makes the reader of a direction.
fn reader(memory: &OwnRegion, at: &Direction, sockets: &Arc<Sockets>) -> Result<PipeReader> {
    let watch = PipeWatch {
        tail: memory.u64_at(at.tail)?,
        head: memory.u64_at(at.head)?,
        bell: Bell::new(memory.u64_at(at.bytes_bell)?, Arc::clone(sockets), Line::Bytes),
        polled: memory.u32_at(at.polled)?,
        spin: Spin::new(memory.u32_at(at.reader_cpu)?, memory.u32_at(at.writer_cpu)?),
    };
    sockets.tell_in(memory.u32_at(at.reader_closed)?);
    Ok(PipeReader {
        ring: memory.byte_ring(at.ring, at.capacity)?,
        watch: Arc::new(watch),
        room: Bell::new(memory.u64_at(at.room_bell)?, Arc::clone(sockets), Line::Room),
        message: None,
    })
}

/// Makes the writer of a direction.
fn writer(memory: &OwnRegion, at: &Direction, sockets: &Arc<Sockets>) -> Result<PipeWriter> {
    let tail = memory.u64_at(at.tail)?;
    let seen_head = memory.u64_at(at.head)?.load(Ordering::Acquire);
    Ok(PipeWriter {
        ring: memory.byte_ring(at.ring, at.capacity)?,
        tail,
        head: memory.u64_at(at.head)?,
        bytes: Bell::new(memory.u64_at(at.bytes_bell)?, Arc::clone(sockets), Line::Bytes),
        room: Bell::new(memory.u64_at(at.room_bell)?, Arc::clone(sockets), Line::Room),
        reader_closed: memory.u32_at(at.reader_closed)?,
        sockets: Arc::clone(sockets),
        spin: Spin::new(memory.u32_at(at.writer_cpu)?, memory.u32_at(at.reader_cpu)?),
        seen_head,
        seen_closed: 0,
        looked_at: 0,
        message: None,
    })
}
