//! Hosts in a pid namespace of their own, as those of containers: processes are shown by the ids that they
//! have here.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use slipring::worker::Worker;
use slipring::{Config, named};

use crate::common::{Finished, children, kill, until};

/// Passes only if something hangs.
const LONG: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_slipring");

fn slipring(args: &[&str]) -> Finished {
    Command::new(PROGRAM).args(args).output().unwrap().into()
}

/// A process that is the first one of its pid namespace, and ends with its standard input.
struct First(Child);

impl First {
    /// `None`, with the reason printed, if this user may not make a namespace.
    fn start(program: &str, args: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        const OPTIONS: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let unshare = |as_user: &[&str]| {
            let mut command = Command::new("unshare");
            command.args(as_user).args(OPTIONS).stdin(Stdio::piped()).stdout(Stdio::null());
            command
        };
        let ways = [&[][..], &["--user", "--map-root-user"]];
        let may =
            |way: &&&[&str]| unshare(way).arg("true").output().is_ok_and(|it| it.status.success());
        let Some(way) = ways.iter().find(may) else {
            eprintln!("left out: this user may not make a pid namespace");
            return None;
        };
        let mut command = unshare(way);
        command.arg(program).args(args).env("SLIPRING_STATUS_PAGE", "1");
        command.envs(variables.iter().copied());
        let first = Self(command.spawn().unwrap());
        until("the first process", || children(first.0.id()).len() == 1);
        Some(first)
    }

    fn pid(&self) -> u32 {
        children(self.0.id())[0]
    }
}

impl Drop for First {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The id that a process has in its own namespace, which is another one than here.
fn id_inside(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    let inside = ids.split_whitespace().last().unwrap().parse().unwrap();
    assert_ne!(inside, pid);
    inside
}

/// The host's line and that of its worker, in JSON.
fn json(host: u32) -> (Value, Value) {
    let found = slipring(&["top", "--once", "--json", "--filter", &host.to_string()]).succeeded();
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let of_it = |each: &&Value| each["pid"] == host;
    let host = found["hosts"].as_array().unwrap().iter().find(of_it).unwrap().clone();
    let is_worker = |row: &&Value| row["numbers"]["channel"].is_object();
    let worker = host["rows"].as_array().unwrap().iter().find(is_worker).unwrap().clone();
    (host, worker)
}

/// Whether a counter of `stat` has this value.
fn is_counted(host: u32, counter: &str, value: &str) -> bool {
    let shown = slipring(&["stat", &host.to_string()]).stdout;
    shown.lines().any(|line| line.contains(&format!(" {counter} {value}\t")))
}

#[test]
fn a_worker_in_a_pid_namespace_is_shown_by_its_id_here() {
    let open = [("SLIPRING_INSPECT", "1")];
    let Some(first) = First::start(PROGRAM, &["embed", "-o", "-"], &open) else { return };
    let host = first.pid();
    until("the worker", || is_counted(host, "worker_state", "2"));
    let worker = children(host)[0];
    let inside = id_inside(worker);
    assert!(is_counted(host, "pid", &worker.to_string()));
    assert!(is_counted(host, "pid_inside", &inside.to_string()));
    let (of_host, of_worker) = json(host);
    assert_eq!((&of_host["pid_inside"], &of_worker["pid"]), (&1.into(), &worker.into()));
    assert_eq!(of_worker["numbers"]["channel"]["pid_inside"], inside);
    let table = slipring(&["top", "--once", "--filter", &worker.to_string()]).succeeded().stdout;
    assert!(table.contains(&format!(" embed {worker} ")), "{table}");
    let text = slipring(&["inspect", &host.to_string()]).succeeded().stdout;
    for part in [
        format!(" to process {worker}: open"),
        "host    process 1 (inside), ".to_owned(),
        format!("worker  process {inside} (inside), "),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
}

const NAME: &str = "SLIPRING_TEST_NAMED_INSIDE";

/// A process of the next test.
#[test]
fn a_host_of_a_named_channel() {
    let Ok(name) = std::env::var(NAME) else { return };
    let _channel = named::create(&name, &Config::small()).unwrap().accept(LONG).unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

/// Another one.
#[test]
fn a_worker_of_a_named_channel() {
    let Ok(name) = std::env::var(NAME) else { return };
    let _ = Worker::new(|_| Ok(())).serve_named(&name, LONG);
}

#[test]
fn a_worker_that_is_no_child_is_found_too_and_one_that_has_ended_is_not() {
    let name = format!("inside-{}", std::process::id());
    let test = std::env::current_exe().unwrap();
    let script = "(\"$0\" --exact namespaces::a_worker_of_a_named_channel &)
                  \"$0\" --exact namespaces::a_host_of_a_named_channel; wait";
    let args = ["-c", script, test.to_str().unwrap()];
    let Some(first) = First::start("sh", &args, &[(NAME, &name)]) else { return };
    let of = |name: &str| {
        // A whole argument: the shell's own has both names in it.
        let argument = format!("\0namespaces::{name}\0");
        children(first.pid()).into_iter().find(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            command.is_ok_and(|command| command.contains(&argument))
        })
    };
    let (host, worker) = ("a_host_of_a_named_channel", "a_worker_of_a_named_channel");
    until("both processes", || of(host).is_some() && of(worker).is_some());
    let (host, worker) = (of(host).unwrap(), of(worker).unwrap());
    until("the worker", || is_counted(host, "worker_state", "2"));
    assert!(is_counted(host, "pid", &worker.to_string()));
    let inside = id_inside(worker);
    kill("KILL", worker);
    until("its end", || is_counted(host, "state", "4"));
    assert!(is_counted(host, "pid", "-") && is_counted(host, "pid_inside", &inside.to_string()));
    assert_eq!(json(host).1["pid"], Value::Null);
    let table = slipring(&["top", "--once", "--filter", &host.to_string()]).succeeded().stdout;
    assert!(table.contains(&format!(" {name} - ")), "{table}");
    let text = slipring(&["inspect", &host.to_string()]).succeeded().stdout;
    assert!(text.contains(&format!(" to process {inside} (inside): its worker died")), "{text}");
}
