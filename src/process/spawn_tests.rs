//! Tests of [`super`], with real programs.

use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

use super::*;
use crate::error::ExitCause;
use crate::process::testing::{
    TempDir, alone, eventually, ignore_signal, inheritable_duplicate_at, null, output_of, read_all,
    shell, without_stdio,
};
use crate::sys::process::{Waited, exit_status};

fn reap(pid: u32) -> ExitCause {
    let mut cause = None;
    eventually("the end of a program", || {
        cause = exit_status(Waited::Pid(pid), true).unwrap().map(|ended| ended.cause);
        cause.is_some()
    });
    cause.unwrap()
}

/// What a program writes; it must end well.
fn output(program: &Program) -> String {
    let run = |p: &Program, stdin: BorrowedFd<'_>, out: BorrowedFd<'_>| {
        spawn(p, stdin, Some(out)).unwrap()
    };
    let (text, pid) = output_of(program, run);
    assert_eq!(reap(pid), ExitCause::Exited(0));
    text
}

fn failure(program: &Program) -> String {
    failure_of(ErrorKind::Spawn, program)
}

fn failure_of(kind: ErrorKind, program: &Program) -> String {
    let error = spawn(program, null().as_fd(), None).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    format!("{error:#}")
}

fn named(path: impl Into<PathBuf>) -> Program {
    Program { path: path.into(), ..Program::default() }
}

