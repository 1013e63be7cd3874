//! Tasks that wait, and a driver that finds the descriptor readable for them. A driver leaves the
//! frames in the ring to a task that waits alone and reads for itself.

use std::sync::atomic::AtomicBool;
use std::task::{Poll, Wake, Waker};

use loom::sync::{Condvar, Mutex};

use super::*;

/// What polls a task, and sleeps until the task is woken.
#[derive(Default)]
struct Executor {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Wake for Executor {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock().unwrap() = true;
        self.woken.notify_one();
    }
}

impl Executor {
    fn take_woken(&self) -> bool {
        std::mem::take(&mut *self.is_woken.lock().unwrap())
    }

    fn sleep(&self) {
        let mut is_woken = self.is_woken.lock().unwrap();
        while !std::mem::take(&mut *is_woken) {
            is_woken = self.woken.wait(is_woken).unwrap();
        }
    }
}

/// A task's wait for the reply of a request.
struct Task {
    wait: TaskWait,
    reads_itself: bool,
}

impl Task {
    fn new(core: &Arc<Core>, request: u64, reads_itself: bool) -> Self {
        Self { wait: TaskWait::new(core, request), reads_itself }
    }

    /// Polls once. Returns whether the reply has come.
    fn poll(&mut self, executor: &Arc<Executor>) -> bool {
        let waker = Waker::from(Arc::clone(executor));
        let want = if self.reads_itself { TaskWant::Part } else { TaskWant::Reply };
        match self.wait.poll(&waker, Duration::ZERO, Deadline::NEVER, want).unwrap() {
            Poll::Ready(TaskFound::Item(Item::Result(_))) => true,
            Poll::Ready(found) => panic!("{found:?} is no reply"),
            Poll::Pending => false,
        }
    }

    /// Polls whenever the task is woken, until the reply has come.
    fn run(&mut self, executor: &Arc<Executor>) {
        while !self.poll(executor) {
            executor.sleep();
        }
    }
}

/// Starts a thread on which a task can be polled: that needs more stack than a model's thread has.
fn spawn<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(0x1_0000).spawn(body).unwrap()
}

/// A model whose first thread polls tasks.
fn model_of_tasks(preemptions: usize, body: impl Fn() + Copy + Send + Sync + 'static) {
    model_up_to(preemptions, move || spawn(body).join().unwrap());
}

/// The descriptor, and whether its driver must stop.
struct Driven {
    wake_fd: Arc<WakeFd>,
    is_over: AtomicBool,
}

impl Driven {
    fn rig() -> (ChannelRig, Arc<Self>) {
        let [wake_fd, worker_fd] = WakeFd::pair().map(Arc::new);
        let rig = rig_with_wake_fds(2, [Some(Arc::clone(&wake_fd)), Some(worker_fd)]);
        (rig, Arc::new(Self { wake_fd, is_over: AtomicBool::new(false) }))
    }

    /// What a driver does until it must stop.
    fn run(&self, core: &Core) {
        while !self.is_over.load(Ordering::Relaxed) {
            self.wake_fd.wait_until_readable();
            read_readable(core);
        }
    }

    fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.wake_fd.wake_self();
    }
}

#[test]
fn a_task_that_moves_gets_what_the_driver_leaves_in_the_ring() {
    model_of_tasks(FEWER, || {
        let (mut rig, driven) = Driven::rig();
        let pending = rig.submit();
        let ChannelRig { core, mut worker } = rig;
        let driver = spawn({
            let (core, driven) = (Arc::clone(&core), Arc::clone(&driven));
            move || {
                worker.reply(1);
                driven.run(&core);
                worker
            }
        });
        let mut task = Task::new(&core, 1, true);
        // The executor that polls the task first is woken in vain when the task has moved.
        if !task.poll(&Arc::default()) {
            task.run(&Arc::default());
        }
        driven.stop();
        drop((task, pending, driver.join().unwrap()));
    });
}

#[test]
fn a_task_that_is_dropped_leaves_no_frame_of_another_unread() {
    model_of_tasks(PREEMPTIONS, || {
        let (mut rig, driven) = Driven::rig();
        let (first, second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        let (executor, mut other) = (Arc::<Executor>::default(), Task::new(&core, 2, false));
        assert!(!other.poll(&executor));
        let dropping = spawn({
            let core = Arc::clone(&core);
            move || {
                let mut task = Task::new(&core, 1, true);
                assert!(!task.poll(&Arc::default()));
                worker.reply(2);
                drop(task);
                worker
            }
        });
        // This thread is the driver, too.
        while !other.poll(&executor) {
            while !executor.take_woken() {
                driven.wake_fd.wait_until_readable();
                read_readable(&core);
            }
        }
        drop((first, second, other, dropping.join().unwrap()));
    });
}

/// The driver may leave the frames to a task that is not polled any more. Then another waiter comes.
fn another_waiter_comes(wait_for_second: fn(&Arc<Core>, Pending)) {
    model_of_tasks(FEWER, move || {
        let (mut rig, driven) = Driven::rig();
        let (first, second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        let mut stalled = Task::new(&core, 1, true);
        assert!(!stalled.poll(&Arc::default()));
        let driver = spawn({
            let (core, driven) = (Arc::clone(&core), Arc::clone(&driven));
            move || {
                worker.reply(1);
                worker.reply(2);
                driven.run(&core);
                worker
            }
        });
        wait_for_second(&core, second);
        driven.stop();
        drop((stalled, first, driver.join().unwrap()));
    });
}

#[test]
fn a_second_task_gets_what_is_left_to_one_that_is_not_polled() {
    another_waiter_comes(|core, second| {
        Task::new(core, second.request(), true).run(&Arc::default());
    });
}

#[test]
fn a_thread_gets_what_is_left_to_a_task_that_is_not_polled() {
    another_waiter_comes(|_, second| wait(second));
}
