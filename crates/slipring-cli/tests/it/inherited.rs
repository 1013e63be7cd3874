//! Standard streams and signals that the program inherits. Each unusual state has a row.
#![allow(unsafe_code, reason = "what a child inherits is set between fork and exec")]

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Directory, Finished, Npy, children, finish, glosses, kill, piped, until};
use crate::failures::wait_open;

const SLIPRING: &str = env!("CARGO_BIN_EXE_slipring");

/// Runs `slipring` with these arguments and redirections in a shell.
fn shell(directory: &Directory, line: &str) -> Finished {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {SLIPRING} {line}")]).current_dir(directory.path("."));
    piped(&mut command);
    command.output().unwrap().into()
}

#[test]
fn a_standard_stream_that_is_closed_is_an_error_where_it_is_needed() {
    const NO_OUTPUT: &str = "slipring: cannot write standard output: it is closed\n";
    const NO_INPUT: &str = "slipring: cannot read standard input: it is closed\n";
    const READ_ONLY: &str = "slipring: cannot write standard output: it is open for reading only\n";
    const WRITE_ONLY: &str = "slipring: cannot read standard input: it is open for writing only\n";
    for (line, code, stderr) in [
        ("embed in.txt -q -o - >&-", 1, NO_OUTPUT),
        ("embed in.txt -q -o /dev/stdout >&-", 1, NO_OUTPUT),
        ("embed in.txt -q -o /dev/fd/1 >&-", 1, NO_OUTPUT),
        ("embed in.txt -q -o /proc/self/fd/1 >&-", 1, NO_OUTPUT),
        ("embed in.txt -q -o /dev/stderr 2>&-", 1, ""),
        ("embed in.txt -q -o - 1</dev/null", 1, READ_ONLY),
        ("--help >&-", 1, NO_OUTPUT),
        ("--version >&-", 1, NO_OUTPUT),
        ("--version 1</dev/null", 1, READ_ONLY),
        // Reported before the work, which takes long for these two.
        ("soak --seconds 100000 >&-", 1, NO_OUTPUT),
        ("bench >&-", 1, NO_OUTPUT),
        ("embed -q <&-", 1, NO_INPUT),
        ("embed -q - <&-", 1, NO_INPUT),
        ("embed -q /dev/stdin <&-", 1, NO_INPUT),
        ("embed -q 0>/dev/null", 1, WRITE_ONLY),
        ("embed no.txt 2>&-", 1, ""),
        // A stream that is not needed may be missing.
        ("embed in.txt -q -o - >/dev/null", 0, ""),
        ("embed in.txt -q -o - 1<>/dev/null", 0, ""),
        ("embed in.txt -q >&-", 0, ""),
        ("embed in.txt -q <&-", 0, ""),
        ("embed in.txt 2>&-", 0, ""),
        ("embed in.txt <&- >&- 2>&-", 0, ""),
    ] {
        let directory = Directory::new();
        directory.write("in.txt", "a\nb\n");
        let done = shell(&directory, line);
        assert_eq!((done.code, done.stderr.as_str()), (code, stderr), "{line}");
        let is_written = code == 0 && !line.contains("-o");
        assert_eq!(directory.names().len(), if is_written { 2 } else { 1 }, "{line}");
        if is_written {
            assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 2, "{line}");
        }
    }
}

#[test]
fn a_closed_stream_is_found_behind_every_path_that_leads_to_it() {
    let directory = Directory::new();
    directory.write("in.txt", "a\nb\n");
    let links = [
        ("so.jsonl", "/dev/stdout"),
        ("so.npy", "/dev/stdout"),
        ("twice.jsonl", "so.jsonl"),
        ("dev", "/dev"),
        ("fds", "/proc/thread-self/fd"),
        ("three.jsonl", "/dev/fd/3"),
        ("three.npy", "/dev/fd/3"),
        ("si", "/dev/stdin"),
    ];
    for (link, target) in links {
        std::os::unix::fs::symlink(target, directory.path(link)).unwrap();
    }
    let names = directory.names();
    for (end, outputs) in [
        (
            ">&-",
            &[
                "so.jsonl",
                "twice.jsonl",
                "./so.jsonl",
                "dev/stdout",
                "dev/fd/1",
                "fds/1",
                "/proc/thread-self/fd/1",
                "/proc/$$/fd/1",
                "/proc/$$/task/$$/fd/1",
                "/dev/../dev/stdout",
                "/proc/self/cwd/so.jsonl",
            ][..],
        ),
        ("2>&1 1>&-", &["so.npy"]),
        ("2>&1 1>/dev/null 0<&-", &["/dev/stdin", "si"]),
        ("3>&-", &["/dev/fd/3", "three.jsonl", "three.npy"]),
    ] {
        for output in outputs {
            let done = shell(&directory, &format!("embed in.txt -q -o {output} {end}"));
            let said = done.stderr + &done.stdout;
            assert!(said.starts_with("slipring: cannot write "), "{output}: {said}");
            assert_eq!((done.code, said.lines().count()), (1, 1), "{output}: {said}");
            assert_eq!(directory.names(), names, "{output}");
            let is_closed = said.ends_with(": it is closed\n") || *output == "so.npy";
            assert!(is_closed, "{output}: {said}");
        }
    }
    for (input, end) in [("si", "<&-"), ("/dev/fd/1", ">&-"), ("three.jsonl", "3<&-")] {
        let done = shell(&directory, &format!("embed {input} -q --allow-empty {end}"));
        assert_eq!(done.code, 1, "{input}: {done:?}");
        assert!(done.stderr.ends_with(": it is closed\n"), "{input}: {done:?}");
    }
    let in_dev = format!("cd /dev; exec {SLIPRING} embed {} -q -o stdout >&-", glosses().display());
    let done: Finished = Command::new("sh").args(["-c", &in_dev]).output().unwrap().into();
    assert_eq!(done.code, 1, "{done:?}");
}

