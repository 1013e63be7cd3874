//! Waiting for what comes back, and reading it for all who wait.

use std::time::Duration;

use crate::channel::ahead::Ahead;
use crate::channel::engine::{Engine, Item};
use crate::channel::life::{Phase, check_not_forked};
use crate::error::{Error, Result};
use crate::ring::Consumer;
use crate::ring::doorbell::Step;
use crate::ring::position::span;
use crate::shm::layout::as_usize;
use crate::sync::mutant::{Mutant, chosen};
use crate::sync::{Ordering, fence};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// Frames between two looks at the clock and at the channel's state: a worker may send
/// without end what nobody waits for.
const BURST: usize = 1024;
/// How long the ring of a worker that has died is searched for its reason.
const LAST_WORDS: Duration = Duration::from_millis(10);

/// What a thread waits for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    /// The reply of a request.
    Reply(u64),
    /// The next chunk of a request.
    Chunk(u64),
    /// Room for a payload of so many bytes.
    Room(usize),
}

impl Want {
    /// The request, if one is wanted; ids are never zero.
    fn request(self) -> u64 {
        match self {
            Self::Reply(request) | Self::Chunk(request) => request,
            Self::Room(_) => 0,
        }
    }
}

/// How long a thread waits. What is there already takes no look at the clock.
#[derive(Debug, Clone, Copy)]
enum Patience {
    For(Duration),
    Until(Deadline),
}

impl Patience {
    /// Its end, which begins to come nearer when this is asked for the first time.
    fn deadline(&mut self) -> Deadline {
        let deadline = match *self {
            Self::For(timeout) => Deadline::after(timeout),
            Self::Until(deadline) => deadline,
        };
        *self = Self::Until(deadline);
        deadline
    }
}

/// A thread's wait.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    pub(super) want: Want,
    patience: Patience,
    /// The worker was asleep and has just been woken.
    has_rung: bool,
    /// Of the stream whose chunk is wanted.
    ahead: Option<&'a mut Ahead>,
    /// It was about to sleep before its deadline.
    has_slept: bool,
    /// It has had the time that a wait gets which was held up itself.
    has_had_grace: bool,
}

impl<'a> Wait<'a> {
    fn new(want: Want, patience: Patience, has_rung: bool, ahead: Option<&'a mut Ahead>) -> Self {
        Self { want, patience, has_rung, ahead, has_slept: false, has_had_grace: false }
    }

    fn until(want: Want, deadline: Deadline, has_rung: bool) -> Self {
        Self::new(want, Patience::Until(deadline), has_rung, None)
    }
}

/// What ends a wait.
enum Found {
    Item(Item),
    /// Something was taken ahead.
    Ahead,
    Room,
    /// Nothing yet, but tasks are to be woken, for which the lock must be given back.
    News,
    /// The channel cannot be used any more.
    Over,
}

impl Engine {
    /// What a call waits for; `None` when the deadline passed first. Blocks. A last frame
    /// that is returned ends the request: there is nothing left to let go of.
    pub(crate) fn reply(
        &self,
        request: u64,
        deadline: Deadline,
        has_rung: bool,
    ) -> Result<Option<Item>> {
        check_not_forked()?;
        self.drive(&mut Wait::until(Want::Reply(request), deadline, has_rung)).map(item)
    }

    /// The next item of a stream, which has nothing ahead; `None` when the timeout passed
    /// first, or when something was taken ahead. Blocks. Before it waits it counts what was
    /// consumed and has not been counted.
    pub(crate) fn next_chunk(
        &self,
        request: u64,
        timeout: Duration,
        ahead: &mut Ahead,
    ) -> Result<Option<Item>> {
        check_not_forked()?;
        let (want, patience) = (Want::Chunk(request), Patience::For(timeout));
        self.drive(&mut Wait::new(want, patience, false, Some(ahead))).map(item)
    }

