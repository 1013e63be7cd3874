//! Waits of tasks: the same as those of threads in `shared_sink.rs`, as futures. They take their
//! turn for room among the threads.
//!
//! Each future leaves its place when it is dropped.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::Result;
use crate::payload::{Encoded, Payload};
use crate::protocol::Kind;
use crate::protocol::splitter::{Piece, Splitter};
use crate::ring::Header;
use crate::ring::open_slot::OpenSlot;
use crate::ring::position::span;
use crate::shm::layout::as_u64;
use crate::sync::{Ordering, fence};
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;
use crate::worker::handler_error::HandlerError;
use crate::worker::reply_sink::{ReplyState, Waking};
use crate::worker::room_queue::Ticket;
use crate::worker::shared_sink::{Ending, SharedSink};
use crate::worker::wakers::Awaited;

/// Sends a result or a chunk, in one frame or in as many as it needs. A message of which only a
/// part was sent when the future is dropped ends its request with an error.
pub(crate) async fn send_message<P: Payload + ?Sized>(
    sink: &SharedSink,
    state: &mut ReplyState,
    kind: Kind,
    payload: &P,
) -> Result<()> {
    let len = payload.encoded_len();
    sink.check_len(len)?;
    let encoded = Encoded::of(payload, len)?;
    if len <= sink.max_frame {
        let header = state.header(kind);
        return send_frame(sink, state, header, len, |slot| encoded.write_to(slot)).await;
    }
    let header = Header { aux: as_u64(len), ..state.header(kind) };
    let (mut splitter, longest) = (Splitter::new(header), sink.lock()?.producer.piece_len());
    let mut parts = Parts { sink, state, is_torn: false };
    while let Some(piece) = splitter.next_piece(encoded.parts(), longest) {
        let sent = send_piece(sink, parts.state, piece).await;
        // After an error the caller ends the request.
        parts.is_torn = sent.is_ok();
        sent?;
        splitter.piece_sent(piece.bytes.len());
    }
    parts.is_torn = false;
    Ok(())
}

/// Sends one frame of a message.
pub(crate) async fn send_piece(
    sink: &SharedSink,
    state: &mut ReplyState,
    piece: Piece<'_>,
) -> Result<()> {
    let Piece { header, bytes } = piece;
    send_frame(sink, state, header, bytes.len(), |slot| copy_from_slice(slot, bytes)).await
}

/// A message that is being sent in pieces.
struct Parts<'a> {
    sink: &'a SharedSink,
    state: &'a mut ReplyState,
    /// Some pieces were sent, and not all.
    is_torn: bool,
}

impl Drop for Parts<'_> {
    fn drop(&mut self) {
        if !self.is_torn || fork::is_forked_child() {
            return;
        }
        let ending = match self.sink.signals.is_cancelled(self.state.request()) {
            true => Ending::Cancelled,
            false => {
                let message = "a message was dropped when a part of it was sent";
                Ending::Failed(HandlerError::no_reply(message).into_failure())
            }
        };
        self.sink.end_later(self.state.hand_over(), ending);
    }
}

/// Sends a frame. Waits for room, and with a chunk for credit, until the request is cancelled.
async fn send_frame(
    sink: &SharedSink,
    state: &mut ReplyState,
    header: Header,
    len: usize,
    fill: impl Fn(&mut [u8]),
) -> Result<()> {
    if header.kind == Kind::CHUNK.code() {
        credit(sink, state, span(len)).await?;
    }
    if sink.try_send_frame(state, (header, Waking::Now), len, &fill)? {
        return Ok(());
    }
    let mut slot = open(sink, state.request(), len).await?;
    fill(slot.payload());
    sink.publish(state, slot, header)
}

/// Claims a slot. Waits for room until the request is cancelled.
pub(crate) async fn open(sink: &SharedSink, request: u64, len: usize) -> Result<OpenSlot> {
    let mut room = RoomWait { sink, request, len, ticket: None };
    poll_fn(|context| room.poll(context.waker())).await
}

/// A task's place among those that wait for room.
struct RoomWait<'a> {
    sink: &'a SharedSink,
    request: u64,
    len: usize,
    /// `None` before the wait.
    ticket: Option<Ticket>,
}