#[test]
fn a_link_to_standard_output_is_standard_output() {
    let directory = Directory::new();
    directory.write("in.txt", "a\nb\n");
    std::os::unix::fs::symlink("/dev/stdout", directory.path("so.jsonl")).unwrap();
    directory.write("all.jsonl", "earlier\n");
    let done = shell(&directory, "embed in.txt -q --dim 1 -o so.jsonl >> all.jsonl");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let all = String::from_utf8(directory.read("all.jsonl")).unwrap();
    assert!(all.starts_with("earlier\n["), "{all}");
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn a_descriptor_takes_the_format_of_the_file_that_it_stands_for() {
    let directory = Directory::new();
    directory.write("in.txt", "a\nb\n");
    let rows = |name: &str| directory.read(name).iter().filter(|byte| **byte == b'\n').count();
    for to in ["/dev/fd/3 3>", "/proc/self/fd/3 3>", "/proc/thread-self/fd/5 5>", "/dev/stderr 2>"]
    {
        let done = shell(&directory, &format!("embed in.txt -q --dim 1 -o {to} y.jsonl"));
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{to}");
        assert_eq!(rows("y.jsonl"), 2, "{to}");
    }
    // The descriptor is written, and the file that it stands for is not replaced.
    let done = shell(&directory, "embed in.txt -q --dim 1 -o /dev/fd/3 3>> y.jsonl");
    assert_eq!((done.code, rows("y.jsonl")), (0, 4), "{done:?}");
    let done = shell(&directory, "embed in.txt -q --dim 1 -o /dev/fd/3 3< y.jsonl");
    let expected = "slipring: cannot write /dev/fd/3: it is open for reading only\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, expected));
    let done = shell(&directory, "embed y.jsonl -q --dim 1 -o /dev/fd/3 3>> y.jsonl");
    assert_eq!(done.stderr, "slipring: y.jsonl is also the output\n");

    let done = shell(&directory, "embed in.txt -q -o /dev/fd/3 3> y.npy");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(Npy::parse(&directory.read("y.npy")).rows, 2);

    let done = shell(&directory, "embed in.txt -q -o /dev/fd/3 3> y.txt");
    assert_eq!((done.code, directory.read("y.txt").len()), (2, 0));
    assert!(done.stderr.contains("y.txt") && done.stderr.contains(".npy or .jsonl"), "{done:?}");
}

fn set_non_blocking(end: &impl AsRawFd) {
    // SAFETY: integers only; the descriptor is open.
    let set = unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
}

/// A pipe whose ends do not block, for the program as for this process.
fn non_blocking_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    set_non_blocking(&reader);
    set_non_blocking(&writer);
    (reader, writer)
}