    /// Waits until there is room for a payload of `len` bytes, and reads meanwhile: a
    /// worker whose replies nobody reads never makes any. False if the deadline passed.
    pub(super) fn await_room(&self, len: usize, deadline: Deadline) -> Result<bool> {
        Ok(self.drive(&mut Wait::until(Want::Room(len), deadline, true))?.is_some())
    }

    fn drive(&self, wait: &mut Wait<'_>) -> Result<Option<Found>> {
        let mut has_followed = false;
        let found = loop {
            if let Some(mut reader) = self.reader.try_lock() {
                let found = self.read(&mut reader, wait);
                drop(reader);
                self.hand_over();
                self.wake_list.wake_all();
                // Also if another thread has woken those tasks meanwhile.
                if let Ok(Some(Found::News)) = found {
                    continue;
                }
                break found;
            }
            match self.look(wait) {
                Ok(None) => {}
                found => break found,
            }
            has_followed = true;
            self.settle_credit(wait);
            let deadline = wait.patience.deadline();
            wait.has_slept |= !deadline.has_passed();
            if !self.follow(wait.want, deadline) {
                break self.look(wait);
            }
        };
        if has_followed && !chosen(Mutant::NoHandOn) && self.reader.try_lock().is_some() {
            // This thread may have been the one that was woken to read.
            self.hand_over();
        }
        match found {
            Ok(Some(Found::Over)) => Err(self.why_over(wait.want, wait.patience.deadline())),
            Ok(None) => self.after_the_deadline(wait),
            Ok(found) => Ok(found),
            // What the worker wrote cannot be, or says that there is no session.
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The deadline has passed. If it did so long ago then this process was stopped, or the
    /// whole machine was, and the worker with it: an answer that was as good as there would
    /// come just too late. Waits once more, for a moment.
    #[cold]
    fn after_the_deadline(&self, wait: &mut Wait<'_>) -> Result<Option<Found>> {
        let had = std::mem::replace(&mut wait.has_had_grace, true);
        let grace = wait.patience.deadline().grace();
        match grace.filter(|_| wait.has_slept && !had) {
            Some(grace) => {
                wait.patience = Patience::Until(grace);
                self.drive(wait)
            }
            None => Ok(None),
        }
    }

    #[cold]
    fn why_over(&self, want: Want, deadline: Deadline) -> Error {
        self.life.why_over(Some(want.request()).filter(|request| *request != 0), deadline)
    }

    /// Whether what is wanted is there already.
    fn look(&self, wait: &mut Wait<'_>) -> Result<Option<Found>> {
        match wait.want {
            Want::Reply(request) => {
                let mut table = self.table.lock();
                let item = table.take(request);
                if item.is_some() && !table.is_running(request) {
                    table.let_go(request);
                }
                Ok(item.map(Found::Item))
            }
            Want::Chunk(request) => Ok(self.take_pushed(request, wait.ahead.as_deref_mut())),
            Want::Room(len) => Ok(self.producer.lock().has_room_for(len)?.then_some(Found::Room)),
        }
    }

    /// Takes all that others have read for a stream.
    fn take_pushed(&self, request: u64, ahead: Option<&mut Ahead>) -> Option<Found> {
        let ahead = ahead?;
        self.table.lock().take_all(request, &mut ahead.items);
        (!ahead.items.is_empty()).then_some(Found::Ahead)
    }

    /// Reads the ring until what is wanted is there, the deadline passes or the channel
    /// is over.
    fn read(&self, reader: &mut Consumer, wait: &mut Wait<'_>) -> Result<Option<Found>> {
        // What came between the caller's look and its lock. A thread that has the channel
        // to itself finds all it wants in the ring.
        if self.pushes.load(Ordering::Relaxed) != 0
            && !chosen(Mutant::NoLookAsReader)
            && let Some(found) = self.look(wait)?
        {
            return Ok(Some(found));
        }
        let has_rung = wait.has_rung;
        if matches!(wait.want, Want::Chunk(_)) {
            reader.fall_behind(false, has_rung);
        }
        reader.glance(has_rung);
        if let Some(found) = self.poll(reader, wait)? {
            return Ok(Some(found));
        }
        reader.end_run();
        let deadline = wait.patience.deadline();
        self.settle_credit(wait);
        reader.forget_descriptor();
        let mut announced = None;
        let found = self.sleeper.wait_until(&self.life.alarm, deadline, has_rung, |step| {
            if step == Step::Announce {
                announced = Some(self.announce(reader, wait.want));
                return Ok(None);
            }
            loop {
                if let Some(found) = self.poll(reader, wait)? {
                    return Ok(Some(found));
                }
                // A look can take frames of others, and others can take room: then what
                // was announced has passed already, and the worker would not ring.
                let Some(before) = announced else { return Ok(None) };
                let now = self.announce(reader, wait.want);
                if now == before {
                    return Ok(None);
                }
                announced = Some(now);
                fence(Ordering::SeqCst); // A, as in `Sleeper::wait_until`
            }
        });
        wait.has_slept |= announced.is_some();
        found
    }

    /// Says what this thread is about to sleep for, and returns it.
    fn announce(&self, reader: &mut Consumer, want: Want) -> (u64, Option<u64>) {
        reader.publish();
        (reader.announce(), self.announce_room(want))
    }

    /// Takes all frames that are there, until one is what is wanted, or the deadline has
    /// passed: then the caller must not sleep.
    fn poll(&self, reader: &mut Consumer, wait: &mut Wait<'_>) -> Result<Option<Found>> {
        let own = wait.want.request();
        let mut after_death = self.most_frames();
        let phase = loop {
            // Read before the last look at the ring: frames that were committed before the
            // end are delivered.
            let mut phase = self.life.phase();
            if phase == Phase::Dead && chosen(Mutant::DeadBeforeLook) {
                return Ok(Some(Found::Over));
            }
            if matches!(phase, Phase::Closing | Phase::Closed | Phase::Failed) {
                return Ok(Some(Found::Over));
            }
            let mut burst = BURST;
            while burst > 0 && reader.find()? {
                if let Some(ahead) = wait.ahead.as_deref_mut()
                    && self.take_run(reader, own, ahead)?
                {
                    return Ok(Some(Found::Ahead));
                }
                if let Some(item) = self.dispatch(reader.take()?, own)? {
                    return Ok(Some(Found::Item(item)));
                }
                burst -= 1;
            }
            if chosen(Mutant::PhaseReadLate) {
                phase = self.life.phase();
            }
            if burst > 0 {
                break phase;
            }
            if phase == Phase::Dead {
                // More than were in the ring: it only said that it is dead.
                match after_death.checked_sub(BURST) {
                    Some(left) => after_death = left,
                    None => return Ok(Some(Found::Over)),
                }
            }
            if wait.patience.deadline().has_passed() {
                return Ok(None);
            }
        };
        if let Want::Room(len) = wait.want
            && self.producer.lock().has_room_for(len)?
        {
            return Ok(Some(Found::Room));
        }
        if self.room_wanted.load(Ordering::Relaxed) != 0 && !chosen(Mutant::RoomNotGiven) {
            self.wake_who_has_room()?;
        }
        if phase == Phase::Dead {
            return Ok(Some(Found::Over));
        }
        Ok(self.wake_list.has_tasks().then_some(Found::News))
    }

    /// Reads what is there, unless somebody else does.
    #[cold]
    pub(super) fn read_for_nobody(&self) -> Result<()> {
        let Some(mut reading) = self.try_read() else { return Ok(()) };
        let read = self.read_all(&mut reading.consumer);
        drop(reading);
        self.hand_over();
        read.map(drop).map_err(|error| self.fail(error))
    }

    /// Takes all frames that are there, but no more than fit the ring at a time, for
    /// those who wait elsewhere. Returns how many, and whether there may be more.
    pub(super) fn read_all(&self, reader: &mut Consumer) -> Result<(usize, bool)> {
        let most = self.most_frames();
        let mut count = 0;
        while count < most {
            let Some(frame) = reader.poll()? else { return Ok((count, false)) };
            self.dispatch(frame, 0)?;
            count += 1;
        }
        Ok((count, true))
    }

    /// Frames that the ring can hold.
    fn most_frames(&self) -> usize {
        self.config.up.capacity / as_usize(span(0))
    }

    /// An error unless requests can be sent. A worker that has just died may have left a
    /// frame that says why.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.life.check_open() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.last_words(error)),
        }
    }

