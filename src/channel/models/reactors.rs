//! A reactor of the host's and a thread on one channel.

use std::sync::atomic::AtomicBool;
use std::task::{Wake, Waker};

use super::*;

/// Whether a task was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Woken {
    fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a host's reactor does until a reply is there.
fn react(core: &Core, wake_fd: &WakeFd, pending: &mut Pending) {
    loop {
        read_for_host(core).unwrap();
        if let Some(reply) = pending.try_wait().unwrap() {
            assert_eq!(reply.to_vec(), [pending.request().to_le_bytes()[0]]);
            return;
        }
        wake_fd.wait_until_readable();
    }
}

fn rig_of_reactor() -> (ChannelRig, Arc<WakeFd>) {
    let [wake_fd, worker_fd] = WakeFd::pair().map(Arc::new);
    let rig = rig_with_wake_fds(2, [Some(Arc::clone(&wake_fd)), Some(worker_fd)]);
    (rig, wake_fd)
}

#[test]
fn a_reactor_is_told_of_what_a_thread_reads_for_it() {
    model_up_to(FEWER, || {
        let (mut rig, wake_fd) = rig_of_reactor();
        let (first, mut second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        worker.reply(2);
        let waiting = thread::spawn(move || wait(first));
        react(&core, &wake_fd, &mut second);
        // The thread waits until this reply, and may read for the reactor until then.
        worker.reply(1);
        waiting.join().unwrap();
        drop((second, worker));
    });
}

#[test]
fn a_reactor_that_found_the_ring_taken_is_woken_when_it_is_not() {
    model_up_to(FEWER, || {
        let (mut rig, wake_fd) = rig_of_reactor();
        let (first, mut second) = (rig.submit(), rig.submit());
        let ChannelRig { core, mut worker } = rig;
        let waiting = thread::spawn(move || {
            worker.reply(1);
            wait(first);
            // The thread reads no more, so that the reactor must be woken.
            worker.reply(2);
            worker
        });
        react(&core, &wake_fd, &mut second);
        drop((second, waiting.join().unwrap()));
    });
}

#[test]
fn a_reactor_looks_again_for_room_that_another_sender_took() {
    model_up_to(FEWER, || {
        let (rig, wake_fd) = rig_of_reactor();
        let ChannelRig { core, mut worker } = rig;
        let first = submit_longest(&core);
        let serving = thread::spawn({
            let core = Arc::clone(&core);
            move || {
                worker.take();
                // The room that the reactor may have announced by now.
                if core.sender.try_send(Header::default(), LONGEST, |_| ()).unwrap() {
                    worker.take();
                }
                worker
            }
        });
        loop {
            let woken = Arc::new(Woken::default());
            let waiter = Waiter::Task(Waker::from(Arc::clone(&woken)));
            let key = core.sender.register_for_room(LONGEST, waiter);
            read_for_host(&core).unwrap();
            if !woken.is_so() {
                wake_fd.wait_until_readable();
            }
            core.sender.stop_waiting(key);
            if core.sender.has_room_for(LONGEST).unwrap() {
                break;
            }
        }
        drop((first, serving.join().unwrap()));
    });
}
