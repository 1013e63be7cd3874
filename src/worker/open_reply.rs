//! A request that is to be answered: what responders, slots and writers of replies have in common.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::sys::fork;
use crate::worker::handler_error::HandlerError;
use crate::worker::reply_sink::ReplyState;
use crate::worker::shared_sink::{Ending, SharedSink};
use crate::worker::unanswered;

/// A request, which ends with an error if this is dropped before the request is answered.
#[derive(Debug)]
pub(super) struct OpenReply {
    pub(super) sink: Arc<SharedSink>,
    pub(super) state: ReplyState,
}

impl OpenReply {
    pub(super) fn new(sink: &Arc<SharedSink>, state: ReplyState) -> Self {
        Self { sink: Arc::clone(sink), state }
    }

    /// Notes that work on the request begins.
    pub(super) fn begin(&mut self) {
        self.sink.begin(&mut self.state);
    }

    /// Notes that an answer begins; an error if the request has ended.
    pub(super) fn begin_answer(&mut self) -> Result<()> {
        if self.state.is_finished() {
            return Err(has_ended());
        }
        self.begin();
        Ok(())
    }

    pub(super) fn begin_chunk(&mut self) -> Result<()> {
        self.check_cancelled()?;
        self.begin_answer()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.sink.signals.is_cancelled(self.state.request())
    }

    pub(super) fn check_cancelled(&self) -> Result<()> {
        self.sink.signals.check(self.state.request())
    }

    /// Ends the request with the error of its answer, if that is one.
    pub(super) fn fail_with<T>(&mut self, sent: Result<T>) -> Result<T> {
        sent.inspect_err(|error| {
            let ending = match error.is_cancelled() || self.is_cancelled() {
                true => Ending::Cancelled,
                false => Ending::Failed(HandlerError::from(error.clone()).into_failure()),
            };
            self.end_with(ending);
        })
    }

    /// Ends the request with an error of the host's.
    pub(super) fn fail(&mut self, error: HandlerError) {
        let ending = self.sink.ending_of(self.state.request(), error);
        self.end_with(ending);
    }

    /// Ends the request, which no handler has seen, with an error.
    pub(super) fn refuse(&mut self, error: HandlerError) {
        self.sink.note(self.state.request(), &error);
        self.end_with(Ending::Refused(error.into_failure()));
    }

    pub(super) fn end_with(&mut self, ending: Ending) {
        if !self.state.is_finished() {
            let state = self.state.hand_over();
            self.sink.end_later(state, ending);
        }
    }
}

impl Drop for OpenReply {
    fn drop(&mut self) {
        if self.state.is_finished() || fork::is_forked_child() {
            return;
        }
        unanswered::end(&self.sink, self.state.hand_over());
    }
}

#[cold]
fn has_ended() -> Error {
    let message = "the request has ended, as a long chunk was given up in the middle";
    Error::new(ErrorKind::Closed, message)
}
