//! A worker that serves requests on several threads. The tests of `calls`, `concurrency`, `health`
//! and `streams` run over one, too.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::common::*;

use slipring::worker::{HandlerError, OwnedResponder, Threads, Worker};
use slipring::{
    Channel, Config, ErrorKind, Kind, Pending, RequestStage, RoleConfig, StreamTimeouts,
    WorkerState, testing,
};

const WORK: Kind = Kind::named("work");
const OTHER: Kind = Kind::named("other");

fn spawn<S: 'static>(make: impl FnOnce() -> Worker<S> + Send + 'static) -> Channel {
    testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap()
}

/// A channel to eight threads that share `session`.
fn eight<S: Send + Sync + 'static>(
    session: S,
    describe: impl FnOnce(Threads<S>) -> Threads<S> + Send + 'static,
) -> Channel {
    spawn(move || Worker::new(|_| Ok(session)).threads(describe(Threads::new(8))))
}

/// Holds a handler until the test lets go of all.
#[derive(Default, Clone)]
struct Gate(Arc<(Mutex<bool>, std::sync::Condvar)>);

impl Gate {
    fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
}

/// A channel whose handlers of `WORK` wait for the gate, and those of `OTHER` echo.
fn gated() -> (Channel, Gate) {
    let gate = Gate::default();
    let channel = eight(gate.clone(), |threads| {
        threads
            .on(WORK, |gate: &Gate, request, responder| {
                gate.pass();
                Ok(responder.send(&request.to_vec())?)
            })
            .on(OTHER, |_, request, responder| Ok(responder.send(&request.to_vec())?))
    });
    (channel, gate)
}

fn submit(channel: &Channel, count: usize) -> Vec<Pending> {
    (0..count).map(|n| channel.submit(WORK, &[n as u8], LONG).unwrap()).collect()
}

#[test]
fn eight_handlers_run_at_the_same_time_on_threads_with_names() {
    let channel = eight(Barrier::new(8), |threads| {
        threads.on(WORK, |barrier: &Barrier, _, responder| {
            barrier.wait();
            Ok(responder.send(thread::current().name().unwrap_or_default())?)
        })
    });
    for _ in 0..20 {
        let pending = submit(&channel, 8);
        let names: HashSet<_> =
            pending.into_iter().map(|one| one.wait().unwrap().to_vec()).collect();
        assert_eq!(names.len(), 8, "{names:?}");
        for number in 1..8 {
            assert!(names.contains(format!("slipring-work{number}").as_bytes()));
        }
    }
    channel.close(LONG).unwrap();
}

#[test]
fn a_handler_that_is_stuck_holds_up_no_other_even_with_a_long_payload() {
    let (channel, gate) = gated();
    let frame = channel.config().max_request_frame();
    let stuck: Vec<_> =
        (0..7_u8).map(|n| channel.submit(WORK, &vec![n; frame], LONG).unwrap()).collect();
    // Several laps of the ring.
    for n in 0..200_u8 {
        assert_eq!(channel.call(OTHER, &vec![n; frame], LONG).unwrap().to_vec(), vec![n; frame]);
    }
    gate.open();
    for (n, pending) in stuck.into_iter().enumerate() {
        assert_eq!(pending.wait().unwrap().to_vec(), vec![n as u8; frame]);
    }
}

#[test]
fn requests_of_several_callers_are_served_by_the_threads_that_are_left() {
    let (channel, gate) = gated();
    let stuck = submit(&channel, 6);
    thread::scope(|scope| {
        for caller in 0..4_u64 {
            let channel = &channel;
            scope.spawn(move || {
                for n in 0..2000 {
                    let bytes = encode(&[caller, n]);
                    assert_eq!(channel.call(OTHER, &bytes, LONG).unwrap().to_vec(), bytes);
                }
            });
        }
    });
    gate.open();
    stuck.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
}

#[test]
fn a_request_after_a_pause_finds_a_thread_whatever_the_others_do() {
    let (channel, gate) = gated();
    let mut stuck = Vec::new();
    for n in 0..8_u8 {
        // Threads fall asleep in between, as standby or parked.
        thread::sleep(Duration::from_millis(3));
        for _ in 0..3 {
            channel.call(OTHER, &[n], LONG).unwrap();
        }
        stuck.push(channel.submit(WORK, &[n], LONG).unwrap());
        eventually("it is begun", || channel.health().begun == stuck.len());
    }
    let waits = channel.submit(OTHER, "", LONG).unwrap();
    thread::sleep(Duration::from_millis(20));
    let health = channel.health();
    assert_eq!((health.begun, health.taken), (8, 0));
    gate.open();
    waits.wait().unwrap();
    stuck.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
}

