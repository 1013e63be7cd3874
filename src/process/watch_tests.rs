//! Tests of [`super`], with threads and processes that die.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::error::ExitCause;
use crate::process::child::Child;
use crate::process::robust_futex::RobustFutex;
use crate::process::socket::{self, Received};
use crate::process::spawn::Program;
use crate::process::starter;
use crate::process::testing::{
    SharedPage, alone, belongings, eventually, fork, parent_and_child, report, sleeps_of_threads,
    soon, threads_named, wants_figures,
};
use crate::process::worker_process::WorkerProcess;

const DEAD: u32 = libc::FUTEX_OWNER_DIED;

fn word() -> Arc<AtomicU32> {
    Arc::new(AtomicU32::new(0))
}

/// Watches `word`. The receiver gets its death, or an error if the watch has ended.
fn listen(word: &Arc<AtomicU32>) -> (Watched, Receiver<()>) {
    let (tell, told) = channel();
    let watched = watch(Arc::clone(word), Box::new(move || tell.send(()).unwrap()));
    assert!(watched.0.is_some());
    (watched, told)
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    wake_one(word, Scope::Shared);
}

/// A thread that owns `word` until it is told to end, with or without a release.
fn owner(word: &Arc<AtomicU32>) -> (Sender<bool>, thread::JoinHandle<()>) {
    let (tell, told) = channel();
    let (claimed, is_claimed) = channel();
    let word = Arc::clone(word);
    let thread = thread::spawn(move || {
        let owner = RobustFutex::claim(word).unwrap();
        claimed.send(()).unwrap();
        if told.recv().unwrap() {
            owner.release();
        }
    });
    is_claimed.recv().unwrap();
    (tell, thread)
}

/// Only the test and the callers of the arguments still hold the word.
fn is_let_go(word: &Arc<AtomicU32>) -> bool {
    Arc::strong_count(word) == 1
}

#[test]
fn a_death_is_told_once_if_the_word_was_claimed_before_or_after_the_watch() {
    for is_claimed_first in [true, false] {
        let word = word();
        let before = is_claimed_first.then(|| owner(&word));
        let (_watched, told) = listen(&word);
        let (end, thread) = before.unwrap_or_else(|| {
            thread::sleep(Duration::from_millis(20));
            owner(&word)
        });
        assert!(told.recv_timeout(Duration::from_millis(20)).is_err());
        end.send(false).unwrap();
        told.recv().unwrap();
        thread.join().unwrap();
        assert!(told.recv().is_err());
    }
}

#[test]
fn a_death_before_the_watch_is_told_too() {
    let word = word();
    let (end, thread) = owner(&word);
    end.send(false).unwrap();
    thread.join().unwrap();
    listen(&word).1.recv().unwrap();
}

#[test]
fn a_released_word_is_let_go_and_no_death_is_told() {
    let word = word();
    let (end, thread) = owner(&word);
    let (_watched, told) = listen(&word);
    thread::sleep(Duration::from_millis(20));
    end.send(true).unwrap();
    thread.join().unwrap();
    // The receiver's error: the callback is gone, uncalled.
    assert!(told.recv().is_err());
    eventually("the end of the watch", || is_let_go(&word));
}

#[test]
fn dropping_the_guard_ends_the_watch() {
    let word = word();
    let (watched, told) = listen(&word);
    drop(watched);
    set(&word, DEAD);
    assert!(told.recv().is_err());
    eventually("the end of the watch", || is_let_go(&word));
}

#[test]
fn a_word_that_changes_or_is_woken_without_end_is_let_go() {
    for changes in [true, false] {
        let word = word();
        let (_watched, told) = listen(&word);
        let noisy = Arc::clone(&word);
        let noise = thread::spawn(move || {
            // Until only this thread and the test hold it.
            let deadline = soon();
            while Arc::strong_count(&noisy) > 2 {
                assert!(Instant::now() < deadline);
                let value = noisy.load(Ordering::Relaxed);
                set(&noisy, if changes { value % 7 + 1 } else { 1 });
            }
        });
        noise.join().unwrap();
        assert!(told.recv().is_err());
    }
}

