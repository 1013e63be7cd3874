//! The hosts of the cases.
#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slipring::{Channel, Config, Error, ErrorKind, ExitCause, Spawner};

use super::workers::{CLOSE_ALL, CLOSED, DEPTH, START, close_fd, print_a_byte};
use crate::common::*;

fn host_spawner() -> Spawner {
    spawner_of(super::worker_entry).role("test").config(Config::small())
}

fn tail(error: &Error) -> String {
    error.death().unwrap().log_tail().unwrap_or_default().to_owned()
}

/// Lets a worker print something and crash, and returns the error.
fn crash_after(channel: &Channel, words: &str) -> Error {
    channel.call(PRINT, words, LONG).unwrap();
    channel.call(EXIT, &[3], LONG).unwrap_err()
}

fn enter(directory: &Path) {
    std::env::set_current_dir(directory).unwrap();
}

pub fn plain() {
    assert_usable(&host_spawner().spawn().unwrap());
}

pub fn relative_log_directory() {
    let (here, there) = (temp_dir("here"), temp_dir("there"));
    enter(&here);
    let spawner = host_spawner().log_dir("logs");
    let channel = spawner.spawn().unwrap();
    enter(&there);
    let error = crash_after(&channel, "last words");
    assert!(tail(&error).contains("last words"), "{error}");
    let path = channel.log_path().unwrap();
    assert_eq!(path, here.join("logs/worker-test.log"));
    assert_eq!(error.death().unwrap().log_path(), Some(path));
    channel.close(LONG).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with("[supervisor] exited with code 3\n"), "{text}");
    // The directory is removed, and made again where it was.
    std::fs::remove_dir_all(&here).unwrap();
    let channel = spawner.spawn().unwrap();
    assert!(tail(&crash_after(&channel, "again")).contains("again"));
    assert!(here.join("logs/worker-test.log").exists() && !there.join("logs").exists());
}

pub fn renamed_log() {
    let dir = temp_dir("renamed");
    let channel = host_spawner().log_dir(&dir).spawn().unwrap();
    let path = channel.log_path().unwrap();
    let rotated = dir.join("rotated");
    std::fs::rename(path, &rotated).unwrap();
    std::fs::write(path, "another's").unwrap();
    let error = crash_after(&channel, "last words");
    assert!(tail(&error).contains("last words"), "{error}");
    channel.close(LONG).unwrap();
    let text = std::fs::read_to_string(&rotated).unwrap();
    assert!(text.ends_with("[supervisor] exited with code 3\n"), "{text}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "another's");
}

/// A spawner of the same worker at another path.
fn worker_at(path: impl Into<PathBuf>) -> Spawner {
    Spawner::program(path)
        .args(only(name_of(super::worker_entry)))
        .config(Config::small())
        .role("test")
}

fn link_to_own_program(directory: &Path) {
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), directory.join("own")).unwrap();
}

pub fn relative_program() {
    let (here, there) = (temp_dir("here"), temp_dir("there"));
    link_to_own_program(&here);
    enter(&here);
    let plain = worker_at("./own");
    let elsewhere = worker_at("./own").current_dir(&there);
    let searched = worker_at("own").env("PATH", ".:/bin");
    enter(&there);
    for spawner in [plain, elsewhere, searched] {
        assert_usable(&spawner.spawn().unwrap());
    }
}

pub fn relative_paths() {
    let (here, there) = (temp_dir("here"), temp_dir("there"));
    std::fs::create_dir(here.join("work")).unwrap();
    enter(&here);
    let spawner = host_spawner().current_dir("work").model("models/mini");
    enter(&there);
    let channel = spawner.spawn().unwrap();
    let work = here.canonicalize().unwrap().join("work");
    assert_eq!(values(&ask(&channel, SELF), "cwd"), [work.to_str().unwrap()]);
    let model = here.join("models/mini");
    let role = ask(&channel, ROLE);
    assert!(role.contains(&format!("{model:?}")), "{role}");
}

pub fn same_log() {
    let dir = temp_dir("same-log");
    let spawner = host_spawner().log_dir(&dir);
    let first = spawner.spawn().unwrap();
    let second = spawner.spawn().unwrap();
    assert_ne!(first.log_path(), second.log_path());
    second.call(PRINT, "the other's", LONG).unwrap();
    let error = crash_after(&first, "my own");
    assert!(tail(&error).contains("my own"), "{error}");
    assert!(!tail(&error).contains("the other's"), "{error}");
    first.close(LONG).unwrap();
    let path = first.log_path().unwrap().to_owned();
    drop((first, error));
    // The file is used again once the first channel is dropped.
    let third = spawner.spawn().unwrap();
    assert_eq!(third.log_path(), Some(path.as_path()));
    second.call(PRINT, "the other's", LONG).unwrap();
    let error = crash_after(&third, "my own as well");
    assert!(tail(&error).contains("my own as well"), "{error}");
    assert!(!tail(&error).contains("the other's"), "{error}");
    assert!(std::fs::read_to_string(path).unwrap().contains("my own\n"), "it is appended to");
    drop((second, third));
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 2, "as many as were used at a time");
}