/// Another process writes the program: a child that another thread forks meanwhile would have the file
/// open for writing, and it could not be started then.
fn executable(path: &Path, content: &str) {
    let mut tee = std::process::Command::new("tee");
    let mut tee = tee.arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    tee.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    assert!(tee.wait().unwrap().success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn arguments_arrive() {
    let mut program = shell("echo \"$0 $1\"");
    program.args.extend(["zero".into(), "o n e".into()]);
    assert_eq!(output(&program), "zero o n e\n");
}

#[test]
fn every_reason_why_a_program_cannot_start_is_told_with_its_path() {
    let dir = TempDir::new();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("not-executable"), "").unwrap();
    executable(&path("no-format"), "just text\n");
    executable(&path("no-interpreter"), "#!/no/such/interpreter\n");
    for (program, cause) in [
        ("absent", "No such file or directory"),
        ("not-executable", "Permission denied"),
        ("no-format", "Exec format error"),
        ("no-interpreter", "its interpreter or loader is missing"),
        ("not-executable/below", "Not a directory"),
    ] {
        let message = failure(&named(path(program)));
        assert!(message.contains(cause), "{message}");
        assert!(message.contains(path(program).to_str().unwrap()), "{message}");
    }
    assert!(failure(&named(dir.path())).contains("Permission denied"));
    assert!(failure_of(ErrorKind::InvalidConfig, &named("")).contains("empty"));
    let mut huge = shell("true");
    huge.args.push("x".repeat(1 << 20).into());
    assert!(failure(&huge).contains("Argument list too long"));
}

#[test]
fn a_missing_working_directory_is_not_taken_for_a_missing_program() {
    let dir = TempDir::new();
    fs::write(dir.path().join("file"), "").unwrap();
    for (path, cause) in [("absent", "No such file"), ("file", "Not a directory")] {
        for program in ["/bin/true", "true"] {
            let place = dir.path().join(path);
            let program = Program { current_dir: Some(place.clone()), ..named(program) };
            let message = failure(&program);
            assert!(message.contains("working directory") && message.contains(cause), "{message}");
            assert!(message.contains(place.to_str().unwrap()), "{message}");
        }
    }
}

#[test]
fn nul_bytes_and_impossible_names_are_errors_that_say_where() {
    let nul = || OsString::from_vec(vec![b'a', 0, b'b']);
    let ok = || shell("true");
    let failure = |program: &Program| failure_of(ErrorKind::InvalidConfig, program);
    assert!(failure(&named(nul())).contains("program path"));
    assert!(failure(&Program { args: vec![nul()], ..ok() }).contains("argument"));
    let elsewhere = Program { current_dir: Some(nul().into()), ..ok() };
    assert!(failure(&elsewhere).contains("working directory"));
    for (name, value) in [("A".into(), nul()), (nul(), "x".into()), ("a=b".into(), "x".into())] {
        let mut program = ok();
        program.env.set(name, value);
        assert!(failure(&program).contains("environment variable"));
    }
}

#[test]
fn the_environment_is_inherited_changed_or_cleared() {
    let mut program = named("/usr/bin/env");
    program.env.set("SLIPRING_SET", "a=b");
    program.env.remove("PATH");
    let lines = output(&program);
    assert!(lines.contains("SLIPRING_SET=a=b\n") && !lines.contains("\nPATH="));
    assert!(lines.lines().count() > 1, "nothing was inherited");
    program.env.clear();
    program.env.set("ONLY", "");
    assert_eq!(output(&program), "ONLY=\n");
}

#[test]
fn the_path_that_counts_is_the_programs_own() {
    let dir = TempDir::new();
    let one = dir.path().join("one");
    let two = dir.path().join("two");
    for place in [&one, &two] {
        fs::create_dir(place).unwrap();
    }
    fs::write(one.join("tool"), "not executable").unwrap();
    executable(&two.join("tool"), "#!/bin/sh\necho found $0\n");
    fs::create_dir(one.join("folder")).unwrap();
    let mut program = named("tool");
    assert!(failure(&program).contains("none in PATH"));
    let search = format!("/no/such:{}:{}", one.display(), two.display());
    program.env.set("PATH", &search);
    assert_eq!(output(&program), format!("found {}\n", two.join("tool").display()));
    program.env.set("PATH", one.as_os_str());
    assert!(failure(&program).contains("Permission denied"));
    program.path = "folder".into();
    assert!(failure(&program).contains("none in PATH"));
    // Without a PATH there is a default one.
    program.path = "true".into();
    program.env.remove("PATH");
    assert_eq!(output(&program), "");
}

#[test]
fn relative_programs_and_path_entries_start_at_the_working_directory() {
    let dir = TempDir::new();
    fs::create_dir(dir.path().join("bin")).unwrap();
    executable(&dir.path().join("bin/tool"), "#!/bin/sh\npwd\n");
    symlink("bin/tool", dir.path().join("here")).unwrap();
    let place = fs::canonicalize(dir.path()).unwrap();
    let expected = format!("{}\n", place.display());
    let mut program = Program { current_dir: Some(place), ..named("./bin/tool") };
    assert_eq!(output(&program), expected);
    program.path = "tool".into();
    program.env.set("PATH", "bin");
    assert_eq!(output(&program), expected);
    program.path = "here".into();
    program.env.set("PATH", ":/bin");
    assert_eq!(output(&program), expected);
}

#[test]
fn no_descriptor_of_the_host_reaches_the_program() {
    alone(|| {
        let null = null();
        let _open = [77, 200, 900].map(|at| inheritable_duplicate_at(null.as_fd(), at));
        let listing = output(&shell("ls -l /proc/$$/fd"));
        let lines = listing.lines().filter(|line| line.contains("->"));
        let numbers = lines.map(|line| line.split_whitespace().rev().nth(2).unwrap());
        // A shell keeps its own script, if any, at 10 or above; this one has none.
        assert_eq!(numbers.collect::<Vec<_>>(), ["0", "1", "2"], "{listing}");
    });
}

#[test]
fn standard_streams_are_right_when_their_sources_have_each_others_numbers() {
    alone(|| {
        let (one, two, three) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let own = [one.as_fd(), two.as_fd(), three.as_fd()];
        let saved = own.map(|fd| duplicate_above_stdio(fd).unwrap());
        for (stdin_at, output_at) in [(0, 1), (1, 0), (2, 0), (1, 2), (0, 2), (2, 1)] {
            let (source, mut sink) = std::io::pipe().unwrap();
            let (reader, writer) = std::io::pipe().unwrap();
            let stdin = inheritable_duplicate_at(source.as_fd(), stdin_at);
            let output = inheritable_duplicate_at(writer.as_fd(), output_at);
            let pid = spawn(&shell("cat; echo err >&2"), stdin.as_fd(), Some(output.as_fd()));
            // Replaced, and never closed.
            std::mem::forget((stdin, output));
            for (number, fd) in (0..).zip(&saved) {
                std::mem::forget(inheritable_duplicate_at(fd.as_fd(), number));
            }
            drop((source, writer));
            std::io::Write::write_all(&mut sink, b"through\n").unwrap();
            drop(sink);
            assert_eq!(read_all(OwnedFd::from(reader)), "through\nerr\n");
            assert_eq!(reap(pid.unwrap()), ExitCause::Exited(0));
        }
    });
}

#[test]
fn without_an_output_the_program_writes_to_nowhere() {
    let pid = spawn(
        &shell("test \"$(readlink /proc/$$/fd/1)\" = /dev/null && echo x >&2"),
        null().as_fd(),
        None,
    );
    assert_eq!(reap(pid.unwrap()), ExitCause::Exited(0));
}

#[test]
fn an_output_that_is_inherited_is_this_process_s_own_or_nowhere() {
    let check = "test $(readlink /proc/$$/fd/1) = $1 && test $(readlink /proc/$$/fd/2) = $2";
    let run = |own: &str, errors: &str| {
        let mut program = shell(check);
        program.args.extend(["sh".into(), own.into(), errors.into()]);
        program.inherits_output = true;
        reap(spawn(&program, null().as_fd(), None).unwrap())
    };
    alone(|| {
        let link = |fd: i32| fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let (own, errors) = (link(1), link(2));
        let paths = (own.to_str().unwrap(), errors.to_str().unwrap());
        assert_eq!(run(paths.0, paths.1), ExitCause::Exited(0));
        let without = without_stdio(|| run("/dev/null", "/dev/null"));
        assert_eq!(without, ExitCause::Exited(0));
    });
}

#[test]
fn the_program_leads_its_own_group_and_its_signals_are_untouched() {
    alone(|| {
        ignore_signal(libc::SIGPIPE);
        ignore_signal(libc::SIGUSR1);
        let _mask = crate::sys::signal::SignalSet::full().set_as_mask().unwrap();
        let run = |p: &Program, stdin: BorrowedFd<'_>, out: BorrowedFd<'_>| {
            spawn(p, stdin, Some(out)).unwrap()
        };
        let mut program = named("/bin/cat");
        program.args = vec!["/proc/self/status".into(), "/proc/self/stat".into()];
        let (text, pid) = output_of(&program, run);
        reap(pid);
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        // The C library keeps the two lowest real-time signals for itself.
        assert_eq!((field("SigBlk:"), field("SigIgn:") & !(3 << 31)), (0, 0), "{text}");
        let stat = text.lines().last().unwrap().rsplit(')').next().unwrap();
        let group = stat.split_whitespace().nth(2).unwrap();
        assert_eq!(group, pid.to_string());
    });
}