#[test]
fn a_callback_may_watch_another_word_end_its_own_watch_and_panic() {
    let (first, second) = (word(), word());
    let (tell, told) = channel();
    let own = Arc::new(Mutex::new(None));
    let (own_too, second_too) = (Arc::clone(&own), Arc::clone(&second));
    let watched = watch(
        Arc::clone(&first),
        Box::new(move || {
            drop(lock(&own_too).take());
            tell.send(watch(second_too, Box::new(|| {}))).unwrap();
            std::panic::resume_unwind(Box::new("on purpose"));
        }),
    );
    *lock(&own) = Some(watched);
    set(&first, DEAD);
    assert!(told.recv().unwrap().0.is_some());
}

#[test]
fn two_hundred_words_take_two_threads_and_their_places_are_used_again() {
    alone(|| {
        for round in 0..3 {
            let words: Vec<_> = (0..200).map(|_| word()).collect();
            let owners: Vec<_> = words.iter().map(owner).collect();
            let watches: Vec<_> = words.iter().map(listen).collect();
            assert_eq!(lock(&WATCHERS).len(), 2, "{round}");
            // A new thread names itself.
            eventually("two threads", || threads_named("slipring-watch") == 2);
            for (place, (end, thread)) in owners.into_iter().enumerate() {
                end.send(place % 3 == 0).unwrap();
                thread.join().unwrap();
            }
            for (place, (_watched, told)) in watches.iter().enumerate() {
                assert_eq!(told.recv().is_err(), place % 3 == 0, "{place}");
            }
            for (place, word) in words.iter().enumerate() {
                // An owner that dies never lets go.
                let left = if place % 3 == 0 { 1 } else { 2 };
                eventually("the end of the watch", || Arc::strong_count(word) == left);
            }
        }
    });
}

#[test]
fn an_idle_watch_never_wakes_up() {
    alone(|| {
        let words = [word(), word()];
        let _watches = words.each_ref().map(listen);
        thread::sleep(Duration::from_millis(50));
        let before = sleeps_of_threads("slipring-watch");
        assert!(before > 0);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(sleeps_of_threads("slipring-watch"), before);
    });
}

#[test]
fn without_support_nothing_is_watched_and_nothing_is_kept() {
    let word = word();
    let watched = watch_if(false, Arc::new(Arc::clone(&word)), Box::new(|| {}));
    assert!(watched.0.is_none() && is_let_go(&word));
    drop(watched);
}

#[test]
fn a_fork_of_the_host_watches_nothing_and_leaves_the_hosts_watches_alone() {
    alone(|| {
        let (first, second) = (word(), word());
        let (watched, told) = listen(&first);
        let watched = RefCell::new(Some(watched));
        let code = fork(|| {
            // The fork's copy of the guard; the other one stays.
            drop(watched.take());
            i32::from(watch(Arc::clone(&second), Box::new(|| {})).0.is_none())
        });
        assert_eq!(code, 1);
        set(&first, DEAD);
        told.recv().unwrap();
    });
}

/// The child of the tests below: owns the word that it is sent until it is told how to end.
fn own_a_word() {
    let (_, fds) = order();
    let page = SharedPage::map(fds[0].as_fd(), true);
    // Resident memory makes a process slow to take down.
    let megabytes = std::env::var("SLIPRING_TEST_MEGABYTES").map_or(0, |n| n.parse().unwrap());
    let ballast = vec![1_u8; megabytes << 20];
    let owner = thread::spawn(move || {
        let owner = RobustFutex::claim(page).unwrap();
        socket::send(std::io::stdin().as_fd(), b"ready", &[], soon()).unwrap();
        match order().0.as_slice() {
            b"release" => owner.release(),
            _ => std::process::exit(0),
        }
    });
    owner.join().unwrap();
    drop(ballast);
}