    #[cold]
    fn last_words(&self, error: Error) -> Error {
        if error.is_peer_dead()
            && let Some(mut reading) = self.try_read()
        {
            let deadline = Deadline::after(LAST_WORDS);
            let mut wait = Wait::until(Want::Room(0), deadline, true);
            let looked = self.poll(&mut reading.consumer, &mut wait);
            drop(reading);
            self.hand_over();
            if let Err(reason) = looked {
                return self.fail(reason);
            }
        }
        error
    }

    /// Before a stream waits for more, the worker must know all that was consumed.
    fn settle_credit(&self, wait: &mut Wait<'_>) {
        if let Some(ahead) = &mut wait.ahead {
            self.consumed(wait.want.request(), std::mem::take(&mut ahead.consumed), true);
        }
    }

    fn announce_room(&self, want: Want) -> Option<u64> {
        let wanted = match want {
            Want::Room(len) => Some(len),
            _ if chosen(Mutant::RoomNotAnnounced) => None,
            Want::Reply(_) | Want::Chunk(_) => self.room.lock().first_len(),
        };
        wanted.map(|len| self.producer.lock().announce_space(len))
    }

    #[cold]
    pub(super) fn wake_who_has_room(&self) -> Result<bool> {
        let mut woken = Vec::new();
        let mut room = self.room.lock();
        while let Some(len) = room.first_len() {
            if !self.producer.lock().has_room_for(len)? {
                break;
            }
            woken.extend(room.waiting.pop_front());
        }
        drop(room);
        let has_woken = !woken.is_empty();
        woken.into_iter().for_each(|wanting| self.wake_list.add(wanting.waiter));
        Ok(has_woken)
    }

