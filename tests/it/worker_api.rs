//! What handlers and programs in other languages are given: a fallback, errors of their own, text,
//! readers, tokens and flags that need no request.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use slipring::worker::{
    AbortFlag, Batches, CancelToken, HandlerError, Incoming, StepEngine, Threads, Worker,
};
use slipring::{
    Channel, Config, ErrorKind, Kind, RequestStage, RoleConfig, StreamTimeouts, WorkerState,
    testing,
};

use crate::common::{LONG, encode, eventually, pattern};

const ONE: Kind = Kind::app(0);
const OTHER: Kind = Kind::named("other");

fn spawn_thread<S>(make: impl FnOnce() -> Worker<S> + Send + 'static) -> Channel {
    testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap()
}

fn call(channel: &Channel, kind: Kind, payload: &[u8]) -> Vec<u8> {
    channel.call(kind, payload, LONG).unwrap().to_vec()
}

#[test]
fn a_request_without_a_handler_was_not_begun_however_it_is_served() {
    let workers: [fn() -> Worker<()>; 3] = [
        || Worker::new(|_| Ok(())),
        || Worker::new(|_| Ok(())).threads(Threads::new(2)),
        || Worker::new(|_| Ok(())).batches(Batches::new()),
    ];
    for (row, make) in workers.into_iter().enumerate() {
        let channel = spawn_thread(make);
        let refused = [
            channel.call(Kind::app(3), "", LONG).unwrap_err(),
            channel.stream(Kind::app(3), "", LONG).unwrap().next_chunk().unwrap_err(),
        ];
        for error in refused {
            assert_eq!(error.handler_failure().unwrap().type_name, "slipring::UnknownKind");
            let stage = (error.was_begun(), error.stage());
            assert_eq!(stage, (Some(false), Some(RequestStage::Queued)), "row {row}: {error}");
        }
        let last = channel.ping(LONG).unwrap().last_error.unwrap();
        assert!(last.contains("no handler for application kind 3"), "{last}");
    }
}

#[test]
fn a_fallback_serves_every_kind_that_has_no_handler_of_its_own() {
    let channel = spawn_thread(|| {
        Worker::new(|_| Ok(0))
            .fallback(|_, _, _| Err("the second one counts".into()))
            .fallback(|count, request, responder| {
                *count += 1;
                Ok(responder.send(&format!("{} {} {count}", request.kind(), request.text()?))?)
            })
            .on(ONE, |count, _, responder| Ok(responder.send(&format!("own {count}"))?))
    });
    assert_eq!(call(&channel, OTHER, b"a"), format!("{OTHER} a 1").as_bytes());
    assert_eq!(call(&channel, Kind::EMBED, b"b"), b"embed b 2");
    assert_eq!(call(&channel, ONE, b""), b"own 2");
    channel.wait_ready(LONG).unwrap();
    let mut stream = channel.stream(OTHER, "", StreamTimeouts::default()).unwrap();
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "one result in answer to a stream: {error}");
}

struct Idle;

impl StepEngine for Idle {
    fn add_request(&mut self, _: Incoming) -> Result<(), HandlerError> {
        Ok(())
    }

    fn has_capacity(&self) -> bool {
        true
    }

    fn has_finished(&self) -> bool {
        true
    }

    fn step(&mut self) -> Result<(), HandlerError> {
        Ok(())
    }
}

#[test]
fn a_worker_with_two_ways_to_serve_is_refused() {
    let none: fn(Worker<Idle>) -> Worker<Idle> = |worker| worker.threads(Threads::new(0));
    let ways: [fn(Worker<Idle>) -> Worker<Idle>; 4] = [
        |worker| worker.threads(Threads::new(8)),
        |worker| worker.batches(Batches::new()),
        |worker| worker.steps(),
        |worker| worker.inbox(|_, _| Ok(())),
    ];
    let refused = |worker: Worker<Idle>| {
        let error = worker.serve().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        error.to_string()
    };
    for first in ways {
        for second in ways {
            let why = refused(second(first(Worker::new(|_| Ok(Idle)))));
            assert!(why.contains("two ways to serve"), "{why}");
        }
        let why = refused(first(none(Worker::new(|_| Ok(Idle)))));
        assert!(why.contains("without threads"), "the first mistake is told: {why}");
    }
}

