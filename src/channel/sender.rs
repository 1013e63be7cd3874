//! The sending side of a channel: the producer, the waiters for room, and the turn of long
//! messages.
//!
//! Two locks, both owned here. `long_messages` is the outermost lock of a channel and is held
//! while its owner waits: a message longer than a frame goes out in pieces, and the worker
//! collects one such message at a time. `sending` is held while one frame is copied into the
//! ring. No code of the host's runs under it: payloads are encoded before.

use std::collections::VecDeque;

use crate::channel::timed_mutex::TimedMutex;
use crate::channel::waiter::Waiter;
use crate::error::Result;
use crate::protocol::kind::flags;
use crate::ring::{CopyChoices, Header, History, Producer, PublishedFrame};
use crate::shm::layout::as_u64;
use crate::sync::{AtomicU32, Mutex, Ordering};
use crate::trace_context::CONTEXT_LEN;

/// How many slots a look back takes under the lock: less than a tenth of a millisecond.
const LOOKS: usize = 1024;

/// Owner of the request ring's producer.
#[derive(Debug)]
pub(crate) struct Sender {
    sending: Mutex<Sending>,
    /// Waiters for room, counted so that a reader finds out without the lock.
    waiting: AtomicU32,
    /// The turn to send a message that is longer than a frame.
    pub(crate) long_messages: TimedMutex<()>,
}

#[derive(Debug)]
struct Sending {
    producer: Producer,
    /// Waiters for room, first come first served.
    queue: VecDeque<WaiterForRoom>,
    /// The last key that was given out.
    last_key: u64,
    /// Bytes of payloads that were sent.
    bytes: u64,
}

#[derive(Debug)]
struct WaiterForRoom {
    key: u64,
    /// Length of the payload that needs room, in bytes.
    len: usize,
    waiter: Waiter,
}

/// Counters of the request ring.
#[derive(Debug, Default)]
pub(crate) struct SenderStats {
    pub(crate) wakes: u64,
    pub(crate) high_water: u64,
    /// Bytes that the worker has not released.
    pub(crate) used: u64,
    pub(crate) bytes: u64,
    pub(crate) copies: CopyChoices,
}

impl Sender {
    pub(super) fn new(producer: Producer) -> Self {
        let sending = Sending { producer, queue: VecDeque::new(), last_key: 0, bytes: 0 };
        Self {
            sending: Mutex::new(sending),
            waiting: AtomicU32::new(0),
            long_messages: TimedMutex::new(()),
        }
    }

    /// Sends one frame, unless the ring is full. Returns whether it was sent.
    ///
    /// `fill` runs under the lock.
    ///
    /// # Errors
    ///
    /// What the worker wrote into the ring that cannot be, after which the channel is over: the
    /// caller has checked the length of the frame, and that this process is no forked child.
    #[inline(always)]
    pub(super) fn try_send(
        &self,
        header: Header,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        self.try_send_with(header, (len, 0), fill)
    }

