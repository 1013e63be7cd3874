//! What a worker gets from its spawner, and how a start can fail.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::*;
use slipring::{Config, Error, ErrorKind, Spawner, WorkerState};

/// Children of this process by name, zombies included.
fn children_named(name: &str) -> usize {
    let children = footprint().children;
    let is_it = |pid: &&String| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    children.iter().filter(is_it).count()
}

#[test]
fn the_session_learns_role_model_mode_and_extras() {
    let channel = small()
        .role("embed-2.x")
        .model("/models/mini lm")
        .mode("fast")
        .extra("dim", "384")
        .extra("dim", "again")
        .extra("empty", "")
        .spawn()
        .unwrap();
    let role = String::from_utf8(channel.call(ROLE, b"", LONG).unwrap().to_vec()).unwrap();
    for part in ["\"embed-2.x\"", "\"/models/mini lm\"", "\"fast\"", "(\"dim\", \"384\")", "again"]
    {
        assert!(role.contains(part), "{part} is missing in {role}");
    }
    assert_eq!(channel.role(), "embed-2.x");
    assert_eq!(channel.config(), &Config::small());
}

#[test]
fn a_role_that_could_not_be_a_file_name_is_refused() {
    for role in ["", ".hidden", "a/b", "a b", "ä", &"x".repeat(33)] {
        assert_eq!(refused(&small().role(role)).kind(), ErrorKind::InvalidConfig, "{role:?}");
    }
}