fn order() -> (Vec<u8>, Vec<OwnedFd>) {
    match socket::recv(std::io::stdin().as_fd(), 16, 1, None).unwrap() {
        Received::Message { bytes, fds } => (bytes, fds),
        Received::Eof => std::process::exit(3),
    }
}

/// A process that owns a word, seen from its parent.
struct Owner {
    child: Child,
    socket: OwnedFd,
    watched: Watched,
    /// When the watch told of its death, and when the supervisor did.
    death: Receiver<Instant>,
    exit: Receiver<Instant>,
}

impl Owner {
    fn start(program: &Program) -> Self {
        let (socket, theirs) = socket::pair().unwrap();
        let (tell, exit) = channel();
        let on_exit = Box::new(move |_| tell.send(Instant::now()).unwrap());
        let child = starter::start(program.clone(), theirs, None, None, on_exit).unwrap();
        let memfd = SharedPage::memfd();
        let (tell, death) = channel();
        let page = SharedPage::map(memfd.as_fd(), false);
        let watched = watch(page, Box::new(move || tell.send(Instant::now()).unwrap()));
        socket::send(socket.as_fd(), b"word", &[memfd.as_fd()], soon()).unwrap();
        let ready = socket::recv(socket.as_fd(), 16, 0, Some(soon())).unwrap();
        assert!(matches!(ready, Received::Message { .. }));
        Self { child, socket, watched, death, exit }
    }

    fn order(&self, order: &[u8]) {
        socket::send(self.socket.as_fd(), order, &[], soon()).unwrap();
    }
}

#[test]
fn a_process_that_is_killed_or_exits_is_dead_and_one_that_released_is_not() {
    parent_and_child(
        |program| {
            let killed = Owner::start(&program);
            assert!(killed.watched.0.is_some());
            assert!(killed.child.signal(libc::SIGKILL));
            killed.death.recv().unwrap();

            let exited = Owner::start(&program);
            exited.order(b"exit");
            exited.death.recv().unwrap();
            assert_eq!(exited.child.wait(soon()), Some(ExitCause::Exited(0)));

            let released = Owner::start(&program);
            released.order(b"release");
            assert_eq!(released.child.wait(soon()), Some(ExitCause::Exited(0)));
            drop(released.watched);
            assert!(released.death.recv().is_err());
        },
        own_a_word,
    );
}

#[test]
fn nothing_is_left_of_watched_processes() {
    parent_and_child(
        |program| {
            alone(|| {
                let round = || {
                    let owners = [(); 4].map(|()| Owner::start(&program));
                    owners.iter().for_each(|owner| assert!(owner.child.kill()));
                    for owner in &owners {
                        owner.death.recv().unwrap();
                        owner.exit.recv().unwrap();
                    }
                };
                round();
                let before = belongings();
                let maps = || std::fs::read_to_string("/proc/self/maps").unwrap();
                round();
                assert_eq!(belongings(), before);
                eventually("the end of the mappings", || !maps().contains("slipring-test"));
            });
        },
        own_a_word,
    );
}

#[test]
fn figures_of_deaths() {
    parent_and_child(
        |mut program| {
            alone(|| {
                let plan = if wants_figures() { [(0, 200), (512, 10)] } else { [(0, 5), (64, 1)] };
                for (megabytes, rounds) in plan {
                    program.env.set("SLIPRING_TEST_MEGABYTES", megabytes.to_string());
                    let (mut deaths, mut exits) = (Vec::new(), Vec::new());
                    for _ in 0..rounds {
                        let owner = Owner::start(&program);
                        thread::sleep(Duration::from_millis(2));
                        let killed = Instant::now();
                        owner.child.kill();
                        deaths.push(owner.death.recv().unwrap() - killed);
                        exits.push(owner.exit.recv().unwrap() - killed);
                    }
                    report(&format!("SIGKILL until on_death, {megabytes} MiB"), deaths);
                    report(&format!("SIGKILL until on_exit, {megabytes} MiB"), exits);
                }
            });
        },
        own_a_word,
    );
}
