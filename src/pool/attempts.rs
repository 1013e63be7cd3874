//! The attempts of one request, made by a thread or by a task.

#[cfg(feature = "async")]
mod elsewhere;
mod failed;
mod place;

use std::sync::Arc;

use super::cancels::Cancel;
use super::metrics::Outcome;
use super::role::RoleRef;
use super::scheduler::{Asked, Elsewhere, History, Priority};
use super::stream_cancel::StreamCancel;
use super::worker::Worker;
use crate::error::{EarlierAttempts, Error, ErrorKind, Result};
use crate::id::RequestId;
use crate::protocol::Kind;
use crate::sys::clock::now_ns;
use crate::sys::fork;
use crate::trace_context::TraceContext;

pub(super) use place::Destination;

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Attempts<R: RoleRef> {
    role: R,
    kind: Kind,
    asked: Asked,
    history: History,
    /// Whether the attempt before may have been begun; `None` before the second one.
    resent: Option<bool>,
    standing: Standing,
    /// What became of it before.
    past: Option<Box<Past>>,
    /// For a stream, which is cancelled by its number.
    cancel: Option<Arc<StreamCancel>>,
    /// Only the role's own workers can have it.
    must_stay: bool,
    #[cfg(feature = "async")]
    trace: Option<TraceContext>,
    /// What the metrics count it as: cancelled if its caller goes away before its end.
    outcome: Outcome,
}

/// What its role waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Settled,
    /// It is to be sent again, and has not asked for a worker yet.
    Returns,
    /// Workers that are not the role's own have it, or it has not asked for one here since. `is_refused`:
    /// they do not take requests as they are.
    #[cfg(feature = "async")]
    Away {
        is_refused: bool,
    },
}

/// What became of a request before.
#[derive(Debug, Default)]
struct Past {
    /// How it was sent.
    earlier: EarlierAttempts,
    /// Since when it waited here, before it left.
    #[cfg(feature = "async")]
    waited_since: Option<u64>,
    /// How often it had come from one host to another.
    #[cfg(feature = "async")]
    hops: u32,
}

impl<R: RoleRef> Attempts<R> {
    #[inline]
    pub(super) fn begin(
        role: R,
        kind: Kind,
        priority: Priority,
        key: Option<u64>,
        is_idempotent: bool,
    ) -> Self {
        let number = role.next_number();
        let elsewhere = Elsewhere::Never;
        let asked = Asked { number, priority, key, elsewhere, is_open_ended: false };
        let history = History { is_idempotent, ..History::default() };
        let outcome = Outcome::Failed(ErrorKind::Cancelled);
        Self {
            role,
            kind,
            asked,
            history,
            resent: None,
            standing: Standing::Settled,
            past: None,
            cancel: None,
            must_stay: false,
            #[cfg(feature = "async")]
            trace: None,
            outcome,
        }
    }

    /// Says that its caller decides how long it takes.
    #[cfg(feature = "async")]
    #[inline]
    pub(super) fn open_ended(mut self) -> Self {
        self.asked.is_open_ended = true;
        self
    }

    /// Says which trace it is part of.
    #[cfg(feature = "async")]
    #[inline]
    pub(super) fn traced(mut self, trace: Option<&TraceContext>) -> Self {
        self.trace = trace.cloned();
        self
    }

    /// The trace that it is part of.
    #[cfg(feature = "async")]
    #[inline]
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    #[cfg(not(feature = "async"))]
    #[inline]
    #[expect(clippy::unused_self, reason = "there is one with `async`")]
    pub(super) fn trace(&self) -> Option<&TraceContext> {
        None
    }

    /// The role, for a part of it that does not keep it.
    #[cfg(feature = "async")]
    pub(super) fn role(&self) -> std::sync::Weak<super::role::RoleShared> {
        self.role.this()
    }

    /// The request's number, the same over all its attempts.
    pub(super) fn number(&self) -> u64 {
        self.asked.number
    }

    /// Whether the worker of the attempt before had begun the request, or may have.
    pub(super) fn was_begun(&self) -> bool {
        self.resent == Some(true)
    }

    /// Lets [`RoleHandle::cancel`](super::RoleHandle::cancel) and the stream itself cancel it.
    pub(super) fn cancellable(mut self) -> Self {
        let cancel = StreamCancel::new(&self.role);
        let weak = Arc::downgrade(&cancel);
        self.role.cancels.insert(self.number(), weak);
        self.cancel = Some(cancel);
        self
    }

    /// Cancels it: no attempt follows, and the one that runs is asked to end.
    pub(super) fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            Arc::clone(cancel).cancel();
        }
    }

    /// A worker has the request, which can be cancelled there. Returns false if that was done
    /// before.
    pub(super) fn note_sent(&self, worker: &Arc<Worker>, id: RequestId) -> bool {
        self.cancel.as_ref().is_none_or(|cancel| cancel.note_sent(worker, id))
    }

    /// Its worker is done with it.
    pub(super) fn note_ended(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.note_over();
        }
    }

    /// Has it go to the role's own workers only.
    pub(super) fn stay(mut self) -> Self {
        self.must_stay = true;
        self
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled())
    }

    /// The error of a request that was cancelled, after the death of its worker if that has died.
    #[cold]
    fn cancelled(&mut self, death: Option<Error>) -> Error {
        let (role, number) = (&self.role.name, self.number());
        let message = format!("role {role}: request {number} was cancelled, and is not sent again");
        let error = match death {
            Some(death) => {
                let was_begun = death.was_begun();
                let error = Error::with_source(ErrorKind::Cancelled, message, death);
                match was_begun {
                    Some(was_begun) => error.with_begun(was_begun),
                    None => error,
                }
            }
            None => Error::new(ErrorKind::Cancelled, message),
        };
        self.of_all(error)
    }

    /// What an error says of all attempts, not of the last alone.
    fn of_all(&mut self, error: Error) -> Error {
        let was_begun = self.history.begun > 0;
        self.failed_with(if was_begun { error.with_begun(true) } else { error })
    }

    /// The request is over with this result.
    #[inline]
    pub(super) fn over<T>(&mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.outcome = Outcome::Answered,
            Err(error) => self.outcome = Outcome::Failed(error.kind()),
        }
        result
    }

    /// The request is over with this error, which tells of its earlier attempts, too.
    #[cold]
    fn failed_with(&mut self, error: Error) -> Error {
        let error = match self.past.take() {
            Some(past) if past.earlier.count > 0 => error.with_earlier_attempts(past.earlier),
            _ => error,
        };
        self.outcome = Outcome::Failed(error.kind());
        error
    }

    /// Takes out what its role keeps of it. Not called in a forked child, where the locks may be held
    /// for ever.
    #[cold]
    fn leave(&mut self) {
        match self.standing {
            Standing::Settled => {}
            Standing::Returns => self.role.change(|scheduler| scheduler.give_up(now_ns())),
            #[cfg(feature = "async")]
            Standing::Away { .. } => self.end_away(),
        }
        if self.cancel.is_some() {
            self.role.cancels.remove(self.number());
        }
    }
}

impl<R: RoleRef> Drop for Attempts<R> {
    #[inline]
    fn drop(&mut self) {
        self.role.metrics.note_outcome(self.kind, self.outcome);
        if (self.standing != Standing::Settled || self.cancel.is_some()) && !fork::is_forked_child()
        {
            self.leave();
        }
    }
}
