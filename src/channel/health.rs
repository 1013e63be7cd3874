//! The parent's end of the health rings, which carry pings, the shutdown and their answers.
//! They are apart from the data rings, so that neither a long handler nor a full ring delays them.
//!
//! A thread keeps the rings until its answer comes. A task keeps them for a look: its question
//! goes into a list, and whatever reads the answer puts it there.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::channel::state::ChannelState;
use crate::channel::timed_mutex::TimedMutex;
use crate::channel::wait_list::WaitRegistration;
use crate::error::{Error, ErrorKind, Result};
use crate::link::Duplex;
use crate::process::service::wake_tasks;
use crate::protocol::Kind;
use crate::protocol::health::{self, Health};
use crate::ring::{Frame, Header};
use crate::sync::{Mutex, Ordering, fence, plain};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// Answers that a task takes out of the ring in one look: more than are ever asked for at once.
const AT_ONCE: usize = 256;

/// The last report that the worker has answered a ping with, and when it came.
pub(crate) type LastPong = Arc<plain::Mutex<Option<(Instant, Health)>>>;

/// The health rings, which one thread or task uses at a time, and the questions of tasks.
#[derive(Debug)]
pub(crate) struct HealthClient {
    rings: TimedMutex<Rings>,
    asked: Mutex<Vec<Asked>>,
    /// Kept only if it is for a crash report.
    last_pong: Option<LastPong>,
}

#[derive(Debug)]
struct Rings {
    duplex: Duplex,
    next: u64,
}

type Answer = (Header, Vec<u8>);