/// A handler that fails ends its request only, and health tells of it.
pub(crate) fn failures_are_told(channel: &Channel) {
    for (request, name, message) in [
        ("panic", "panic", "boom"),
        ("error", "test::Odd", "odd"),
        ("silence", "slipring::NoReply", "the responder was dropped without a reply"),
    ] {
        let error = channel.call(WORK, request, LONG).unwrap_err();
        let failure = error.handler_failure().unwrap();
        assert_eq!((&failure.type_name[..], &failure.message[..]), (name, message));
        let last = channel.ping(LONG).unwrap().last_error.unwrap();
        assert!(last.contains(message), "{last}");
    }
    assert_eq!(channel.call(WORK, "late", LONG).unwrap().to_vec(), b"sent");
    eventually("its error is told", || {
        channel.ping(LONG).unwrap().last_error.unwrap().contains("after the reply")
    });
    let error = channel.call(OTHER, "", LONG).unwrap_err();
    assert_eq!(error.handler_failure().unwrap().type_name, "slipring::UnknownKind");
    assert_eq!(error.was_begun(), Some(false));
}

#[test]
fn a_panic_or_an_error_ends_one_request_and_health_shows_it() {
    let gate = Gate::default();
    let channel = eight(gate.clone(), |threads| {
        threads.on(WORK, |gate: &Gate, request, responder| match &request.text()?[..] {
            "panic" => panic!("boom"),
            "error" => Err(HandlerError::new("test::Odd", "odd")),
            "silence" => Ok(()),
            "late" => {
                responder.send("sent")?;
                Err("after the reply".into())
            }
            _ => {
                gate.pass();
                Ok(responder.send("whole")?)
            }
        })
    });
    let others: Vec<_> = (0..7).map(|_| channel.submit(WORK, "", LONG).unwrap()).collect();
    failures_are_told(&channel);
    gate.open();
    for other in others {
        assert_eq!(other.wait().unwrap().to_vec(), b"whole");
    }
}

