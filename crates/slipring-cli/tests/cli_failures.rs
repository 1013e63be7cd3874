//! The program's failures: exit code, message, and what is left behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::time::Duration;

use common::{Directory, Finished, Npy, finish, glosses, kill, peak_memory, piped, until};

const MIB: usize = 1 << 20;

/// A directory with an output that must survive.
fn with_target() -> Directory {
    let directory = Directory::new();
    directory.write("vectors.npy", "precious");
    directory
}

/// The target is as it was, and nothing lies beside it but `others`.
#[track_caller]
fn assert_untouched(directory: &Directory, others: &[&str]) {
    assert_eq!(directory.read("vectors.npy"), b"precious");
    let mut expected = [&["vectors.npy"], others].concat();
    expected.sort_unstable();
    assert_eq!(directory.names(), expected);
}

/// Runs in a directory with a target; nothing may change.
#[track_caller]
fn fails(args: &[&str], stdin: impl AsRef<[u8]>, code: i32, message: &str) {
    let directory = with_target();
    let done = directory.embed(args, stdin);
    assert_eq!(done.stderr, format!("slipring: {message}\n"), "{args:?}");
    assert_eq!(done.code, code, "{args:?}");
    assert_eq!(done.stdout, "");
    assert_untouched(&directory, &[]);
}

#[test]
fn a_missing_file_is_named_even_behind_good_input() {
    let message = "cannot read no.txt: No such file or directory (os error 2)";
    fails(&["no.txt"], "", 1, message);
    fails(&["-", "no.txt"], "fine\n", 1, message);
}

#[test]
fn a_directory_is_no_input() {
    fails(&["/"], "", 1, "/ is a directory");
    let directory = with_target();
    let mut command = directory.command(&[]);
    command.stdin(File::open("/").unwrap());
    let done: Finished = command.output().unwrap().into();
    assert_eq!(done.code, 1);
    assert!(done.stderr.starts_with("slipring: cannot read standard input: Is a directory"));
    assert_untouched(&directory, &[]);
}

#[test]
fn invalid_utf8_is_named_with_file_line_and_offset() {
    let directory = with_target();
    directory.write("bad.txt", b"good\nb\xe9d\n");
    let done = directory.embed(&["bad.txt"], "");
    let message = "slipring: bad.txt: line 2: invalid UTF-8 at byte offset 1 of the line \
                   (6 of the input)\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, message));
    assert_untouched(&directory, &["bad.txt"]);
}

#[test]
fn a_line_beyond_the_cap_is_named_with_its_length_and_the_option() {
    let message = "standard input: line 2 has 11 bytes; the limit is 10 bytes \
                   (raise it with --max-line)";
    fails(&["--max-line", "10"], "0123456789\n0123456789a\n", 1, message);
    let directory = Directory::new();
    directory.embed(&["--max-line", "11"], "0123456789a\n").succeeded();
}

#[test]
fn numbers_out_of_range_are_usage_errors() {
    for (option, max) in [("--dim", "65536"), ("--workers", "128"), ("--batch", "65536")] {
        for value in ["0", "18446744073709551615", "many"] {
            let message = format!(
                "{option} takes a whole number from 1 to {max}, not '{value}' \
                 (see slipring --help)"
            );
            fails(&[option, value], "", 2, &message);
        }
    }
}

#[test]
fn unknown_options_commands_and_endings_are_usage_errors() {
    fails(&["--fast"], "", 2, "invalid option '--fast' (see slipring --help)");
    fails(
        &["-o", "vectors.csv"],
        "",
        2,
        "cannot tell the format of vectors.csv: the ending must be .npy or .jsonl \
         (or give - for standard output)",
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    let done: Finished = command.arg("embde").output().unwrap().into();
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("unknown command 'embde'"), "{done:?}");
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_the_input_is_read() {
    let directory = with_target();
    fs::create_dir(directory.path("d.npy")).unwrap();
    for (output, reason) in [
        ("d.npy", "is a directory"),
        ("d.npy/", "is a directory"),
        ("no/v.npy", "No such file or directory (os error 2)"),
        ("vectors.npy/v.npy", "Not a directory (os error 20)"),
    ] {
        let mut child = directory.command(&["-o", output]).spawn().unwrap();
        // Standard input stays open, and nobody writes to it.
        let stdin = child.stdin.take();
        let done: Finished = child.wait_with_output().unwrap().into();
        drop(stdin);
        assert_eq!(done.stderr, format!("slipring: cannot write {output}: {reason}\n"));
        assert_eq!(done.code, 1);
    }
    assert_untouched(&directory, &["d.npy"]);
}

#[test]
fn a_full_device_is_an_error() {
    let message = "cannot write /dev/full: No space left on device (os error 28)";
    fails(&["-o", "/dev/full"], "a\n", 1, message);
    let directory = with_target();
    let mut command = directory.command(&["-o", "-"]);
    command.stdout(File::options().write(true).open("/dev/full").unwrap());
    let done = finish(command.spawn().unwrap(), b"a\n");
    let message = "slipring: cannot write standard output: No space left on device (os error 28)\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, message));
}

#[test]
fn a_device_is_written_to_and_never_replaced() {
    let directory = Directory::new();
    directory.embed(&["-o", "/dev/null"], "a\n").succeeded();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    std::os::unix::fs::symlink("/dev/null", directory.path("v.npy")).unwrap();
    let done = directory.embed(&["-o", "v.npy"], "a\n");
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains(".npy needs a regular file"), "{done:?}");
}

#[test]
fn an_output_that_grows_beyond_the_file_size_limit_leaves_no_trace() {
    let directory = with_target();
    let script = format!(
        "ulimit -f 8; exec {} embed {} -q",
        env!("CARGO_BIN_EXE_slipring"),
        glosses().display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(directory.path("."));
    piped(&mut command);
    let done = finish(command.spawn().unwrap(), b"");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("File too large"), "{done:?}");
    assert_untouched(&directory, &[]);
}