    /// As [`Sender::try_send`], of a frame that has bytes behind its payload.
    #[inline(always)]
    pub(super) fn try_send_with(
        &self,
        header: Header,
        (len, tail): (usize, usize),
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool> {
        let mut sending = self.sending.lock();
        let Some(mut claim) = sending.producer.try_claim(len + tail)? else { return Ok(false) };
        fill(claim.payload());
        crate::failpoint::failpoint!("after copy");
        claim.commit(header);
        sending.bytes += as_u64(len);
        Ok(true)
    }

    pub(super) fn has_room_for(&self, len: usize) -> Result<bool> {
        self.sending.lock().producer.has_room_for(len)
    }

    /// Bytes of the ring that the worker has not released.
    pub(super) fn in_flight(&self) -> u64 {
        self.sending.lock().producer.in_flight()
    }

    pub(super) fn prefault(&self) {
        self.sending.lock().producer.prefault();
    }

    pub(super) fn stats(&self) -> SenderStats {
        self.sending.lock().stats()
    }

    /// As [`Sender::stats`]; `None` if the lock is held.
    #[cfg(not(loom))]
    pub(super) fn stats_soon(&self) -> Option<SenderStats> {
        self.sending.lock_soon().map(|sending| sending.stats())
    }

    /// See [`Producer::look_back`]. Contexts of traces are left out. Holds the lock for [`LOOKS`] slots at
    /// a time, and calls `pause` in between without it. Callers take the lock after the worker's end, too:
    /// to give up a long message, or to count.
    pub(super) fn look_back(
        &self,
        mut see: impl FnMut(&PublishedFrame<'_>),
        mut pause: impl FnMut(),
    ) {
        let mut history = History::default();
        let mut see = |frame: &PublishedFrame<'_>| match frame.header.flags & flags::TRACED {
            0 => see(frame),
            _ => see(&frame.without_tail(CONTEXT_LEN)),
        };
        while self.sending.lock().producer.look_back(&mut history, LOOKS, &mut see) {
            pause();
        }
    }

    /// See [`Producer::positions`].
    pub(super) fn positions(&self) -> (u64, Option<u64>) {
        self.sending.lock().producer.positions()
    }

    /// Adds a waiter for room. A reader must be told: it announces to the worker how much room
    /// is wanted when it sleeps the next time.
    pub(super) fn register_for_room(&self, len: usize, waiter: Waiter) -> u64 {
        let mut sending = self.sending.lock();
        sending.last_key += 1;
        let key = sending.last_key;
        sending.queue.push_back(WaiterForRoom { key, len, waiter });
        drop(sending);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        key
    }

    /// Ends a wait for room, whether the waiter was woken or not.
    pub(super) fn stop_waiting(&self, key: u64) {
        let mut sending = self.sending.lock();
        let index = sending.queue.iter().position(|waiting| waiting.key == key);
        let removed = index.and_then(|index| sending.queue.remove(index));
        drop(sending);
        // A waker's drop is the executor's code: not under the lock.
        drop(removed);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether room is waited for.
    #[inline]
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// The head at which there is room for `own`, or else for the first waiter. It moves when
    /// another sender takes the room. A waiter that registers meanwhile raises the alarm afterwards,
    /// so that the reader looks again.
    pub(super) fn awaited_head(&self, own: Option<usize>) -> Option<u64> {
        if own.is_none() && !self.is_awaited() {
            return None;
        }
        let sending = self.sending.lock();
        let wanted = own.or_else(|| sending.first_len());
        wanted.map(|len| sending.producer.head_for(len))
    }

    /// Announces to the worker that its next release must wake this process's reader, once
    /// there is room for `own`, or else for the first waiter.
    pub(super) fn announce_room(&self, own: Option<usize>) {
        let sending = self.sending.lock();
        if let Some(len) = own.or_else(|| sending.first_len()) {
            sending.producer.announce_space(len);
        }
    }

    /// As [`Sender::announce_room`] for the first waiter, to be woken by the descriptor.
    /// Returns whether there is a waiter.
    pub(super) fn announce_room_by_fd(&self) -> bool {
        let sending = self.sending.lock();
        let wanted = sending.first_len();
        if let Some(len) = wanted {
            sending.producer.announce_space_by_fd(len);
        }
        wanted.is_some()
    }

    /// Moves the waiters for which there is room now to `taken`, in their order. Those that were
    /// moved before an error must be woken all the same.
    #[cold]
    pub(super) fn take_waiters_with_room(&self, taken: &mut Vec<Waiter>) -> Result<()> {
        let mut sending = self.sending.lock();
        while let Some(len) = sending.first_len() {
            if !sending.producer.has_room_for(len)? {
                break;
            }
            taken.extend(sending.queue.pop_front().map(|first| first.waiter));
        }
        Ok(())
    }

    /// Removes the first thread that waits for room, to read the ring instead.
    pub(super) fn take_thread(&self) -> Option<Waiter> {
        let mut sending = self.sending.lock();
        let index = sending.queue.iter().position(|waiting| waiting.waiter.is_thread())?;
        sending.queue.remove(index).map(|waiting| waiting.waiter)
    }

    /// Removes all waiters for room.
    pub(super) fn take_waiters(&self) -> Vec<Waiter> {
        let queue = std::mem::take(&mut self.sending.lock().queue);
        queue.into_iter().map(|waiting| waiting.waiter).collect()
    }
}

impl Sending {
    fn stats(&self) -> SenderStats {
        let Self { producer, bytes, .. } = self;
        SenderStats {
            wakes: producer.wakes(),
            high_water: producer.high_water(),
            used: producer.used(),
            bytes: *bytes,
            copies: producer.copies(),
        }
    }

    fn first_len(&self) -> Option<usize> {
        self.queue.front().map(|first| first.len)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::ring::testing::{rig, send};

    #[test]
    fn a_look_back_does_not_keep_the_lock() {
        let mut ring = rig(256 << 10, 1000, 0);
        while send(&mut ring.producer, 1, b"").unwrap() {}
        let sender = Sender::new(ring.producer);
        let (mut seen, mut pauses, mut waits) = (0, 0, 0);
        sender.look_back(
            |_| seen += 1,
            || {
                pauses += 1;
                waits += usize::from(sender.sending.try_lock().is_some());
            },
        );
        assert_eq!((seen, pauses, waits), (4095, 3, 3));
    }
}