/// A question of a task that was sent.
#[derive(Debug)]
struct Asked {
    request: u64,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl HealthClient {
    pub(crate) fn new(duplex: Duplex) -> Self {
        Self {
            rings: TimedMutex::new(Rings { duplex, next: 1 }),
            asked: Mutex::default(),
            last_pong: None,
        }
    }

    /// Keeps the last report of the worker there.
    pub(crate) fn keep_last_pong(mut self, place: Option<LastPong>) -> Self {
        self.last_pong = place;
        self
    }

    fn note_pong(&self, answer: &Answer) {
        let Some(place) = &self.last_pong else { return };
        let (header, payload) = answer;
        if header.kind == Kind::PONG.code()
            && let Ok(health) = health::decode(payload)
        {
            *place.lock() = Some((Instant::now(), health));
        }
    }

    /// Asks the worker for a report. Blocks for at most `timeout`.
    pub(crate) fn ping(&self, state: &ChannelState, timeout: Duration) -> Result<Health> {
        let deadline = Deadline::after(timeout);
        let (stop, is_over) = (|| state.check_open(), || !state.is_open());
        let question = (Kind::PING, deadline, timeout);
        let (header, payload) = self.ask(state, question, &stop, &is_over)?;
        pong(header, &payload)
    }

    /// Asks the worker to end. Blocks until the worker has answered that it will, until it has
    /// ended, or until the deadline.
    pub(crate) fn shutdown(&self, state: &ChannelState, deadline: Deadline) -> Result<()> {
        // The channel is closing, so that its state does not stop the wait.
        let is_over = || state.exit().is_some_and(|exit| exit.process.status().is_some());
        let stop = || if is_over() { Err(state.why_over_now(None)) } else { Ok(()) };
        let question = (Kind::SHUTDOWN, deadline, Duration::ZERO);
        self.ask(state, question, &stop, &is_over).map(drop)
    }

    /// Has threads that wait for the rings look at the state of the channel, which has changed.
    pub(crate) fn look_again(&self) {
        self.rings.look_again();
    }

    /// Sends a question and waits for its answer. An error of `stop` ends the wait. `is_over` says
    /// the same for the wait for the rings.
    fn ask(
        &self,
        state: &ChannelState,
        (kind, deadline, timeout): (Kind, Deadline, Duration),
        stop: &dyn Fn() -> Result<()>,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Answer> {
        stop()?;
        let Some(mut rings) = self.rings.lock_until(deadline, is_over) else {
            stop()?;
            return Err(no_answer(kind, timeout));
        };
        let of_tasks = |frame: &Frame<'_>| self.keep(frame);
        let answer = rings.with(|rings| rings.ask(state, kind, deadline, stop, &of_tasks));
        drop(rings);
        // The worker was to ring the bell for this thread. Tasks must announce their descriptor
        // again.
        self.wake_askers();
        let answer = answer.transpose()?.flatten();
        answer.iter().for_each(|answer| self.note_pong(answer));
        answer.ok_or_else(|| no_answer(kind, timeout))
    }

    /// Keeps an answer for the task that has asked, and wakes the task. Drops any other answer.
    fn keep(&self, frame: &Frame<'_>) {
        let mut asked = self.asked.lock();
        let request = frame.header().request;
        let Some(found) = asked.iter_mut().find(|asked| asked.request == request) else { return };
        found.answer = Some((frame.header(), frame.payload().to_vec()));
        let waker = found.waker.take();
        drop(asked);
        wake_tasks(waker.into_iter().collect());
    }

    /// Wakes all tasks that wait for an answer.
    fn wake_askers(&self) {
        let wakers: Vec<Waker> =
            self.asked.lock().iter_mut().filter_map(|asked| asked.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A question of a task. If it is dropped, the answer is not kept.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    client: &'a HealthClient,
    registration: WaitRegistration<'a>,
    kind: Kind,
    /// Zero until it is sent.
    request: u64,
}

impl HealthClient {
    /// Makes a question, which [`Question::poll`] sends.
    pub(crate) fn question(&self, kind: Kind) -> Question<'_> {
        Question { client: self, registration: self.rings.register(), kind, request: 0 }
    }
}

impl Question<'_> {
    /// Whether the question has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.request != 0
    }

    /// Sends the question if there is room, and looks for the answer. If the answer is not there,
    /// `waker` is woken when the rings are free or when a thread has read the answer. The worker
    /// makes the channel's descriptor readable, which the caller must wait for.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Result<Option<Answer>> {
        let client = self.client;
        let next = waker.clone();
        if let Some(mut rings) = client.rings.poll_lock(&mut self.registration, waker) {
            let mut old = None;
            let advanced = rings.with(|rings| self.advance(rings, next, &mut old));
            // Before a waker is dropped or woken, which runs the executor's code.
            drop(rings);
            drop(old);
            if advanced.transpose()?.is_some_and(|has_read_all| !has_read_all) {
                waker.wake_by_ref();
            }
        }
        let mut asked = client.asked.lock();
        let index = asked.iter().position(|a| a.request == self.request && a.answer.is_some());
        let taken = index.map(|index| asked.swap_remove(index));
        drop(asked);
        let answer = taken.and_then(|asked| asked.answer);
        answer.iter().for_each(|answer| client.note_pong(answer));
        Ok(answer)
    }

    /// Sends the question if there is room, and reads the answers that are there. Returns whether
    /// all of them were read. Puts the waker of the last look into `old`.
    fn advance(
        &mut self,
        rings: &mut Rings,
        waker: Waker,
        old: &mut Option<Waker>,
    ) -> Result<bool> {
        if !self.is_sent() {
            let Some(request) = rings.try_send(self.kind)? else { return Ok(true) };
            self.request = request;
            self.client.asked.lock().push(Asked { request, answer: None, waker: None });
        }
        // The task looks by itself now, so that an answer need not wake it.
        *old = self.set_waker(None);
        let has_read_all = rings.read_by_fd(|frame| self.client.keep(frame))?;
        self.set_waker(Some(waker));
        Ok(has_read_all)
    }