    /// As `announce_room`, for a reader that is woken by its descriptor. Returns whether
    /// room is wanted.
    pub(super) fn announce_room_by_fd(&self) -> bool {
        let wanted = self.room.lock().first_len();
        if let Some(len) = wanted {
            self.producer.lock().announce_space_by_fd(len);
        }
        wanted.is_some()
    }

    /// Tells the worker how much of a stream was consumed.
    pub(crate) fn consumed(&self, request: u64, bytes: usize, is_about_to_wait: bool) {
        if fork::is_forked_child() {
            return;
        }
        let mut table = self.table.lock();
        let Some(credit) = table.consume(request, bytes, is_about_to_wait) else { return };
        let slot = table.slot_of(request);
        // Under the lock: two threads may count for one stream, its owner and who reads a
        // message in pieces for it, and a smaller sum must not replace a larger one.
        let table = Some(table).filter(|_| !chosen(Mutant::CreditLate));
        self.words.requests.set_credit(slot, credit);
        drop(table);
        fence(Ordering::SeqCst); // B, pairs with A in the worker's wait for credit
        let waits = self.words.credit_request.load(Ordering::Relaxed) == request;
        if waits && self.words.credit_need.load(Ordering::Relaxed) <= credit {
            self.words.data_bell.ring();
        }
    }
}

fn item(found: Option<Found>) -> Option<Item> {
    match found {
        Some(Found::Item(item)) => Some(item),
        _ => None,
    }
}
