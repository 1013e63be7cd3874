//! Whether a thread may wait for a role: not if it must run the tasks of that role itself.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use slipring::Result;
use tokio::runtime::{Handle, RuntimeFlavor, worker_index};
use tokio::task::{block_in_place, try_id};

use super::errors;

/// How long a thread waits for another one to run a task.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs `wait`, which blocks this thread until tasks of the runtime have gone on.
pub(super) fn block(role: &str, runtime: &Handle, wait: &mut dyn FnMut()) -> Result<()> {
    // The runtime whose tasks this thread runs. Other threads can have entered one, and run none.
    let here = worker_index().and_then(|_| Handle::try_current().ok());
    if has_one_thread(runtime) {
        let is_here = here.as_ref().is_some_and(|here| here.id() == runtime.id());
        if is_here || !is_run(runtime) {
            return Err(errors::waits_for_itself(role));
        }
    }
    match here {
        Some(here) if !has_one_thread(&here) && try_id().is_some() => let_others_run(wait),
        _ => wait(),
    }
    Ok(())
}

fn has_one_thread(runtime: &Handle) -> bool {
    runtime.runtime_flavor() == RuntimeFlavor::CurrentThread
}

/// Whether another thread runs the tasks of a runtime of one thread.
fn is_run(runtime: &Handle) -> bool {
    // Odd while a thread waits in the runtime for something to do.
    if runtime.metrics().worker_park_unpark_count(0) % 2 == 1 {
        return true;
    }
    let (send, has_run) = channel();
    let probe = runtime.spawn(async move { send.send(()) });
    let answer = has_run.recv_timeout(PATIENCE);
    probe.abort();
    // A runtime that was shut down drops the task, and ends all requests.
    answer != Err(RecvTimeoutError::Timeout)
}

/// Has another thread run the tasks that this one would keep meanwhile, such as the one that it has woken
/// last.
fn let_others_run(wait: &mut dyn FnMut()) {
    let mut has_run = false;
    let waited = catch_unwind(AssertUnwindSafe(|| {
        block_in_place(|| {
            has_run = true;
            wait();
        });
    }));
    match waited {
        Ok(()) => {}
        Err(panic) if has_run => resume_unwind(panic),
        // The thread runs a runtime of one thread after all, whose task has entered this one.
        Err(_) => wait(),
    }
}