#[test]
fn a_reader_of_standard_output_that_leaves_early_ends_the_program_quietly() {
    let directory = Directory::new();
    let path = glosses();
    let mut command = directory.command(&["-o", "-", path.to_str().unwrap()]);
    let mut child = command.spawn().unwrap();
    let mut first = [0; 1];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let done = finish(child, b"");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(first, *b"[");
}

/// Starts the program with an open standard input and waits until it works.
fn running(directory: &Directory, args: &[&str]) -> Child {
    let child = directory.command(args).spawn().unwrap();
    let has_temporary = || directory.names().iter().any(|name| name.ends_with(".tmp"));
    until("a temporary file", has_temporary);
    child
}

/// Waits for the end; standard input stays open.
fn wait_open(mut child: Child) -> Finished {
    let stdin = child.stdin.take();
    until("the end", || child.try_wait().unwrap().is_some());
    let done = child.wait_with_output().unwrap().into();
    drop(stdin);
    done
}

#[test]
fn signals_end_the_program_while_standard_input_is_open() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let directory = with_target();
        let mut child = running(&directory, &["--workers", "2"]);
        child.stdin.as_mut().unwrap().write_all(&b"text\n".repeat(1000)).unwrap();
        kill(signal, child.id());
        let done = wait_open(child);
        assert_eq!(done.code, code);
        assert_eq!(done.stderr, format!("slipring: ended by SIG{signal}\n"));
        assert_untouched(&directory, &[]);
    }
}

#[test]
fn a_signal_ends_the_program_while_nobody_reads_its_output() {
    let directory = Directory::new();
    let path = glosses();
    let mut command = directory.command(&["-o", "-", path.to_str().unwrap()]);
    let mut child = command.spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // A first byte shows that signals are watched; the pipe is full soon.
    stdout.read_exact(&mut [0; 1]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    kill("TERM", child.id());
    let done = wait_open(child);
    drop(stdout);
    assert_eq!(done.code, 143);
}

#[test]
fn a_signal_ends_the_program_while_a_pipe_waits_for_its_reader() {
    let directory = Directory::new();
    let fifo = directory.path("p.jsonl");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    let child = directory.command(&["-o", "p.jsonl"]).spawn().unwrap();
    let status = format!("/proc/{}/task", child.id());
    // The thread that watches signals is there before the pipe is opened.
    until("two threads", || fs::read_dir(&status).unwrap().count() == 2);
    std::thread::sleep(Duration::from_millis(100));
    kill("INT", child.id());
    assert_eq!(wait_open(child).code, 130);
    assert_eq!(directory.names(), ["p.jsonl"]);
}

#[test]
fn a_single_huge_line_is_not_held_in_memory() {
    let directory = with_target();
    let mut child = running(&directory, &["--quiet"]);
    let stdin = child.stdin.as_mut().unwrap();
    let piece = vec![b'a'; MIB];
    for _ in 0..64 {
        stdin.write_all(&piece).unwrap();
    }
    let peak = peak_memory(child.id());
    let done = finish(child, b"");
    let message = "slipring: standard input: line 1 has 67108864 bytes; the limit is \
                   1048576 bytes (raise it with --max-line)\n";
    assert_eq!((done.code, done.stderr.as_str()), (1, message));
    assert!(peak < 32 << 20, "the peak is {peak} bytes");
    assert_untouched(&directory, &[]);
}

#[test]
fn a_long_input_needs_no_more_memory_than_a_short_one() {
    let directory = Directory::new();
    let mut child = running(&directory, &["--quiet", "--dim", "8"]);
    let stdin = child.stdin.as_mut().unwrap();
    let mut line = vec![b' '; 64 << 10];
    line.push(b'\n');
    for _ in 0..768 {
        stdin.write_all(&line).unwrap();
    }
    let peak = peak_memory(child.id());
    finish(child, b"").succeeded();
    assert!(peak < 32 << 20, "the peak is {peak} bytes");
    assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 768);
}

/// The child processes of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
    lists
        .flat_map(|list| {
            let list = list.unwrap_or_default();
            let pids: Vec<u32> = list.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
            pids
        })
        .collect()
}

#[test]
#[ignore = "the workers are threads of this process as yet"]
fn a_dead_worker_has_an_exit_code_of_its_own() {
    let directory = with_target();
    let mut child = running(&directory, &[]);
    until("a worker process", || !children(child.id()).is_empty());
    let worker = children(child.id());
    kill("KILL", worker.first().copied().unwrap());
    let mut stdin = child.stdin.take().unwrap();
    // The program may have noticed before the lines are written.
    let _ = stdin.write_all(&b"text\n".repeat(1000));
    child.stdin = Some(stdin);
    let done = wait_open(child);
    assert_eq!(done.code, 3, "{done:?}");
    assert!(done.stderr.starts_with("slipring: "), "{done:?}");
    assert!(done.stderr.contains("SIGKILL"), "{done:?}");
    assert_untouched(&directory, &[]);
}

#[test]
#[ignore = "the workers are threads of this process as yet"]
fn no_worker_outlives_the_program() {
    for signal in ["INT", "TERM", "KILL"] {
        let directory = Directory::new();
        let child = running(&directory, &["--workers", "2"]);
        until("two worker processes", || children(child.id()).len() == 2);
        let workers = children(child.id());
        kill(signal, child.id());
        wait_open(child);
        for worker in workers {
            let alive = || fs::metadata(format!("/proc/{worker}")).is_ok();
            until("the end of a worker", || !alive());
        }
    }
}
