//! The program's failures: exit code, message, and what is left behind.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{
    Directory, Finished, Npy, children, cpu_time, finish, glosses, is_running, kill, peak_memory,
    piped, until,
};

const MIB: usize = 1 << 20;

/// A directory with an output that must survive.
fn with_target() -> Directory {
    let directory = Directory::new();
    directory.write("vectors.npy", "precious");
    directory
}

/// The target is as it was, nothing lies beside it but `others`, and nothing
/// runs there.
#[track_caller]
fn assert_untouched(directory: &Directory, others: &[&str]) {
    assert_eq!(directory.processes(), [0; 0]);
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
        // Standard input stays open without input.
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
fn a_file_size_limit_that_the_work_does_not_fit_leaves_no_trace() {
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
    assert_eq!(directory.processes(), [0; 0]);
}

/// Starts the program with an open standard input and waits until it works.
fn running(directory: &Directory, args: &[&str]) -> Child {
    let child = directory.command(args).spawn().unwrap();
    directory.until_output_is_open(child.id());
    child
}

/// Waits for the end; standard input stays open.
pub(crate) fn wait_open(mut child: Child) -> Finished {
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
    directory.until_no_process_is_left();
}

#[test]
fn a_signal_ends_the_program_while_a_pipe_waits_for_its_reader() {
    let directory = Directory::new();
    let fifo = directory.path("p.jsonl");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    let child = directory.command(&["-o", "p.jsonl"]).spawn().unwrap();
    let status = format!("/proc/{}/task", child.id());
    // The thread that watches signals is there before the pipe is opened; all
    // others, and the workers, are started later.
    until("two threads", || fs::read_dir(&status).unwrap().count() == 2);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(children(child.id()), [0; 0]);
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

/// Starts the program with an open standard input and this many workers, and
/// waits until they wait for requests.
fn with_idle_workers(directory: &Directory, args: &[&str], count: usize) -> (Child, Vec<u32>) {
    let child = running(directory, args);
    until("all workers", || children(child.id()).len() == count);
    let workers = children(child.id());
    for worker in &workers {
        // The thread that watches the parent is the last that starts.
        until("a worker that is ready", || {
            let tasks = fs::read_dir(format!("/proc/{worker}/task")).unwrap();
            let names = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")));
            names.flatten().any(|name| name == "slipring-parent\n")
        });
    }
    (child, workers)
}

/// An endless input, which keeps all workers busy.
fn feed(child: &mut Child) -> std::thread::JoinHandle<()> {
    let mut stdin = child.stdin.take().unwrap();
    let text = fs::read(glosses()).unwrap();
    std::thread::spawn(move || while stdin.write_all(&text).is_ok() {})
}

fn log_dir_args(count: &str) -> Vec<&str> {
    vec!["--log-dir", "logs", "--workers", count]
}

/// Waits until all workers run, and one of them is not of these. Returns it.
#[track_caller]
fn until_replaced(program: u32, before: &[u32]) -> u32 {
    let mut new = None;
    until("a new worker", || {
        let now = children(program).into_iter();
        new = now.filter(|pid| is_running(*pid)).find(|pid| !before.contains(pid));
        new.is_some()
    });
    new.unwrap()
}

#[test]
fn a_dead_worker_is_replaced_even_while_nobody_needs_it() {
    for signal in ["KILL", "ABRT", "TERM"] {
        let directory = Directory::new();
        let (mut child, workers) = with_idle_workers(&directory, &["--workers", "2"], 2);
        kill(signal, workers.last().copied().unwrap());
        until_replaced(child.id(), &workers);
        child.stdin.as_mut().unwrap().write_all(&b"text\n".repeat(1000)).unwrap();
        let done = finish(child, b"more\n").succeeded();
        assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 1001);
        assert!(done.stderr.ends_with(", 1 worker restarted\n"), "{done:?}");
        assert_eq!(directory.processes(), [0; 0]);
    }
}

/// Waits until a worker has worked for as long as this, and kills it.
#[track_caller]
fn kill_at_work(signal: &str, worker: u32, work: Duration) {
    let before = cpu_time(worker);
    until("some work", || cpu_time(worker) > before + work);
    kill(signal, worker);
}

#[test]
fn workers_that_are_killed_at_work_again_and_again_lose_nothing() {
    let text = fs::read(glosses()).unwrap();
    for count in ["1", "3"] {
        let directory = Directory::new();
        let args = ["--workers", count, "--dim", "32"];
        let (mut child, mut workers) = with_idle_workers(&directory, &args, count.parse().unwrap());
        let program = child.id();
        let is_over = AtomicBool::new(false);
        let mut stdin = child.stdin.take().unwrap();
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let mut texts = 0;
                while !is_over.load(Ordering::Relaxed) {
                    stdin.write_all(&text).unwrap();
                    texts += 1;
                }
                texts
            });
            for _ in 0..5 {
                kill_at_work("KILL", *workers.last().unwrap(), Duration::from_millis(20));
                workers.push(until_replaced(program, &workers));
            }
            is_over.store(true, Ordering::Relaxed);
            writing.join().unwrap()
        });
        drop(stdin);
        let done = Finished::from(child.wait_with_output().unwrap()).succeeded();
        assert!(done.stderr.contains(", 5 workers restarted, "), "{done:?}");
        assert!(done.stderr.ends_with(" sent again\n"), "{done:?}");
        let with_kills = directory.read("vectors.npy");
        directory.embed(&["--dim", "32"], text.repeat(written)).succeeded();
        assert!(with_kills == directory.read("vectors.npy"), "the output differs");
    }
}

