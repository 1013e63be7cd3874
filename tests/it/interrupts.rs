//! Signals that interrupt waits, of workers and of parents, and hooks that end these waits or let them go
//! on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use slipring::pool::{Pool, Role};
use slipring::worker::{Threads, Worker};
use slipring::{
    Channel, Config, Error, ErrorKind, Kind, Reply, Result, RoleConfig, StreamTimeouts,
    WorkerState, testing,
};

use crate::common::*;

const ONE: Kind = Kind::app(0);
const OTHER: Kind = Kind::named("other");

fn spawn_thread<S>(make: impl FnOnce() -> Worker<S> + Send + 'static) -> Channel {
    testing::spawn_thread(&Config::small(), RoleConfig::default(), make).unwrap()
}

fn is_served(channel: &Channel, kind: Kind) -> bool {
    channel.call(kind, "", LONG).unwrap().to_vec() == b"done"
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

/// Whether a hook has ended the wait.
fn is_interrupt(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    error.kind() == ErrorKind::Interrupted && source.is_some_and(|it| it.is::<KeyboardInterrupt>())
}

type Hooked = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A hook that counts its calls. It fails once when it is to.
#[derive(Debug, Clone, Default)]
struct Hook {
    count: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

impl Hook {
    fn run(&self) -> Hooked {
        self.count.fetch_add(1, Ordering::Relaxed);
        match self.fails.swap(false, Ordering::Relaxed) {
            true => Err(KeyboardInterrupt.into()),
            false => Ok(()),
        }
    }

    fn set(&self, channel: &Channel) {
        let hook = self.clone();
        channel.on_interrupt(move || hook.run());
    }

    /// Interrupts the thread until the hook has run three times more.
    fn run_on(&self, thread: libc::pid_t) {
        let before = self.count.load(Ordering::Relaxed);
        interrupt(thread, || self.count.load(Ordering::Relaxed) >= before + 3);
    }

    /// Interrupts the thread until the hook has failed.
    fn fail_on(&self, thread: libc::pid_t) {
        self.fails.store(true, Ordering::Relaxed);
        interrupt(thread, || !self.fails.load(Ordering::Relaxed));
    }

    /// Has the hook end a wait of this thread.
    fn end<T>(&self, wait: impl FnOnce() -> Result<T>) -> Error {
        let me = this_thread();
        std::thread::scope(|scope| {
            scope.spawn(|| self.fail_on(me));
            let error = wait().map(drop).unwrap_err();
            assert!(is_interrupt(&error), "{error:?}");
            error
        })
    }
}

/// Tells the thread of the worker, and streams without end.
fn interruptible(told: mpsc::Sender<libc::pid_t>, hook: Hook) -> Worker<()> {
    Worker::new(move |_| Ok(told.send(this_thread())?))
        .on(ONE, |(), _, responder| {
            let mut stream = responder.stream();
            loop {
                if let Err(error) = stream.send(&[0; 1000][..]) {
                    assert!(is_interrupt(&error) || error.kind() != ErrorKind::Interrupted);
                    return Err(error.into());
                }
            }
        })
        .on(OTHER, |(), _, responder| Ok(responder.send("done")?))
        .on_interrupt(move || hook.run())
}

#[test]
fn a_signal_interrupts_waits_of_a_worker_and_its_hook_may_end_them() {
    install(libc::SIGUSR1);
    let (told, thread) = mpsc::channel();
    let hook = Hook::default();
    let channel = spawn_thread({
        let hook = hook.clone();
        move || interruptible(told, hook)
    });
    let thread = thread.recv().unwrap();
    // The wait for the next request goes on.
    hook.run_on(thread);
    assert!(is_served(&channel, OTHER));
    // So does the wait for credit.
    let mut stream = channel.stream(ONE, "", StreamTimeouts::default()).unwrap();
    let awaits_credit = || channel.health().state == WorkerState::AwaitingCredit;
    while !awaits_credit() {
        std::thread::sleep(Duration::from_millis(1));
    }
    hook.run_on(thread);
    assert!(awaits_credit());
    // Until the hook ends it: an error of that request alone.
    hook.fail_on(thread);
    let error = stream.find_map(Result::err).unwrap();
    assert!(error.to_string().contains("it was Ctrl-C"), "{error}");
    assert!(is_served(&channel, OTHER));
    // Without a request it ends the worker.
    hook.fails.store(true, Ordering::Relaxed);
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
struct Hooks {
    ran: Mutex<HashSet<libc::pid_t>>,
    fails: AtomicI32,
}

impl Hooks {
    fn has_run_on(&self, thread: libc::pid_t) -> bool {
        self.ran.lock().unwrap().contains(&thread)
    }

    fn hook(self: Arc<Self>) -> impl Fn() -> Hooked {
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
    let hooks = Arc::new(Hooks::default());
    let (tell, told) = mpsc::channel();
    let channel = spawn_thread({
        let hooks = Arc::clone(&hooks);
        move || {
            let threads = Threads::with_sessions(4, move |()| Ok(tell.send(this_thread())?));
            Worker::new(|_| Ok(()))
                .threads(threads.on(ONE, |(), _, responder| Ok(responder.send("done")?)))
                .on_interrupt(hooks.hook())
        }
    });
    let threads: Vec<_> = (0..4).map(|_| told.recv().unwrap()).collect();
    for thread in &threads {
        assert!(interrupts(*thread, || hooks.has_run_on(*thread)));
        assert!(is_served(&channel, ONE));
    }
    // The failure of one ends the worker, whichever of them has the turn.
    hooks.fails.store(threads[3], Ordering::Relaxed);
    assert!(interrupts(threads[3], || !channel.is_alive()));
    let error = channel.call(ONE, "", LONG).unwrap_err();
    assert!(error.to_string().contains("it was Ctrl-C"), "{error}");
}

#[test]
fn a_thread_that_waits_for_room_behind_another_runs_the_hook_too() {
    let hooks = Arc::new(Hooks::default());
    let (give, given) = mpsc::channel();
    let make = {
        let hooks = Arc::clone(&hooks);
        move || {
            Worker::new(|_| Ok(())).on_interrupt(hooks.hook()).inbox(move |(), inbox| {
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
    eventually("a thread has run it", || waiting.iter().any(|thread| hooks.has_run_on(*thread)));
    for pending in pending {
        assert_eq!(pending.wait().unwrap().to_vec(), [1; 4000]);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Reads a stream whose chunks come each 100 ms, and that a hook interrupts: it goes on after that.
fn read_interrupted(hook: &Hook, mut next: impl FnMut() -> Result<Option<Reply>>) {
    let mut chunks = 0;
    hook.end(|| -> Result<()> {
        loop {
            assert_eq!(next()?.unwrap().to_vec(), pattern(chunks, 10));
            chunks += 1;
        }
    });
    for number in chunks..chunks + 3 {
        assert_eq!(next().unwrap().unwrap().to_vec(), pattern(number, 10));
    }
}

/// What asks for a stream that [`read_interrupted`] reads.
fn each_100_ms() -> Vec<u8> {
    encode(&[100_000, 1 << 40, 10])
}

#[test]
fn a_signal_interrupts_waits_of_a_parent_and_its_hook_may_end_them() {
    install(libc::SIGUSR1);
    let (channel, hook) = (spawner().spawn().unwrap(), Hook::default());
    hook.set(&channel);
    // A hook that returns no error lets the wait go on.
    let submit = || channel.submit(UNTIL_ABORTED, "", LONG).unwrap();
    let (slow, me) = (submit(), this_thread());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            hook.run_on(me);
            channel.abort();
        });
        slow.wait().unwrap();
    });
    channel.clear_abort();
    // One that does ends the wait, and neither the request nor the channel.
    let mut slow = submit();
    hook.end(|| slow.wait_timeout(LONG));
    channel.abort();
    slow.wait().unwrap();
    channel.clear_abort();
    // A stream goes on, too.
    let mut stream = channel.stream(TRICKLE, &each_100_ms(), LONG).unwrap();
    read_interrupted(&hook, || stream.next_chunk());
    drop(stream);
    assert!(channel.call(ECHO, "", LONG).is_ok());
}

#[test]
fn a_message_reader_that_is_interrupted_loses_no_part_of_its_message() {
    install(libc::SIGUSR1);
    let config = Config::small();
    let len = config.max_message();
    let channel = spawner().config(config).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let hook = Hook::default();
    hook.set(&channel);
    let ask = || {
        let asked = encode(&[len as u64]);
        channel.submit(BIG, &asked, LONG).unwrap().wait_reader().unwrap()
    };
    let interrupted = |wait: &mut dyn FnMut() -> Result<usize>| {
        // What is in the ring is there; the rest is longer than that.
        stop(channel.pid());
        hook.end(wait);
        send_signal(channel.pid(), libc::SIGCONT);
    };
    let expected = pattern(7, len);

    let (mut reader, mut bytes) = (ask(), vec![1, 2]);
    interrupted(&mut || reader.append_to(&mut bytes));
    assert_eq!(bytes, [1, 2]);
    assert_eq!(reader.append_to(&mut bytes).unwrap(), len);
    assert!(bytes[2..] == expected, "the whole message");

    let mut reader = ask();
    interrupted(&mut || reader.append_to(&mut Vec::new()));
    let mut out = vec![0; len];
    reader.copy_to(&mut out).unwrap();
    assert!(out == expected, "in another way");
    assert!(channel.call(ECHO, "", LONG).is_ok());
}

#[test]
fn a_signal_interrupts_a_ping_and_the_next_ping_is_answered() {
    install(libc::SIGUSR1);
    let (channel, hook) = (spawner().spawn().unwrap(), Hook::default());
    channel.wait_ready(LONG).unwrap();
    hook.set(&channel);
    // A stopped worker answers nothing, so that only the hook can end the ping.
    stop(channel.pid());
    hook.end(|| channel.ping(LONG));
    send_signal(channel.pid(), libc::SIGCONT);
    // The late answer to the first ping is not taken for the answer to this one.
    assert_eq!(channel.ping(LONG).unwrap().state, WorkerState::Idle);
    assert!(channel.call(ECHO, "", LONG).is_ok());
}

#[test]
fn a_signal_interrupts_a_stream_of_a_pool_which_goes_on() {
    install(libc::SIGUSR1);
    let hook = Hook::default();
    let of_role = hook.clone();
    let role = Role::with_channels(move |_| {
        let channel = spawner().spawn()?;
        of_role.set(&channel);
        Ok(channel)
    });
    let pool = Pool::builder().role("one", role).build().unwrap();
    let handle = pool.role("one").unwrap();
    handle.call(ECHO, "", LONG).unwrap();
    let asked = each_100_ms();
    let mut stream = handle.stream(TRICKLE, &asked, LONG).unwrap();
    // As a stream of a channel: `Channel::on_interrupt`.
    read_interrupted(&hook, || stream.next_chunk());
    drop(stream);
    crate::pools::close(&pool);
}
