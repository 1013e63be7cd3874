//! Sending requests without blocking: a task that finds no room waits for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::channel::{Engine, Loan, Pieces, Unsent};
use crate::error::Result;
use crate::payload::{self, Encoded, Payload};
use crate::protocol::Kind;
use crate::ring::Header;
use crate::sys::clock::Deadline;
use crate::sys::copy::copy_from_slice;
use crate::sys::fork;
use crate::tasks::timer::Timer;
use crate::tasks::wait::with_status;

/// Sends a request; returns its id and whether the worker had to be woken.
pub(super) async fn send<P: Payload + ?Sized>(
    engine: &Arc<Engine>,
    kind: Kind,
    flags: u16,
    payload: &P,
    deadline: Deadline,
    told_deadline: Deadline,
) -> Result<(u64, bool)> {
    match send_or_fail(engine, kind, flags, payload, deadline, told_deadline).await {
        Err(error) => Err(with_status(engine, error, deadline).await),
        sent => sent,
    }
}

async fn send_or_fail<P: Payload + ?Sized>(
    engine: &Arc<Engine>,
    kind: Kind,
    flags: u16,
    payload: &P,
    deadline: Deadline,
    told_deadline: Deadline,
) -> Result<(u64, bool)> {
    let len = payload.encoded_len();
    engine.check_len(len)?;
    let is_long = len > engine.config.max_request();
    let encoded = if !is_long && payload::is_encoded_in_place(payload) {
        None
    } else {
        // Before any lock: a host's encoder may take long, or use this channel.
        Some(Encoded::of(payload, len)?)
    };
    if let Some(encoded) = encoded.as_ref().filter(|_| is_long) {
        return send_long(engine, kind, flags, encoded.bytes(), deadline, told_deadline).await;
    }
    let header = engine.open(kind, flags, told_deadline)?;
    let unsent = Unsent::new(engine, header.request);
    let fill = |slot: &mut [u8]| match &encoded {
        Some(encoded) => {
            copy_from_slice(slot, encoded.bytes());
            Ok(())
        }
        None => payload.encode(slot),
    };
    let has_rung = send_frame(engine, header, len, deadline, fill).await?;
    unsent.keep();
    Ok((header.request, has_rung))
}

async fn send_long(
    engine: &Arc<Engine>,
    kind: Kind,
    flags: u16,
    encoded: &[u8],
    deadline: Deadline,
    told_deadline: Deadline,
) -> Result<(u64, bool)> {
    let _turn = turn_to_write(engine, deadline).await?;
    let header = engine.open(kind, flags, told_deadline)?;
    let mut message = Message { engine, pieces: Pieces::new(header), is_sent: false };
    for piece in encoded.chunks(engine.config.down.piece_len()) {
        let is_last = message.pieces.sent + piece.len() == encoded.len();
        let header = message.pieces.header(is_last);
        let fill = |slot: &mut [u8]| {
            copy_from_slice(slot, piece);
            Ok(())
        };
        let has_rung = send_frame(engine, header, piece.len(), deadline, fill).await?;
        message.pieces.was_sent(piece.len(), has_rung);
    }
    message.is_sent = true;
    Ok((header.request, message.pieces.has_rung))
}

async fn turn_to_write(engine: &Arc<Engine>, deadline: Deadline) -> Result<Loan<'_, ()>> {
    let mut timer = Timer::default();
    // Whoever has the turn may be a task that is not polled: the end must wake this one.
    let (mut over, mut turn) = (engine.seat_at_over(), engine.turn_seat());
    poll_fn(|context| {
        over.wait(context.waker());
        if let Err(error) = engine.check_open() {
            return Poll::Ready(Err(error));
        }
        match engine.poll_turn(&mut turn, context.waker()) {
            Some(turn) => Poll::Ready(Ok(turn)),
            None if timer.poll(deadline, context) => Poll::Ready(Err(Engine::no_turn())),
            None => Poll::Pending,
        }
    })
    .await
}

/// Takes a half-sent message back when the future is dropped or fails.
struct Message<'a> {
    engine: &'a Arc<Engine>,
    pieces: Pieces,
    is_sent: bool,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            self.pieces.abandon(self.engine);
        }
    }
}

async fn send_frame(
    engine: &Arc<Engine>,
    header: Header,
    len: usize,
    deadline: Deadline,
    mut fill: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<bool> {
    if let Some(has_rung) = engine.try_send_frame(header, len, &mut fill)? {
        return Ok(has_rung);
    }
    let mut waiting = WaitingForRoom::new(engine, len);
    poll_fn(|context| waiting.poll(context, header, deadline, &mut fill)).await
}

/// A task's place among those who wait for room.
struct WaitingForRoom<'a> {
    engine: &'a Arc<Engine>,
    len: usize,
    place: Option<u64>,
    timer: Timer,
}

impl<'a> WaitingForRoom<'a> {
    fn new(engine: &'a Arc<Engine>, len: usize) -> Self {
        engine.add_task();
        Self { engine, len, place: None, timer: Timer::default() }
    }

    fn poll(
        &mut self,
        context: &Context<'_>,
        header: Header,
        deadline: Deadline,
        fill: &mut impl FnMut(&mut [u8]) -> Result<()>,
    ) -> Poll<Result<bool>> {
        fork::check()?;
        self.leave();
        self.engine.attend();
        // Reads too: a worker whose replies nobody reads never makes room.
        self.place = Some(self.engine.want_room_for_task(self.len, context.waker()));
        match self.engine.try_send_frame(header, self.len, fill) {
            Ok(Some(has_rung)) => Poll::Ready(Ok(has_rung)),
            Ok(None) if self.timer.poll_for_peer(deadline, context) => {
                Poll::Ready(Err(self.engine.ring_full(self.len)))
            }
            Ok(None) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn leave(&mut self) {
        if let Some(place) = self.place.take() {
            self.engine.leave_room(place);
        }
    }
}

impl Drop for WaitingForRoom<'_> {
    fn drop(&mut self) {
        self.leave();
        self.engine.remove_task();
    }
}
