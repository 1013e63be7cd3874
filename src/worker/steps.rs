//! Continuous batching: each step of a model advances all open requests.

use std::time::Duration;

use crate::error::Result;
use crate::sys::clock::Deadline;
use crate::worker::handler_error::HandlerError;
use crate::worker::inbox::Inbox;
use crate::worker::owned::Incoming;
use crate::worker::unanswered::answered_by;

/// A session that advances all of its open requests by one step at a time, for *continuous
/// batching*: requests join and leave between two steps. [`Worker::steps`](super::Worker::steps)
/// serves it.
///
/// All methods are called on the thread that calls [`Worker::serve`](super::Worker::serve). None of
/// them should block: while one does, no request advances. A [`ChunkMerger`](super::ChunkMerger)
/// sends chunks without blocking; [`OwnedResponder::try_send`](super::OwnedResponder::try_send),
/// [`try_send_chunk`](super::OwnedResponder::try_send_chunk), [`end`](super::OwnedResponder::end)
/// and [`fail`](super::OwnedResponder::fail) do not block either.
///
/// ```
/// # fn main() -> slipring::Result<()> {
/// use std::time::Duration;
/// use slipring::worker::{ChunkMerger, HandlerError, Incoming, StepEngine, Worker};
/// use slipring::{Config, Kind, RoleConfig, testing};
///
/// /// Says each letter of its prompt, one a step.
/// #[derive(Default)]
/// struct Speller {
///     open: Vec<(std::vec::IntoIter<u8>, ChunkMerger)>,
/// }
///
/// impl StepEngine for Speller {
///     fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
///         let prompt = incoming.request.get().text()?;
///         self.open.push((prompt.into_bytes().into_iter(), ChunkMerger::new(incoming.responder, 1000)));
///         Ok(())
///     }
///
///     fn step(&mut self) -> Result<(), HandlerError> {
///         for (letters, chunks) in &mut self.open {
///             let Some(&letter) = letters.as_slice().first() else {
///                 chunks.finish();
///                 continue;
///             };
///             if chunks.push(&[letter]) {
///                 letters.next();
///             }
///         }
///         // Streams that have ended leave, and those whose callers do not wait any longer.
///         self.open.retain(|(_, chunks)| !chunks.is_over());
///         Ok(())
///     }
///
///     fn has_capacity(&self) -> bool {
///         self.open.len() < 8
///     }
///
///     fn has_finished(&self) -> bool {
///         self.open.is_empty()
///     }
/// }
///
/// let make = || Worker::new(|_role| Ok(Speller::default())).steps();
/// let channel = testing::spawn_thread(&Config::default(), RoleConfig::default(), make)?;
/// let timeout = Duration::from_secs(10);
/// let mut first = channel.stream(Kind::CHAT, "one", timeout)?;
/// let mut second = channel.stream(Kind::CHAT, "two", timeout)?;
/// assert_eq!(first.next_chunk()?.unwrap().to_vec(), b"o");
/// assert_eq!(second.next_chunk()?.unwrap().to_vec(), b"t");
/// # Ok(())
/// # }
/// ```
pub trait StepEngine {
    /// Opens a request, which counts as begun. It is called while
    /// [`has_capacity`](Self::has_capacity) returns true, or if nothing is open.
    ///
    /// An error or a panic ends this request alone, with that error, unless the engine has kept
    /// its responder. The requests that were open before are not affected.
    ///
    /// # Errors
    ///
    /// Whatever the caller of the request is to be told.
    fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError>;

    /// Advances all open requests by one step: computes, sends what is new, and drops those that
    /// have ended or are cancelled. A responder that is dropped ends its request, as cancelled if
    /// [`is_cancelled`](super::OwnedResponder::is_cancelled) returns true. `step` is called without
    /// a pause while anything is open.
    ///
    /// # Errors
    ///
    /// An error or a panic is the end of the engine: all open requests end with it, then the
    /// channel with [`ErrorKind::Session`](crate::ErrorKind::Session). What concerns one request
    /// is told to it by [`fail`](super::OwnedResponder::fail), and is no error of the step.
    fn step(&mut self) -> Result<(), HandlerError>;

    /// Returns whether one more request can be opened now. Until then requests wait in shared
    /// memory, in order.
    fn has_capacity(&self) -> bool;

    /// Returns whether no request is open. Then the worker sleeps until one comes. Before the first
    /// step it takes those that follow within 20 microseconds of each other, too.
    fn has_finished(&self) -> bool;
}

/// How long an engine with nothing open waits for the next request of a burst. Callers that send at
/// the same time are some microseconds apart; a request that comes during the first step waits for
/// all of it.
const BURST_GAP: Duration = Duration::from_micros(20);

/// Serves requests until the worker is to end.
pub(super) fn run<E: StepEngine>(engine: &mut E, inbox: &Inbox) -> Result<(), HandlerError> {
    loop {
        inbox.keep_up()?;
        let mut is_idle = engine.has_finished();
        let was_idle = is_idle;
        // An engine without capacity in which nothing is open would never get on.
        while is_idle || engine.has_capacity() {
            let next = match is_idle {
                true => Some(inbox.recv()?),
                false if was_idle => next_of_burst(inbox)?,
                false => inbox.try_recv()?,
            };
            let Some(mut incoming) = next else { break };
            incoming.responder.begin();
            // The request is told of an error, which concerns no other.
            let _ = answered_by(|| engine.add_request(incoming), |error| inbox.note(error));
            is_idle = engine.has_finished();
        }
        answered_by(|| engine.step(), |error| inbox.note(error))?;
    }
}

/// Takes the next request if it comes within [`BURST_GAP`]. Does not sleep, which would take longer.
fn next_of_burst(inbox: &Inbox) -> Result<Option<Incoming>> {
    let end = Deadline::after(BURST_GAP);
    loop {
        let next = inbox.try_recv()?;
        if next.is_some() || end.has_passed() {
            return Ok(next);
        }
    }
}
