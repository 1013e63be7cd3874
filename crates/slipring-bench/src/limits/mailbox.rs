//! One message at a time in each direction: the least that two processes can exchange.
//!
//! ```text
//!     0  flag (count << 20 | length), and up to 56 bytes of payload when it is short
//!    64  payload, when it is longer or the mailbox has two lines
//! ```

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use super::memory::Memory;
use super::{PATIENCE, gone, spin, sys};
use crate::end::{End, put_stamp};

/// How an end waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Polls until the flag changes.
    Spin,
    /// Sleeps on the flag.
    Futex,
    /// Sleeps on the flag and two words of its own.
    Waitv,
}

/// One end of a mailbox pair.
#[derive(Debug)]
pub struct Mailbox {
    memory: Memory,
    /// Offsets of this end's outgoing and incoming message.
    out: usize,
    incoming: usize,
    has_one_line: bool,
    wait: Wait,
    sent: u64,
    received: u64,
    own: [AtomicU32; 2],
}

const LINE: usize = 64;
const LEN_BITS: u32 = 20;
const SHORT: usize = 56;

impl Mailbox {
    /// Returns the bytes of memory for messages of up to `max` bytes.
    #[must_use]
    pub fn memory_len(max: usize) -> usize {
        2 * Self::stride(max)
    }

    fn stride(max: usize) -> usize {
        // Apart, because the processor fetches lines in pairs.
        (LINE + max).next_multiple_of(4096) + 2 * LINE
    }

    /// Makes one of the two ends. The memory must be [`Mailbox::memory_len`] bytes long.
    #[must_use]
    pub fn new(memory: Memory, is_parent: bool, has_one_line: bool, wait: Wait) -> Self {
        let half = memory.len() / 2;
        let (out, incoming) = if is_parent { (0, half) } else { (half, 0) };
        let own = [AtomicU32::new(0), AtomicU32::new(0)];
        Self { memory, out, incoming, has_one_line, wait, sent: 0, received: 0, own }
    }

    #[inline]
    fn payload_at(&self, len: usize) -> usize {
        if self.has_one_line && len <= SHORT { 8 } else { LINE }
    }

    fn wait_for(&self, next: u64) -> io::Result<u64> {
        let flag = self.memory.word(self.incoming);
        let look = || {
            let found = flag.load(Ordering::Acquire);
            (found >> LEN_BITS == next).then_some(found)
        };
        if self.wait == Wait::Spin {
            return spin(look);
        }
        let half = self.memory.half(self.incoming);
        // Each sleep ends after a second.
        for _ in 0..PATIENCE.as_secs() {
            let before = half.load(Ordering::Relaxed);
            if let Some(found) = look() {
                return Ok(found);
            }
            match self.wait {
                Wait::Waitv => {
                    let [one, two] = &self.own;
                    if !sys::futex_waitv([(half, before), (one, 0), (two, 0)]) {
                        return Err(io::ErrorKind::Unsupported.into());
                    }
                }
                Wait::Spin | Wait::Futex => sys::futex_wait(half, before),
            }
            if let Some(found) = look() {
                return Ok(found);
            }
        }
        Err(gone())
    }
}

impl End for Mailbox {
    #[inline]
    fn send_copy(&mut self, source: &[u8], stamp: u64) -> io::Result<()> {
        self.send(source.len(), |slot| {
            super::bytes::copy(slot, source);
            put_stamp(slot, stamp);
        })
    }

    #[inline]
    fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let at = self.out + self.payload_at(len);
        fill(self.memory.bytes(at, len));
        self.sent += 1;
        let flag = self.sent << LEN_BITS | len as u64;
        self.memory.word(self.out).store(flag, Ordering::Release);
        if self.wait != Wait::Spin {
            sys::futex_wake(self.memory.half(self.out));
        }
        Ok(())
    }

    #[inline]
    fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        let flag = self.wait_for(self.received + 1)?;
        self.received += 1;
        let len = (flag & ((1 << LEN_BITS) - 1)) as usize;
        let at = self.incoming + self.payload_at(len);
        Ok(read(self.memory.bytes(at, len)))
    }
}
