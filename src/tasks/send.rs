//! Sending requests without blocking: a task that finds no room waits for it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::channel::{
    Ask, Core, Needs, Outgoing, PartialMessage, RoomWait, Sent, TimedGuard, check_open, no_turn,
    ring_full,
};
use crate::error::Result;
use crate::payload::Payload;
use crate::sys::clock::Deadline;
use crate::sys::fork;
use crate::tasks::timer::Timer;
use crate::tasks::wait::with_status;

/// Sends a request. Waits while the ring is full or another long message is on its way, until
/// the deadline.
pub(super) async fn send<P: Payload + ?Sized>(
    core: &Arc<Core>,
    ask: Ask,
    payload: &P,
    deadline: Deadline,
) -> Result<Sent> {
    match send_or_fail(core, ask, payload, deadline).await {
        Err(error) => Err(core.counted(with_status(core, error, deadline).await)),
        sent => sent,
    }
}

async fn send_or_fail<P: Payload + ?Sized>(
    core: &Arc<Core>,
    ask: Ask,
    payload: &P,
    deadline: Deadline,
) -> Result<Sent> {
    let mut outgoing = Outgoing::new(core, ask, payload)?;
    loop {
        match outgoing.advance()? {
            Needs::Nothing(sent) => return Ok(sent),
            Needs::Turn => outgoing.turn_came(long_message_turn(core, deadline).await?),
            Needs::Room(len) => {
                let needs = with_room(core, len, deadline, || match outgoing.advance()? {
                    // The same piece found no room again.
                    Needs::Room(again) if again == len => Ok(None),
                    needs => Ok(Some(needs)),
                });
                if let Needs::Nothing(sent) = needs.await? {
                    return Ok(sent);
                }
            }
        }
    }
}

/// Waits until `advance`, which needs room for a payload of `len` bytes, returns something.
async fn with_room<T>(
    core: &Arc<Core>,
    len: usize,
    deadline: Deadline,
    mut advance: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let (mut room, mut timer) = (RoomWait::new(core), Timer::default());
    poll_fn(|context: &mut Context<'_>| {
        fork::check()?;
        room.register(len, context.waker());
        match advance()? {
            Some(found) => Poll::Ready(Ok(found)),
            None if timer.poll_for_peer(deadline, context) => {
                Poll::Ready(Err(ring_full(core, len)))
            }
            None => Poll::Pending,
        }
    })
    .await
}

/// Sends the next piece of a message that is written bit by bit, when there is room.
pub(super) async fn send_piece(
    core: &Arc<Core>,
    message: &mut PartialMessage<'_>,
    is_last: bool,
    deadline: Deadline,
) -> Result<()> {
    if message.try_send(is_last)? {
        return Ok(());
    }
    let len = message.piece_len();
    with_room(core, len, deadline, || Ok(message.try_send(is_last)?.then_some(()))).await
}

/// Waits until no other long message is on its way.
pub(super) async fn long_message_turn(
    core: &Arc<Core>,
    deadline: Deadline,
) -> Result<TimedGuard<'_, ()>> {
    let turns = core.long_messages();
    let mut timer = Timer::default();
    // The sender of the other message may be a task that is not polled: the end of the channel
    // must wake this one.
    let (mut end, mut turn) = (core.reactor().ended.register(), turns.register());
    poll_fn(|context| {
        end.wait(context.waker());
        if let Err(error) = check_open(core) {
            return Poll::Ready(Err(error));
        }
        match turns.poll_lock(&mut turn, context.waker()) {
            Some(turn) => Poll::Ready(Ok(turn)),
            None if timer.poll(deadline, context) => Poll::Ready(Err(no_turn())),
            None => Poll::Pending,
        }
    })
    .await
}
