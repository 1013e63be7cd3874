//! What a worker answers to a request that was sent again.

use std::collections::VecDeque;
use std::time::Duration;

use slipring::{Channel, Error, HandlerFailure, Kind, Pending, RequestId, Stream, StreamTimeouts};

/// One step of an answer.
#[derive(Debug)]
pub(super) enum Step {
    /// A reply or a chunk.
    Message(Vec<u8>),
    /// The end of a stream.
    End,
    Failed(HandlerFailure),
    /// What else has ended the request.
    Error(Error),
}

impl Step {
    fn of(error: Error) -> Self {
        match error.handler_failure() {
            Some(failure) => Self::Failed(failure.clone()),
            None => Self::Error(error),
        }
    }

    fn is_last(&self, is_stream: bool) -> bool {
        !(is_stream && matches!(self, Self::Message(_)))
    }

    /// In words.
    pub(super) fn say(&self) -> String {
        match self {
            Self::Message(bytes) => format!("an answer of {} bytes", bytes.len()),
            Self::End => "the end of the stream".to_owned(),
            Self::Failed(failure) => format!("a failure, {failure}"),
            Self::Error(error) => format!("an error, {error}"),
        }
    }
}

/// The answer to a request, step by step.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: RequestId,
    pub(super) is_stream: bool,
    source: Source,
    is_over: bool,
}

#[derive(Debug)]
enum Source {
    Call(Option<Pending>),
    Stream(Box<Stream>),
    /// All steps, which have come already.
    There(VecDeque<Step>),
}

impl Answer {
    /// Sends a request.
    pub(super) fn ask(
        channel: &Channel,
        kind: Kind,
        payload: &[u8],
        (is_stream, timeout): (bool, Duration),
    ) -> Result<Self, Error> {
        let (id, source) = if is_stream {
            let timeouts = StreamTimeouts::from(timeout).total(timeout);
            let stream = channel.stream(kind, payload, timeouts)?;
            (stream.id(), Source::Stream(Box::new(stream)))
        } else {
            let pending = channel.submit(kind, payload, timeout)?;
            (pending.id(), Source::Call(Some(pending)))
        };
        Ok(Self { id, is_stream, source, is_over: false })
    }

    /// Waits for the next step; `None` behind the last one.
    pub(super) fn next(&mut self) -> Option<Step> {
        if self.is_over {
            return None;
        }
        let step = match &mut self.source {
            Source::Call(pending) => match pending.take()?.wait() {
                Ok(reply) => Step::Message(reply.into_vec()),
                Err(error) => Step::of(error),
            },
            Source::Stream(stream) => match stream.as_mut().next_chunk() {
                Ok(Some(chunk)) => Step::Message(chunk.into_vec()),
                Ok(None) => Step::End,
                Err(error) => Step::of(error),
            },
            Source::There(steps) => steps.pop_front()?,
        };
        self.is_over = step.is_last(self.is_stream);
        Some(step)
    }

    /// Waits for all steps and keeps them. Returns the error that ended the request, if one did.
    pub(super) fn collect(&mut self) -> Option<Error> {
        let mut steps = VecDeque::new();
        while let Some(step) = self.next() {
            if let Step::Error(error) = step {
                return Some(error);
            }
            steps.push_back(step);
        }
        self.is_over = false;
        self.source = Source::There(steps);
        None
    }

    /// Waits for the reply of a call for so long that a call has before it is cancelled. Returns the error
    /// that has ended it, if one has.
    pub(super) fn wait_before_cancel(&mut self, longest: Duration) -> Option<Error> {
        match &mut self.source {
            Source::Call(Some(pending)) => match pending.wait_timeout(longest) {
                Err(error) if error.handler_failure().is_none() => Some(error),
                _ => None,
            },
            _ => None,
        }
    }
}
