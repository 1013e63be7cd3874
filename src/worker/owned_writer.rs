//! An answer that is written in parts.

use std::io;

use crate::error::Result;
use crate::protocol::Kind;
use crate::protocol::splitter::PieceBuffer;
use crate::worker::handler_error::HandlerError;
use crate::worker::open_reply::OpenReply;
use crate::worker::shared_sink::task_waits;

/// An answer that is being written; [`OwnedResponder::write`](super::OwnedResponder::write) makes
/// it.
///
/// If it is dropped before it is finished, the request ends as if its responder was dropped. The
/// caller gets nothing of what was written.
#[derive(Debug)]
#[must_use = "a request whose writer is not finished ends with an error"]
pub struct OwnedReplyWriter {
    reply: OpenReply,
    buffer: PieceBuffer,
}

impl OwnedReplyWriter {
    pub(super) fn new(reply: OpenReply) -> Self {
        let OpenReply { sink, state } = &reply;
        let header = state.header(Kind::RESULT);
        let buffer = PieceBuffer::new(header, sink.max_frame, sink.max_message);
        Self { reply, buffer }
    }

    /// Adds to the payload. Blocks if a frame is full and the parent has not made room for it.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`](super::OwnedResponder::send), but
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled) as soon as a frame is full and the
    /// request cancelled. A payload that gets longer than the longest message is
    /// [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge), and nothing of `bytes` is added. After
    /// another error it is not known how much was added: then [`fail`](Self::fail), or drop the
    /// writer. As an [`io::Error`] the cancel is of the kind `ConnectionAborted`, after which
    /// `write_all` does not try again.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { reply, buffer } = self;
        reply.begin_answer()?;
        buffer.push(bytes, |piece| {
            reply.check_cancelled()?;
            reply.sink.send_piece(&mut reply.state, piece)
        })
    }

    /// Sends the rest, with which the answer is whole. Blocks while the parent has not made room
    /// for it.
    ///
    /// # Errors
    ///
    /// As [`OwnedResponder::send`](super::OwnedResponder::send). After an error the request has
    /// ended with an error, too.
    pub fn finish(self) -> Result<()> {
        let Self { mut reply, buffer } = self;
        reply.begin_answer()?;
        let sent = buffer.finish(|piece| reply.sink.send_piece(&mut reply.state, piece));
        reply.fail_with(sent)
    }

    /// Ends the request with an error in the place of what was written, as
    /// [`OwnedResponder::fail`](super::OwnedResponder::fail) does. Never blocks.
    pub fn fail(mut self, error: impl Into<HandlerError>) {
        self.reply.fail(error.into());
    }

    /// Does the same as [`push`](Self::push), and waits without blocking a thread.
    ///
    /// Not cancel-safe: dropped before it is ready, it is not known how much was added.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub async fn push_async(&mut self, mut bytes: &[u8]) -> Result<()> {
        let Self { reply, buffer } = self;
        reply.begin_answer()?;
        buffer.check_len(bytes.len())?;
        while let Some(piece) = buffer.next_piece(&mut bytes) {
            reply.check_cancelled()?;
            task_waits::send_piece(&reply.sink, &mut reply.state, piece).await?;
            buffer.piece_sent();
        }
        Ok(())
    }

    /// Does the same as [`finish`](Self::finish), and waits without blocking a thread.
    ///
    /// Dropped before it is ready, the request ends with an error.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub async fn finish_async(self) -> Result<()> {
        let Self { mut reply, buffer } = self;
        reply.begin_answer()?;
        let OpenReply { sink, state } = &mut reply;
        let sent = task_waits::send_piece(sink, state, buffer.last_piece()).await;
        reply.fail_with(sent)
    }
}

impl io::Write for OwnedReplyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    /// Does nothing: a frame goes out when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
