//! Workers that are hard to end, or whose end is hard to see, and operations that must not wait for
//! it.
#![allow(unsafe_code, reason = "groups, users, forks and leases of processes of these tests' own")]

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{Channel, Config, ErrorKind, ExitCause, Spawner};

const SHORT: Duration = Duration::from_millis(100);
/// Longer than a busy machine takes for an immediate event, and shorter than an event that takes
/// seconds.
const AT_ONCE: Duration = Duration::from_secs(5);
const ODD: &str = "SLIPRING_TEST_ODD";

/// Not a test of its own: a worker that does something unusual first.
#[test]
fn odd_entry() {
    let Ok(how) = std::env::var(ODD) else { return };
    if !slipring::worker::is_worker() {
        return;
    }
    for part in how.split(", ") {
        match part {
            "leave the group" => {
                let parent = std::os::unix::process::parent_id() as i32;
                // SAFETY: takes integers only.
                let group = unsafe { libc::getpgid(parent) };
                // SAFETY: as above.
                assert_eq!(unsafe { libc::setpgid(0, group) }, 0);
            }
            "start others" => {
                let script = "(sleep 1000 & sleep 1000 & wait) & sleep 1000 & exit 0";
                let mut shell = std::process::Command::new("/bin/sh");
                shell.args(["-c", script]).stdin(std::process::Stdio::null());
                assert!(shell.status().unwrap().success());
            }
            "be silent" => std::thread::sleep(LONG),
            other => assert_eq!(other, "serve"),
        }
    }
    worker().on_close(|_| println!("goodbye")).serve().unwrap();
    std::process::exit(0);
}

fn odd(how: &str) -> Spawner {
    spawner_of(odd_entry).env(ODD, how).role("odd").config(Config::small())
}

fn shell(script: &str) -> Spawner {
    Spawner::program("/bin/sh").args(["-c", script]).config(Config::small())
}

/// Children of this process, zombies included.
fn children() -> Vec<u32> {
    footprint().children.iter().map(|pid| pid.parse().unwrap()).collect()
}

