//! Sending requests without blocking: a task that finds no room waits for it.

use std::future::poll_fn;
use std::task::Poll;

use crate::channel::{
    Core, Outgoing, RequestSpec, RoomWait, TimedGuard, check_open, encode, no_turn, ring_full,
};
use crate::error::Result;
use crate::id::RequestId;
use crate::payload::Payload;
use crate::sys::clock::Deadline;
use crate::tasks::timer::Timer;
use crate::tasks::wait::with_exit_status;
use crate::trace_context::TraceContext;

/// Sends a request. Waits while the ring is full or another long message is on its way, until
/// the deadline. `note_part` is told of a request of which only a part was sent, before a wait: if the
/// future is dropped there, the worker may be at that part.
pub(super) async fn send<P: Payload + ?Sized>(
    core: &Core,
    (spec, trace): (RequestSpec, Option<&TraceContext>),
    payload: &P,
    deadline: Deadline,
    mut note_part: impl FnMut(RequestId),
) -> Result<u64> {
    let send = async {
        let (encoded, len) = encode(core, payload)?;
        let trace = trace.filter(|_| core.takes_traces());
        let is_long = match trace {
            None => core.is_long(len),
            Some(_) => core.is_long_traced(len),
        };
        let turn = match is_long {
            true => Some(long_message_turn(core, deadline).await?),
            false => None,
        };
        let mut outgoing = Outgoing::open(core, spec, turn)?;
        loop {
            let needed = match trace {
                None => outgoing.advance(&encoded, len, false)?,
                Some(trace) => outgoing.advance_traced(trace, &encoded, len)?,
            };
            let Some(needed) = needed else { break };
            if outgoing.is_sent_in_part() {
                note_part(RequestId::new(outgoing.request()));
            }
            let waited = wait_for_room(core, needed, deadline).await;
            waited.map_err(|error| outgoing.ended_by(error))?;
        }
        Ok(outgoing.request())
    };
    with_exit_status(core, deadline, send).await.map_err(|error| core.counted(error))
}

/// Waits until there is room for a payload of `len` bytes.
pub(super) async fn wait_for_room(core: &Core, len: usize, deadline: Deadline) -> Result<()> {
    let (mut room, mut timer) = (RoomWait::new(core), Timer::default());
    poll_fn(|context| match room.poll(len, context.waker())? {
        true => Poll::Ready(Ok(())),
        false if timer.poll_for_peer(deadline, context) => Poll::Ready(Err(ring_full(core, len))),
        false => Poll::Pending,
    })
    .await
}

/// Waits until no other long message is on its way.
pub(super) async fn long_message_turn(
    core: &Core,
    deadline: Deadline,
) -> Result<TimedGuard<'_, ()>> {
    let turns = &core.sender.long_messages;
    let mut timer = Timer::default();
    // The sender of the other message may be a task that is not polled: the end of the channel
    // must wake this one.
    let (mut end, mut turn) = (core.reactor_state.end_waiters.register(), turns.register());
    poll_fn(|context| {
        end.wait(context.waker());
        check_open(core)?;
        match turns.poll_lock(&mut turn, context.waker()) {
            Some(turn) => Poll::Ready(Ok(turn)),
            None if timer.poll(deadline, context) => Poll::Ready(Err(no_turn())),
            None => Poll::Pending,
        }
    })
    .await
}
