//! How long a stream waits for what its gateway is to send.
//!
//! The gateway enforces the timeouts of a stream itself, and its word is more exact. This is for one that
//! does not: its answers to "are you there?" come, and nothing else does.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use slipring::{Error, ErrorKind, ErrorReport, RequestStage, StreamTimeout, StreamTimeouts};
use tokio::time::{Instant, Sleep, sleep_until};

/// How much of a chunk must come within the time for the whole.
const PROGRESS: u64 = 16 << 10;

/// What a stream waits for, with the timeouts that it has for that.
pub(super) struct Patience {
    timeouts: StreamTimeouts,
    /// The time that chunks may be on their way.
    allowance: Duration,
    /// What it waits for since when, as of the last poll; `None` while its reader pauses.
    waits: Option<(StreamTimeout, u64)>,
    until: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// The request was sent, as far as there was room for it.
    pub(super) fn begin(timeouts: StreamTimeouts, allowance: Duration) -> Self {
        let mut patience = Self { timeouts, allowance, waits: None, until: None };
        patience.wait(StreamTimeout::Queue, 0);
        patience
    }

    fn wait(&mut self, for_what: StreamTimeout, moved: u64) {
        self.waits = Some((for_what, moved));
        let longest = self.longest(for_what).saturating_add(self.allowance);
        match (Instant::now().checked_add(longest), &mut self.until) {
            (Some(at), Some(until)) => until.as_mut().reset(at),
            (Some(at), none) => *none = Some(Box::pin(sleep_until(at))),
            (None, until) => *until = None,
        }
    }

    fn longest(&self, of: StreamTimeout) -> Duration {
        let chunk = self.timeouts.chunk_timeout();
        match of {
            StreamTimeout::Queue => self.timeouts.queue_timeout(),
            StreamTimeout::FirstChunk => self.timeouts.first_chunk_timeout().unwrap_or(chunk),
            _ => chunk,
        }
    }

    /// A chunk is there, and its reader may pause.
    pub(super) fn pause(&mut self) {
        self.waits = None;
    }

    /// Nothing has come. `moved` counts the bytes of the request that were sent, and those of the
    /// answer that came. Ready if that has taken too long.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        for_what: StreamTimeout,
        moved: u64,
        peer: &str,
    ) -> Poll<Error> {
        let goes_on = |(was, before): (StreamTimeout, u64)| {
            was == for_what && moved < before.saturating_add(PROGRESS)
        };
        if !self.waits.is_some_and(goes_on) {
            self.wait(for_what, moved);
        }
        let Some(until) = &mut self.until else { return Poll::Pending };
        ready!(until.as_mut().poll(context));
        Poll::Ready(self.passed(for_what, peer))
    }

    #[cold]
    fn passed(&self, which: StreamTimeout, peer: &str) -> Error {
        let longest = self.longest(which);
        let (kind, stage, what) = match which {
            // What was sent may be begun later.
            StreamTimeout::Queue => (ErrorKind::Timeout, None, "was not seen begun"),
            _ => (ErrorKind::Stalled, Some(RequestStage::Begun), "has no further chunk"),
        };
        let message = format!("{peer}: the stream {what} for more than {longest:?}");
        let mut report = ErrorReport::new(kind, message);
        (report.stage, report.stream_timeout) = (stage, Some(which));
        Error::from_report(report)
    }
}