    /// Replaces the waker of the question. Returns the one before.
    fn set_waker(&self, waker: Option<Waker>) -> Option<Waker> {
        let mut asked = self.client.asked.lock();
        let found = asked.iter_mut().find(|asked| asked.request == self.request)?;
        std::mem::replace(&mut found.waker, waker)
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if fork::is_forked_child() {
            return;
        }
        let mut asked = self.client.asked.lock();
        let index = asked.iter().position(|asked| asked.request == self.request);
        let taken = index.map(|index| asked.swap_remove(index));
        drop(asked);
        drop(taken);
    }
}

impl Rings {
    /// Sends a question and returns its number. If there is no room, returns `None`, and has the
    /// worker make the descriptor readable once there is.
    fn try_send(&mut self, kind: Kind) -> Result<Option<u64>> {
        if !self.duplex.producer.has_room_for(0)? {
            self.duplex.producer.announce_space_by_fd(0);
            fence(Ordering::SeqCst); // A, pairs with B in the worker's consumer
        }
        let request = self.next;
        let Some(claim) = self.duplex.producer.try_claim(0)? else { return Ok(None) };
        claim.commit(Header { kind: kind.code(), request, ..Header::default() });
        self.next += 1;
        Ok(Some(request))
    }

    /// Takes all answers that are there, and has the next one make the descriptor readable.
    /// Returns false if there may be more: then the caller has to look again.
    fn read_by_fd(&mut self, keep: impl Fn(&Frame<'_>)) -> Result<bool> {
        for _ in 0..AT_ONCE {
            if let Some(frame) = self.duplex.consumer.poll()? {
                keep(&frame);
                continue;
            }
            self.duplex.consumer.announce_by_fd();
            fence(Ordering::SeqCst); // A, pairs with B in the worker's producer
            if !self.duplex.consumer.has_next() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Rings {
    /// Sends a question and waits for its answer. Returns `None` after the deadline. Gives
    /// `of_tasks` all other answers.
    fn ask(
        &mut self,
        state: &ChannelState,
        kind: Kind,
        deadline: Deadline,
        stop: &dyn Fn() -> Result<()>,
        of_tasks: &dyn Fn(&Frame<'_>),
    ) -> Result<Option<Answer>> {
        let alarm = &state.alarm;
        let request = self.next;
        self.next += 1;
        let Some(claim) = self.duplex.producer.claim_until(0, alarm, deadline, stop)? else {
            return Ok(None);
        };
        claim.commit(Header { kind: kind.code(), request, ..Header::default() });
        let (mut deadline, mut has_had_grace) = (deadline, false);
        loop {
            let frame = self.duplex.consumer.poll_until(alarm, deadline, stop)?;
            let Some(frame) = frame else {
                // A wait that was held up itself gets more time, as in `wait.rs`.
                match deadline.grace().filter(|_| !has_had_grace) {
                    Some(grace) => (deadline, has_had_grace) = (grace, true),
                    None => return Ok(None),
                }
                continue;
            };
            if frame.header().request == request {
                return Ok(Some((frame.header(), frame.payload().to_vec())));
            }
            // The answer to a task, or to a ping that timed out. The worker may send such answers
            // without end, so that the deadline is checked after each.
            of_tasks(&frame);
            drop(frame);
            stop()?;
            if deadline.has_passed() {
                return Ok(None);
            }
        }
    }
}

/// Decodes the answer to a ping.
pub(crate) fn pong(header: Header, payload: &[u8]) -> Result<Health> {
    if header.kind != Kind::PONG.code() {
        let kind = Kind::from_code(header.kind);
        return Err(Error::new(ErrorKind::Protocol, format!("a ping was answered by {kind}")));
    }
    health::decode(payload)
}

#[cold]
pub(crate) fn no_answer(kind: Kind, timeout: Duration) -> Error {
    let message = format!("no answer to a {kind} within {timeout:?}: the worker is unresponsive");
    Error::new(ErrorKind::Timeout, message)
}