impl RoomWait<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<Result<OpenSlot>> {
        let Self { sink, request, len, ticket } = self;
        let waker = waker.clone();
        // Dropped after the lock is released: the executor's code must not run under it.
        let _replaced: Option<Waker>;
        let mut ring = sink.lock()?;
        if ticket.is_none()
            && sink.is_first(&mut ring)?
            && let Some(slot) = ring.producer.try_open(*len)?
        {
            return Poll::Ready(Ok(slot));
        }
        let ticket = *ticket.get_or_insert_with(|| ring.waiting.join_task(*request));
        // T1 in `wakers.rs`. Under the ring's lock: what is the first task has a waker.
        _replaced = sink.wakers.register(ticket, (*request, Awaited::Room(*len)), waker);
        if ring.waiting.is_first(ticket) {
            let needed = sink.owed_len(&ring).unwrap_or(*len);
            ring.producer.announce_space(needed); // T2
            fence(Ordering::SeqCst); // T3: A, pairs with B in the parent's consumer
            if sink.send_owed(&mut ring)?
                && let Some(slot) = ring.producer.try_open(*len)?
            {
                return Poll::Ready(Ok(slot));
            }
        }
        drop(ring);
        fence(Ordering::SeqCst); // T3, for a cancel
        sink.signals.check(*request)?;
        Poll::Pending
    }
}

impl Drop for RoomWait<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket
            && !fork::is_forked_child()
        {
            self.sink.wakers.leave(ticket);
            // Fails in a forked child only.
            let _ = self.sink.leave(ticket);
        }
    }
}

/// Waits until the reader's credit allows `bytes` more of slots.
pub(crate) async fn credit(sink: &SharedSink, state: &ReplyState, bytes: u64) -> Result<()> {
    if sink.has_credit(state, bytes) {
        return Ok(());
    }
    let (request, signals) = (state.request(), &sink.signals);
    let needed = state.credit_for(bytes, sink.window);
    let wait = CreditWait { sink, request, ticket: sink.lock()?.waiting.draw_ticket() };
    poll_fn(|context| {
        fork::check()?;
        let waker = context.waker().clone();
        let awaited = (request, Awaited::Credit(needed));
        drop(sink.wakers.register(wait.ticket, awaited, waker)); // T1 in `wakers.rs`
        signals.announce_credit(request, needed); // T2
        fence(Ordering::SeqCst); // T3: A, pairs with B in the parent's `PendingTable::consumed`
        signals.check(request)?;
        if signals.credit(request) < needed {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// A task's wait for credit.
struct CreditWait<'a> {
    sink: &'a SharedSink,
    request: u64,
    ticket: Ticket,
}

impl Drop for CreditWait<'_> {
    fn drop(&mut self) {
        if !fork::is_forked_child() {
            self.sink.wakers.leave(self.ticket);
            self.sink.signals.announce_credit(self.request, 0);
        }
    }
}

/// Is ready when the work for a request should stop; see [`OwnedResponder::cancelled`].
///
/// [`OwnedResponder::cancelled`]: crate::worker::OwnedResponder::cancelled
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Cancelled {
    sink: Arc<SharedSink>,
    request: u64,
    /// `None` before the wait.
    ticket: Option<Ticket>,
}

/// Makes a future that is ready when the work for this request should stop.
pub(crate) fn cancelled(sink: &Arc<SharedSink>, request: u64) -> Cancelled {
    Cancelled { sink: Arc::clone(sink), request, ticket: None }
}

impl Cancelled {
    fn is_over(&mut self, context: &Context<'_>) -> Result<bool> {
        let Self { sink, request, ticket } = self;
        if sink.signals.is_cancelled(*request) {
            return Ok(true);
        }
        let waker = context.waker().clone();
        let ticket = match *ticket {
            Some(ticket) => ticket,
            None => *ticket.insert(sink.lock()?.waiting.draw_ticket()),
        };
        fork::check()?;
        drop(sink.wakers.register(ticket, (*request, Awaited::Cancel), waker)); // T1 in `wakers.rs`
        fence(Ordering::SeqCst); // T3
        Ok(sink.signals.is_cancelled(*request))
    }
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // In a forked child there is nothing to wait for.
        if self.is_over(context).unwrap_or(true) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket
            && !fork::is_forked_child()
        {
            self.sink.wakers.leave(ticket);
        }
    }
}