#[test]
fn an_error_of_another_language_reaches_the_caller_unchanged() {
    let lines = "Traceback:\n  File \"a.py\", line 7\n\tgrüße\n".repeat(20);
    let sent = lines.clone();
    let channel = spawn_thread(move || {
        Worker::new(|_| Ok(())).on(ONE, move |_, request, _| {
            Err(HandlerError::new("pkg.ValueError", request.text()?)
                .with_source("first")
                .with_source("second\nline")
                .with_backtrace(sent.as_str()))
        })
    });
    let error = channel.call(ONE, "bad\tvalue", LONG).unwrap_err();
    let failure = error.handler_failure().unwrap();
    assert_eq!(failure.type_name, "pkg.ValueError");
    assert_eq!(failure.message, "bad\tvalue");
    assert_eq!(failure.sources, ["first", "second\nline"]);
    assert_eq!(failure.backtrace, lines);
}

#[test]
fn a_payload_is_read_as_text_and_by_a_reader_in_frames_and_in_pieces() {
    let channel = spawn_thread(|| {
        Worker::new(|_| Ok(()))
            .on(ONE, |_, request, responder| Ok(responder.send(&request.text()?)?))
            .on(OTHER, |_, request, responder| {
                let (mut reader, mut writer) = (request.reader(), responder.write());
                let mut first = [0; 3];
                let count = reader.read(&mut first)?;
                writer.write_all(&first[..count])?;
                std::io::copy(&mut reader, &mut writer)?;
                Ok(writer.finish()?)
            })
    });
    let frame = Config::small().max_request_frame();
    for len in [0, 1, 3, 4, frame, frame + 1, 10 * frame] {
        let text: String = "añb".chars().cycle().take(len).collect();
        assert!(call(&channel, ONE, text.as_bytes()) == text.as_bytes(), "{len} as text");
        assert!(call(&channel, OTHER, text.as_bytes()) == text.as_bytes(), "{len} by a reader");
    }
}

#[test]
fn a_payload_that_is_no_text_is_a_typed_error_that_says_where() {
    let (told, kinds) = mpsc::channel();
    let channel = spawn_thread(move || {
        Worker::new(|_| Ok(())).on(ONE, move |_, request, _| {
            let error = request.text().unwrap_err();
            told.send(error.kind())?;
            Err(error.into())
        })
    });
    let error = channel.call(ONE, &b"ab\xffc"[..], LONG).unwrap_err();
    assert_eq!(kinds.recv().unwrap(), ErrorKind::InvalidPayload);
    assert!(error.to_string().contains("4 bytes is not UTF-8 at byte 2"), "{error}");
}

/// A worker that gives the token of each request away, and returns when the token says so.
fn token_worker(give: mpsc::Sender<CancelToken>) -> Worker<()> {
    Worker::new(|_| Ok(()))
        .on(ONE, move |(), request, responder| {
            let token = request.cancel_token();
            assert_eq!(token.request(), request.id());
            give.send(token.clone())?;
            while !token.is_cancelled() {
                std::thread::sleep(Duration::from_millis(1));
            }
            token.check()?;
            Ok(responder.send("not reached")?)
        })
        .on(OTHER, |(), _, responder| Ok(responder.send("done")?))
}

