//! Requests whose responders the worker's own code drops without an answer.
//!
//! Code that returns an error, or panics, most often drops the responder on its way out. The
//! request shall end with that error, which is not known yet when the responder is dropped. So
//! what is dropped on a thread that runs [`answered_by`] is kept until the code has returned.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::Poll;

use crate::sys::fork;
use crate::worker::handler_error::HandlerError;
use crate::worker::panics::catch;
use crate::worker::reply_sink::ReplyState;
use crate::worker::shared_sink::{Ending, SharedSink};

thread_local! {
    /// What was dropped; `None` if nothing is to be kept.
    static KEPT: RefCell<Option<Vec<Unanswered>>> = const { RefCell::new(None) };
}

/// A request whose responder was dropped.
#[derive(Debug)]
struct Unanswered {
    sink: Arc<SharedSink>,
    state: ReplyState,
}

/// Runs the worker's own code. The requests whose responders it drops on this thread end with its
/// error, or with one that says that they have no answer. A panic becomes an error. `note` gets the
/// error before any caller is told of it.
pub(super) fn answered_by<T>(
    run: impl FnOnce() -> Result<T, HandlerError>,
    note: impl FnOnce(&HandlerError),
) -> Result<T, HandlerError> {
    let mut kept = Vec::new();
    let result = keep(&mut kept, run).inspect_err(note);
    kept.into_iter().for_each(|request| request.end(result.as_ref().err()));
    result
}

/// Runs code of the host's, and keeps what it drops on this thread.
fn keep<T>(
    kept: &mut Vec<Unanswered>,
    run: impl FnOnce() -> Result<T, HandlerError>,
) -> Result<T, HandlerError> {
    let before = KEPT.replace(Some(std::mem::take(kept)));
    let result = catch(run);
    *kept = KEPT.replace(before).unwrap_or_default();
    result
}

/// A handler that runs in parts, on any threads. What it drops without an answer is kept until it
/// has returned, or is dropped.
#[derive(Debug)]
pub(super) struct Handling {
    sink: Arc<SharedSink>,
    request: u64,
    kept: Vec<Unanswered>,
}

impl Handling {
    pub(super) fn new(sink: &Arc<SharedSink>, request: u64) -> Self {
        Self { sink: Arc::clone(sink), request, kept: Vec::new() }
    }

    /// Runs the next part. An error or a panic is the end of the handler.
    pub(super) fn run(
        &mut self,
        part: impl FnOnce() -> Result<Poll<()>, HandlerError>,
    ) -> Poll<()> {
        let result = keep(&mut self.kept, part);
        if matches!(result, Ok(Poll::Pending)) {
            return Poll::Pending;
        }
        if let Err(error) = &result {
            // Before any caller is told of it.
            self.sink.note(self.request, error);
        }
        let kept = std::mem::take(&mut self.kept);
        kept.into_iter().for_each(|request| request.end(result.as_ref().err()));
        Poll::Ready(())
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        if !fork::is_forked_child() {
            std::mem::take(&mut self.kept).into_iter().for_each(|request| request.end(None));
        }
    }
}

/// Ends a request whose responder was dropped: now, or when the code that has dropped it returns.
/// Never blocks.
pub(super) fn end(sink: &Arc<SharedSink>, state: ReplyState) {
    let mut request = Some(Unanswered { sink: Arc::clone(sink), state });
    // Fails while the thread ends.
    let _ = KEPT.try_with(|kept| {
        if let Some(kept) = &mut *kept.borrow_mut() {
            kept.extend(request.take());
        }
    });
    if let Some(request) = request {
        request.end(None);
    }
}

impl Unanswered {
    fn end(self, error: Option<&HandlerError>) {
        let Self { sink, state } = self;
        let request = state.request();
        let is_cancelled = || sink.signals.is_cancelled(request);
        let is_cancel = match error {
            Some(error) => error.is_cancel_of(request, is_cancelled),
            None => is_cancelled(),
        };
        if is_cancel {
            return sink.end_later(state, Ending::Cancelled);
        }
        let failure = match error {
            Some(error) => error.failure().clone(),
            None => {
                let error = HandlerError::no_reply("the responder was dropped without a reply");
                // Before the caller is told: it may ask for the worker's health then.
                sink.last_error.set(error.summary());
                error.into_failure()
            }
        };
        sink.end_later(state, Ending::Failed(failure));
    }
}
