//! What the thread that takes requests looks after, beside them: endings that are owed, and tasks
//! that wait. It sleeps on the parent's bell anyway.

use crate::error::Result;
use crate::ring::doorbell::Step;
use crate::sync::{Ordering, fence};
use crate::sys::clock::Deadline;
use crate::worker::room_queue::Ticket;
use crate::worker::shared_sink::SharedSink;
use crate::worker::wakers::Awaited;

/// Whether there is something to look after.
#[inline]
pub(crate) fn has_others(sink: &SharedSink) -> bool {
    owes(sink) || sink.wakers.has_news(|| rings(sink))
}

/// Whether endings are owed.
pub(crate) fn owes(sink: &SharedSink) -> bool {
    sink.owed.load(Ordering::Relaxed) != 0
}

/// Does what a thread does that waits for a request, until all endings that are owed are sent or
/// the worker is told to end.
pub(crate) fn wait_until_nothing_is_owed(sink: &SharedSink) -> Result<()> {
    let look = |step| {
        if step == Step::Look {
            sink.signals.check_stop()?;
            look_after_others(sink)?;
        }
        Ok((!owes(sink)).then_some(()))
    };
    sink.wait_until(Deadline::NEVER, look).map(drop)
}

fn rings(sink: &SharedSink) -> u64 {
    sink.sleeper.rings(sink.signals.alarm())
}

/// Sends what is owed, and wakes the tasks that can go on, for a thread that is about to sleep on
/// the parent's bell. What is left rings the bell when there is room for it.
#[cold]
pub(crate) fn look_after_others(sink: &SharedSink) -> Result<()> {
    // Before the looks: what rings later is looked at the next time.
    let rings = rings(sink);
    let first = look_for_room(sink)?;
    if sink.wakers.is_empty() {
        return Ok(());
    }
    sink.wakers.wake_each(rings, |ticket, task| {
        let is_there = match task.awaited {
            Awaited::Cancel => false,
            Awaited::Credit(needed) => sink.signals.credit(task.request) >= needed,
            Awaited::Room(_) => first == Some(ticket),
        };
        is_there || sink.signals.is_cancelled(task.request)
    });
    Ok(())
}

/// Sends what is owed, and looks for room for the first that waits, if that is a task. Returns it
/// if there is. A thread looks by itself.
fn look_for_room(sink: &SharedSink) -> Result<Option<Ticket>> {
    let mut ring = sink.lock()?;
    let first = ring.waiting.first_task();
    let task = first.and_then(|first| sink.wakers.room_for(first));
    if !ring.waiting.is_empty() && task.is_none() {
        return Ok(None);
    }
    // The threads behind a task are parked, and hear no bell.
    ring.waiting.wake(|request| sink.signals.is_cancelled(request));
    for is_announced in [false, true] {
        let is_sent = sink.send_owed(&mut ring)?;
        match task {
            None if is_sent => return Ok(None),
            Some(len) if is_sent && ring.producer.has_room_for(len)? => return Ok(first),
            _ => {}
        }
        if !is_announced && let Some(len) = sink.owed_len(&ring).or(task) {
            ring.producer.announce_space(len);
            fence(Ordering::SeqCst); // A, pairs with B in the parent's consumer
        }
    }
    Ok(None)
}

/// Wakes all tasks, which then see that the worker is to end: no thread looks after them any
/// more.
pub(crate) fn wake_all_tasks(sink: &SharedSink) {
    if !sink.wakers.is_empty() {
        sink.wakers.wake_each(rings(sink), |_, _| true);
    }
}