#[test]
fn a_cancel_token_tells_of_its_own_request_and_outlives_it_and_the_worker() {
    let (give, tokens) = mpsc::channel();
    let channel = spawn_thread(move || token_worker(give));
    let pending = channel.submit(ONE, "", LONG).unwrap();
    let token = tokens.recv().unwrap();
    assert!(!token.is_cancelled());
    token.check().unwrap();
    pending.cancel();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(token.is_cancelled());
    // As nothing else was cancelled in its slot.
    assert_eq!(call(&channel, OTHER, b""), b"done");
    assert!(token.is_cancelled());
    drop(channel);
    assert_eq!(token.check().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_cancel_token_tells_of_the_abort_flag_and_of_the_workers_end() {
    let (give, tokens) = mpsc::channel();
    let channel = spawn_thread(move || token_worker(give));
    let pending = channel.submit(ONE, "", LONG).unwrap();
    let token = tokens.recv().unwrap();
    channel.abort();
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::Cancelled);
    channel.clear_abort();
    assert!(!token.is_cancelled(), "only the flag was set");
    let pending = channel.submit(ONE, "", LONG).unwrap();
    let second = tokens.recv().unwrap();
    channel.close(LONG).unwrap();
    assert!(token.is_cancelled() && second.is_cancelled());
    assert!(pending.wait().is_err());
}

#[test]
fn the_abort_flag_is_told_to_the_sessions_builder_and_other_threads() {
    let flag = AbortFlag::new();
    assert!(!flag.is_set());
    let (seen, second) = (flag.clone(), AbortFlag::new());
    let also = second.clone();
    let channel = spawn_thread(move || {
        let build = seen.clone();
        Worker::new(move |_| {
            while !build.is_set() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok("was aborted")
        })
        .abort_flag(&seen)
        .abort_flag(&also)
        .on(ONE, |session, request, responder| {
            Ok(responder.send(&format!("{session}, {}", request.is_aborted()))?)
        })
    });
    channel.abort();
    assert_eq!(call(&channel, ONE, b""), b"was aborted, true");
    assert!(flag.is_set() && second.is_set());
    channel.clear_abort();
    assert!(!flag.is_set() && !second.is_set());
}

extern "C" fn do_nothing(_: libc::c_int) {}

/// Has the signal interrupt system calls of the thread that it is sent to.
#[allow(unsafe_code, reason = "std has no signals")]
fn install(signal: libc::c_int) {
    // SAFETY: all zeros is a valid value of this struct.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int) = do_nothing;
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing; there is no SA_RESTART.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

#[allow(unsafe_code, reason = "std has no signals")]
fn this_thread() -> libc::pid_t {
    // SAFETY: it only asks.
    unsafe { libc::gettid() }
}

/// Interrupts the thread, if it is there, until `has_ended`.
#[allow(unsafe_code, reason = "std has no signals")]
fn interrupt(thread: libc::pid_t, has_ended: impl Fn() -> bool) {
    let process = std::process::id();
    while !has_ended() {
        // SAFETY: the handler of this signal does nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[derive(Debug)]
struct KeyboardInterrupt;

impl std::fmt::Display for KeyboardInterrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it was Ctrl-C")
    }
}

impl std::error::Error for KeyboardInterrupt {}

/// Tells the thread of the worker, and streams without end.
fn interruptible(
    told: mpsc::Sender<libc::pid_t>,
    count: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
) -> Worker<()> {
    Worker::new(move |_| Ok(told.send(this_thread())?))
        .on(ONE, |(), _, responder| {
            let mut stream = responder.stream();
            loop {
                if let Err(error) = stream.send(&[0; 1000][..]) {
                    let is_interrupt = error.kind() == ErrorKind::Interrupted;
                    let source = std::error::Error::source(&error);
                    assert!(is_interrupt == source.is_some_and(|s| s.is::<KeyboardInterrupt>()));
                    return Err(error.into());
                }
            }
        })
        .on(OTHER, |(), _, responder| Ok(responder.send("done")?))
        .on_interrupt(move || {
            count.fetch_add(1, Ordering::Relaxed);
            if ends.swap(false, Ordering::Relaxed) { Err(KeyboardInterrupt.into()) } else { Ok(()) }
        })
}

#[test]
fn a_signal_interrupts_waits_of_a_worker_and_its_hook_may_end_them() {
    install(libc::SIGUSR1);
    let (told, thread) = mpsc::channel();
    let (count, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let channel = spawn_thread({
        let (count, ends) = (Arc::clone(&count), Arc::clone(&ends));
        move || interruptible(told, count, ends)
    });
    let thread = thread.recv().unwrap();
    // The wait for the next request goes on.
    interrupt(thread, || count.load(Ordering::Relaxed) >= 3);
    assert_eq!(call(&channel, OTHER, b""), b"done");
    // So does the wait for credit.
    let mut stream = channel.stream(ONE, "", StreamTimeouts::default()).unwrap();
    let awaits_credit = || channel.health().state == WorkerState::AwaitingCredit;
    while !awaits_credit() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = count.load(Ordering::Relaxed);
    interrupt(thread, || count.load(Ordering::Relaxed) >= before + 3);
    assert!(awaits_credit());
    // Until the hook ends it: an error of that request alone.
    ends.store(true, Ordering::Relaxed);
    interrupt(thread, || !ends.load(Ordering::Relaxed));
    let error = stream.find_map(Result::err).unwrap();
    assert!(error.to_string().contains("it was Ctrl-C"), "{error}");
    assert_eq!(call(&channel, OTHER, b""), b"done");
    // Without a request it ends the worker.
    ends.store(true, Ordering::Relaxed);
    interrupt(thread, || !channel.is_alive());
    let error = channel.call(OTHER, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");
}

/// As [`interrupt`], for a limited time.
fn interrupts(thread: libc::pid_t, has_ended: impl Fn() -> bool) -> bool {
    let end = std::time::Instant::now() + LONG;
    interrupt(thread, || has_ended() || std::time::Instant::now() > end);
    has_ended()
}

/// The threads on which the hook of a worker has run, and the one on which it fails.
#[derive(Default)]
struct Hooked {
    ran: Mutex<HashSet<libc::pid_t>>,
    fails: AtomicI32,
}

impl Hooked {
    fn has_run_on(&self, thread: libc::pid_t) -> bool {
        self.ran.lock().unwrap().contains(&thread)
    }

    fn hook(self: Arc<Self>) -> impl Fn() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        move || {
            self.ran.lock().unwrap().insert(this_thread());
            match self.fails.load(Ordering::Relaxed) == this_thread() {
                true => Err(KeyboardInterrupt.into()),
                false => Ok(()),
            }
        }
    }
}

#[test]
fn a_signal_interrupts_threads_of_a_worker_that_wait_for_their_turn() {
    install(libc::SIGUSR1);
    let hooked = Arc::new(Hooked::default());
    let (tell, told) = mpsc::channel();
    let channel = spawn_thread({
        let hooked = Arc::clone(&hooked);
        move || {
            let threads = Threads::with_sessions(4, move |()| Ok(tell.send(this_thread())?));
            Worker::new(|_| Ok(()))
                .threads(threads.on(ONE, |(), _, responder| Ok(responder.send("done")?)))
                .on_interrupt(hooked.hook())
        }
    });
    let threads: Vec<_> = (0..4).map(|_| told.recv().unwrap()).collect();
    for thread in &threads {
        assert!(interrupts(*thread, || hooked.has_run_on(*thread)));
        assert_eq!(call(&channel, ONE, b""), b"done");
    }
    // The failure of one ends the worker, whichever of them has the turn.
    hooked.fails.store(threads[3], Ordering::Relaxed);
    assert!(interrupts(threads[3], || !channel.is_alive()));
    let error = channel.call(ONE, "", LONG).unwrap_err();
    assert!(error.to_string().contains("it was Ctrl-C"), "{error}");
}

#[test]
fn a_thread_that_waits_for_room_behind_another_runs_the_hook_too() {
    let hooked = Arc::new(Hooked::default());
    let (give, given) = mpsc::channel();
    let make = {
        let hooked = Arc::clone(&hooked);
        move || {
            Worker::new(|_| Ok(())).on_interrupt(hooked.hook()).inbox(move |(), inbox| {
                loop {
                    give.send(inbox.recv()?)?;
                }
            })
        }
    };
    let channel = testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap();
    let (tell, told) = mpsc::channel();
    let pending: Vec<_> = (0..60).map(|_| channel.submit(ONE, "", LONG).unwrap()).collect();
    let threads: Vec<_> = (0..60)
        .map(|_| {
            let (tell, responder) = (tell.clone(), given.recv().unwrap().responder);
            std::thread::spawn(move || {
                tell.send(this_thread()).unwrap();
                responder.send(&[1; 4000]).unwrap();
            })
        })
        .collect();
    let waiting: Vec<_> = (0..60).map(|_| told.recv().unwrap()).collect();
    eventually("a thread has run it", || waiting.iter().any(|thread| hooked.has_run_on(*thread)));
    for pending in pending {
        assert_eq!(pending.wait().unwrap().to_vec(), [1; 4000]);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_signal_interrupts_waits_of_a_parent_and_its_hook_may_end_them() {
    install(libc::SIGUSR1);
    let channel = crate::common::spawner().spawn().unwrap();
    let (count, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    channel.on_interrupt({
        let (count, ends) = (Arc::clone(&count), Arc::clone(&ends));
        move || {
            count.fetch_add(1, Ordering::Relaxed);
            if ends.swap(false, Ordering::Relaxed) { Err(KeyboardInterrupt.into()) } else { Ok(()) }
        }
    });
    let me = this_thread();
    let is_interrupt = |error: &slipring::Error| {
        let source = std::error::Error::source(error);
        error.kind() == ErrorKind::Interrupted
            && source.is_some_and(|s| s.is::<KeyboardInterrupt>())
    };
    // A hook that returns no error lets the wait go on.
    let submit = || channel.submit(crate::common::UNTIL_ABORTED, "", LONG).unwrap();
    let slow = submit();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            interrupt(me, || count.load(Ordering::Relaxed) >= 3);
            channel.abort();
        });
        slow.wait().unwrap();
    });
    channel.clear_abort();
    // One that does ends the wait, and neither the request nor the channel.
    let mut slow = submit();
    ends.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| interrupt(me, || !ends.load(Ordering::Relaxed)));
        let error = slow.wait_timeout(LONG).unwrap_err();
        assert!(is_interrupt(&error), "{error:?}");
    });
    channel.abort();
    slow.wait().unwrap();
    channel.clear_abort();
    // A stream goes on, too: 100 ms between two chunks.
    let request = encode(&[100_000, 1 << 40, 10]);
    let mut stream = channel.stream(crate::common::TRICKLE, &request, LONG).unwrap();
    ends.store(true, Ordering::Relaxed);
    let mut chunks = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| interrupt(me, || !ends.load(Ordering::Relaxed)));
        let error = loop {
            match stream.next_chunk() {
                Ok(chunk) => assert_eq!(chunk.unwrap().to_vec(), pattern(chunks, 10)),
                Err(error) => break error,
            }
            chunks += 1;
        };
        assert!(is_interrupt(&error), "{error:?}");
    });
    for number in chunks..chunks + 3 {
        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(number, 10));
    }
    drop(stream);
    assert!(channel.call(crate::common::ECHO, "", LONG).is_ok());
}