/// Reads to the end from a pipe that does not block, and slowly at the start.
fn drain(mut reader: PipeReader) -> Vec<u8> {
    std::thread::sleep(Duration::from_millis(300));
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return all,
            Ok(n) => all.extend(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn output_into_a_pipe_that_does_not_block_is_waited_for() {
    let directory = Directory::new();
    let (reader, writer) = non_blocking_pipe();
    let path = glosses();
    let mut command = directory.command(&["-q", "-o", "-", "--dim", "64", path.to_str().unwrap()]);
    let child = command.stdout(writer).spawn().unwrap();
    drop(command);
    let stdout = drain(reader);
    let done: Finished = child.wait_with_output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let rows = stdout.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(rows, fs::read_to_string(&path).unwrap().lines().count());
}

#[test]
fn input_from_a_pipe_that_does_not_block_is_waited_for() {
    let directory = Directory::new();
    let (reader, mut writer) = non_blocking_pipe();
    let mut command = directory.command(&["-q"]);
    let child = command.stdin(reader).spawn().unwrap();
    drop(command);
    for line in ["a\n", "b\n", "c\n"] {
        std::thread::sleep(Duration::from_millis(100));
        writer.write_all(line.as_bytes()).unwrap();
    }
    drop(writer);
    let done: Finished = child.wait_with_output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 3);
}

#[test]
fn a_message_into_a_pipe_that_does_not_block_is_waited_for() {
    let directory = Directory::new();
    let (reader, mut writer) = non_blocking_pipe();
    while writer.write(&[b'.'; 4096]).is_ok() {}
    let mut command = directory.command(&["no.txt"]);
    let child = command.stderr(writer).spawn().unwrap();
    drop(command);
    let stderr = String::from_utf8(drain(reader)).unwrap();
    let done: Finished = child.wait_with_output().unwrap().into();
    assert_eq!(done.code, 1);
    let message = "slipring: cannot read no.txt: No such file or directory (os error 2)\n";
    assert_eq!(stderr.trim_start_matches('.'), message);
}

/// Blocks these signals in the program that will be started.
fn block(command: &mut Command, signals: &'static [i32]) {
    let block = move || {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: there is room for a set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for signal in signals {
            // SAFETY: the set is initialised.
            unsafe { libc::sigaddset(set.as_mut_ptr(), *signal) };
        }
        // SAFETY: the set is initialised and only read.
        unsafe { libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(block) };
}

/// Makes the program that will be started ignore these signals.
fn ignore(command: &mut Command, signals: &'static [i32]) {
    let ignore = move || {
        for signal in signals {
            // SAFETY: no handler is installed.
            unsafe { libc::signal(*signal, libc::SIG_IGN) };
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(ignore) };
}

/// Starts the program with an open standard input and waits until it has workers.
fn with_worker(mut command: Command) -> Child {
    let child = command.spawn().unwrap();
    until("a worker that is ready", || {
        children(child.id()).iter().any(|worker| {
            let tasks = fs::read_dir(format!("/proc/{worker}/task")).into_iter().flatten();
            let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
            names.flatten().any(|name| name == "slipring-parent\n")
        })
    });
    child
}

#[test]
fn a_signal_that_was_blocked_by_the_starter_still_ends_the_program() {
    const ALL: &[i32] = &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD, libc::SIGUSR1];
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("USR1", 138)] {
        let directory = Directory::new();
        let mut command = directory.command(&[]);
        block(&mut command, ALL);
        let child = with_worker(command);
        kill(signal, child.id());
        let done = wait_open(child);
        assert_eq!(done.code, code);
        assert_eq!(done.stderr, format!("slipring: ended by SIG{signal}\n"));
        assert_eq!(directory.names(), [""; 0]);
        directory.until_no_process_is_left();
    }
}

#[test]
fn a_soak_that_was_started_with_signals_blocked_can_be_ended() {
    let mut command = Command::new(SLIPRING);
    command.args(["soak", "--seconds", "100000"]);
    block(&mut command, &[libc::SIGTERM]);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    until("a worker", || !children(child.id()).is_empty());
    kill("TERM", child.id());
    until("the end", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
}

#[test]
fn a_dead_worker_is_replaced_with_sigchld_blocked_or_ignored() {
    for is_blocked in [true, false] {
        let directory = Directory::new();
        let mut command = directory.command(&[]);
        match is_blocked {
            true => block(&mut command, &[libc::SIGCHLD]),
            false => ignore(&mut command, &[libc::SIGCHLD]),
        }
        let child = with_worker(command);
        let worker = children(child.id())[0];
        kill("KILL", worker);
        // Standard input stays open and silent.
        until("another worker", || children(child.id()).iter().any(|pid| *pid != worker));
        let done = finish(child, b"a\n").succeeded();
        assert!(done.stderr.contains(", 1 worker restarted"), "{done:?}");
    }
}

#[test]
fn a_signal_that_the_starter_ignores_stays_ignored() {
    for (signals, name) in [
        (&[libc::SIGINT][..], "INT"),
        (&[libc::SIGQUIT], "QUIT"),
        (&[libc::SIGHUP], "HUP"),
        (&[libc::SIGTERM], "TERM"),
        (&[libc::SIGUSR1], "USR1"),
    ] {
        let directory = Directory::new();
        let mut command = directory.command(&["-q"]);
        ignore(&mut command, signals);
        let mut child = with_worker(command);
        kill(name, child.id());
        std::thread::sleep(Duration::from_millis(100));
        child.stdin.take().unwrap().write_all(b"a\n").unwrap();
        let done: Finished = child.wait_with_output().unwrap().into();
        assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{name}");
        assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 1);
    }
}

#[test]
fn soak_counts_its_kills_with_sigchld_ignored() {
    let mut command = Command::new(SLIPRING);
    command.args(["soak", "--seconds", "1", "--kill-every", "50"]);
    ignore(&mut command, &[libc::SIGCHLD]);
    let done: Finished = command.output().unwrap().into();
    assert_eq!(done.code, 0, "{done:?}");
}