/// The variable with the directory of logs of the other host of [`same_log_of_another_host`].
const LOGS: &str = "SLIPRING_TEST_LOGS";

pub fn same_log_of_another_host() {
    if let Some(dir) = std::env::var_os(LOGS) {
        let channel = host_spawner().log_dir(PathBuf::from(dir)).spawn().unwrap();
        channel.call(PRINT, "the other's", LONG).unwrap();
        println!("\nready");
        for line in std::io::stdin().lines() {
            channel.call(PRINT, line.unwrap().as_str(), LONG).unwrap();
            println!("\nready");
        }
        return;
    }
    let dir = temp_dir("same-log-of-two");
    let mut other = super::own(Path::new(""))
        .env(LOGS, &dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(other.stdout.take().unwrap()).lines();
    let mut ready = || assert!(output.by_ref().any(|line| line.unwrap() == "ready"));
    ready();
    let channel = host_spawner().log_dir(&dir).spawn().unwrap();
    channel.call(PRINT, "my own", LONG).unwrap();
    let mut input = other.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"the other's again\n").unwrap();
    ready();
    let error = channel.call(EXIT, &[3], LONG).unwrap_err();
    assert!(tail(&error).contains("my own"), "{error}");
    assert!(!tail(&error).contains("the other's"), "{error}");
    drop(input);
    other.wait().unwrap();
}

pub fn program_of_a_worker() {
    let channel = host_spawner().spawn().unwrap();
    let said = ask(&channel, START);
    assert!(said.contains("is_worker: false"), "{said}");
    if can_unshare() {
        let said = channel.call(START, b"unshare", LONG).unwrap().to_vec();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("is_worker: false"), "{said}");
    }
}

pub fn never_asks() {
    let dir = temp_dir("never-asks");
    let spawner = spawner_of(super::never_asks).config(Config::small());
    let spawner = spawner.env(DEPTH, "1").log_dir(&dir).handshake_timeout(LONG);
    let error = spawner.spawn().map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Handshake, "{error}");
    let log = std::fs::read_to_string(dir.join("worker-worker.log")).unwrap();
    assert!(log.contains("is_worker"), "{log}");
    assert!(!log.contains("without end"), "{log}");
}

/// The command that makes this program run the worker.
fn own_command() -> [String; 5] {
    let own = std::env::current_exe().unwrap().display().to_string();
    let rest = only(name_of(super::worker_entry)).map(str::to_owned);
    let [a, b, c, d] = rest;
    [own, a, b, c, d]
}

fn assert_works_behind(wrapper: &Spawner) {
    let channel = wrapper.spawn().unwrap();
    assert_usable(&channel);
    let of_worker =
        |channel: &Channel| -> u32 { values(&ask(channel, SELF), "pid")[0].parse().unwrap() };
    let worker = of_worker(&channel);
    assert_ne!(worker, channel.pid(), "the wrapper stays");
    channel.close(LONG).unwrap();
    assert!(!is_running(worker));

    // The death of a worker is known, whatever the wrapper does then.
    let channel = wrapper.spawn().unwrap();
    let error = channel.call(RAISE, &[libc::SIGKILL as u8], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied, "{error}");

    // So is the death of a wrapper.
    let channel = wrapper.spawn().unwrap();
    let worker = of_worker(&channel);
    send_signal(channel.pid(), libc::SIGKILL);
    eventually("its end is noticed", || !channel.is_alive());
    eventually("the worker is gone", || !is_running(worker));

    // A dropped channel ends the wrapper as well, even if the handler is stuck.
    let channel = wrapper.spawn().unwrap();
    let worker = of_worker(&channel);
    drop(channel.submit(FOR_EVER, b"", LONG).unwrap());
    drop(channel);
    eventually("the worker is gone", || !is_running(worker));
}

pub fn behind_timeout() {
    if let Some(line) = std::env::var_os(LOGS) {
        // This host ends without telling its worker.
        let channel = Spawner::program("timeout").arg("60").args(own_command()).spawn().unwrap();
        std::fs::write(line, values(&ask(&channel, SELF), "pid")[0]).unwrap();
        std::process::abort();
    }
    let wrapper = Spawner::program("timeout").arg("60").args(own_command());
    assert_works_behind(&wrapper.config(Config::small()));
    let file = temp_dir("timeout").join("worker");
    let status = super::own(Path::new("")).env(LOGS, &file).stderr(Stdio::null()).status().unwrap();
    assert!(!status.success());
    let worker = std::fs::read_to_string(file).unwrap().parse().unwrap();
    eventually("the worker is gone", || !is_running(worker));
}

