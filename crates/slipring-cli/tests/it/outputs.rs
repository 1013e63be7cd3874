//! Results: only real loss is an error, and real loss always is one.
#![allow(unsafe_code, reason = "system calls are refused from between fork and exec on")]

use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common::{Directory, Finished, Npy, finish, glosses, kill};
use crate::refusing::{Refusal, refuse};

/// Starts the program on an open standard input, and waits until it has its output open.
fn running(directory: &Directory, mut command: Command) -> Child {
    let child = command.spawn().unwrap();
    directory.until_output_is_open(child.id());
    child
}

/// The signal that ended the program, by itself or by an exit code that tells it. Standard
/// input stays open meanwhile.
fn signal_that_ends(mut child: Child, signal: i32) -> Option<i32> {
    let stdin = child.stdin.take();
    kill(&signal.to_string(), child.id());
    let status = child.wait().unwrap();
    drop(stdin);
    status.code().map(|code| code - 128).or(status.signal())
}

const ALL_SIGNALS: [i32; 16] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    34,
    50,
    64,
];

#[test]
fn nothing_is_left_in_the_directory_whatever_signal_ends_the_program() {
    for signal in ALL_SIGNALS.into_iter().chain([libc::SIGKILL, libc::SIGABRT, libc::SIGSYS]) {
        let directory = Directory::new();
        directory.write("vectors.npy", "precious");
        let child = running(&directory, directory.command(&["-q"]));
        assert_eq!(directory.names(), ["vectors.npy"], "an unnamed file, while it grows");
        assert_eq!(signal_that_ends(child, signal), Some(signal));
        assert_eq!(directory.names(), ["vectors.npy"], "signal {signal}");
        assert_eq!(directory.read("vectors.npy"), b"precious");
        directory.until_no_process_is_left();
    }
}

#[test]
fn a_file_system_without_unnamed_files_is_cleaned_up_after_each_signal() {
    for signal in ALL_SIGNALS {
        let directory = Directory::new();
        let mut command = directory.command(&["-q"]);
        refuse(&mut command, &[Refusal::unnamed_files(libc::EOPNOTSUPP)]);
        let child = running(&directory, command);
        assert_eq!(directory.names().len(), 1, "a temporary file");
        assert_eq!(signal_that_ends(child, signal), Some(signal));
        assert_eq!(directory.names(), [""; 0], "signal {signal}");
        directory.until_no_process_is_left();
    }
}

#[test]
fn what_the_file_system_refuses_costs_no_result() {
    let call = Refusal::call;
    let renames = |errno| {
        [libc::SYS_renameat, libc::SYS_renameat2].map(|number| Refusal::call(number, errno))
    };
    let fchmods =
        |errno| [libc::SYS_fchmod, libc::SYS_fchmodat].map(|number| Refusal::call(number, errno));
    let fsyncs =
        |errno| [libc::SYS_fsync, libc::SYS_fdatasync].map(|number| Refusal::call(number, errno));
    let rows: [(&str, Vec<Refusal>); 16] = [
        ("fchmod EPERM", fchmods(libc::EPERM).into()),
        ("fchmod EOPNOTSUPP", fchmods(libc::EOPNOTSUPP).into()),
        ("fchown EPERM", vec![call(libc::SYS_fchown, libc::EPERM)]),
        (
            "xattrs ENOTSUP",
            vec![
                call(libc::SYS_flistxattr, libc::ENOTSUP),
                call(libc::SYS_fgetxattr, libc::ENOTSUP),
                call(libc::SYS_fsetxattr, libc::ENOTSUP),
            ],
        ),
        ("fsync EINVAL", fsyncs(libc::EINVAL).into()),
        ("fsync ENOTSUP", fsyncs(libc::ENOTSUP).into()),
        ("fsync ENOSYS", fsyncs(libc::ENOSYS).into()),
        ("O_TMPFILE EOPNOTSUPP", vec![Refusal::unnamed_files(libc::EOPNOTSUPP)]),
        ("O_TMPFILE EISDIR", vec![Refusal::unnamed_files(libc::EISDIR)]),
        ("O_TMPFILE EINVAL", vec![Refusal::unnamed_files(libc::EINVAL)]),
        ("linkat ENOENT", vec![call(libc::SYS_linkat, libc::ENOENT)]),
        ("linkat EPERM", vec![call(libc::SYS_linkat, libc::EPERM)]),
        ("rename EBUSY", renames(libc::EBUSY).into()),
        ("rename EXDEV", renames(libc::EXDEV).into()),
        ("rename EPERM", renames(libc::EPERM).into()),
        (
            "rename EPERM, no unnamed files",
            renames(libc::EPERM)
                .into_iter()
                .chain([Refusal::unnamed_files(libc::EOPNOTSUPP)])
                .collect(),
        ),
    ];
    for (what, refusals) in rows {
        for has_target in [true, false] {
            if what.starts_with("rename EPERM, no") && !has_target {
                // Nothing but a rename can give a new file its name there.
                continue;
            }
            let directory = Directory::new();
            if has_target {
                directory.write("vectors.npy", vec![b'x'; 1 << 20]);
            }
            let mut command = directory.command(&["-q", "--dim", "4"]);
            refuse(&mut command, &refusals);
            let done = finish(command.spawn().unwrap(), b"a\nb\nc\n");
            assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{what}, {has_target}");
            assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 3, "{what}");
            assert_eq!(directory.names(), ["vectors.npy"], "{what}, {has_target}");
        }
    }
}

