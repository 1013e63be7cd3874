//! Whether a thread may wait for a role: not if it must run the tasks of that role itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slipring::Result;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::errors;

/// How long a thread waits for another one to run a task.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// The thread that has last run a task of a role, if that is on a runtime of one thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Runner(Arc<AtomicUsize>);

impl Runner {
    /// Notes the thread at each poll of a task.
    pub(super) fn of<F>(&self, runtime: &Handle, task: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Noted { runner: has_one_thread(runtime).then(|| self.clone()), task: Box::pin(task) }
    }

    /// Runs `wait`, which blocks this thread until tasks of the runtime have gone on.
    pub(super) fn block(&self, role: &str, runtime: &Handle, wait: &mut dyn FnMut()) -> Result<()> {
        let here = Handle::try_current().ok();
        if has_one_thread(runtime) {
            if self.is_here(runtime, here.as_ref().is_some_and(has_one_thread)) {
                return Err(errors::waits_for_itself(role));
            }
        } else if here.is_some_and(|here| !has_one_thread(&here)) && tokio::task::try_id().is_some()
        {
            // This thread would keep the task that it has woken last.
            tokio::task::block_in_place(wait);
            return Ok(());
        }
        wait();
        Ok(())
    }

    /// Whether this thread must run the tasks. `is_entered`: it is on a runtime of one thread.
    fn is_here(&self, runtime: &Handle, is_entered: bool) -> bool {
        let (here, seen) = (this_thread(), || self.0.load(Ordering::Relaxed));
        match (seen(), is_entered) {
            (0, false) => return false,
            (thread, true) if thread == here => return true,
            // This thread may have run them before, or none has run yet.
            (thread, _) if thread == here || thread == 0 => {}
            _ => return false,
        }
        runtime.spawn(self.of(runtime, async {}));
        let began = Instant::now();
        while matches!(seen(), thread if thread == here || thread == 0) {
            if began.elapsed() > PATIENCE {
                self.0.store(here, Ordering::Relaxed);
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    }
}

fn has_one_thread(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// A number that no other thread has now, and that is not 0.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

struct Noted<F> {
    runner: Option<Runner>,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Noted<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(Runner(thread)) = &self.runner {
            thread.store(this_thread(), Ordering::Relaxed);
        }
        self.task.as_mut().poll(context)
    }
}
