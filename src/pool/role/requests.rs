//! What a request does with its role: it asks for a worker, waits, leaves, and gives the worker back.

use super::{RoleShared, public};
use crate::error::{Error, ErrorKind};
use crate::pool::core::Placed;
use crate::pool::scheduler::{Asked, Ending, Grant, History, Refusal, Ticket};
use crate::pool::seat::{Seat, Told};
use crate::pool::worker::Worker;
use crate::sync::Ordering;
use crate::sys::clock::{Deadline, now_ns};

impl RoleShared {
    /// The number of the next request.
    #[inline]
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Asks for a worker for a request: for its first attempt without a history.
    #[inline]
    pub(crate) fn ask(&self, asked: Asked, history: Option<&History>, now: u64) -> Placed<Worker> {
        let (placed, deeds) = match history {
            None => self.core.admit(now, asked),
            Some(history) => self.core.admit_again(now, asked, history),
        };
        self.perform(deeds);
        placed
    }

    /// As [`RoleShared::ask`], for a request that other workers have not begun.
    #[cfg(feature = "async")]
    pub(crate) fn ask_back(
        &self,
        asked: Asked,
        from: (Option<u64>, bool),
        history: &History,
        now: u64,
    ) -> Placed<Worker> {
        let (placed, deeds) = self.core.admit_back(now, asked, from, history);
        self.perform(deeds);
        placed
    }

    /// A request has ended at other workers.
    #[cfg(feature = "async")]
    pub(crate) fn end_away(&self) {
        self.change(|scheduler| scheduler.end_away(now_ns()));
    }

    /// A request gives its worker back.
    #[inline]
    pub(crate) fn finish(&self, now: u64, grant: Grant, ending: Ending) {
        let deeds = self.core.finish(now, grant, ending);
        self.perform(deeds);
    }

    /// Blocks until a request is told what becomes of it, or until the deadline.
    #[cold]
    pub(crate) fn wait(
        &self,
        ticket: Ticket,
        seat: &Seat<Worker>,
        deadline: Deadline,
    ) -> Option<Told<Worker>> {
        let (told, deeds) = self.core.wait(ticket, seat, deadline);
        self.perform(deeds);
        told
    }

    /// A request stops waiting. Returns what it was told meanwhile.
    pub(crate) fn leave(&self, ticket: Ticket, seat: &Seat<Worker>) -> Option<Told<Worker>> {
        let (has_left, deeds) = self.core.leave(now_ns(), ticket);
        self.perform(deeds);
        // Another thread has told it, or is about to, and then gives the place back.
        if has_left { None } else { seat.abandon() }
    }

    /// Ends the wait of a request that was cancelled, if it waits in the queue.
    pub(crate) fn cancel_wait(&self, ticket: Ticket, seat: &Seat<Worker>) {
        let (has_left, deeds) = self.core.leave(now_ns(), ticket);
        self.perform(deeds);
        if has_left {
            drop(seat.tell(Told::Cancelled));
        }
    }

    #[cold]
    pub(crate) fn waited_too_long(&self) -> Error {
        let (overload, serving) =
            self.change(|scheduler| (scheduler.overload(now_ns()), scheduler.serving()));
        let message = format!(
            "role {}: no worker had a place until the deadline ({} others wait, {} are with workers, \
             and {serving} workers serve)",
            self.name, overload.queued, overload.in_flight
        );
        let last = self.last_failure.lock().clone();
        with_failure(ErrorKind::QueueTimeout, message, last.filter(|_| serving == 0))
    }

    #[cold]
    pub(crate) fn refused(&self, why: Refusal) -> Error {
        let role = &self.name;
        match why {
            Refusal::Overloaded(overload) => Error::overloaded(role, public(overload)),
            Refusal::Closed => {
                Error::new(ErrorKind::Closed, format!("role {role}: the pool is closed"))
                    .with_begun(false)
            }
            Refusal::Degraded => {
                let message = format!("role {role} is degraded: its workers fail");
                with_failure(ErrorKind::Degraded, message, self.last_failure.lock().clone())
            }
        }
    }
}

/// The error of a request that was not begun as there is no worker: with what ended the last one, if
/// that is known.
fn with_failure(kind: ErrorKind, message: String, last: Option<Error>) -> Error {
    let error = match last {
        Some(last) => {
            let tail = last.log_tail().map(str::to_owned);
            let message = format!("{message}; the last failure: {last}");
            Error::with_source(kind, message, last).with_log_tail(tail)
        }
        None => Error::new(kind, message),
    };
    error.with_begun(false)
}