#[test]
fn a_message_reader_that_is_interrupted_loses_no_part_of_its_message() {
    install(libc::SIGUSR1);
    let config = slipring::Config::small();
    let len = config.max_message();
    let channel = crate::common::spawner().config(config).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let (ends, me) = (Arc::new(AtomicBool::new(false)), this_thread());
    channel.on_interrupt({
        let ends = Arc::clone(&ends);
        move || match ends.swap(false, Ordering::Relaxed) {
            true => Err(KeyboardInterrupt.into()),
            false => Ok(()),
        }
    });
    let ask = || {
        let asked = crate::common::encode(&[len as u64]);
        channel.submit(crate::common::BIG, &asked, LONG).unwrap().wait_reader().unwrap()
    };
    let interrupted = |wait: &mut dyn FnMut() -> slipring::Error| {
        // What is in the ring is there; the rest is longer than that.
        crate::common::stop(channel.pid());
        ends.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| interrupt(me, || !ends.load(Ordering::Relaxed)));
            assert_eq!(wait().kind(), ErrorKind::Interrupted);
        });
        crate::common::send_signal(channel.pid(), libc::SIGCONT);
    };
    let expected = crate::common::pattern(7, len);

    let (mut reader, mut bytes) = (ask(), vec![1, 2]);
    interrupted(&mut || reader.append_to(&mut bytes).unwrap_err());
    assert_eq!(bytes, [1, 2]);
    assert_eq!(reader.append_to(&mut bytes).unwrap(), len);
    assert!(bytes[2..] == expected, "the whole message");

    let mut reader = ask();
    interrupted(&mut || reader.append_to(&mut Vec::new()).unwrap_err());
    let mut out = vec![0; len];
    reader.copy_to(&mut out).unwrap();
    assert!(out == expected, "in another way");
    assert!(channel.call(crate::common::ECHO, "", LONG).is_ok());
}

