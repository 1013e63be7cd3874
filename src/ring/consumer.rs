//! The end of a ring that takes frames out, and that waits for them.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ring::copy_choice::PeerCopies;
use crate::ring::doorbell::{Alarm, BY_FD, Sleeper, Step, look_before_end};
use crate::ring::ends::Ends;
use crate::ring::frame::Frame;
use crate::ring::header::Header;
use crate::ring::lease::{LeasedRun, ReaderGauge};
use crate::ring::pacing::{PACED, Pacing};
use crate::ring::position::NEVER;
use crate::ring::slot_reader::SlotReader;
use crate::shm::bytes::PeerBytes;
use crate::shm::layout::RingLayout;
use crate::shm::words::{OwnU64, PeerU64};
use crate::sync::{Ordering, fence};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::fork;
use crate::sys::wake_fd::{Drained, WakeFd};

/// How long a consumer that rearms waits for a producer that has committed but not notified.
const NOTIFY_PATIENCE: Duration = Duration::from_micros(200);

/// The end of a ring that takes frames out.
#[derive(Debug)]
pub(crate) struct Consumer {
    reader: SlotReader,
    sleep_at: OwnU64,
    peer_checked: Arc<PeerU64>,
    peer_high_water: Arc<PeerU64>,
    peer_copies: Arc<PeerCopies>,
    sleeper: Sleeper,
    /// The distance that is kept from a producer that is fast.
    pacing: Pacing,
    /// The next frame has made the descriptor readable, or will.
    is_armed: bool,
    /// The last run ended where no frame was.
    has_caught_up: bool,
}

/// What [`Consumer::rearm`] found and left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rearmed {
    pub(crate) is_readable: bool,
    /// The descriptor was readable before.
    pub(crate) has_drained: bool,
}

impl Consumer {
    /// Makes the end that empties the ring with this layout in the peer's region.
    pub(crate) fn new(ends: &Ends<'_>, layout: &RingLayout) -> Result<Self> {
        let Ends { own, peer, words, .. } = ends;
        let sleep_at = own.u64_at(words.sleep_at)?;
        sleep_at.store(NEVER, Ordering::Relaxed);
        Ok(Self {
            reader: SlotReader::new(ends, layout)?,
            sleep_at,
            peer_checked: Arc::new(peer.u64_at(words.checked)?),
            peer_high_water: Arc::new(peer.u64_at(words.high_water)?),
            peer_copies: Arc::new(PeerCopies::new(peer.u32_at(words.copies)?)),
            sleeper: ends.sleeper()?,
            pacing: Pacing::new(layout.origin, layout.capacity),
            is_armed: false,
            has_caught_up: false,
        })
    }

    /// The longest payload of one frame, in bytes.
    pub(crate) fn max_frame(&self) -> usize {
        self.reader.max_frame()
    }

    /// See [`PeerSlots::prefault`](crate::shm::slots::PeerSlots::prefault).
    pub(crate) fn prefault(&self) {
        self.reader.prefault();
    }

    /// How many leases are out.
    pub(crate) fn leased(&self) -> usize {
        self.reader.leased()
    }

    /// Tells how full the ring is without a borrow of the consumer.
    pub(crate) fn gauge(&self) -> ReaderGauge {
        self.reader.gauge(&self.peer_checked, &self.peer_high_water)
    }

    /// Tells how the peer copies payloads, without a borrow of the consumer.
    pub(crate) fn peer_copies(&self) -> &Arc<PeerCopies> {
        &self.peer_copies
    }

    /// The requests whose leases hold the ring, oldest first, and the bytes they hold back.
    pub(crate) fn holders(&self) -> (Vec<u64>, u64) {
        self.reader.holders()
    }

    /// Where the next frame is looked for.
    pub(crate) fn position(&self) -> u64 {
        self.reader.next()
    }

    /// Tells the producer of every slot that is free. Done at every eighth of the
    /// ring, when the ring is found empty and before this end sleeps; needed by hand
    /// only before the caller turns to something long.
    pub(crate) fn publish_released(&mut self) {
        self.reader.publish_released();
    }

    // Frames, without waiting.