fn kill(pid: u32) {
    // SAFETY: takes integers only; the process may be gone.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}

/// Waits for a script to write a number to a file, and returns the number.
fn number_in(path: &Path) -> u32 {
    let read = || fs::read_to_string(path).ok()?.trim().parse().ok();
    eventually("the script has written the number", || read().is_some());
    read().unwrap()
}

/// A script whose standard input another process holds open. The id of that process is written to
/// `path`. Signals to the script's group do not reach it.
fn hold_socket(path: &Path) -> String {
    let path = path.display();
    format!(
        "exec 3<&0; setsid sh -c 'echo $$ > {path}; exec sleep 1000' <&3 3<&- & exec 3<&-; \
         while ! [ -s {path} ]; do sleep 0.01; done"
    )
}

#[test]
fn a_handshake_ends_with_its_worker_also_if_another_holds_the_socket() {
    let dir = temp_dir("held");
    let path = dir.join("pid");
    let script = format!("{}; exit 3", hold_socket(&path));
    let start = Instant::now();
    let error = refused(&shell(&script).handshake_timeout(LONG / 2));
    let took = start.elapsed();
    let holder = number_in(&path);
    assert!(is_running(holder), "the socket is held open");
    kill(holder);
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    assert!(error.to_string().contains("exited with code 3"), "{error}");
    assert!(took < AT_ONCE, "{took:?}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn an_answer_that_was_sent_before_the_end_is_read_first() {
    let dir = temp_dir("answer");
    // `Failed`, as a message of the bootstrap socket: its length, magic, version, code, text.
    let answer = r"\25\0\0\0SLRG\2\0\0\0\2\0\0\0\5\0\0\0alas!";
    for round in 0..20 {
        let path = dir.join(format!("pid-{round}"));
        let script = format!("{}; printf '{answer}' >&0; exit 3", hold_socket(&path));
        let error = refused(&shell(&script).handshake_timeout(LONG / 2));
        kill(number_in(&path));
        assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
        assert!(error.to_string().ends_with("could not attach: alas!"), "{error}");
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_worker_that_may_not_be_signalled_ends_when_it_is_hung_up_on() {
    let name = name_of(a_worker_that_may_not_be_signalled_ends_when_it_is_hung_up_on);
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        println!("not run: it takes the right to become another user");
        return;
    }
    if !in_a_process_of_its_own(name) {
        return;
    }
    let (closed, dropped) = (stuck(&small()).0, stuck(&small()).0);
    #[cfg(feature = "async")]
    let task = stuck(&small().pollable()).0;
    let idle = small().spawn().unwrap();
    idle.wait_ready(LONG).unwrap();
    stop(idle.pid());
    // SAFETY: takes integers only; this process is the test's own.
    assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(closed.pid() as i32, 0) }, -1, "it may not be signalled");

    let start = Instant::now();
    let cause = within_long("close", || closed.close(SHORT)).unwrap();
    assert_eq!(cause, ExitCause::Exited(0));
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let pid = dropped.pid();
    let start = Instant::now();
    drop(dropped);
    eventually("it is reaped", || !is_in_the_table(pid));
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());

    #[cfg(feature = "async")]
    {
        let start = Instant::now();
        let channel = slipring::tasks::AsyncChannel::new(task).unwrap();
        let cause = pollster::block_on(channel.close(SHORT)).unwrap();
        assert_eq!(cause, ExitCause::Exited(0));
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    }

    // A stopped worker, which no message reaches.
    let start = Instant::now();
    let error = within_long("close", || idle.close(SHORT)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(start.elapsed() < AT_ONCE, "{:?}: {error}", start.elapsed());
}

#[test]
fn a_worker_that_left_its_group_is_killed_all_the_same() {
    let channel = odd("leave the group, serve").spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    stop(channel.pid());
    let start = Instant::now();
    let cause = within_long("close", || channel.close(SHORT));
    kill(channel.pid());
    assert_eq!(cause.unwrap(), ExitCause::Signaled(libc::SIGKILL));
    assert!(start.elapsed() < 2 * AT_ONCE, "{:?}", start.elapsed());
    assert!(!is_in_the_table(channel.pid()));
}

#[test]
fn a_worker_that_left_its_group_and_never_attached_is_not_left_behind() {
    let name = name_of(a_worker_that_left_its_group_and_never_attached_is_not_left_behind);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let spawner = odd("leave the group, be silent").handshake_timeout(LONG / 100);
    let error = refused(&spawner);
    let left = children();
    left.iter().for_each(|pid| kill(*pid));
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn where_orphans_come_to_the_host_those_of_its_workers_are_reaped() {
    let name = name_of(where_orphans_come_to_the_host_those_of_its_workers_are_reaped);
    if !in_a_process_of_its_own(name) {
        return;
    }
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
    // A child of the host itself, which has ended and is waited for later.
    let mut own = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
    let is_zombie = |pid| is_in_the_table(pid) && !is_running(pid);
    eventually("it has ended", || is_zombie(own.id()));
    for kill_it in [true, false] {
        let channel = odd("start others, serve").spawn().unwrap();
        channel.wait_ready(LONG).unwrap();
        eventually("an orphan has come", || children().len() > 2);
        let pid = channel.pid();
        if kill_it {
            send_signal(pid, libc::SIGKILL);
            eventually("it is reaped", || !is_in_the_table(pid));
        } else {
            assert_eq!(channel.close(LONG).unwrap(), ExitCause::Exited(0));
            assert!(!is_in_the_table(pid), "reaped when close returns");
        }
        eventually("the orphans are reaped", || children() == [own.id()]);
    }
    let error = refused(&odd("start others, be silent").handshake_timeout(LONG / 100));
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    eventually("the orphans are reaped", || children() == [own.id()]);
    assert_eq!(own.wait().unwrap().code(), Some(7), "the host's own child is the host's");
}

#[test]
fn a_dropped_channel_is_hung_up_while_a_forked_child_of_the_host_lives() {
    let name = name_of(a_dropped_channel_is_hung_up_while_a_forked_child_of_the_host_lives);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let dir = temp_dir("forked");
    let channel = odd("serve").log_dir(&dir).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    let log = channel.log_path().unwrap().to_owned();
    // SAFETY: the child only waits to be killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        loop {
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        }
    }
    drop(channel);
    let text = || fs::read_to_string(&log).unwrap();
    eventually("it has ended", || text().contains("[supervisor]"));
    kill(child as u32);
    assert!(text().contains("goodbye"), "{}", text());
    assert!(text().ends_with("[supervisor] exited with code 0\n"), "{}", text());
    fs::remove_dir_all(dir).unwrap();
}