#[test]
fn a_signal_interrupts_a_ping_and_the_next_ping_is_answered() {
    install(libc::SIGUSR1);
    let channel = crate::common::spawner().spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let (ends, me) = (Arc::new(AtomicBool::new(true)), this_thread());
    channel.on_interrupt({
        let ends = Arc::clone(&ends);
        move || match ends.swap(false, Ordering::Relaxed) {
            true => Err(KeyboardInterrupt.into()),
            false => Ok(()),
        }
    });
    // A stopped worker answers nothing, so that only the hook can end the ping.
    crate::common::stop(channel.pid());
    std::thread::scope(|scope| {
        scope.spawn(|| interrupt(me, || !ends.load(Ordering::Relaxed)));
        let error = channel.ping(LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        let source = std::error::Error::source(&error);
        assert!(source.is_some_and(|s| s.is::<KeyboardInterrupt>()), "{error:?}");
    });
    crate::common::send_signal(channel.pid(), libc::SIGCONT);
    // The late answer to the first ping is not taken for the answer to this one.
    assert_eq!(channel.ping(LONG).unwrap().state, WorkerState::Idle);
    assert!(channel.call(crate::common::ECHO, "", LONG).is_ok());
}

#[test]
fn a_signal_interrupts_a_stream_of_a_pool_which_goes_on() {
    install(libc::SIGUSR1);
    let ends = Arc::new(AtomicBool::new(false));
    let hooked = Arc::clone(&ends);
    let role = slipring::pool::Role::with_channels(move |_| {
        let channel = crate::common::spawner().spawn()?;
        let ends = Arc::clone(&hooked);
        channel.on_interrupt(move || {
            if ends.swap(false, Ordering::Relaxed) { Err(KeyboardInterrupt.into()) } else { Ok(()) }
        });
        Ok(channel)
    });
    let pool = slipring::pool::Pool::builder().role("one", role).build().unwrap();
    let handle = pool.role("one").unwrap();
    handle.call(crate::common::ECHO, "", LONG).unwrap();
    let me = this_thread();
    let request = encode(&[100_000, 1 << 40, 10]);
    let mut stream = handle.stream(crate::common::TRICKLE, &request[..], LONG).unwrap();
    ends.store(true, Ordering::Relaxed);
    let mut chunks = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| interrupt(me, || !ends.load(Ordering::Relaxed)));
        let error = loop {
            match stream.next_chunk() {
                Ok(chunk) => assert_eq!(chunk.unwrap().to_vec(), pattern(chunks, 10)),
                Err(error) => break error,
            }
            chunks += 1;
        };
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    });
    // As a stream of a channel: `Channel::on_interrupt`.
    for number in chunks..chunks + 3 {
        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(number, 10));
    }
    drop(stream);
    crate::pools::close(&pool);
}
