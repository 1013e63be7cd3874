//! The thread that goes on with requests that were submitted, and those requests.
//!
//! A request that was submitted is a future. It is polled first on the thread that submits it, and
//! from then on here, whenever it is woken: by its worker's reply, or by a worker that has a place.
//! So it goes on although no caller waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::cancels::Cancel;
use super::seat::Answer;
use crate::channel::Reply;
use crate::error::{Error, ErrorKind, Result};
use crate::process::service::start_thread;
use crate::sync::plain::{Condvar, Mutex};
use crate::sys::clock::Deadline;
use crate::sys::fork;

/// All attempts of a request.
type Job = Pin<Box<dyn Future<Output = Result<Reply>> + Send>>;

/// The thread. It runs while the pool is there, or a request is pending, from the first on.
#[derive(Debug, Default)]
pub(super) struct Executor {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    woken: VecDeque<Arc<Submitted>>,
    /// Requests that have not ended.
    pending: usize,
    is_running: bool,
    is_over: bool,
}

impl Executor {
    /// Begins a request: polls it, so that it is sent if a worker has a place. Never blocks.
    ///
    /// # Errors
    ///
    /// What is known at once, such as an overload; [`ErrorKind::Os`] if the thread cannot be
    /// started.
    pub(super) fn submit(
        self: &Arc<Self>,
        number: u64,
        job: impl Future<Output = Result<Reply>> + Send + 'static,
    ) -> Result<Arc<Submitted>> {
        self.enter()?;
        let submitted = Arc::new(Submitted {
            number,
            executor: Arc::clone(self),
            progress: Mutex::new(Progress { job: Some(Box::pin(job)), ..Progress::default() }),
            answer: Answer::new(),
        });
        match submitted.turn() {
            Some(Err(error)) => return Err(error),
            Some(Ok(reply)) => drop(submitted.answer.tell(Ok(reply))),
            None => {}
        }
        Ok(submitted)
    }

    /// Has the thread end when no request is pending.
    pub(super) fn end(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Counts a request that is about to begin, and starts the thread if it does not run.
    fn enter(self: &Arc<Self>) -> Result<()> {
        let mut state = self.state.lock();
        if !state.is_running {
            let this = Arc::clone(self);
            start_thread("slipring-submit", move || this.run()).map_err(|error| {
                Error::os("cannot start the thread of submitted requests", error)
            })?;
            state.is_running = true;
        }
        state.pending += 1;
        Ok(())
    }

    /// A request has ended.
    fn leave(&self) {
        let mut state = self.state.lock();
        state.pending = state.pending.saturating_sub(1);
        let is_last = state.is_over && state.pending == 0;
        drop(state);
        if is_last {
            self.changed.notify_all();
        }
    }

    /// Has the thread go on with a request. If it has ended, so has the request: nothing is kept.
    fn push(&self, submitted: Arc<Submitted>) {
        let mut state = self.state.lock();
        if state.is_running {
            state.woken.push_back(submitted);
            drop(state);
            self.changed.notify_all();
        }
    }

    fn run(&self) {
        while let Some(submitted) = self.next() {
            // The waker of the task that waits for the reply is an executor's code, also where it
            // is dropped with the request.
            let _ = catch_unwind(AssertUnwindSafe(move || submitted.run()));
        }
    }

    /// Blocks until a request was woken. `None`: the thread has ended.
    fn next(&self) -> Option<Arc<Submitted>> {
        let mut state = self.state.lock();
        loop {
            if let Some(submitted) = state.woken.pop_front() {
                return Some(submitted);
            }
            if state.is_over && state.pending == 0 {
                state.is_running = false;
                return None;
            }
            state = self.changed.wait_timeout(state, Deadline::IDLE.remaining());
        }
    }
}

/// A request that was submitted.
pub(super) struct Submitted {
    number: u64,
    executor: Arc<Executor>,
    progress: Mutex<Progress>,
    /// How it has ended.
    pub(super) answer: Answer<Result<Reply>>,
}

#[derive(Default)]
struct Progress {
    /// `None` while a thread polls the job, and once the request has ended. A poll runs wakers of
    /// other tasks, which are the host's code, so that no thread may wait for its end.
    job: Option<Job>,
    /// The executor's thread is to poll the job.
    is_woken: bool,
    /// The executor's thread was to poll the job while another thread did.
    is_missed: bool,
    is_cancelled: bool,
}

impl Submitted {
    fn run(self: Arc<Self>) {
        if let Some(outcome) = self.turn() {
            drop(self.answer.tell(outcome));
        }
    }

    /// Goes on with it. Returns how it has ended, once.
    fn turn(self: &Arc<Self>) -> Option<Result<Reply>> {
        let mut progress = self.progress.lock();
        let Some(mut job) = progress.job.take() else {
            progress.is_missed = true;
            return None;
        };
        // Before the poll, so that a wake that comes meanwhile leads to another one.
        (progress.is_woken, progress.is_missed) = (false, false);
        let is_cancelled = progress.is_cancelled;
        drop(progress);
        let outcome = match is_cancelled {
            true => Err(self.ended_early("was cancelled")),
            false => {
                let waker = Waker::from(Arc::clone(self));
                let mut context = Context::from_waker(&waker);
                let polled = catch_unwind(AssertUnwindSafe(|| job.as_mut().poll(&mut context)));
                match polled {
                    Ok(Poll::Ready(outcome)) => outcome,
                    Ok(Poll::Pending) => {
                        self.put_back(job);
                        return None;
                    }
                    // It cannot go on. What it ran of the host's code has panicked.
                    Err(_) => Err(self.ended_early("was ended by a panic")),
                }
            }
        };
        // It gives its worker back before its owner hears of the end. That wakes other tasks, too.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(job)));
        self.executor.leave();
        Some(outcome)
    }

