//! A worker that has many requests dies: each error says how far its request was.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use crate::common::*;
use slipring::worker::{Batches, HandlerError, Incoming, StepEngine, Worker};
use slipring::{Channel, Error, ErrorKind, Kind, RequestId, RequestStage, Spawner};

const WORK: Kind = Kind::named("work");

/// Not a test of its own: a worker that takes five requests, and begins those whose payload is not
/// empty.
#[test]
fn keeping_entry() {
    if !slipring::worker::is_worker() {
        return;
    }
    let worker = Worker::new(|_| Ok(())).max_taken(5).inbox(|(), inbox| {
        let mut kept = Vec::new();
        loop {
            let mut taken = inbox.recv()?;
            if !taken.request.get().is_empty() {
                taken.responder.begin();
            }
            kept.push(taken);
        }
    });
    worker.serve().unwrap();
}

/// The errors of requests with such payloads, once their worker was killed.
fn errors_after_a_kill(payloads: &[&str], taken: usize) -> Vec<(RequestId, Error)> {
    let begun = payloads[..taken].iter().filter(|payload| !payload.is_empty()).count();
    let channel = spawner_of(keeping_entry).exit_status_timeout(LONG).spawn().unwrap();
    let pending: Vec<_> =
        payloads.iter().map(|payload| channel.submit(WORK, *payload, LONG).unwrap()).collect();
    eventually("all are where they stay", || {
        let health = channel.health();
        (health.begun, health.taken) == (begun, taken - begun)
    });
    send_signal(channel.pid(), libc::SIGKILL);
    let errors = pending.into_iter().map(|pending| {
        let (id, error) = (pending.id(), pending.wait().unwrap_err());
        cause_of(&error);
        eventually("its marks are read", || error.stage().is_some());
        (id, error)
    });
    errors.collect()
}

#[test]
fn a_kill_tells_of_each_request_whether_it_was_queued_taken_or_begun() {
    use RequestStage::{Begun, Queued, Taken};
    let errors = errors_after_a_kill(&["", "begin", "", "begin", "", "begin", "", ""], 5);
    let (first, second) = (errors[1].0, errors[3].0);
    let stages = [Taken, Begun, Taken, Begun, Taken, Queued, Queued, Queued];
    for ((id, error), stage) in errors.iter().zip(stages) {
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        assert_eq!(error.stage(), Some(stage), "{error}");
        assert_eq!(error.was_begun(), Some(stage == Begun), "{error}");
        assert_eq!(error.begun_alone(), Some(false), "{error}");
        let death = error.death().unwrap();
        assert_eq!(death.begun_requests(), [first, second]);
        assert_eq!((death.serving(), death.request()), (Some(first), Some(*id)));
        let told = match stage {
            Begun => format!("while it served request {id} and another one;"),
            Taken => format!("request {first} and another one; request {id} had been taken and"),
            _ => format!("request {first} and another one; request {id} had not been begun"),
        };
        assert!(error.to_string().contains(&told), "{error}");
    }
}

#[test]
fn a_request_that_was_begun_alone_is_told_from_those_that_were_not() {
    let errors = errors_after_a_kill(&["", "", "begin"], 3);
    let alone: Vec<_> = errors.iter().map(|(_, error)| error.begun_alone().unwrap()).collect();
    assert_eq!(alone, [false, false, true]);
    let errors = errors_after_a_kill(&["", ""], 2);
    for (_, error) in errors {
        assert_eq!((error.begun_alone(), error.stage()), (Some(false), Some(RequestStage::Taken)));
        assert_eq!(error.death().unwrap().serving(), None);
        assert!(error.to_string().contains("while it served no request"), "{error}");
    }
}

/// Not a test of its own: a worker whose threads note in a file what they begin.
#[test]
fn noting_entry() {
    if !slipring::worker::is_worker() {
        return;
    }
    let worker = Worker::new(|role| {
        let path = role.extra("notes").ok_or("no file for notes")?;
        Ok(OpenOptions::new().append(true).open(path)?)
    });
    let worker = worker.inbox(|notes: &mut File, inbox| {
        let serve = || -> slipring::Result<()> {
            loop {
                let mut taken = vec![inbox.recv()?];
                inbox.try_recv_many(&mut taken, 2)?;
                for Incoming { request, mut responder } in taken {
                    let id = request.id().get();
                    std::thread::sleep(Duration::from_micros(id % 7 * 20));
                    responder.begin();
                    // The side effect.
                    (&*notes).write_all(&id.to_le_bytes()).unwrap();
                    std::thread::sleep(Duration::from_micros(id % 5 * 40));
                    responder.send(&request.get().to_vec())?;
                }
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(serve)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap())
        })?;
        Ok(())
    });
    worker.serve().unwrap();
}

