//! The marks: for each request in flight, how far the worker is with it. The worker stores
//! them, the parent and the worker's health thread only read them.
//!
//! A mark is one word, so that a reader never sees the stage of one request with the number of
//! another. It is stored before the worker goes on: a worker that dies has marked all that it
//! had begun.

use super::layout::{MARK_WORDS, as_usize};
use super::region::{OwnRegion, PeerRegion};
use super::words::{Table, load_of_peer};
use crate::error::{Mark, Result, Stage};
use crate::sync::{AtomicU64, Ordering, fence};

/// An entry: the mark, since when it stands, what the handler counts, and the credit that its
/// stream waits for.
type Entry = [AtomicU64; MARK_WORDS];

/// Bits of a mark that hold the stage; the others hold the request.
const STAGE_BITS: u32 = 3;
const STAGE: u64 = (1 << STAGE_BITS) - 1;

/// The mark of no request.
const NONE: u64 = 0;

fn encode(request: u64, stage: Stage) -> u64 {
    request << STAGE_BITS | stage.code()
}

/// The marks in the hands of the worker.
#[derive(Debug)]
pub(crate) struct OwnMarks(Table<MARK_WORDS>);

impl OwnMarks {
    /// A table of so many entries at `offset`.
    pub(crate) fn at(region: &OwnRegion, offset: usize, entries: usize) -> Result<Self> {
        region.table(offset, entries).map(Self)
    }

    /// The worker has taken the request out of the ring at `now`, in nanoseconds of the
    /// monotonic clock.
    pub(crate) fn take(&self, request: u64, now: u64) {
        let [mark, since, progress, _] = self.0.entry(request);
        progress.store(0, Ordering::Relaxed);
        set([mark, since], request, Stage::Taken, now);
    }

    /// The request's handler is about to be called, or its batch to be run.
    #[inline]
    pub(crate) fn begin(&self, request: u64, now: u64) {
        let [mark, since, progress, _] = self.0.entry(request);
        progress.store(0, Ordering::Relaxed);
        begin([mark, since], request, now);
    }

    /// Does the same as [`OwnMarks::begin`] for a request that was taken, whose progress stays.
    pub(crate) fn begin_taken(&self, request: u64, now: u64) {
        let [mark, since, ..] = self.0.entry(request);
        begin([mark, since], request, now);
    }

    /// The request's last frame is about to be published. If the worker ends before that, the
    /// mark still tells that the request was begun.
    #[inline]
    pub(crate) fn answer(&self, request: u64) {
        let [mark, ..] = self.0.entry(request);
        mark.store(encode(request, Stage::Answered), Ordering::Relaxed);
    }

    /// Nothing is done for the request any more. Before its last frame is published, or on the
    /// thread that takes requests: no later request has the entry before this.
    #[inline]
    pub(crate) fn set_done(&self, request: u64) {
        let [mark, ..] = self.0.entry(request);
        mark.store(encode(request, Stage::Done), Ordering::Relaxed);
    }

    /// A request that was taken and never begun is about to have its last frame.
    pub(crate) fn clear(&self, request: u64) {
        let [mark, ..] = self.0.entry(request);
        mark.store(NONE, Ordering::Relaxed);
    }

    /// Does nothing once a later request has the entry.
    pub(crate) fn set_progress(&self, request: u64, progress: u64) {
        let [mark, _, count, _] = self.0.entry(request);
        if mark.load(Ordering::Relaxed) >> STAGE_BITS == request {
            count.store(progress, Ordering::Relaxed);
        }
    }

    /// The credit that the request's stream waits for; zero if it does not wait.
    pub(crate) fn await_credit(&self, request: u64, credit: u64) {
        let [.., awaited] = self.0.entry(request);
        awaited.store(credit, Ordering::Relaxed);
    }

    /// All requests that the worker has taken, with their marks.
    pub(crate) fn all(&self) -> Vec<Mark> {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        self.0.entries().filter_map(|entry| decode(entry.each_ref().map(load))).collect()
    }
}

#[inline]
fn begin(words: [&AtomicU64; 2], request: u64, now: u64) {
    set(words, request, Stage::Begun, now);
    // Before anything that the handler does: if this process ends, the parent must find that the
    // request was begun. Otherwise it would send it to another worker.
    fence(Ordering::Release);
}

#[inline]
fn set([mark, since]: [&AtomicU64; 2], request: u64, stage: Stage, now: u64) {
    since.store(now, Ordering::Relaxed);
    // Release: pairs with the Acquire load in `PeerMarks::read`, for the words before.
    mark.store(encode(request, stage), Ordering::Release);
}

/// The marks as the parent sees them.
#[derive(Debug)]
pub(crate) struct PeerMarks(Table<MARK_WORDS>);

impl PeerMarks {
    /// A table of so many entries at `offset`.
    pub(crate) fn at(region: &PeerRegion, offset: usize, entries: usize) -> Result<Self> {
        region.table(offset, entries).map(Self)
    }

    /// The mark of a request; `None` if the worker has not taken it, or has taken a later one
    /// with the same entry since.
    pub(crate) fn of(&self, request: u64) -> Option<Mark> {
        // The other words belong to this request or to a later one, and then this one's last
        // frame is in the ring.
        Self::read(self.0.entry(request)).filter(|mark| mark.request == request)
    }

    /// The credit that the request's stream waits for; zero if it does not wait.
    pub(crate) fn awaited_credit(&self, request: u64) -> u64 {
        let [.., awaited] = self.0.entry(request);
        load_of_peer(Ordering::Relaxed, |order| awaited.load(order))
    }

    /// All requests that the worker has taken, with their marks.
    pub(crate) fn all(&self) -> Vec<Mark> {
        self.each().collect()
    }

    /// The same, one after another.
    pub(crate) fn each(&self) -> impl Iterator<Item = Mark> {
        self.0.entries().filter_map(Self::read)
    }

    /// The words of the entries that the first so many requests use: marks, progress and credit.
    #[cfg_attr(loom, allow(dead_code, reason = "for the status page"))]
    pub(crate) fn used(&self, requests: u64) -> impl Iterator<Item = [u64; 3]> {
        let load = |word: &AtomicU64| load_of_peer(Ordering::Relaxed, |order| word.load(order));
        let of = move |[mark, _, progress, awaited]: &Entry| [mark, progress, awaited].map(load);
        // Requests are numbered from one.
        self.0.entries().take(as_usize(requests.saturating_add(1))).map(of)
    }

    fn read(entry: &Entry) -> Option<Mark> {
        // Acquire: pairs with the Release store in `OwnMarks::set`.
        let load = |word: &AtomicU64| load_of_peer(Ordering::Acquire, |order| word.load(order));
        decode(entry.each_ref().map(load))
    }
}

/// What an entry says; `None` if no request has used it.
fn decode([mark, since, progress, awaited]: [u64; MARK_WORDS]) -> Option<Mark> {
    let (request, stage) = (mark >> STAGE_BITS, Stage::from_code(mark & STAGE)?);
    Some(Mark { request, stage, since, progress, awaits_credit: awaited != 0 })
}