    /// The next frame, without waiting; `None` if there is none. The first time that
    /// there is none, the producer is told of all slots that are free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PeerCorrupt`](crate::ErrorKind::PeerCorrupt), from then on for ever,
    /// if what lies in the ring cannot be a frame.
    #[inline]
    pub(crate) fn poll(&mut self) -> Result<Option<Frame<'_>>> {
        if self.find()? { self.take().map(Some) } else { Ok(None) }
    }

    /// Whether a frame can be taken. Goes past padding.
    #[inline]
    pub(crate) fn find(&mut self) -> Result<bool> {
        self.reader.find()
    }

    /// Returns the header of the next frame, without taking it.
    pub(crate) fn peek(&mut self) -> Result<Option<Header>> {
        Ok(self.find()?.then(|| Header::from_words(self.reader.read_header())))
    }

    /// As [`Consumer::find`], but says no if more than one look would be needed.
    #[inline]
    pub(crate) fn has_frame(&self) -> bool {
        self.reader.has_frame()
    }

    /// Whether something lies at the next slot; [`Consumer::poll`] says what.
    #[inline]
    pub(crate) fn has_next(&self) -> bool {
        self.reader.has_next()
    }

    /// Takes the frame that was found.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<Frame<'_>> {
        let header = self.reader.read_header();
        self.reader.take(header)?;
        Ok(Frame::of(&mut self.reader))
    }

    /// The next frame, if it has a header that is wanted. Does not wait.
    #[inline]
    pub(crate) fn take_if(
        &mut self,
        is_wanted: impl FnOnce(Header) -> bool,
    ) -> Result<Option<Frame<'_>>> {
        if !self.find()? {
            return Ok(None);
        }
        // The only copy, for the decision and for what follows from it.
        let header = self.reader.read_header();
        if !is_wanted(Header::from_words(header)) {
            return Ok(None);
        }
        self.reader.take(header)?;
        Ok(Some(Frame::of(&mut self.reader)))
    }

    /// Takes the frames that come next, as long as `is_wanted` says so of their headers and of how
    /// many bytes of slots were taken before, and keeps them together. `lens` gets the lengths of
    /// their payloads. Does not wait. `None` if there is no frame, or the first is not wanted.
    ///
    /// # Errors
    ///
    /// As [`Consumer::poll`], if there was no frame before what cannot be one; otherwise the
    /// next look says so.
    #[inline]
    pub(crate) fn take_run(
        &mut self,
        lens: &mut Vec<u32>,
        is_wanted: impl FnMut(Header, u64) -> bool,
    ) -> Result<Option<LeasedRun>> {
        if !self.find()? {
            return Ok(None);
        }
        let run = self.reader.take_run(lens, is_wanted);
        // At once, and not when the run has been read: the producer has come further by then.
        self.has_caught_up = !self.has_next();
        run
    }

    /// Shows `take` the frames that are there, in order but no more than `max_frames`, without
    /// waiting, and returns how many. Each is released as soon as `take` returns. The payload
    /// lies in memory that the peer can write to.
    ///
    /// # Errors
    ///
    /// As [`Consumer::poll`], if there was no frame before what cannot be one; otherwise the
    /// next call says so.
    #[inline]
    pub(crate) fn drain(
        &mut self,
        max_frames: usize,
        mut take: impl FnMut(Header, PeerBytes<'_>),
    ) -> Result<usize> {
        let mut count = 0;
        while count < max_frames {
            match self.poll() {
                Ok(Some(frame)) => take(frame.header(), frame.payload()),
                Ok(None) => break,
                // It stays corrupt for good.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
            count += 1;
        }
        Ok(count)
    }

    // Waits.

    /// As [`Consumer::poll`], but waits until the deadline; `None` if it passed.
    /// Blocks the thread, spinning first as the wait strategy says.
    pub(crate) fn poll_until(
        &mut self,
        alarm: &Alarm,
        deadline: Deadline,
        stop: impl FnMut() -> Result<()>,
    ) -> Result<Option<Frame<'_>>> {
        if !self.spin_briefly() && !self.wait_until(alarm, deadline, stop)? {
            return Ok(None);
        }
        self.poll()
    }

    /// Waits until [`Consumer::poll`] has something to say, or the deadline has passed. `stop`
    /// ends the wait, but not before frames that were committed before the end.
    pub(crate) fn wait_until(
        &mut self,
        alarm: &Alarm,
        deadline: Deadline,
        mut stop: impl FnMut() -> Result<()>,
    ) -> Result<bool> {
        if self.has_next() {
            return Ok(true);
        }
        self.forget_descriptor();
        // The producer must not wait for slots that are free while this end sleeps.
        self.publish_released();
        let found = self.sleeper.wait_until(alarm, deadline, |step| match step {
            Step::Announce => {
                self.announce();
                Ok(None)
            }
            Step::Look => look_before_end(&mut stop, || Ok(self.has_next().then_some(()))),
        })?;
        Ok(found.is_some())
    }

    /// As [`Consumer::has_next`], but looks for about a microsecond where that can help.
    /// A busy peer answers within that: then no clock is read and no head is published.
    #[inline]
    pub(crate) fn spin_briefly(&self) -> bool {
        self.has_next() || self.sleeper.spin_briefly(|| self.has_next())
    }

    /// Says that this end is about to sleep for the next frame; a SeqCst fence and
    /// another look must follow. The announcement is void once a look goes past the position.
    pub(crate) fn announce(&self) {
        self.sleeper.announce(&self.sleep_at, self.reader.next());
    }

    /// Called before a wait for the next frame: keeps this end's distance from a producer
    /// that sends short frames fast. `is_answer` says that the producer may have waited for this
    /// side.
    #[inline]
    pub(crate) fn pace(&mut self, is_answer: bool) {
        let next = self.reader.next();
        if is_answer {
            self.pacing.begin(next, 0);
        } else if self.reader.last_span() <= PACED
            && (std::mem::take(&mut self.has_caught_up) || !self.has_next())
        {
            let lag = self.pacing.caught_up(next, now_ns);
            if lag != 0 {
                self.sleeper.look_away(lag);
            }
        }
    }

    /// The next frame has to be waited for: a new run begins at it.
    #[inline]
    pub(crate) fn restart_run(&mut self) {
        self.pacing.begin(self.reader.next(), 0);
    }

    // The descriptor in the bell's place: see "Reactors" in `doorbell.rs`.

    /// Makes the descriptor readable exactly if a frame is there, or `is_over` says that
    /// there is other news. With `is_exact` it waits, briefly, so that it is not readable for a
    /// frame that is gone.
    pub(crate) fn rearm(
        &mut self,
        wake_fd: &WakeFd,
        is_over: bool,
        is_exact: bool,
    ) -> Result<Rearmed> {
        // The descriptor is shared with the parent.
        fork::check()?;
        if self.is_armed && self.has_next() {
            // The producer may have committed it and not notified yet, maybe for a while.
            if !self.has_notified_at(self.reader.next()) {
                wake_fd.wake_self();
            }
            return Ok(Rearmed { is_readable: true, has_drained: false });
        }
        self.publish_released();
        if is_exact {
            self.await_notified();
        }
        let drained = wake_fd.drain();
        if drained == Drained::Broken {
            return Err(self.reader.poison(shut_down()));
        }
        self.announce_by_fd();
        fence(Ordering::SeqCst); // A, pairs with B in `SlotWriter::notify_up_to`
        // From here on the producer makes it readable, or this end does so now.
        self.is_armed = true;
        let is_readable = self.has_next() || is_over;
        if is_readable {
            wake_fd.wake_self();
        }
        Ok(Rearmed { is_readable, has_drained: drained == Drained::Something })
    }

    /// As [`Consumer::announce`], to be woken by the descriptor.
    pub(crate) fn announce_by_fd(&self) {
        self.sleeper.announce(&self.sleep_at, self.reader.next() | BY_FD);
    }

    /// This end will be woken by its bell: the descriptor may miss what comes.
    pub(crate) fn forget_descriptor(&mut self) {
        self.is_armed = false;
    }

    /// Whether the next frame will make the descriptor readable, and has not come yet.
    pub(crate) fn is_armed(&self) -> bool {
        let announced = self.sleep_at.load(Ordering::Relaxed);
        self.is_armed && announced == self.reader.next() | BY_FD && !self.has_next()
    }

    /// Takes back that the next frame is to make the descriptor readable.
    pub(crate) fn disarm(&mut self) {
        if std::mem::take(&mut self.is_armed) {
            self.sleep_at.store(NEVER, Ordering::Relaxed);
        }
    }

    /// Whether the producer has checked the sleep word for all frames that were taken: then
    /// no more writes to the descriptor come for them.
    pub(crate) fn has_notified_taken(&self) -> bool {
        // Acquire: pairs with the Release store in `SlotWriter::notify_up_to`.
        let checked = self.peer_checked.load(Ordering::Acquire);
        checked.wrapping_sub(self.reader.next()).cast_signed() >= 0
    }

    /// Whether the producer has checked the sleep word for the frame at this position.
    fn has_notified_at(&self, position: u64) -> bool {
        // Acquire: pairs with the Release store in `SlotWriter::notify_up_to`.
        let checked = self.peer_checked.load(Ordering::Acquire);
        checked.wrapping_sub(position).cast_signed() > 0
    }

    /// Waits until the producer has checked for all frames that were taken. An honest one has
    /// after some nanoseconds, unless the kernel has taken its processor away; it may need this
    /// one. After that, one wake-up may turn out to be for nothing.
    fn await_notified(&self) {
        let patience = Deadline::after(NOTIFY_PATIENCE);
        let mut looks = 0_u32;
        while !self.has_notified_taken() && !patience.has_passed() {
            looks += 1;
            match looks.is_multiple_of(64) {
                true => crate::sync::yield_now(),
                false => crate::sync::spin_loop(),
            }
        }
    }
}

/// The error of a peer that has shut down the sockets by which the two processes wake each
/// other's reactors.
pub(crate) fn shut_down() -> Error {
    Error::corrupt("the peer shut the descriptor for reactors down")
}