pub fn behind_a_shell() {
    let script = format!("{}; true", own_command().join(" "));
    let wrapper = Spawner::program("/bin/sh").args(["-c", &script]);
    assert_works_behind(&wrapper.config(Config::small()));
}

const UNSHARE: [&str; 2] = ["--pid", "--fork"];

/// Whether this process may make pid namespaces.
fn can_unshare() -> bool {
    let tried = Command::new("unshare").args(UNSHARE).arg("true").stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

pub fn in_a_namespace() {
    if !can_unshare() {
        println!("a pid namespace cannot be made here");
        return;
    }
    let wrapper = Spawner::program("unshare").args(UNSHARE).args(own_command());
    let wrapper = wrapper.config(Config::small());
    let channel = wrapper.spawn().unwrap();
    assert_usable(&channel);
    assert_eq!(values(&ask(&channel, SELF), "pid"), ["1"]);
    let said = ask(&channel, START);
    assert!(said.contains("is_worker: false"), "{said}");
    channel.close(LONG).unwrap();
    let channel = wrapper.spawn().unwrap();
    let error = channel.call(EXIT, &[3], LONG).unwrap_err();
    assert_eq!(cause_of(&error), ExitCause::Exited(3));
}

pub fn under_valgrind(dir: &Path) -> Command {
    let is_there = Command::new("valgrind").arg("--version").output().is_ok();
    let own = super::own(dir);
    if !is_there {
        println!("valgrind is not installed: a plain host stands in");
        return own;
    }
    let mut command = Command::new("valgrind");
    command.args(["-q", "--tool=none"]).arg(own.get_program()).args(own.get_args());
    command
}

pub fn from_a_copy(dir: &Path) -> Command {
    let copy = dir.join("program");
    copy_program(std::env::current_exe().unwrap(), &copy);
    super::host_of(&copy)
}

pub fn replaced_later() {
    let spawner = host_spawner();
    let own = std::env::current_exe().unwrap();
    let program = |channel: &Channel| std::fs::read_link(format!("/proc/{}/exe", channel.pid()));
    let channel = spawner.spawn().unwrap();
    assert_eq!(program(&channel).unwrap(), own);
    let line = std::fs::read(format!("/proc/{}/cmdline", channel.pid())).unwrap();
    assert!(line.starts_with(own.as_os_str().as_bytes()), "it is known by its path");
    // An update replaces a program so.
    let new = own.with_extension("new");
    copy_program("/bin/true", &new);
    std::fs::rename(&new, &own).unwrap();
    assert_usable(&spawner.spawn().unwrap());
    assert_usable(&host_spawner().spawn().unwrap());
    std::fs::remove_file(&own).unwrap();
    assert_usable(&spawner.spawn().unwrap());
}

/// The standard streams that are open. The check itself opens nothing.
fn open_streams() -> BTreeSet<i32> {
    let is_open = |fd: &i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok();
    (0..3).filter(is_open).collect()
}

pub fn closed_streams() {
    let dir = temp_dir("closed");
    let (plain, all) = (host_spawner(), host_spawner().pollable().log_dir(&dir));
    let saved = [0, 1, 2].map(|fd| duplicate(fd, 100));
    (0..3).for_each(close_fd);
    let is_over = AtomicBool::new(false);
    let (spawned, found) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                (0..3).for_each(print_a_byte);
            }
        });
        let mut spawned = 0;
        let mut found = BTreeSet::new();
        let mut channels = Vec::new();
        for round in 0..50 {
            let channel = if round % 2 == 0 { plain.spawn() } else { all.spawn() };
            if let Ok(channel) = channel
                && channel.call(ECHO, b"x", LONG).is_ok_and(|reply| reply.to_vec() == b"x")
            {
                spawned += 1;
                channels.push(channel);
            }
            found.append(&mut open_streams());
        }
        is_over.store(true, Ordering::Relaxed);
        (spawned, found)
    });
    for (number, fd) in (0..).zip(saved) {
        // SAFETY: numbers; nothing in Rust owns them.
        #[allow(unsafe_code, reason = "dup2")]
        unsafe {
            libc::dup2(fd, number)
        };
    }
    assert_eq!(spawned, 50);
    assert_eq!(found, BTreeSet::new(), "the library's descriptors");
    let logs = std::fs::read_dir(dir).unwrap().flatten();
    for log in logs {
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert!(!text.lines().any(|line| line.contains("xx")), "the host's output: {text}");
    }
}

fn duplicate(fd: i32, least: i32) -> i32 {
    // SAFETY: takes integers only.
    #[allow(unsafe_code, reason = "fcntl")]
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) };
    assert!(copy >= least);
    copy
}