    /// Keeps the job until the next poll, and has that follow at once if it was missed.
    fn put_back(self: &Arc<Self>, job: Job) {
        let mut progress = self.progress.lock();
        progress.job = Some(job);
        let is_missed = progress.is_missed;
        drop(progress);
        if is_missed {
            self.executor.push(Arc::clone(self));
        }
    }

    #[cold]
    fn ended_early(&self, why: &str) -> Error {
        Error::new(ErrorKind::Cancelled, format!("request {} {why}", self.number))
    }
}

impl Cancel for Submitted {
    fn cancel(self: Arc<Self>) {
        self.progress.lock().is_cancelled = true;
        self.wake();
    }
}

impl Wake for Submitted {
    fn wake(self: Arc<Self>) {
        if fork::is_forked_child() {
            return;
        }
        let was_woken = std::mem::replace(&mut self.progress.lock().is_woken, true);
        if !was_woken {
            let executor = Arc::clone(&self.executor);
            executor.push(self);
        }
    }
}

impl fmt::Debug for Submitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitted").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Weak;
    use std::time::Duration;

    use super::*;

    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is_so() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("never: {what}");
    }

    #[test]
    fn a_request_that_is_dropped_after_the_end_of_its_thread_is_not_kept() {
        let executor = Arc::new(Executor::default());
        let mut polls = 0;
        let job = poll_fn(move |context| {
            polls += 1;
            context.waker().wake_by_ref();
            let over = || Poll::Ready(Err(Error::new(ErrorKind::Closed, "over")));
            if polls == 1 { Poll::Pending } else { over() }
        });
        let submitted = executor.submit(1, job).unwrap();
        // Ends the thread when the request has ended; its reply is not read.
        executor.end();
        eventually("the thread has ended", || !executor.state.lock().is_running);
        // As the drop of its pending reply, and then a waker that comes late.
        Arc::clone(&submitted).cancel();
        Waker::from(Arc::clone(&submitted)).wake();
        let kept = (Arc::downgrade(&submitted), Arc::downgrade(&executor));
        drop((submitted, executor));
        eventually("the request is gone", || kept.0.upgrade().is_none());
        let is_gone = |executor: &Weak<Executor>| executor.upgrade().is_none();
        eventually("its executor is gone", || is_gone(&kept.1));
    }

    #[test]
    fn a_poll_that_blocks_holds_up_no_other_request() {
        let executor = Arc::new(Executor::default());
        let ended = || Poll::Ready(Err(Error::new(ErrorKind::Closed, "over")));
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let (other, mut first, mut second) = (Arc::clone(&executor), true, true);
        // As a waker of another task, which this poll wakes, and which waits for the other request.
        let blocking = poll_fn(move |context| {
            if !std::mem::replace(&mut first, false) {
                return ended();
            }
            context.waker().wake_by_ref();
            let _ = told.recv_timeout(Duration::from_secs(60));
            Poll::Pending
        });
        let submit = std::thread::spawn(move || other.submit(1, blocking).unwrap());
        // The executor's thread finds that the first one is to be polled before the second one is.
        eventually("it was woken", || executor.state.lock().is_running);
        std::thread::sleep(Duration::from_millis(50));
        let quick = poll_fn(move |context| {
            if !std::mem::replace(&mut second, false) {
                return ended();
            }
            context.waker().wake_by_ref();
            Poll::Pending
        });
        let quick = executor.submit(2, quick).unwrap();
        let outcome = quick.answer.wait(Deadline::after(Duration::from_secs(10)));
        assert!(outcome.is_some(), "it waited for the poll of the other one");
        tell.send(()).unwrap();
        let blocked = submit.join().unwrap();
        let outcome = blocked.answer.wait(Deadline::after(Duration::from_secs(10)));
        assert!(outcome.is_some(), "the wake that came during its poll was lost");
        executor.end();
        eventually("the thread has ended", || !executor.state.lock().is_running);
    }

    /// A part of a request that panics as it is dropped, as a waker of the host's that this runs.
    struct PanicsAtDrop;

    impl Drop for PanicsAtDrop {
        fn drop(&mut self) {
            panic!("at the drop of a request");
        }
    }

    #[test]
    fn a_request_that_panics_at_its_drop_has_an_outcome() {
        let executor = Arc::new(Executor::default());
        let part = PanicsAtDrop;
        let job = poll_fn(move |_| {
            let _ = &part;
            Poll::Pending
        });
        let submitted = executor.submit(1, job).unwrap();
        Arc::clone(&submitted).cancel();
        let told = submitted.answer.wait(Deadline::after(Duration::from_secs(10)));
        assert_eq!(told.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        executor.end();
        eventually("the thread has ended", || !executor.state.lock().is_running);
    }

    #[test]
    fn a_request_that_panics_has_an_outcome() {
        let executor = Arc::new(Executor::default());
        let mut polls = 0;
        let job = poll_fn(move |context| {
            polls += 1;
            context.waker().wake_by_ref();
            assert!(polls == 1, "a subscriber of the host's");
            Poll::Pending
        });
        let submitted = executor.submit(1, job).unwrap();
        let told = submitted.answer.wait(Deadline::after(Duration::from_secs(60)));
        assert_eq!(told.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        executor.end();
        eventually("the thread has ended", || !executor.state.lock().is_running);
    }
}