#[test]
fn real_loss_is_an_error_and_leaves_what_there_was() {
    for (what, errno) in [("Input/output error", libc::EIO), ("No space left", libc::ENOSPC)] {
        let directory = Directory::new();
        directory.write("vectors.npy", "precious");
        let mut command = directory.command(&["-q"]);
        refuse(&mut command, &[Refusal::call(libc::SYS_fsync, errno)]);
        let done = finish(command.spawn().unwrap(), b"a\n");
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.contains(what), "{done:?}");
        assert_eq!(directory.read("vectors.npy"), b"precious");
        assert_eq!(directory.names(), ["vectors.npy"]);
    }
}

#[test]
fn a_finished_result_that_cannot_take_its_place_is_kept_and_named() {
    let directory = Directory::new();
    let mut command = directory.command(&["-q"]);
    let rename = |number| Refusal::call(number, libc::EPERM);
    refuse(
        &mut command,
        &[
            Refusal::unnamed_files(libc::EOPNOTSUPP),
            rename(libc::SYS_renameat),
            rename(libc::SYS_renameat2),
        ],
    );
    let done = finish(command.spawn().unwrap(), b"a\nb\n");
    assert_eq!(done.code, 1, "{done:?}");
    let names = directory.names();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(done.stderr.contains(&format!("the result is in {}", names[0])), "{done:?}");
    assert_eq!(Npy::parse(&directory.read(&names[0])).rows, 2);
}

#[test]
fn a_directory_that_is_renamed_meanwhile_gets_the_result_all_the_same() {
    let directory = Directory::new();
    fs::create_dir(directory.path("before")).unwrap();
    let child = running(&directory, directory.command(&["-q", "-o", "before/v.npy"]));
    fs::rename(directory.path("before"), directory.path("after")).unwrap();
    finish(child, b"a\n").succeeded();
    assert_eq!(directory.names(), ["after"]);
    assert_eq!(Npy::parse(&directory.read("after/v.npy")).rows, 1);
}

#[test]
fn an_output_that_appears_meanwhile_is_replaced() {
    let directory = Directory::new();
    let child = running(&directory, directory.command(&["-q"]));
    directory.write("vectors.npy", "not there at the start");
    finish(child, b"a\n").succeeded();
    assert_eq!(directory.names(), ["vectors.npy"]);
    assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 1);
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = CString::new(name).unwrap();
    let (data, size) = (value.as_ptr().cast(), value.len());
    // SAFETY: both strings end with NUL, and the value has that many bytes.
    unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), data, size, 0) == 0 }
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = CString::new(name).unwrap();
    let mut value = vec![0; 256];
    let (data, size) = (value.as_mut_ptr().cast(), value.len());
    // SAFETY: both strings end with NUL, and there is room for that many bytes.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), data, size) };
    value.truncate(usize::try_from(len).unwrap_or(0));
    value
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode_its_owner_and_its_attributes() {
    let directory = Directory::new();
    directory.write("vectors.npy", "old");
    let path = directory.path("vectors.npy");
    let has_attributes = set_xattr(&path, "user.slipring", b"kept");
    // SAFETY: no arguments.
    let is_root = unsafe { libc::geteuid() } == 0;
    if is_root {
        std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    }
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(&path).unwrap();
    directory.embed(&["-q"], "a\n").succeeded();
    let after = fs::metadata(&path).unwrap();
    assert_ne!(before.ino(), after.ino(), "another file");
    assert_eq!(after.mode() & 0o7777, 0o640);
    assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
    if has_attributes {
        assert_eq!(xattr(&path, "user.slipring"), b"kept");
    }
}

