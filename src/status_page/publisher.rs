//! The thread that brings the page up to date, and what it asks.
//!
//! It must not disturb the host, whatever the host is:
//!
//! * It waits for no lock that requests take, and holds one only while it copies some words. What it finds
//!   locked it leaves as it is until the next round. A host's thread that no other may interrupt would
//!   otherwise wait for one that gets no processor.
//! * It makes no system calls but those by which it sleeps and ends. A host that forbids itself all others,
//!   as in a sandbox, goes on. What else the page needs is done by the thread that adds something to it.
//! * It does not allocate, so that the C library gives it no heap of its own.
//! * It drops nothing of the host's, whose code might wait for this very thread, or for Python's lock.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use super::layout::BLOCKS;
use super::writer::{Beat, Block, Writer};
use crate::error::{Error, Result};
use crate::process::proc_stat::ProcStat;
use crate::process::service::{begin_small_thread, run_detached, start_small_thread};
use crate::shm::layout::as_u64;
use crate::sync::plain::{Mutex, MutexGuard};
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::variables::{STATUS_PAGE, value};
use crate::sys::{activity, fork};

/// How long the thread sleeps between two rounds while something changes. While nothing does, each
/// sleep is twice as long as the one before.
const PERIOD: Duration = Duration::from_secs(1);
/// The longest sleep while something goes on that may change without the host: the progress of a
/// request, or a reply that the host holds.
const LONGEST_UNSETTLED: Duration = Duration::from_secs(4);
/// The longest sleep. Whatever happens ends it.
const LONGEST: Duration = Duration::from_secs(64);

/// What a row can be made of. Its functions are called by a thread of the library's, and keep to what the
/// head of this file says: they return `None` if a lock is held that they need.
pub(crate) trait Source: Send + Sync {
    /// Returns a checksum that changes whenever the row does, but for the time that passes. Cheap: it is
    /// asked for in each round. `is_settled` says that of the last row.
    fn look(&self, is_settled: bool) -> Option<u64>;

    /// Describes itself at `now`, in nanoseconds of the monotonic clock.
    fn describe(&self, block: &mut Block, now: u64) -> Option<()>;

    /// Drops this owner of it, as [`release`] does.
    fn release(self: Arc<Self>);
}

/// What is shared with the thread. Its lock is held for moments, and never while a source is asked.
#[derive(Default)]
struct Inbox {
    /// What is described, each in the block of the same number.
    listed: Vec<Listed>,
    last_id: u64,
    /// `None` while there is nothing to describe, or if there cannot be a page.
    page: Option<Writer>,
    /// Whether the thread runs.
    is_running: bool,
}

/// What is described, or was.
struct Listed {
    id: u64,
    /// `None` for a place that is free.
    source: Option<Weak<dyn Source>>,
    /// What it looked like when its block was written.
    looked: Option<u64>,
    /// Whether nothing of it changes then before the host does something with it.
    is_settled: bool,
    /// Whether its block is in use.
    is_shown: bool,
}

static INBOX: LazyLock<Mutex<Inbox>> = LazyLock::new(Default::default);

/// Whether the process has a page once there is something to describe. A plain word, so that it can be set
/// and read in a child that was forked meanwhile.
static WISH: AtomicU8 = AtomicU8::new(NOT_SAID);
/// The variable has not been looked at, and no function was called.
const NOT_SAID: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

fn is_on() -> bool {
    if WISH.load(Ordering::Relaxed) == NOT_SAID {
        let is_on = value(STATUS_PAGE).is_none_or(|value| value != "0");
        let said = if is_on { ON } else { OFF };
        let _ = WISH.compare_exchange(NOT_SAID, said, Ordering::Relaxed, Ordering::Relaxed);
    }
    WISH.load(Ordering::Relaxed) == ON
}

/// Has the page describe this, until [`remove`] is called for it. Makes the page, unless there is one or the
/// process wants none. Failures are not told: nothing depends on the page.
pub(crate) fn add(source: Weak<dyn Source>) {
    // Pairs with the fence in `turn_off`, which may find that the library was not used before this.
    fence(Ordering::SeqCst);
    if fork::is_forked_child() || !is_on() {
        return;
    }
    let mut inbox = INBOX.lock();
    // Again: `turn_off` may be done meanwhile.
    if !is_on() {
        return;
    }
    inbox.add(source);
    // What fails is tried again with the next one.
    let started = inbox.start();
    drop(inbox);
    if started.is_ok() {
        activity::note();
    }
}

