//! Questions on the health rings, and a worker's end, awaited.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::channel::{Channel, check_open, no_answer, pong};
use crate::error::{Error, ErrorKind, ExitCause, Result};
use crate::protocol::{Health, Kind};
use crate::ring::Header;
use crate::sys::clock::Deadline;
use crate::tasks::timer::Timer;
use crate::tasks::wait::with_exit_status;

/// How long after the timeout of a close a worker may take to end. The supervisor has killed it
/// by then.
const KILL_TIME: Duration = Duration::from_secs(12);

/// Asks the worker for a report.
pub(crate) async fn ping(channel: &Channel, timeout: Duration) -> Result<Health> {
    let (core, worker) = (channel.core(), channel.worker());
    let deadline = Deadline::after(timeout);
    let ask = async {
        check_open(core)?;
        ask(channel, Kind::PING, deadline, || check_open(core)).await
    };
    let asked = with_exit_status(core, deadline, ask).await.map_err(|error| worker.note(error))?;
    let (header, payload) = asked.ok_or_else(|| no_answer(Kind::PING, timeout))?;
    pong(header, &payload).map_err(|error| worker.note(error))
}

/// Ends the worker. If the future is dropped, the worker is ended in the background.
pub(super) async fn close(channel: &Channel, timeout: Duration) -> Result<ExitCause> {
    let worker = channel.worker();
    worker.begin_close(timeout)?;
    let is_running = || match worker.exit_cause() {
        None => Ok(()),
        Some(_) => Err(worker.state().why_over_now(None)),
    };
    // The deadlines count from here.
    let answer_by = Deadline::after(timeout);
    let end_by = Deadline::after(timeout.saturating_add(KILL_TIME));
    // The answer does not matter: only the worker's end does.
    let _ = ask(channel, Kind::SHUTDOWN, answer_by, is_running).await;
    let cause = wait_exit(channel, end_by).await?;
    worker.end_close();
    Ok(cause)
}

/// Waits until the worker has ended, and returns how.
///
/// # Errors
///
/// [`ErrorKind::Timeout`] after the deadline.
pub(super) async fn wait_exit(channel: &Channel, deadline: Deadline) -> Result<ExitCause> {
    let worker = channel.worker();
    let (mut exit, mut timer) = (worker.state().exit_waiters.register(), Timer::default());
    let cause = poll_fn(|context| {
        // Before the look, so that an end after the look wakes the task.
        exit.wait(context.waker());
        match worker.exit_cause() {
            None if !timer.poll(deadline, context) => Poll::Pending,
            cause => Poll::Ready(cause),
        }
    });
    cause.await.ok_or_else(|| {
        let (role, pid) = (worker.role(), worker.pid());
        let message = format!("worker {role} (pid {pid}) was killed but has not ended");
        Error::new(ErrorKind::Timeout, message)
    })
}

/// Sends a question on the health rings and waits for its answer, which is `None` if the deadline
/// passed first. An error of `check` ends the wait.
async fn ask(
    channel: &Channel,
    kind: Kind,
    deadline: Deadline,
    check: impl Fn() -> Result<()>,
) -> Result<Option<(Header, Vec<u8>)>> {
    let (reactor, worker) = (&channel.core().reactor_state, channel.worker());
    let (mut question, mut timer) = (worker.health().question(kind), Timer::default());
    let (mut run, mut exit) =
        (reactor.health_waiters.register(), worker.state().exit_waiters.register());
    poll_fn(|context| {
        reactor.before_wait();
        // Before the looks, so that news after them wakes the task.
        run.wait(context.waker());
        exit.wait(context.waker());
        if let Err(error) = check() {
            return Poll::Ready(Err(error));
        }
        let was_sent = question.is_sent();
        let answer = question.poll(context.waker());
        if question.is_sent() != was_sent {
            reactor.reset_idle_turns();
        }
        match answer {
            Ok(None) if !timer.poll_for_peer(deadline, context) => Poll::Pending,
            answer => Poll::Ready(answer),
        }
    })
    .await
}
