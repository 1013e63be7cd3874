//! A stream that never waits for its reader.

use crate::worker::owned::OwnedResponder;

/// Sends the bytes of a stream without ever blocking. Bytes for which the reader has left no room
/// are kept, and go out with those that come next, in one chunk: a slow reader gets fewer and
/// longer chunks, and holds up no other stream. So it suits streams whose bytes matter, such as
/// text, and whose chunk boundaries do not.
///
/// Errors end the stream, and are told to its reader. [`ChunkMerger::is_over`] tells when the
/// stream can be dropped. If it is dropped earlier, the stream ends with an error, as its responder
/// would.
///
/// [`StepEngine`](super::StepEngine) has an example.
#[derive(Debug)]
pub struct ChunkMerger {
    /// `None` once the stream has ended.
    responder: Option<OwnedResponder>,
    unsent: Vec<u8>,
    max_unsent: usize,
    is_finished: bool,
}

impl ChunkMerger {
    /// Makes a stream of a responder, for which at most `max_unsent` bytes are kept. More are kept
    /// only if a single push has more.
    #[must_use]
    pub fn new(responder: OwnedResponder, max_unsent: usize) -> Self {
        Self { responder: Some(responder), unsent: Vec::new(), max_unsent, is_finished: false }
    }

    /// Sends `bytes`, or keeps them. Returns `false` if neither is possible, because the reader is
    /// far behind and the limit on kept bytes is reached: then the same bytes can be pushed later,
    /// or the stream can be ended by [`into_responder`](Self::into_responder). Returns `false` too
    /// if the stream is over or finished.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.is_finished {
            return false;
        }
        let is_sent = self.flush();
        if self.responder.is_none() || !is_sent && self.unsent.len() + bytes.len() > self.max_unsent
        {
            return false;
        }
        self.unsent.extend_from_slice(bytes);
        self.flush();
        true
    }

    /// Sends what is kept as far as there is room. Returns whether nothing is left.
    pub fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            let Some(responder) = &mut self.responder else { return false };
            let (next, _) = self.unsent.split_at(self.unsent.len().min(responder.max_frame()));
            let len = next.len();
            match responder.try_send_chunk(next) {
                Ok(true) => drop(self.unsent.drain(..len)),
                Ok(false) => return false,
                Err(error) => {
                    self.take_responder(|responder| responder.fail(error));
                    return false;
                }
            }
        }
        true
    }

    /// Notes that nothing more will be pushed. The stream ends when all that is kept has been
    /// sent: call this in each step until it returns `true`, as [`is_over`](Self::is_over) does
    /// then.
    pub fn finish(&mut self) -> bool {
        self.is_finished = true;
        if self.flush() {
            // Fails only in a fork, whose stream it is not.
            self.take_responder(|responder| drop(responder.end()));
        }
        self.is_over()
    }

    /// Returns whether the stream has ended, or is cancelled, so that it can be dropped.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.responder.as_ref().is_none_or(OwnedResponder::is_cancelled)
    }

    /// Returns how many bytes are kept.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Returns the responder; `None` if the stream has ended.
    #[must_use]
    pub fn responder(&self) -> Option<&OwnedResponder> {
        self.responder.as_ref()
    }

    /// Gives the responder back, without what is kept; `None` if the stream has ended.
    #[must_use]
    pub fn into_responder(self) -> Option<OwnedResponder> {
        self.responder
    }

    fn take_responder(&mut self, end: impl FnOnce(OwnedResponder)) {
        self.unsent.clear();
        if let Some(responder) = self.responder.take() {
            end(responder);
        }
    }
}