/// Blocks every opening of `path` until it is dropped. `None` if leases are not available.
struct Lease(#[allow(dead_code, reason = "closing it ends the lease")] fs::File);

fn lease(path: &Path) -> Option<Lease> {
    // SAFETY: ignoring a signal runs no code. The kernel sends this one when a process waits for
    // the lease.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    let file = fs::File::open(path).unwrap();
    let kind = libc::F_WRLCK;
    // SAFETY: takes integers only.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    if result != 0 {
        println!("not run: no lease of {path:?}: {}", std::io::Error::last_os_error());
    }
    (result == 0).then_some(Lease(file))
}

/// Checks that the death of one worker is noticed, and another closed, while something blocks.
fn assert_others_are_not_held_up(killed: &Channel, closed: &Channel) {
    let start = Instant::now();
    send_signal(killed.pid(), libc::SIGKILL);
    eventually("its end is known", || killed.exit_cause().is_some());
    assert_eq!(killed.call(ECHO, b"x", LONG).unwrap_err().kind(), ErrorKind::PeerDied);
    assert_eq!(within_long("close", || closed.close(LONG)).unwrap(), ExitCause::Exited(0));
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
}

#[test]
fn a_program_that_takes_long_to_load_holds_up_no_other_worker() {
    let name = name_of(a_program_that_takes_long_to_load_holds_up_no_other_worker);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let (killed, closed) = (small().spawn().unwrap(), small().spawn().unwrap());
    let dir = temp_dir("lease");
    let program = dir.join("program");
    copy_program("/bin/true", &program);
    let Some(lease) = lease(&program) else { return };
    let starting = std::thread::spawn({
        let slow = Spawner::program(&program).config(Config::small());
        move || slow.spawn().map(drop).unwrap_err()
    });
    std::thread::sleep(SHORT);
    assert!(!starting.is_finished(), "the kernel waits for the lease");
    assert_others_are_not_held_up(&killed, &closed);
    assert!(!starting.is_finished(), "the kernel waits for the lease");
    drop(lease);
    assert_eq!(starting.join().unwrap().kind(), ErrorKind::Handshake);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
#[cfg(feature = "tracing")]
fn a_subscriber_that_waits_for_the_host_holds_up_no_other_worker() {
    use std::sync::{Condvar, Mutex};

    /// A subscriber that returns from the event of a death only when the test lets it.
    struct Waiting;
    static LETS: Mutex<bool> = Mutex::new(false);
    static CHANGED: Condvar = Condvar::new();
    static WAITS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    impl tracing::Subscriber for Waiting {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "slipring" && *metadata.level() == tracing::Level::WARN
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
            tracing::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            WAITS.store(true, std::sync::atomic::Ordering::Release);
            drop(CHANGED.wait_while(LETS.lock().unwrap(), |lets| !*lets).unwrap());
        }
        fn enter(&self, _: &tracing::Id) {}
        fn exit(&self, _: &tracing::Id) {}
    }

    let name = name_of(a_subscriber_that_waits_for_the_host_holds_up_no_other_worker);
    if !in_a_process_of_its_own(name) {
        return;
    }
    tracing::subscriber::set_global_default(Waiting).unwrap();
    let first = small().spawn().unwrap();
    let (killed, closed) = (small().spawn().unwrap(), small().spawn().unwrap());
    send_signal(first.pid(), libc::SIGKILL);
    eventually("the subscriber waits", || WAITS.load(std::sync::atomic::Ordering::Acquire));
    assert_others_are_not_held_up(&killed, &closed);
    assert_usable(&within_long("spawn", || small().spawn()).unwrap());
    *LETS.lock().unwrap() = true;
    CHANGED.notify_all();
}

