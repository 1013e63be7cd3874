//! A reactor of the host's and a thread on one channel.

use super::*;

/// What a host's reactor does until a reply is there.
fn react(engine: &Engine, wake_fd: &WakeFd, request: u64) {
    loop {
        engine.drive_reactor().unwrap();
        match engine.try_reply(request).unwrap() {
            Some(Item::Result(body)) => {
                assert_eq!(body.bytes().to_vec(), [request.to_le_bytes()[0]]);
                return;
            }
            Some(other) => panic!("{other:?}"),
            None => wake_fd.wait_until_readable(),
        }
    }
}

fn rig_of_reactor() -> (Rig, Arc<WakeFd>) {
    let [wake_fd, worker_hint] = WakeFd::pair().map(Arc::new);
    let rig = rig_with_hints(2, [Some(Arc::clone(&wake_fd)), Some(worker_hint)]);
    (rig, wake_fd)
}

#[test]
fn a_reactor_is_told_of_what_a_thread_reads_for_it() {
    model_up_to(FEWER, || {
        let (mut rig, wake_fd) = rig_of_reactor();
        let (first, second) = (rig.submit(), rig.submit());
        let Rig { engine, mut worker } = rig;
        worker.reply(2);
        let waiting = thread::spawn(move || wait(first));
        react(&engine, &wake_fd, 2);
        // The thread may read until then.
        worker.reply(1);
        waiting.join().unwrap();
        drop((second, worker));
    });
}

#[test]
fn a_reactor_that_found_the_ring_taken_is_woken_when_it_is_not() {
    model_up_to(FEWER, || {
        let (mut rig, wake_fd) = rig_of_reactor();
        let (first, second) = (rig.submit(), rig.submit());
        let Rig { engine, mut worker } = rig;
        let waiting = thread::spawn(move || {
            worker.reply(1);
            wait(first);
            // Nobody reads now but the reactor, which has to be woken.
            worker.reply(2);
            worker
        });
        react(&engine, &wake_fd, 2);
        drop((second, waiting.join().unwrap()));
    });
}