#[test]
fn a_cancel_and_a_deadline_are_seen_by_their_requests_alone() {
    let ended = Arc::new(AtomicUsize::new(0));
    let channel = eight(Arc::clone(&ended), |threads| {
        threads.on(WORK, |ended: &Arc<AtomicUsize>, request, _| {
            let ended_here = loop {
                if let Err(error) = request.check_cancelled() {
                    break error;
                }
                thread::sleep(Duration::from_micros(100));
            };
            ended.fetch_add(1, Ordering::SeqCst);
            Err(ended_here.into())
        })
    });
    let mut pending = submit(&channel, 4);
    eventually("all are begun", || channel.health().begun == 4);
    let cancelled = pending.remove(1);
    cancelled.cancel();
    assert_eq!(cancelled.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    eventually("one more has ended", || {
        // A busy machine may not begin it before its deadline.
        let short = channel.call(WORK, "", Duration::from_millis(30));
        assert!(short.unwrap_err().is_timeout());
        ended.load(Ordering::SeqCst) > 1
    });
    eventually("the others go on", || channel.health().begun == 3);
    channel.abort();
    for pending in pending {
        assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    }
    assert_eq!(channel.ping(LONG).unwrap().last_error, None);
}

#[test]
fn a_deadline_in_the_queue_fires_though_all_threads_are_busy() {
    let (channel, gate) = gated();
    let busy = submit(&channel, 8);
    let error = channel.call(OTHER, "", Duration::from_millis(30)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    gate.open();
    busy.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    channel.call(OTHER, "", LONG).unwrap();
}

#[test]
fn each_thread_has_a_session_of_its_own_that_need_not_be_send() {
    struct Own(Rc<usize>, mpsc::Sender<usize>);
    impl Drop for Own {
        fn drop(&mut self) {
            self.1.send(*self.0).unwrap_or_default();
        }
    }
    let (tell, told) = mpsc::channel();
    let channel = spawn(move || {
        let built = AtomicUsize::new(0);
        let barrier = Arc::new(Barrier::new(4));
        let threads = Threads::with_sessions(4, move |first: &usize| {
            let number = first + built.fetch_add(1, Ordering::SeqCst);
            Ok(Own(Rc::new(number), tell.clone()))
        });
        Worker::new(|_| Ok(100)).threads(threads.on(WORK, move |own: &mut Own, _, responder| {
            barrier.wait();
            Ok(responder.send(&encode(&[*own.0 as u64]))?)
        }))
    });
    for _ in 0..10 {
        let pending = submit(&channel, 4);
        let mut numbers: Vec<_> =
            pending.into_iter().map(|one| numbers(&one.wait().unwrap().to_vec())[0]).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [100, 101, 102, 103]);
    }
    channel.close(LONG).unwrap();
    let mut dropped: Vec<_> = told.iter().take(4).collect();
    dropped.sort_unstable();
    assert_eq!(dropped, [100, 101, 102, 103]);
}

#[test]
fn a_session_that_cannot_be_built_ends_the_channel_and_no_handler_runs() {
    for broken in [0, 3] {
        let (tell, told) = mpsc::channel();
        let channel = spawn(move || {
            let built = AtomicUsize::new(0);
            let threads = Threads::with_sessions(4, move |(): &()| {
                match built.fetch_add(1, Ordering::SeqCst) == broken {
                    true => Err(HandlerError::new("test::NoModel", "no model for this one")),
                    false => Ok(()),
                }
            });
            Worker::new(|_| Ok(())).threads(threads.on(WORK, move |(), _, responder| {
                tell.send(())?;
                Ok(responder.send("")?)
            }))
        });
        let error = channel.call(WORK, "", LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Session, "{error}");
        assert!(error.to_string().contains("no model for this one"), "{error}");
        assert!(told.recv().is_err(), "a handler ran");
    }
}

#[test]
fn health_shows_all_requests_that_are_begun() {
    let (channel, gate) = gated();
    let pending = submit(&channel, 8);
    eventually("all are begun", || channel.health().begun == 8);
    for health in [channel.health(), channel.ping(LONG).unwrap()] {
        assert_eq!((health.state, health.taken, health.begun), (WorkerState::Busy, 0, 8));
        let ids: HashSet<_> = health.requests.iter().map(|request| request.id).collect();
        assert_eq!(ids, pending.iter().map(Pending::id).collect());
        assert!(health.requests.iter().all(|request| request.stage == RequestStage::Begun));
    }
    gate.open();
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    eventually("it is idle", || channel.health().state == WorkerState::Idle);
}

#[test]
fn a_responder_can_outlive_its_handler_and_be_dropped_elsewhere() {
    let channel = eight(Mutex::new(Vec::<OwnedResponder>::new()), |threads| {
        threads
            .on(WORK, |kept: &Mutex<Vec<OwnedResponder>>, _, responder| {
                kept.lock().unwrap().push(responder);
                Ok(())
            })
            .on(OTHER, |kept, request, responder| {
                let taken = std::mem::take(&mut *kept.lock().unwrap());
                let is_answer = request.text()? == "answer";
                thread::spawn(move || {
                    for kept in taken {
                        if is_answer {
                            kept.send("later").unwrap();
                        }
                    }
                })
                .join()
                .unwrap();
                Ok(responder.send("")?)
            })
    });
    for how in ["answer", "drop"] {
        let pending = submit(&channel, 12);
        eventually("all are begun", || channel.health().begun == 12);
        channel.call(OTHER, how, LONG).unwrap();
        for pending in pending {
            match pending.wait() {
                Ok(reply) => assert_eq!((reply.to_vec(), how), (b"later".to_vec(), "answer")),
                Err(error) => {
                    let name = &error.handler_failure().unwrap().type_name;
                    assert_eq!((&name[..], how), ("slipring::NoReply", "drop"));
                }
            }
        }
    }
}

#[test]
fn streams_of_several_threads_do_not_wait_for_each_others_readers() {
    let channel = eight((), |threads| {
        threads.on(WORK, |_, request, mut responder| {
            for n in 0..numbers(&request.to_vec())[0] {
                responder.send_chunk(&pattern(n, 700))?;
            }
            Ok(responder.end()?)
        })
    });
    let start = || channel.stream(WORK, &encode(&[500]), StreamTimeouts::default()).unwrap();
    let unread: Vec<_> = (0..7).map(|_| start()).collect();
    for mut stream in [start()].into_iter().chain(unread) {
        for n in 0..500 {
            assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(n, 700));
        }
        assert!(stream.next_chunk().unwrap().is_none());
    }
}