#[test]
#[cfg(feature = "async")]
fn a_waker_that_waits_for_the_host_holds_up_no_other_worker() {
    use std::future::Future;
    use std::sync::{Arc, Condvar, Mutex};
    use std::task::{Context, Wake, Waker};

    /// A waker that returns only when the test lets it, as if an executor's lock were held.
    #[derive(Default)]
    struct Waiting(Mutex<(bool, bool)>, Condvar);
    impl Wake for Waiting {
        fn wake(self: Arc<Self>) {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            drop(self.1.wait_while(state, |state| !state.1).unwrap());
        }
    }

    let name = name_of(a_waker_that_waits_for_the_host_holds_up_no_other_worker);
    if !in_a_process_of_its_own(name) {
        return;
    }
    let first = small().pollable().spawn().unwrap();
    first.wait_ready(LONG).unwrap();
    let first = slipring::tasks::AsyncChannel::new(first).unwrap();
    let (killed, closed) = (small().spawn().unwrap(), small().spawn().unwrap());
    let waiting = Arc::new(Waiting::default());
    let waker = Waker::from(Arc::clone(&waiting));
    let mut context = Context::from_waker(&waker);
    // A wait for the end of the process, which only the supervisor knows.
    stop(first.blocking().pid());
    let mut close = Box::pin(first.close(LONG));
    assert!(close.as_mut().poll(&mut context).is_pending());
    send_signal(first.blocking().pid(), libc::SIGKILL);
    eventually("the waker waits", || waiting.0.lock().unwrap().0);
    assert_others_are_not_held_up(&killed, &closed);
    assert_usable(&within_long("spawn", || small().spawn()).unwrap());
    waiting.0.lock().unwrap().1 = true;
    waiting.1.notify_all();
}

#[test]
fn the_error_of_a_big_workers_death_says_how_it_died() {
    for _ in 0..5 {
        let channel = small().spawn().unwrap();
        channel.call(HOLD_MIB, &encode(&[300]), LONG).unwrap();
        let pending = channel.submit(FOR_EVER, b"", Duration::MAX).unwrap();
        eventually("it runs", || channel.health().current_request == Some(pending.id()));
        send_signal(channel.pid(), libc::SIGKILL);
        let error = pending.wait().unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::PeerDied, "{text}");
        assert!(text.contains("SIGKILL"), "{text}");
        let death = error.death().unwrap();
        assert_eq!(death.cause(), Some(ExitCause::Signaled(libc::SIGKILL)));
        assert!(!death.is_oom_suspected());
    }
}

#[test]
fn an_error_waits_for_the_exit_status_as_long_as_the_host_says() {
    // An exit code that only the reaping tells, which takes long.
    let exits = [HOLD_MIB, EXIT];
    let spawner = small().exit_status_timeout(LONG);
    let channel = spawner.spawn().unwrap();
    channel.call(exits[0], &encode(&[300]), LONG).unwrap();
    let text = channel.call(exits[1], &[0], LONG).unwrap_err().to_string();
    assert!(text.contains("exited with code 0"), "{text}");
    #[cfg(feature = "async")]
    {
        let channel = spawner.clone().pollable().spawn().unwrap();
        let channel = slipring::tasks::AsyncChannel::new(channel).unwrap();
        let call = async |kind, bytes: &[u8]| channel.call(kind, bytes, LONG).await;
        pollster::block_on(call(exits[0], &encode(&[300]))).unwrap();
        let text = pollster::block_on(call(exits[1], &[0])).unwrap_err().to_string();
        assert!(text.contains("exited with code 0"), "{text}");
        let text = pollster::block_on(call(ECHO, b"x")).unwrap_err().to_string();
        assert!(text.contains("exited with code 0"), "{text}");
    }
    // The operation's own timeout is kept.
    let channel = spawner.spawn().unwrap();
    channel.call(exits[0], &encode(&[300]), LONG).unwrap();
    channel.call(exits[1], &[0], 2 * SHORT).unwrap_err();
}
