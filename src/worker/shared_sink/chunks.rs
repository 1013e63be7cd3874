//! Chunks of one stream that are sent in a row.
//!
//! Each chunk takes the lock for itself, so that the answers of others can go out between two of
//! them. What they save is the look whether the parent sleeps, which is a full fence and often the
//! miss of a cache line: it is done when some KiB were sent, and before a wait, and at the end.

use std::iter::Peekable;

use crate::error::Result;
use crate::payload::{Encoded, Payload};
use crate::protocol::Kind;
use crate::ring::position::span;
use crate::worker::reply_sink::{ReplyState, Waking};
use crate::worker::shared_sink::{SharedSink, task_waits};

/// Sends chunks, each in one frame or in as many as it needs. Waits for room and for credit.
pub(crate) fn send_all<P: Payload>(
    sink: &SharedSink,
    state: &mut ReplyState,
    chunks: impl Iterator<Item = P>,
) -> Result<()> {
    let unnotified = Unnotified(sink);
    for chunk in chunks {
        sink.signals.check(state.request())?;
        if !try_chunk(sink, state, &chunk)? {
            unnotified.notify();
            sink.send_message(state, Kind::CHUNK, &chunk)?;
        }
    }
    Ok(())
}

/// Does the same for a task. A chunk leaves the iterator once all of it is sent.
pub(crate) async fn send_all_async<P: Payload, I: Iterator<Item = P>>(
    sink: &SharedSink,
    state: &mut ReplyState,
    chunks: &mut Peekable<I>,
) -> Result<()> {
    let unnotified = Unnotified(sink);
    while let Some(chunk) = chunks.peek() {
        sink.signals.check(state.request())?;
        if !try_chunk(sink, state, chunk)? {
            unnotified.notify();
            task_waits::send_message(sink, state, Kind::CHUNK, chunk).await?;
        }
        chunks.next();
    }
    Ok(())
}

/// Sends a chunk if it fits one frame and needs no wait. A parent that sleeps may not be woken.
fn try_chunk<P: Payload>(sink: &SharedSink, state: &mut ReplyState, chunk: &P) -> Result<bool> {
    let len = chunk.encoded_len();
    if len > sink.max_frame || !sink.has_credit(state, span(len)) {
        return Ok(false);
    }
    let encoded = Encoded::of(chunk, len)?;
    let header = (state.header(Kind::CHUNK), Waking::NowAndThen);
    sink.try_send_frame(state, header, len, |slot| encoded.write_to(slot))
}

/// Wakes a parent that sleeps for what was sent, when this is dropped too: after an error, a panic
/// of the program's code, or an await that was given up.
struct Unnotified<'a>(&'a SharedSink);

impl Unnotified<'_> {
    fn notify(&self) {
        // Fails in a forked child only, where nothing was sent.
        if let Ok(mut ring) = self.0.lock() {
            ring.producer.notify_published();
        }
    }
}

impl Drop for Unnotified<'_> {
    fn drop(&mut self) {
        self.notify();
    }
}