/// Sends requests until the worker has died, and returns the errors of those that were sent.
fn errors_until_the_death(channel: &Channel) -> Vec<(u64, Error)> {
    let mut errors = Vec::new();
    while channel.is_alive() {
        let sent: Vec<_> = (0..6).map_while(|_| channel.submit(WORK, "x", LONG).ok()).collect();
        for pending in sent {
            let id = pending.id().get();
            errors.extend(pending.wait().err().map(|error| (id, error)));
        }
    }
    errors
}

#[test]
fn whatever_a_killed_worker_had_begun_is_told_as_begun() {
    let dir = temp_dir("notes");
    let spawner: Spawner = spawner_of(noting_entry).exit_status_timeout(LONG);
    let mut told = HashSet::new();
    for round in 0..repetitions("SLIPRING_TEST_KILLS", 30) {
        let path = dir.join(format!("{round}"));
        File::create(&path).unwrap();
        let notes = path.to_str().unwrap();
        let channel = spawner.clone().extra("notes", notes).spawn().unwrap();
        channel.call(WORK, "first", LONG).unwrap();
        let errors = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (errors, channel) = (&errors, &channel);
                scope.spawn(move || {
                    let found = errors_until_the_death(channel);
                    errors.lock().unwrap().extend(found);
                });
            }
            std::thread::sleep(Duration::from_micros(round * 731 % 9000));
            send_signal(channel.pid(), libc::SIGKILL);
        });
        let noted: HashSet<u64> = numbers(&std::fs::read(&path).unwrap()).into_iter().collect();
        for (id, error) in errors.into_inner().unwrap() {
            assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
            cause_of(&error);
            eventually("its marks are read", || error.stage().is_some());
            let stage = error.stage().unwrap();
            assert!(stage == RequestStage::Begun || !noted.contains(&id), "{error}");
            assert_eq!(error.was_begun(), Some(stage == RequestStage::Begun));
            told.insert(stage);
        }
        assert!(!noted.is_empty(), "the first call was answered");
    }
    println!("told: {told:?}");
    assert!(told.contains(&RequestStage::Begun) && told.len() > 1, "{told:?}");
    std::fs::remove_dir_all(dir).unwrap();
}

/// The variable that says how the worker of [`holding_entry`] serves, and how many requests it
/// begins at most.
const HOLDS: &str = "SLIPRING_TEST_HOLDS";

/// Not a test of its own: a worker that takes four requests, begins some, and answers none.
#[test]
fn holding_entry() {
    if !slipring::worker::is_worker() {
        return;
    }
    let how = std::env::var(HOLDS).unwrap();
    let (way, begins) = how.split_once(' ').unwrap();
    let begins = begins.parse().unwrap();
    let worker = Worker::new(|_| Ok(())).max_taken(4);
    match way {
        "batches" => hold_a_batch(worker, begins).serve().unwrap(),
        "steps" => hold_in_steps(begins).serve().unwrap(),
        #[cfg(feature = "async")]
        _ => hold_in_tasks(worker, begins).serve().unwrap(),
        #[cfg(not(feature = "async"))]
        _ => unreachable!("no such way"),
    }
}