#[test]
fn what_cannot_be_served_by_threads_is_refused() {
    let refused = |make: fn() -> Worker<()>| {
        let error = make().serve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        error.to_string()
    };
    let none = refused(|| Worker::new(|_| Ok(())).threads(Threads::new(0)));
    assert!(none.contains("without threads"), "{none}");
    refused(|| {
        let threads = Threads::new(2).on(WORK, |(), _, _| Ok(())).on(WORK, |(), _, _| Ok(()));
        Worker::new(|_| Ok(())).threads(threads)
    });
    refused(|| {
        Worker::new(|_| Ok(()))
            .threads(Threads::new(2))
            .on(WORK, |(), _, responder| Ok(responder.send("")?))
    });
}

#[test]
fn a_limit_below_the_number_of_threads_keeps_no_thread_from_work() {
    let channel = spawn(|| {
        let threads = Threads::new(8).on(WORK, |barrier: &Barrier, _, responder| {
            barrier.wait();
            Ok(responder.send("")?)
        });
        Worker::new(|_| Ok(Barrier::new(8))).max_taken(2).threads(threads)
    });
    submit(&channel, 8).into_iter().for_each(|pending| drop(pending.wait().unwrap()));
}

#[test]
fn a_fallback_serves_what_has_no_handler() {
    let channel = eight((), |threads| {
        threads
            .on(WORK, |_, _, responder| Ok(responder.send("its own")?))
            .fallback(|_, request, responder| Ok(responder.send(&request.kind().to_string())?))
    });
    assert_eq!(channel.call(WORK, "", LONG).unwrap().to_vec(), b"its own");
    assert_eq!(channel.call(OTHER, "", LONG).unwrap().to_vec(), OTHER.to_string().as_bytes());
}

#[test]
fn a_close_ends_all_threads_and_their_waits() {
    let channel = eight((), |threads| {
        threads.on(WORK, |_, request, mut responder| {
            if request.is_stream() {
                loop {
                    responder.send_chunk(&[0; 500])?;
                }
            }
            loop {
                request.check_cancelled()?;
                thread::yield_now();
            }
        })
    });
    let streams: Vec<_> =
        (0..3).map(|_| channel.stream(WORK, "", StreamTimeouts::default()).unwrap()).collect();
    let pending = submit(&channel, 3);
    eventually("all are begun", || channel.health().begun == 6);
    close(&channel, LONG);
    drop((streams, pending));
}

#[test]
fn a_killed_worker_tells_of_each_request_whether_it_was_begun() {
    let channel = ready(&spawner().env(THREADS, "yes"));
    let begun: Vec<_> =
        (0..8).map(|_| channel.submit(FOR_EVER, b"", Duration::MAX).unwrap()).collect();
    eventually("all are begun", || channel.health().begun == 8);
    let queued: Vec<_> =
        (0..3).map(|_| channel.submit(FOR_EVER, b"", Duration::MAX).unwrap()).collect();
    let ids: HashSet<_> = begun.iter().map(Pending::id).collect();
    send_signal(channel.pid(), libc::SIGKILL);
    for pending in begun {
        let error = pending.wait().unwrap_err();
        cause_of(&error);
        let death = error.death().unwrap();
        eventually("it is known", || death.was_begun().is_some());
        assert_eq!((death.was_begun(), death.begun_alone()), (Some(true), Some(false)));
        assert_eq!(death.stage(), Some(RequestStage::Begun));
        assert_eq!(death.begun_requests().into_iter().collect::<HashSet<_>>(), ids);
    }
    for pending in queued {
        let error = pending.wait().unwrap_err();
        cause_of(&error);
        let death = error.death().unwrap();
        eventually("it is known", || death.was_begun().is_some());
        assert_eq!((death.was_begun(), death.begun_alone()), (Some(false), Some(false)));
        assert_eq!(death.stage(), Some(RequestStage::Queued));
    }
}

#[test]
fn a_thread_that_dies_with_its_only_request_was_serving_it_alone() {
    let channel = ready(&spawner().env(THREADS, "yes"));
    let pending = channel.submit(EXIT, &[5], LONG).unwrap();
    let error = pending.wait().unwrap_err();
    cause_of(&error);
    let death = error.death().unwrap();
    eventually("it is known", || death.begun_alone().is_some());
    assert_eq!(death.begun_alone(), Some(true));
}