#[test]
fn what_no_worker_can_be_given_is_refused_with_the_value() {
    let cases: [(Spawner, &str); 25] = [
        (small().nice(-21), "-21: it must be from -20 to 19"),
        (small().nice(20), "20: it must be from -20 to 19"),
        (small().nice(i32::MIN), "from -20 to 19"),
        (small().memory_limit(0), "memory limit of 0 bytes"),
        (small().memory_limit(64 << 10), "memory of the channel alone is"),
        (small().cpus([]), "needs a processor"),
        (small().cpus([0, 65_536]), "no processor 65536"),
        (small().cpus(0..), "no processor 65536"),
        (small().cpus([u32::MAX]).cpus([0]), "no processor 4294967295"),
        (small().handshake_timeout(Duration::ZERO), "timeout of zero"),
        (small().mode(""), "empty mode"),
        (small().model(""), "the model \"\""),
        (small().current_dir(""), "the working directory \"\""),
        (small().log_dir(""), "the log directory \"\""),
        (Spawner::program(""), "is empty"),
        (Spawner::program("/bin/a\0b"), "program path"),
        (Spawner::program("a\0b"), "program path"),
        (small().current_dir("/a\0b"), "working directory"),
        (small().arg("a\0b"), "argument"),
        (small().args(["a", "\0"]), "argument"),
        (small().env("", "x"), "name of an environment variable"),
        (small().env("a=b", "x"), "name of an environment variable"),
        (small().env("a\0", "x"), "environment variable"),
        (small().env("a", "\0"), "environment variable"),
        (small().extra("x", "y".repeat(70_000)), "at most 65536"),
    ];
    for (spawner, reason) in cases {
        let error = refused(&spawner);
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{reason}: {error}");
        assert!(error.to_string().contains(reason), "{reason} is missing in: {error}");
        let error = within_long("spawn_raw", || spawner.spawn_raw()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{reason}: {error}");
    }
    for nice in [19, 7] {
        assert_usable(&small().nice(nice).cpus([0, 0]).spawn().unwrap());
    }
}

#[test]
fn a_worker_has_its_own_environment_directory_group_and_limits() {
    let dir = temp_dir("cwd");
    let channel = small()
        .env("SLIPRING_TEST_SET", "yes")
        .env("SLIPRING_TEST_GONE", "yes")
        .env_remove("SLIPRING_TEST_GONE")
        .current_dir(&dir)
        .nice(7)
        .memory_limit(4 << 30)
        .spawn()
        .unwrap();
    let text = ask(&channel, SELF);
    assert_eq!(values(&text, "cwd"), [dir.canonicalize().unwrap().to_str().unwrap()]);
    assert_eq!(values(&text, "pid"), [channel.pid().to_string()]);
    assert_eq!(values(&text, "pgrp"), [channel.pid().to_string()], "a group of its own");
    assert_eq!(values(&text, "nice"), ["7"]);
    assert!(text.contains(&(4_u64 << 30).to_string()), "the limit of address space");
    assert!(text.contains("SigBlk:\t0000000000000000"), "an empty signal mask");
    let environment = fs::read(format!("/proc/{}/environ", channel.pid())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("SLIPRING_TEST_SET=yes"));
    assert!(!environment.contains("SLIPRING_TEST_GONE"));
    assert!(environment.contains("PATH="), "the rest is inherited");

    let channel = small().env_clear().env("ONLY", "this").spawn().unwrap();
    assert_usable(&channel);
    let environment = fs::read(format!("/proc/{}/environ", channel.pid())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("ONLY=this") && !environment.contains("PATH="));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_worker_inherits_none_of_the_parents_descriptors() {
    let file = fs::File::open("/dev/zero").unwrap();
    // SAFETY: changes a flag of a descriptor that this test owns.
    #[allow(unsafe_code, reason = "to make it inheritable")]
    let changed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    assert_eq!(changed, 0);
    let other = spawn(Config::small());
    let channel = spawn(Config::small());
    let text = ask(&channel, SELF);
    let fds = values(&text, "fd");
    assert!(!text.contains("/dev/zero"), "{fds:?}");
    for fd in &fds {
        let (number, target) = fd.split_once(' ').unwrap();
        let is_fine = match number {
            "0" | "1" | "2" => target == "/dev/null",
            // The bootstrap socket, and the directory that is being listed.
            _ => target.starts_with("socket:") || target.contains("/proc/") || target.is_empty(),
        };
        assert!(is_fine, "{fd}");
    }
    assert!(fds.iter().filter(|fd| fd.contains("socket:")).count() <= 1, "{fds:?}");
    assert_usable(&other);
}

#[test]
fn a_log_is_appended_to_and_its_tail_is_this_workers_alone() {
    let dir = temp_dir("log").join("made").join("deep");
    let mut logs = Vec::new();
    for words in ["first worker", "second worker"] {
        let channel = small().role("r").instance(4).log_dir(&dir).spawn().unwrap();
        let path = channel.log_path().unwrap().to_owned();
        assert_eq!(path, dir.join("worker-r-4.log"));
        channel.call(PRINT, words, LONG).unwrap();
        let error = channel.call(EXIT, &[1], LONG).unwrap_err();
        let tail = error.death().unwrap().log_tail().unwrap().to_owned();
        assert!(tail.contains(&format!("out: {words}")) && tail.contains(&format!("err: {words}")));
        assert_eq!(tail.contains("first"), words.contains("first"), "{tail}");
        assert_eq!(
            within_long("close", || channel.close(LONG)).unwrap().to_string(),
            "exited with code 1"
        );
        logs.push(path);
    }
    let log = fs::read_to_string(&logs[0]).unwrap();
    assert_eq!(log.matches("[supervisor] exited with code 1").count(), 2);
    assert!(log.contains("first worker") && log.contains("second worker"));
    assert_eq!(fs::metadata(&logs[0]).unwrap().permissions().mode() & 0o777, 0o600);

    let channel = small().log_dir(&dir).spawn().unwrap();
    let words = format!("{}END", "x".repeat(9000));
    channel.call(PRINT, &words, LONG).unwrap();
    let error = channel.call(EXIT, &[1], LONG).unwrap_err();
    let tail = error.death().unwrap().log_tail().unwrap().to_owned();
    assert!(tail.len() <= 4096 && tail.contains("xEND"), "{} bytes", tail.len());
    fs::remove_dir_all(dir.parent().unwrap().parent().unwrap()).unwrap();
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_with_its_path_and_cause() {
    let dir = temp_dir("programs");
    let make = |name: &str, text: &str, mode| {
        let path = dir.join(name);
        write_program(&path, text, mode);
        path
    };
    let cases = [
        (dir.join("missing"), "No such file"),
        (make("text", "no program\n", 0o600), "ermission denied"),
        (make("no-shebang", "not a program\n", 0o700), "xec format"),
        (make("lost", "#!/no/such/interpreter\n", 0o700), "interpreter"),
        (dir.clone(), "ermission denied"),
    ];
    for (path, cause) in cases {
        let start = Instant::now();
        let error = refused(&Spawner::program(&path).config(Config::small()));
        assert_eq!(error.kind(), ErrorKind::Spawn, "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let text = format!("{error:#}");
        assert!(text.contains(cause), "{cause} is missing in: {text}");
        assert!(start.elapsed() < Duration::from_secs(8), "it is known at once");
    }
    let error = refused(&Spawner::program("no-such-program-anywhere"));
    assert_eq!(error.kind(), ErrorKind::Spawn);
    let error = refused(&small().current_dir("/no/such/directory"));
    assert!(error.to_string().contains("/no/such/directory"), "{error}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_program_that_ends_before_it_attaches_is_told_at_once_with_its_log() {
    // The test counts the children of its process.
    if !in_a_process_of_its_own(name_of(
        a_program_that_ends_before_it_attaches_is_told_at_once_with_its_log,
    )) {
        return;
    }
    let dir = temp_dir("early");
    let shell = |script: &str| {
        Spawner::program("/bin/sh").args(["-c", script]).config(Config::small()).log_dir(&dir)
    };
    let cases = [
        ("echo cannot find libmodel.so >&2; exit 4", "exited with code 4", "libmodel.so"),
        ("exit 0", "exited with code 0", ""),
        ("kill -SEGV $$", "SIGSEGV", ""),
        ("exec 0<&-; echo closed; sleep 0.05; exit 3", "exited with code 3", "closed"),
    ];
    for (script, cause, words) in cases {
        let start = Instant::now();
        let error = refused(&shell(script));
        assert_eq!(error.kind(), ErrorKind::Handshake, "{script}: {error}");
        assert!(error.to_string().contains(cause), "{script}: {error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        assert!(error.to_string().contains("worker-worker.log"), "{error}");
        assert!(error.log_tail().unwrap().contains(words), "{script}: {error:?}");
        assert!(format!("{error:?}").contains(words), "{script}: {error:?}");
        assert!(start.elapsed() < Duration::from_secs(8), "before the handshake timeout");
        fs::remove_file(dir.join("worker-worker.log")).unwrap();
    }
    eventually("all are reaped", || children_named("sh") == 0);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_program_that_never_attaches_is_killed_at_the_handshake_timeout() {
    // The test counts the children of its process.
    if !in_a_process_of_its_own(name_of(
        a_program_that_never_attaches_is_killed_at_the_handshake_timeout,
    )) {
        return;
    }
    let timeout = Duration::from_millis(200);
    let sleeper = Spawner::program("/bin/sleep").arg("1000").config(Config::small());
    let start = Instant::now();
    let error = refused(&sleeper.handshake_timeout(timeout));
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    assert!(start.elapsed() >= timeout);
    assert_eq!(children_named("sleep"), 0, "reaped when spawn returns");

    // A program that writes nonsense in place of the answer.
    let script = "echo this is no answer >&0; sleep 1000";
    let talker = Spawner::program("/bin/sh").args(["-c", script]).config(Config::small());
    let error = refused(&talker.handshake_timeout(timeout));
    assert!(matches!(error.kind(), ErrorKind::Handshake | ErrorKind::Protocol), "{error:?}");
    eventually("its group is gone", || children_named("sh") + children_named("sleep") == 0);
}

#[test]
fn a_program_that_was_not_started_as_a_worker_says_so() {
    assert!(!slipring::worker::is_worker());
    let worker = slipring::worker::Worker::new(|_| Ok(()));
    let error = worker.serve().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
}

#[test]
fn a_session_that_cannot_be_built_fails_every_call() {
    for (mode, type_name, message) in [
        ("fail", "test::NoModel", "no such model"),
        ("late fail", "test::NoModel", "after a while"),
        ("panic", "panic", "the model exploded"),
    ] {
        let channel = small().mode(mode).spawn().unwrap();
        let is_it = |error: Error| {
            assert_eq!(error.kind(), ErrorKind::Session, "{mode}: {error}");
            assert!(error.is_fatal() && error.was_begun() == Some(false), "{mode}: {error}");
            let failure = error.handler_failure().unwrap();
            assert_eq!(failure.type_name, type_name);
            assert!(failure.message.contains(message), "{failure}");
        };
        let one = channel.submit(ECHO, b"x", LONG);
        let two = channel.submit(ECHO, b"y", LONG);
        for pending in [one, two] {
            is_it(pending.and_then(|pending| pending.wait()).unwrap_err());
        }
        is_it(channel.wait_ready(LONG).unwrap_err());
        eventually("the worker has ended", || channel.exit_cause().is_some());
        is_it(channel.call(ECHO, b"x", LONG).unwrap_err());
        is_it(channel.stream(COUNT, b"x", LONG).map(drop).unwrap_err());
        assert!(!channel.is_alive());
    }
}

#[test]
fn a_session_that_failed_long_before_the_first_call_is_still_told_of() {
    let channel = small().mode("fail").spawn().unwrap();
    eventually("the worker has ended", || channel.exit_cause().is_some());
    let error = channel.call(ECHO, b"x", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Session, "{error}");
    assert_eq!(error.handler_failure().unwrap().message, "no such model");
}

#[test]
fn a_session_that_fails_is_told_to_all_threads_that_wait() {
    let channel = small().mode("late fail").spawn().unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| channel.call(ECHO, b"x", LONG).map(drop).unwrap_err()))
            .collect();
        for thread in threads {
            let error = thread.join().unwrap();
            assert_eq!(error.kind(), ErrorKind::Session, "{error}");
        }
    });
}

#[test]
fn calls_wait_for_a_session_that_takes_its_time() {
    let channel = small().mode("slow").spawn().unwrap();
    assert_eq!(channel.ping(LONG).unwrap().state, WorkerState::Starting);
    assert_eq!(channel.health().state, WorkerState::Starting);
    let error = channel.wait_ready(Duration::from_millis(20)).unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("building its session"), "{error}");
    let pending = channel.submit(ECHO, b"early", LONG).unwrap();
    channel.wait_ready(LONG).unwrap();
    assert_eq!(pending.wait().unwrap().to_vec(), b"early");
    eventually("it is idle", || channel.ping(LONG).unwrap().state == WorkerState::Idle);
    channel.wait_ready(LONG).unwrap();
}

#[test]
fn a_handshake_without_a_deadline_is_allowed() {
    let spawner = spawner().config(Config::small()).handshake_timeout(Duration::MAX);
    assert_usable(&spawner.spawn().unwrap());
}

#[test]
fn a_program_that_was_replaced_on_disk_still_starts_itself() {
    let name = name_of(a_program_that_was_replaced_on_disk_still_starts_itself);
    if is_rerun(name) {
        let own = std::env::current_exe().unwrap();
        assert_ne!(own.parent(), Some(Path::new("")), "{own:?}");
        fs::remove_file(&own).unwrap();
        let channel = small().spawn().unwrap();
        assert_usable(&channel);
        return;
    }
    let dir = temp_dir("replaced");
    let copy = dir.join("program");
    copy_program(std::env::current_exe().unwrap(), &copy);
    let mut command = std::process::Command::new(&copy);
    let output = command.args(only(name)).env(RERUN, name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    fs::remove_dir_all(dir).unwrap();
}