/// Has the page forget a source, which is about to be dropped.
pub(crate) fn remove<S: Source>(source: &S) {
    // In a forked child nothing is described, and a thread may hold the lock for ever.
    if fork::is_forked_child() {
        return;
    }
    INBOX.lock().remove(ptr::from_ref(source).cast());
    activity::note();
}

/// Drops an owner of a source. If that is the last, another thread drops what is owned: code of the host's may
/// be in it.
pub(crate) fn release<S: Send + 'static>(source: Arc<S>) {
    // It is listed by its place, which it leaves now.
    let place = Arc::as_ptr(&source).cast();
    if let Some(last) = Arc::into_inner(source) {
        INBOX.lock().remove(place);
        run_detached("slipring-drop", move || drop(last));
    }
}

/// Gives the process a page, with what is made from now on.
pub(super) fn turn_on() {
    WISH.store(ON, Ordering::Relaxed);
}

/// Removes the page, and has no other one made.
pub(super) fn turn_off() {
    WISH.store(OFF, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    // Also where the library was not used yet: there is no page then.
    if fork::is_forked_child() {
        return;
    }
    let mut inbox = INBOX.lock();
    inbox.listed.clear();
    let page = inbox.page.take();
    drop(inbox);
    if page.is_some() {
        // The thread ends when it finds that. It need not be waited for.
        activity::hurry();
    }
}

impl Inbox {
    fn add(&mut self, source: Weak<dyn Source>) {
        self.last_id += 1;
        let (id, source) = (self.last_id, Some(source));
        let is_free = |listed: &&mut Listed| listed.source.is_none();
        match self.listed.iter_mut().find(is_free) {
            Some(free) => {
                (free.id, free.source, free.looked, free.is_settled) = (id, source, None, false);
            }
            None => {
                let (looked, is_settled, is_shown) = (None, false, false);
                self.listed.push(Listed { id, source, looked, is_settled, is_shown });
            }
        }
    }

    fn remove(&mut self, source: *const ()) {
        let is_it = |listed: &Listed| {
            listed.source.as_ref().is_some_and(|it| ptr::addr_eq(it.as_ptr(), source))
        };
        while let Some(at) = self.listed.iter().position(is_it) {
            // One that found no block gets that of this one.
            let last = match self.listed.len() > BLOCKS {
                true => Some(self.listed.swap_remove(at.max(BLOCKS))),
                false => None,
            };
            if let Some(free) = self.listed.get_mut(at).filter(|_| at < BLOCKS) {
                let (id, source) = last.map_or((0, None), |last| (last.id, last.source));
                (free.id, free.source, free.looked, free.is_settled) = (id, source, None, false);
            }
        }
    }

    /// Makes room for all that is listed, and the page and its thread if they are not there.
    fn start(&mut self) -> Result<()> {
        let count = self.listed.len();
        if self.page.is_none() {
            let unknown = |e| Error::os("cannot see when this process began", e);
            let began = ProcStat::of("self").map_err(unknown)?.map_or(0, |stat| stat.start_time);
            self.page = Some(Writer::create(began)?);
            for listed in &mut self.listed {
                (listed.looked, listed.is_shown) = (None, false);
            }
        }
        if let Some(page) = &mut self.page {
            page.make_room(count);
        }
        if !self.is_running {
            let started = start_small_thread(run).map_err(|e| {
                self.page = None;
                Error::os("cannot start the thread of the status page", e)
            });
            self.is_running = started.is_ok();
            return started;
        }
        Ok(())
    }
}

/// What the thread does: rounds, as long as there is something to describe.
fn run() {
    begin_small_thread(c"slipring-status");
    let mut period = PERIOD;
    loop {
        activity::before_look();
        let began = now_ns();
        let Some(found) = write_rows(began) else { return };
        let longest = if found.is_settled { LONGEST } else { LONGEST_UNSETTLED };
        period = match found.has_changed {
            true => PERIOD,
            false => longest.min(period.saturating_mul(2)),
        };
        if !write_header(period) {
            return;
        }
        activity::sleep(Deadline::from(began, PERIOD), Deadline::from(began, period));
    }
}

/// What a round has found.
struct Round {
    has_changed: bool,
    /// Whether nothing can change without the host.
    is_settled: bool,
}

/// Writes the rows of what has changed, and frees the blocks of what is gone. `None` if the thread is to end.
fn write_rows(now: u64) -> Option<Round> {
    let mut round = Round { has_changed: false, is_settled: true };
    for block in 0.. {
        let inbox = INBOX.lock();
        let Some(page) = inbox.page.as_ref() else { return end(inbox) };
        let Some(listed) = inbox.listed.get(block).filter(|_| block < page.blocks()) else { break };
        let (id, looked, was_settled) = (listed.id, listed.looked, listed.is_settled);
        let source = listed.source.as_ref().and_then(Weak::upgrade);
        drop(inbox);
        let mut row = Block::new(id);
        let found = source.map_or(Looked::Gone, |source| {
            let look = || look(&*source, looked, was_settled, now, &mut row);
            // A panic would end the process.
            let found = catch_unwind(AssertUnwindSafe(look)).unwrap_or(Looked::Busy);
            source.release();
            found
        });
        let mut inbox = INBOX.lock();
        let Inbox { page: Some(page), listed, .. } = &mut *inbox else { return end(inbox) };
        // Another one may have got its place.
        let Some(listed) = listed.get_mut(block).filter(|listed| listed.id == id) else {
            round.has_changed = true;
            continue;
        };
        match found {
            Looked::Same => {}
            // It is looked at again soon.
            Looked::Busy => round.has_changed = true,
            Looked::Gone => {
                if std::mem::take(&mut listed.is_shown) {
                    page.free(block);
                    round.has_changed = true;
                }
                continue;
            }
            Looked::New(looked) => {
                round.has_changed |= page.write_row(block, &row);
                (listed.looked, listed.is_settled) = (Some(looked), row.is_settled());
                listed.is_shown = true;
            }
        }
        round.is_settled &= listed.is_settled;
    }
    let inbox = INBOX.lock();
    match inbox.listed.iter().any(|listed| listed.source.is_some()) {
        true => Some(round),
        false => end(inbox),
    }
}

/// There is no page any more, and no thread. The next channel or role makes others.
fn end(mut inbox: MutexGuard<'_, Inbox>) -> Option<Round> {
    // Nothing of it was allocated by the C library.
    inbox.page = None;
    inbox.is_running = false;
    None
}

enum Looked {
    /// Its block says what there is to say.
    Same,
    Gone,
    /// A lock that is needed was held.
    Busy,
    /// It is another one, and looked like this before that was found.
    New(u64),
}

fn look(
    source: &dyn Source,
    before: Option<u64>,
    was_settled: bool,
    now: u64,
    row: &mut Block,
) -> Looked {
    let Some(looked) = source.look(was_settled) else { return Looked::Busy };
    if before == Some(looked) {
        return Looked::Same;
    }
    // Before the row: what changes meanwhile makes the next look another one.
    let both = [true, false].map(|is_settled| source.look(is_settled));
    let [Some(settled), Some(unsettled)] = both else { return Looked::Busy };
    match source.describe(row, now) {
        None => Looked::Busy,
        Some(()) => Looked::New(if row.is_settled() { settled } else { unsettled }),
    }
}

/// Writes the heartbeat, and when the next one will be. Returns false if the thread is to end.
fn write_header(period: Duration) -> bool {
    let mut inbox = INBOX.lock();
    let Inbox { page: Some(page), listed, .. } = &mut *inbox else { return end(inbox).is_some() };
    let blocks = page.blocks().min(listed.len());
    let omitted = listed.iter().skip(blocks).filter(|listed| listed.source.is_some()).count();
    page.write_header(Beat {
        heartbeat: now_ns(),
        period: u64::try_from(period.as_nanos()).unwrap_or(u64::MAX),
        omitted: as_u64(omitted),
        blocks,
    });
    true
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
