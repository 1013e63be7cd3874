//! `slipring inspect`, with real hosts: idle, busy, stopped, killed, and some that are none.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::common::{Directory, Finished, children, copy_program, kill, until};

/// How a host is asked for all that can be seen.
const OPEN: &[(&str, &str)] = &[("SLIPRING_STATUS_PAGE", "1"), ("SLIPRING_INSPECT", "1")];

fn inspect(pid: u32, args: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.arg("inspect").arg(pid.to_string()).args(args).output().unwrap().into()
}

fn json(pid: u32) -> Value {
    serde_json::from_str(&inspect(pid, &["--json"]).succeeded().stdout).unwrap()
}

/// `slipring embed`, which waits for its standard input.
struct Host {
    child: Child,
    directory: Directory,
}

impl Host {
    /// A host whose page shows its channel.
    fn start(variables: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let mut command = directory.command(&["-o", "-"]);
        let child = command.envs(variables.iter().copied()).spawn().unwrap();
        let host = Self { child, directory };
        // Until its worker is ready.
        let page = || inspect(host.pid(), &[]).stdout;
        until("the host's channel", || page().contains("idle\n  in flight   0 of 1024 requests"));
        host
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn worker(&self) -> u32 {
        let workers = children(self.pid());
        assert_eq!(workers.len(), 1);
        workers[0]
    }

    /// Stops the worker, and gives it three batches.
    fn has_frames_in_flight(&mut self) {
        kill("STOP", self.worker());
        let lines: String = (0..200).map(|line| format!("a text of line {line}\n")).collect();
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(lines.as_bytes()).unwrap();
        let requests = || json(self.pid())["channels"][0]["rings"][0].clone();
        until("requests in the ring", || requests()["frame_count"].as_u64() == Some(3));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.directory.processes().into_iter().for_each(|pid| kill("KILL", pid));
    }
}

#[test]
fn an_idle_host_is_shown_with_its_memory_which_passes_all_checks() {
    let host = Host::start(OPEN);
    let shown = inspect(host.pid(), &[]).succeeded();
    assert_eq!(shown.stderr, "");
    let (text, worker) = (shown.stdout, host.worker());
    for part in [
        format!("process {}: ", host.pid()),
        format!(" to process {worker}: open, the worker "),
        "in flight   0 of 1024 requests".to_owned(),
        ": all 24 checks are passed".to_owned(),
        "ok      requests: frames".to_owned(),
        format!("worker  process {worker}, slipring "),
        "ring of replies: ".to_owned(),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    let found = json(host.pid());
    let memory = &found["channels"][0];
    let rows = found["host"]["rows"].as_array().unwrap();
    assert!(
        rows.iter().any(|row| row["numbers"]["channel"]["channel_id"] == memory["id"]),
        "{found}"
    );
    assert_eq!(memory["layout"]["worker_pid"], worker);
    assert!(memory["checks"].as_array().unwrap().iter().all(|check| check["verdict"] == "ok"));
}

#[test]
fn frames_in_flight_are_listed_and_payloads_only_if_asked_for() {
    let mut host = Host::start(OPEN);
    host.has_frames_in_flight();
    // A batch of 64 texts begins with their number.
    const PAYLOAD: &str = "40 00 00 00 ";
    let text = inspect(host.pid(), &[]).succeeded().stdout;
    assert_eq!(text.matches("  embed, request ").count(), 3, "{text}");
    assert_eq!(text.matches(": waiting\n").count(), 3, "{text}");
    assert!(!text.contains(PAYLOAD), "{text}");
    let text = inspect(host.pid(), &["--payloads=8", "--frames", "2"]).succeeded().stdout;
    let shown = text.lines().filter(|line| line.trim_start().starts_with(PAYLOAD));
    assert_eq!(shown.map(|line| line.trim().len()).collect::<Vec<_>>(), [23, 23], "{text}");
    assert!(text.contains("\n      1 more frames\n"), "{text}");
    // The worker goes on as if nothing had been.
    kill("CONT", host.worker());
    drop(host.child.stdin.take());
    let mut rows = String::new();
    host.child.stdout.as_mut().unwrap().read_to_string(&mut rows).unwrap();
    assert_eq!(rows.lines().count(), 200);
    assert!(host.child.wait().unwrap().success());
}

#[test]
fn a_stopped_host_whose_worker_was_killed_shows_what_was_left() {
    let mut host = Host::start(OPEN);
    host.has_frames_in_flight();
    let worker = host.worker();
    kill("STOP", host.pid());
    until("the host to stop", || inspect(host.pid(), &[]).stdout.contains(", stopped: "));
    kill("KILL", worker);
    until("the worker's end", || inspect(host.pid(), &[]).stdout.contains(", which has ended"));
    let text = inspect(host.pid(), &[]).succeeded().stdout;
    assert_eq!(text.matches(": waiting\n").count(), 3, "{text}");
    assert!(text.contains(": all 24 checks are passed"), "{text}");
    kill("CONT", host.pid());
}

#[test]
fn a_host_that_was_not_asked_shows_its_page_and_says_what_is_missing() {
    let host = Host::start(&[("SLIPRING_STATUS_PAGE", "1")]);
    let text = inspect(host.pid(), &[]).succeeded().stdout;
    assert!(text.contains("\n  requests    0 B of 4 MiB in the ring"), "{text}");
    assert!(text.contains(" in the ring, 0 B at most so far, 0 of them held"), "{text}");
    assert!(text.contains("memory      not kept open for others"), "{text}");
    assert!(text.contains("SLIPRING_INSPECT=1"), "{text}");
    assert!(!text.contains("ring of "), "{text}");
    assert_eq!(json(host.pid())["channels"], Value::Array(Vec::new()));
}

#[test]
fn a_host_without_a_page_shows_its_memory() {
    let directory = Directory::new();
    let mut command = directory.command(&["-o", "-"]);
    command.env("SLIPRING_STATUS_PAGE", "0").env("SLIPRING_INSPECT", "1");
    let mut child = command.spawn().unwrap();
    let text = || inspect(child.id(), &[]).stdout;
    until("its channel", || text().contains(": all 24 checks are passed"));
    let shown = text();
    assert!(shown.starts_with(&format!("process {}, which has no status page\n", child.id())));
    assert!(shown.contains("\na channel that is not on the status page\n"), "{shown}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The error of a process of which nothing can be shown.
fn refused(pid: u32) -> String {
    let refused = inspect(pid, &[]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
    refused.stderr
}

#[test]
fn a_process_that_is_no_host_or_has_ended_is_told_apart() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let error = refused(child.id());
    assert!(error.contains("has no status page and keeps no memory open"), "{error}");
    child.kill().unwrap();
    until("its end", || refused(child.id()).contains("has ended; its parent has not reaped it"));
    child.wait().unwrap();
    let error = refused(child.id());
    assert!(error.contains(&format!("there is no process {}", child.id())), "{error}");
    let usage = inspect(0, &["--frames", "x"]);
    assert_eq!(usage.code, 2, "{usage:?}");
}

#[test]
fn another_users_host_is_not_looked_into() {
    let host = Host::start(OPEN);
    #[allow(unsafe_code, reason = "std does not tell")]
    // SAFETY: a system call that only reports.
    let is_root = unsafe { libc::geteuid() } == 0;
    let (pid, mut command) = match is_root {
        // The first process is root's.
        false => (1, Command::new(env!("CARGO_BIN_EXE_slipring"))),
        true => {
            // Where the other user can run it.
            let program = host.directory.path("slipring");
            copy_program(&program);
            let mut command = Command::new(program);
            command.uid(65_534).gid(65_534);
            (host.pid(), command)
        }
    };
    let refused: Finished = command.args(["inspect", &pid.to_string()]).output().unwrap().into();
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{refused:?}");
    assert!(refused.stderr.contains("cannot be looked into: it belongs to "), "{refused:?}");
}

/// A process that has memfds with the names of regions, with these bytes, sealed in this way.
fn impostor(regions: &[(&str, PathBuf)], seals: u32) -> Child {
    let program = "import os, sys, fcntl\n\
        for name, path in zip(sys.argv[2::2], sys.argv[3::2]):\n\
        \x20   fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)\n\
        \x20   os.write(fd, open(path, 'rb').read())\n\
        \x20   fcntl.fcntl(fd, fcntl.F_ADD_SEALS, int(sys.argv[1]))\n\
        print('ready', flush=True)\n\
        sys.stdin.read()";
    let mut command = Command::new("python3");
    command.args(["-c", program]).arg(seals.to_string());
    command.args(regions.iter().flat_map(|(name, path)| [OsStr::new(name), path.as_os_str()]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    child
}

#[test]
fn memory_that_cannot_be_is_said_to_be_wrong_and_fails() {
    let mut host = Host::start(OPEN);
    host.has_frames_in_flight();
    // Copies of the memory of a real host, with changes.
    let id = json(host.pid())["channels"][0]["id"].as_u64().unwrap();
    let names = ["down", "up"].map(|side| format!("slipring-{side}.{id:016x}"));
    let links = fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().flatten();
    let paths: Vec<PathBuf> = links.map(|entry| entry.path()).collect();
    let [down, up] = names.each_ref().map(|name| {
        let is_it = |path: &&PathBuf| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().contains(name.as_str()))
        };
        fs::read(paths.iter().find(is_it).unwrap()).unwrap()
    });
    const SEALS: u32 = 0x17;
    let look = |change: &dyn Fn(&mut [Vec<u8>; 2]), seals: u32| {
        let mut regions = [down.clone(), up.clone()];
        change(&mut regions);
        let files = names.each_ref().map(|name| host.directory.path(name));
        files.iter().zip(&regions).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        let named: Vec<_> = names.iter().map(String::as_str).zip(files.iter().cloned()).collect();
        let mut impostor = impostor(&named, seals);
        let looked = inspect(impostor.id(), &[]);
        impostor.kill().unwrap();
        impostor.wait().unwrap();
        assert_eq!(looked.code, 1, "{looked:?}");
        looked
    };
    let wrong = |looked: Finished, what: &str| {
        assert!(looked.stdout.contains(&format!("\n    wrong   {what}")), "{what}: {looked:?}");
        looked.stderr
    };
    let honest = wrong(look(&|_| {}, SEALS), "host's process: ");
    assert!(honest.contains(": 1 checks fail"), "{honest}");
    let data = |down: &[u8]| u64::from_le_bytes(down[48..56].try_into().unwrap()) as usize;
    let error = wrong(
        look(
            &|[down, _]| {
                let first = data(down) + 64;
                down[first + 8..first + 12].fill(0xFF);
            },
            SEALS,
        ),
        "requests: frames: a frame of 4294967295 bytes at 64",
    );
    assert!(error.contains(": 2 checks fail"), "{error}");
    wrong(look(&|[down, _]| down[8] = 3, SEALS), "host's header: layout version 3 written by");
    wrong(look(&|[down, _]| down[40] ^= 0x10, SEALS), "host's header: region of ");
    wrong(look(&|[_, up]| up.truncate(4096), SEALS), "worker's region: 4096 bytes");
    let refused = look(&|_| {}, 0);
    assert!(refused.stderr.contains("region has seals 0x0, expected at least 0x17"), "{refused:?}");
}

#[test]
fn channels_by_name_are_shown_with_their_memory() {
    let (pid, name) = (std::process::id(), format!("inspect-{}", std::process::id()));
    let host = slipring::named::create(&name, &slipring::Config::small()).unwrap();
    let text = inspect(pid, &[]).succeeded().stdout;
    let begin = format!("\nnamed channel {name}: waiting, of host {pid}, ");
    let (_, shown) = text.split_once(&begin).unwrap_or_else(|| panic!("{text}"));
    for part in ["in /dev/shm\n  memory ", "skipped worker's header: no worker has attached\n"] {
        assert!(shown.contains(part), "{part}: {text}");
    }
    let found = json(pid);
    let channel = &found["named"][0];
    assert_eq!(channel["channel"]["name"], name);
    assert_eq!(channel["channel"]["state"], "waiting");
    assert_eq!(channel["memory"]["layout"]["host_pid"], pid);
    drop(host);
    assert!(!inspect(pid, &[]).stdout.contains(&name));
}

const PARTLY: &str = "SLIPRING_TEST_PARTLY";

/// The process of the next test: it has a channel, and what seems to be the region of another one.
#[test]
fn a_host_with_a_region_that_is_none() {
    let Ok(name) = std::env::var(PARTLY) else { return };
    let _host = slipring::named::create(&name, &slipring::Config::small()).unwrap();
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let _region = rustix::fs::memfd_create("slipring-up.00000000000000ff", flags).unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_part_that_is_not_read_gives_an_exit_code_of_its_own() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("partly-{}", std::process::id());
    command.args(["--exact", "inspect::a_host_with_a_region_that_is_none"]).env(PARTLY, &name);
    let mut host = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let look = |args: &[&str]| inspect(host.id(), args);
    until("both", || {
        let shown = look(&[]).stdout;
        shown.contains(&format!("named channel {name}")) && shown.contains("not read: slipring-")
    });
    for args in [&[][..], &["--json"]] {
        let looked = look(args);
        assert_eq!(looked.code, 4, "{looked:?}");
        assert!(looked.stderr.contains(": 1 parts are not read"), "{looked:?}");
    }
    drop(host.stdin.take());
    host.wait().unwrap();
}