/// Serves the first batch, a request for the second to form behind, until it is cancelled, and
/// answers no more.
fn hold_a_batch(worker: Worker<()>, begins: usize) -> Worker<()> {
    let batches = Batches::new().max_batch_size(begins).on(WORK, |(), batch| {
        let first = batch.iter().next().map(|request| request.to_vec());
        if first.is_some_and(|first| first == b"first") {
            // Until all others are in the ring.
            while !batch.iter().any(|request| request.is_cancelled()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Ok(());
        }
        batch.iter().zip(1..).for_each(|(request, n)| request.set_progress(n));
        loop {
            std::thread::park();
        }
    });
    worker.batches(batches)
}

fn hold_in_steps(begins: usize) -> Worker<Holding> {
    Worker::new(move |_| Ok(Holding { open: Vec::new(), capacity: begins })).max_taken(4).steps()
}

struct Holding {
    open: Vec<Incoming>,
    capacity: usize,
}

impl StepEngine for Holding {
    fn add_request(&mut self, incoming: Incoming) -> Result<(), HandlerError> {
        incoming.responder.set_progress(self.open.len() as u64 + 1);
        self.open.push(incoming);
        Ok(())
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        while self.open.len() == self.capacity {
            std::thread::park();
        }
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        self.open.len() < self.capacity
    }

    fn has_finished(&self) -> bool {
        self.open.is_empty()
    }
}

/// An executor that polls as many tasks as are to begin, and keeps all.
#[cfg(feature = "async")]
fn hold_in_tasks(worker: Worker<()>, begins: usize) -> Worker<std::sync::Arc<()>> {
    use slipring::worker::{OwnedResponder, Tasks};
    use std::task::{Context, Waker};

    let kept = Mutex::new(Vec::new());
    let tasks = Tasks::new(move |mut task| {
        let mut kept = kept.lock().unwrap();
        if kept.len() < begins {
            let polled = task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        kept.push(task);
    });
    let begun = std::sync::atomic::AtomicU64::new(1);
    worker.tasks(tasks.on(WORK, move |_, _, reply: OwnedResponder| {
        reply.set_progress(begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        async move {
            let _reply = reply;
            std::future::pending().await
        }
    }))
}

/// Kills a worker that holds requests, of which `begun` are begun and `taken` are taken only. What
/// health shows of them before, and what their errors tell after it, is the same.
fn assert_stages(way: &str, begun: usize, taken: usize) {
    let spawner = spawner_of(holding_entry).env(HOLDS, format!("{way} {begun}"));
    let channel = spawner.exit_status_timeout(LONG).spawn().unwrap();
    let before = match way {
        "batches" => {
            let first = channel.submit(WORK, "first", LONG).unwrap();
            eventually("the first is begun", || channel.health().begun == 1);
            Some(first)
        }
        _ => None,
    };
    let pending: Vec<_> = (0..7).map(|_| channel.submit(WORK, "", LONG).unwrap()).collect();
    let ids: Vec<_> = pending.iter().map(|pending| pending.id()).collect();
    before.into_iter().for_each(drop);
    let counts = || (channel.health().begun, channel.health().taken);
    let has_progress = || {
        let shown = channel.health().requests;
        shown.iter().filter(|request| request.progress > 0).count() == begun
    };
    eventually("all are where they stay", || counts() == (begun, taken) && has_progress());

    for health in [channel.health(), channel.ping(LONG).unwrap()] {
        assert_eq!((health.begun, health.taken), (begun, taken), "{way}");
        let since: Vec<_> = health.requests.iter().map(|shown| shown.since).collect();
        assert!(since.is_sorted_by(|a, b| a >= b), "{way}, oldest first: {since:?}");
        let mut shown = health.requests;
        shown.sort_by_key(|shown| shown.id);
        let shown: Vec<_> =
            shown.iter().map(|shown| (shown.id, shown.stage, shown.progress)).collect();
        let stage = |n| if n < begun { RequestStage::Begun } else { RequestStage::Taken };
        let progress = |n| if n < begun { n as u64 + 1 } else { 0 };
        let expected: Vec<_> =
            (0..begun + taken).map(|n| (ids[n], stage(n), progress(n))).collect();
        assert_eq!(shown, expected, "{way}");
        assert_eq!(health.current_request, Some(ids[0]));
        assert!(since.contains(&health.busy_for.unwrap()) && health.progress == 1);
    }

    send_signal(channel.pid(), libc::SIGKILL);
    for (n, pending) in pending.into_iter().enumerate() {
        let error = pending.wait().unwrap_err();
        cause_of(&error);
        eventually("its marks are read", || error.stage().is_some());
        let stage = match n {
            n if n < begun => RequestStage::Begun,
            n if n < begun + taken => RequestStage::Taken,
            _ => RequestStage::Queued,
        };
        assert_eq!(error.stage(), Some(stage), "{way}: request {n}: {error}");
        assert_eq!(error.was_begun(), Some(n < begun), "{way}: {error}");
        assert_eq!(error.begun_alone(), Some(n == 0 && begun == 1), "{way}: {error}");
        assert_eq!(error.death().unwrap().begun_requests(), ids[..begun], "{way}");
    }
}

#[test]
fn a_batch_that_is_served_is_begun_and_the_next_one_taken() {
    assert_stages("batches", 2, 2);
    assert_stages("batches", 1, 3);
}

#[test]
fn what_an_engine_has_opened_is_begun_and_all_else_in_the_ring() {
    assert_stages("steps", 2, 0);
    assert_stages("steps", 1, 0);
}

#[cfg(feature = "async")]
#[test]
fn a_task_that_was_polled_is_begun_and_one_that_was_not_taken() {
    assert_stages("tasks", 2, 2);
    assert_stages("tasks", 1, 3);
}