#[test]
fn an_error_that_only_closing_tells_is_told() {
    let directory = Directory::new();
    // A file system that says at the last moment that it has no room, as some do over a
    // network.
    let source = r#"
        #define _GNU_SOURCE
        #include <errno.h>
        #include <string.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        #include <stdio.h>
        int close(int fd) {
            char link[64], path[512];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t n = readlink(link, path, sizeof path - 1);
            int is_it = n > 0 && (path[n] = 0, strstr(path, "remote") != 0);
            int done = syscall(SYS_close, fd);
            if (is_it) { errno = ENOSPC; return -1; }
            return done;
        }
    "#;
    directory.write("close.c", source);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o", "close.so", "close.c"]).current_dir(directory.path("."));
    if !cc.status().is_ok_and(|status| status.success()) {
        println!("skipped: there is no C compiler");
        return;
    }
    directory.write("remote", "");
    for by_name in [false, true] {
        let mut command = directory.command(&["-q", "-o", "-"]);
        command.env("LD_PRELOAD", directory.path("close.so"));
        let mut fifo = None;
        if by_name {
            let path = directory.path("remote.jsonl");
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            command.args(["-o", "remote.jsonl"]);
            fifo = Some(std::thread::spawn(move || fs::read(path).unwrap()));
        } else {
            command.stdout(File::create(directory.path("remote")).unwrap());
        }
        let done: Finished = finish(command.spawn().unwrap(), b"a\n");
        fifo.map(std::thread::JoinHandle::join);
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.contains("No space left on device"), "{done:?}");
    }
}

#[test]
fn an_input_that_is_also_standard_output_is_refused() {
    let directory = Directory::new();
    directory.write("x.txt", "a\nb\n");
    for args in [&["-o", "-", "x.txt"][..], &["-o", "-"]] {
        let mut command = directory.command(args);
        command.stdin(File::open(directory.path("x.txt")).unwrap());
        let append = File::options().append(true).open(directory.path("x.txt"));
        let done: Finished = command.stdout(append.unwrap()).output().unwrap().into();
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.contains("is also the output"), "{done:?}");
        assert_eq!(directory.read("x.txt"), b"a\nb\n");
    }
}

#[test]
fn an_input_that_is_replaced_meanwhile_is_read_as_it_was() {
    let directory = Directory::new();
    directory.write("late.txt", "a\nb\n");
    let child = running(&directory, directory.command(&["-q", "-", "late.txt"]));
    directory.write("other", "1\n2\n3\n4\n");
    fs::rename(directory.path("other"), directory.path("late.txt")).unwrap();
    finish(child, b"from stdin\n").succeeded();
    assert_eq!(Npy::parse(&directory.read("vectors.npy")).rows, 3);
}

#[test]
fn a_plot_that_cannot_be_written_is_an_error_before_it_is_measured() {
    let directory = Directory::new();
    fs::create_dir(directory.path("d.svg")).unwrap();
    for plot in ["no/cost.svg", "d.svg", "/dev/null/cost.svg"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
        command.args(["bench", "--plot", plot]).current_dir(directory.path("."));
        let done: Finished = command.output().unwrap().into();
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.starts_with(&format!("slipring: cannot write {plot}: ")), "{done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{done:?}");
    }
}

#[test]
fn a_plot_that_is_ended_by_a_signal_leaves_no_temporary_file() {
    let directory = Directory::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.args(["bench", "--plot", "cost.svg"]).current_dir(directory.path("."));
    refuse(&mut command, &[Refusal::unnamed_files(libc::EOPNOTSUPP)]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // The first line of progress comes after the signals are watched.
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    assert_eq!(directory.names().len(), 1, "a temporary file");
    kill("TERM", child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGTERM), "{output:?}");
    assert_eq!(directory.names(), [""; 0]);
    directory.until_no_process_is_left();
}

#[test]
fn a_pipe_that_is_both_input_and_output_is_refused() {
    let directory = Directory::new();
    let path = directory.path("p.jsonl");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let done = directory.embed(&["p.jsonl", "-o", "p.jsonl"], "");
    assert_eq!((done.code, done.stderr.as_str()), (1, "slipring: p.jsonl is also the output\n"));
}

#[test]
fn a_target_that_is_a_mount_point_is_written_in_place() {
    let directory = Directory::new();
    directory.write("vectors.npy", "old");
    directory.write("below", "old");
    let script = format!(
        "mount --bind below vectors.npy && exec {} embed {} -q",
        env!("CARGO_BIN_EXE_slipring"),
        glosses().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    let probe = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "mount", "--bind", "below", "vectors.npy"])
        .current_dir(directory.path("."))
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user cannot have mounts of its own");
        return;
    }
    let done: Finished =
        command.arg(script).current_dir(directory.path(".")).output().unwrap().into();
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    assert_eq!(Npy::parse(&directory.read("below")).rows, 5000);
    assert_eq!(directory.read("vectors.npy"), b"old");
    assert_eq!(directory.names(), ["below", "vectors.npy"]);
}
