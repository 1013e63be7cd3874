//! What the parent's side needs of the processes' code under the model checker.

pub(crate) mod service {
    use std::task::Waker;

    /// Wakes the tasks on the calling thread. What ships starts a thread for it.
    pub(crate) fn wake_task(waker: Waker) {
        waker.wake();
    }

    pub(crate) fn wake_tasks(wakers: Vec<Waker>) {
        wakers.into_iter().for_each(Waker::wake);
    }
}