pub fn closed_streams_of_the_worker() {
    let spawner = host_spawner().pollable().env(CLOSED, "1");
    (0..20).for_each(|_| assert_usable(&spawner.spawn().unwrap()));
    let channel = spawner.spawn().unwrap();
    let text = ask(&channel, SELF);
    let fds = values(&text, "fd");
    let is_low = |fd: &&&str| fd.starts_with("1 ") || fd.starts_with("2 ");
    // The directory that is being listed has the first free number.
    let low: Vec<_> = fds.iter().filter(is_low).filter(|fd| !fd.contains("/proc/")).collect();
    assert!(low.is_empty(), "{low:?} of {fds:?}");
}

pub fn variable_twice() {
    const TWICE: &str = "SLIPRING_TEST_TWICE";
    let Some(value) = std::env::var_os(TWICE) else {
        let pair = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).unwrap()
        };
        let mut environment: Vec<CString> = std::env::vars_os().map(pair).collect();
        for value in ["first", "second"] {
            environment.push(CString::new(format!("{TWICE}={value}")).unwrap());
        }
        let own = std::env::current_exe().unwrap();
        let mut arguments = vec![CString::new(own.as_os_str().as_bytes()).unwrap()];
        arguments.extend(std::env::args().skip(1).map(|text| CString::new(text).unwrap()));
        let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
            texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (argv, envp) = (pointers(&arguments), pointers(&environment));
        // SAFETY: live strings in two arrays that end with null.
        #[allow(unsafe_code, reason = "execve")]
        unsafe {
            libc::execve(arguments[0].as_ptr(), argv.as_ptr(), envp.as_ptr())
        };
        panic!("{}", std::io::Error::last_os_error());
    };
    let channel = host_spawner().spawn().unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", channel.pid())).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    let of_worker: Vec<_> = environment
        .split('\0')
        .filter_map(|pair| pair.strip_prefix("SLIPRING_TEST_TWICE="))
        .collect();
    assert_eq!(of_worker, [value.to_str().unwrap()]);
}

/// Makes the threads of a process that sleep on a descriptor look at it again. The process may have
/// ended.
fn wake(pid: u32) {
    for signal in [libc::SIGSTOP, libc::SIGCONT] {
        // SAFETY: a system call without pointers.
        #[allow(unsafe_code, reason = "kill")]
        unsafe {
            libc::kill(pid as i32, signal)
        };
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn worker_closes_all() {
    let dir = temp_dir("closes-all");
    let channel = host_spawner().log_dir(&dir).spawn().unwrap();
    channel.wait_ready(LONG).unwrap();
    channel.call(CLOSE_ALL, b"", LONG).unwrap();
    eventually("the worker has ended", || {
        wake(channel.pid());
        channel.exit_cause().is_some()
    });
    let error = channel.call(ECHO, b"x", LONG).unwrap_err();
    assert_ne!(cause_of(&error), ExitCause::Exited(0), "{error}");
    assert!(tail(&error).contains("slipring worker: "), "{error}");
    assert!(tail(&error).contains("closed"), "{error}");
}

pub fn no_log() {
    let channel = host_spawner().spawn().unwrap();
    let error = channel.call(EXIT, &[3], LONG).unwrap_err();
    assert_eq!(cause_of(&error), ExitCause::Exited(3));
    assert!(error.to_string().contains("Spawner::log_dir"), "{error}");
    let error = Spawner::program("/bin/false").spawn().map(drop).unwrap_err();
    assert!(error.to_string().contains("Spawner::log_dir"), "{error}");
    let short = Duration::from_millis(50);
    let sleeper = Spawner::program("/bin/sleep").arg("1000").handshake_timeout(short);
    let error = sleeper.spawn().map(drop).unwrap_err();
    assert!(error.to_string().contains("Spawner::log_dir"), "{error}");
}

pub fn own_output() {
    if std::env::var_os(LOGS).is_some() {
        let dir = temp_dir("no-logs");
        let channel = host_spawner().log_dir(&dir).inherit_stdio().spawn().unwrap();
        assert_eq!(channel.log_path(), None);
        let error = crash_after(&channel, "seen");
        assert_eq!(error.death().unwrap().log_tail(), None);
        let channel = host_spawner().inherit_stdio().log_dir(&dir).spawn().unwrap();
        assert!(tail(&crash_after(&channel, "kept")).contains("kept"));
        return;
    }
    let output = super::own(Path::new("")).env(LOGS, "none").output().unwrap();
    let texts = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{texts:?}");
    assert!(texts[0].contains("out: seen\n") && texts[1].contains("err: seen\n"), "{texts:?}");
    assert!(!texts.iter().any(|text| text.contains("kept")), "{texts:?}");
}