#[test]
fn a_batch_that_kills_its_workers_ends_the_program_and_is_named() {
    let directory = with_target();
    let args = ["--log-dir", "logs", "--max-line", "20000000"];
    let (mut child, workers) = with_idle_workers(&directory, &args, 1);
    let program = child.id();
    let mut stdin = child.stdin.take().unwrap();
    // It fits no batch beside others, and takes long.
    let long = b"several words of a long line ".repeat(400_000);
    let second = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(&[b"one\ntwo\n", &*long, b"\n"].concat()));
        kill_at_work("ABRT", workers[0], Duration::from_millis(50));
        let second = until_replaced(program, &workers);
        kill_at_work("ABRT", second, Duration::from_millis(50));
        second
    });
    let done = Finished::from(child.wait_with_output().unwrap());
    assert_eq!(done.code, 3, "{done:?}");
    let mut lines = done.stderr.lines();
    let first = lines.next().unwrap();
    let named = "slipring: standard input: line 3: the batch kills its workers: worker embed ";
    assert!(first.starts_with(named), "{first}");
    assert!(first.contains(&format!("(pid {second}) died: killed by signal SIGABRT")), "{first}");
    let said = format!("    | slipring: worker {second}: ready, 384 numbers a text");
    assert!(done.stderr.contains(&said), "{done:?}");
    assert_untouched(&directory, &["logs"]);
}

#[test]
fn each_of_several_workers_has_a_log_of_its_own() {
    let directory = Directory::new();
    directory.embed(&log_dir_args("2"), "a\n").succeeded();
    directory.embed(&log_dir_args("1"), "a\n").succeeded();
    let names = fs::read_dir(directory.path("logs")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["worker-embed-0.log", "worker-embed-1.log", "worker-embed.log"]);
}

#[test]
fn a_log_directory_that_cannot_be_made_is_an_error() {
    let directory = with_target();
    let done = directory.embed(&["--log-dir", "vectors.npy/logs"], "a\n");
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("vectors.npy/logs"), "{done:?}");
    assert_untouched(&directory, &[]);
}

#[test]
fn a_worker_that_hangs_runs_into_the_timeout_and_is_ended() {
    let directory = with_target();
    let args = ["--workers", "2", "--timeout", "0.5"];
    let (mut child, workers) = with_idle_workers(&directory, &args, 2);
    for worker in &workers {
        kill("STOP", *worker);
    }
    child.stdin.as_mut().unwrap().write_all(&b"text\n".repeat(1000)).unwrap();
    let done = wait_open(child);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("(allow more with --timeout)"), "{done:?}");
    assert_untouched(&directory, &[]);
}

#[test]
fn a_signal_ends_the_program_while_its_workers_hang() {
    let directory = with_target();
    let (mut child, workers) = with_idle_workers(&directory, &["--workers", "2"], 2);
    for worker in &workers {
        kill("STOP", *worker);
    }
    child.stdin.as_mut().unwrap().write_all(&b"text\n".repeat(1000)).unwrap();
    kill("INT", child.id());
    assert_eq!(wait_open(child).code, 130);
    directory.until_no_process_is_left();
    assert_untouched(&directory, &[]);
}

#[test]
fn a_worker_that_is_stopped_for_a_while_is_waited_for() {
    let directory = Directory::new();
    let (mut child, workers) = with_idle_workers(&directory, &[], 1);
    let worker = workers.first().copied().unwrap();
    kill("STOP", worker);
    child.stdin.as_mut().unwrap().write_all(&b"text\n".repeat(1000)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill("CONT", worker);
    finish(child, b"more\n").succeeded();
    assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 1001);
}

#[test]
fn signals_end_the_program_while_all_workers_are_busy() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let directory = with_target();
        let (mut child, workers) = with_idle_workers(&directory, &["--workers", "2"], 2);
        let feeding = feed(&mut child);
        until("work", || workers.iter().all(|&pid| cpu_time(pid) > Duration::from_millis(50)));
        kill(signal, child.id());
        let done = wait_open(child);
        feeding.join().unwrap();
        assert_eq!(done.code, code, "{done:?}");
        assert_eq!(done.stderr, format!("slipring: ended by SIG{signal}\n"));
        assert_untouched(&directory, &[]);
    }
}

#[test]
fn no_worker_outlives_a_program_that_is_killed() {
    for busy in [false, true] {
        let directory = Directory::new();
        let (mut child, _) = with_idle_workers(&directory, &["--workers", "2"], 2);
        let feeding = busy.then(|| feed(&mut child));
        kill("KILL", child.id());
        let done = wait_open(child);
        assert_eq!(done.code, -1);
        directory.until_no_process_is_left();
        feeding.map(std::thread::JoinHandle::join);
    }
}

#[test]
fn nothing_is_computed_while_there_is_no_input() {
    let directory = Directory::new();
    let (child, workers) = with_idle_workers(&directory, &["--quiet"], 1);
    let all = || cpu_time(child.id()) + workers.iter().map(|&pid| cpu_time(pid)).sum();
    // The start may not be over yet. After it, one look every ten milliseconds
    // would cost more than this.
    until("half a second of rest", || {
        let before: Duration = all();
        std::thread::sleep(Duration::from_millis(500));
        all() - before < Duration::from_micros(200)
    });
    finish(child, b"a\n").succeeded();
}
