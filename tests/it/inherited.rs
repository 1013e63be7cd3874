//! Hosts that inherit something unusual, or find it again by name. Each must work as any other, or
//! say what is wrong.
//!
//! The host is this program. Each row of [`CASES`] has a process of its own.

mod hosts;
mod workers;

use std::path::Path;
use std::process::Command;

use crate::common::{name_of, only, temp_dir, within_long};

const HOST: &str = "SLIPRING_TEST_HOST";

/// What is unusual, how the host is started, and what it does.
type Case = (&'static str, fn(&Path) -> Command, fn());

const CASES: &[Case] = &[
    ("a directory of logs that was given relative", own, hosts::relative_log_directory),
    ("a log that was renamed", own, hosts::renamed_log),
    ("a program that was given relative", own, hosts::relative_program),
    ("a working directory and a model that were given relative", own, hosts::relative_paths),
    ("another channel with the same log", own, hosts::same_log),
    ("another host with the same log", own, hosts::same_log_of_another_host),
    ("a program that a worker starts", own, hosts::program_of_a_worker),
    ("a program that never asks whether it is a worker", own, hosts::never_asks),
    ("a worker behind `timeout`", own, hosts::behind_timeout),
    ("a worker behind a shell", own, hosts::behind_a_shell),
    ("a worker in a pid namespace of its own", own, hosts::in_a_namespace),
    ("valgrind", hosts::under_valgrind, hosts::plain),
    ("a program that is replaced later", hosts::from_a_copy, hosts::replaced_later),
    ("standard streams that are closed", own, hosts::closed_streams),
    ("standard streams that are closed in the worker", own, hosts::closed_streams_of_the_worker),
    ("a variable that is there twice", own, hosts::variable_twice),
    ("a worker that closes all descriptors", own, hosts::worker_closes_all),
    ("a worker without a log", own, hosts::no_log),
    ("a worker that has the host's output", own, hosts::own_output),
];

/// This program, as the host of a case.
fn own(_: &Path) -> Command {
    host_of(&std::env::current_exe().unwrap())
}

fn host_of(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(only(name_of(host_entry)));
    command
}

#[test]
fn a_host_works_whatever_it_inherits() {
    let wanted = std::env::var("SLIPRING_TEST_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    let dir = temp_dir("hosts");
    for (name, start, _) in CASES.iter().filter(|(name, ..)| name.contains(&wanted)) {
        let begin = std::time::Instant::now();
        let run = || start(&dir).env(HOST, name).env("TMPDIR", &dir).output().unwrap();
        let output = within_long(name, run);
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        println!("{name}: {}, {:?}", output.status, begin.elapsed());
        if !output.status.success() || !out.contains("1 passed") {
            failed.push(format!("{name}: {}\n{out}\n{err}", output.status));
        }
    }
    std::fs::remove_dir_all(dir).unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n----\n"));
}

/// Not a test of its own: what the host of a case runs.
#[test]
fn host_entry() {
    let Ok(name) = std::env::var(HOST) else { return };
    let (_, _, host) = CASES.iter().find(|(case, ..)| *case == name).unwrap();
    host();
}

/// Not a test of its own: what a worker runs.
#[test]
fn worker_entry() {
    workers::serve();
}

/// Not a test of its own: a program that a worker starts.
#[test]
fn asks() {
    workers::ask();
}

/// Not a test of its own: a program that starts itself as a worker without knowing it.
#[test]
fn never_asks() {
    workers::never_ask();
}
