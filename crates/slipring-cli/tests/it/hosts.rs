//! What shows the hosts of this machine: `top`, `stat` and `prune`, with real hosts.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use slipring::Spawner;
use slipring::pool::{Pool, Role};

use crate::common::{Directory, Finished, copy_program, until};

fn slipring(args: &[&str]) -> Finished {
    Command::new(env!("CARGO_BIN_EXE_slipring")).args(args).output().unwrap().into()
}

const WITHOUT_PAGE: &[(&str, &str)] = &[("SLIPRING_STATUS_PAGE", "0")];

/// A host that waits for its standard input.
pub(crate) struct Host {
    child: Child,
    _directory: Directory,
}

impl Host {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(variables: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let mut command = directory.command(&["-o", "-"]);
        command.env_remove("SLIPRING_STATUS_PAGE").envs(variables.iter().copied());
        Self { child: command.spawn().unwrap(), _directory: directory }
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Waits until `slipring stat` shows its role and its worker.
    pub(crate) fn until_it_is_shown(&self) {
        until("the host's page", || {
            let shown = slipring(&["stat", &self.pid()]).stdout;
            ["/embed: is_ready 1", "/embed#"].iter().all(|name| shown.contains(name))
        });
    }

    /// The lines of `top --once` about it.
    fn lines(&self) -> Vec<String> {
        let shown = slipring(&["top", "--once", "--filter", &self.pid()]).succeeded().stdout;
        let of_it = |line: &&str| line.split_whitespace().next() == Some(self.pid().as_str());
        shown.lines().filter(of_it).map(str::to_owned).collect()
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        #[allow(unsafe_code, reason = "std kills only")]
        // SAFETY: signals a child that was not waited for.
        let sent = unsafe { libc::kill(pid, signal) };
        assert_eq!(sent, 0);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_host_is_shown_with_its_role_and_its_worker() {
    let host = Host::start();
    host.until_it_is_shown();
    let counters = slipring(&["stat", &host.pid()]).succeeded().stdout;
    for name in ["/embed: answered ", "/embed: queue_time_p99 ", " request_ring_capacity "] {
        assert!(counters.contains(name), "{counters}");
    }
    assert!(
        counters.lines().all(|line| line.starts_with('#') || line.contains('\t')),
        "{counters}"
    );
    let lines = host.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("(1 workers)") && line.contains("ready")));
    let all = slipring(&["top", "--once", "--json"]).succeeded().stdout;
    assert!(all.contains(&format!("\"pid\":{}", host.pid())), "{all}");
    let found = |filter: &str| {
        let found = slipring(&["top", "--once", "--json", "--filter", filter]).succeeded().stdout;
        let hosts = serde_json::from_str::<Value>(&found).unwrap()["hosts"].clone();
        hosts.as_array().unwrap().clone()
    };
    let rows = |hosts: &[Value]| hosts[0]["rows"].as_array().unwrap().len();
    let by_pid = found(&host.pid());
    assert_eq!((by_pid.len(), rows(&by_pid)), (1, 2));
    assert_eq!(found("no line has this"), [Value::Null; 0]);
    // A host at rest writes its page seldom, and its rates are known all the same.
    until("the host's rest", || {
        let host = &found(&host.pid())[0];
        host["heartbeat_period"]["secs"].as_u64() >= Some(4) && host["heartbeat_age"]["secs"] == 0
    });
    for line in host.lines() {
        assert!(line.contains("     0    0    0     0       0    0%"), "{line}");
    }
}

#[test]
fn without_proc_it_is_not_said_that_there_are_no_hosts() {
    let program = env!("CARGO_BIN_EXE_slipring");
    let Some(refused) = without_proc(&format!("exec {program} top --once")) else { return };
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("/proc is not mounted"), "{refused:?}");
}

/// Runs a script where nothing is mounted at `/proc`. `None`, with the reason printed, if this user may
/// not do that.
fn without_proc(script: &str) -> Option<Finished> {
    let run = |options: &[&str], script: &str| -> Option<Finished> {
        let script = format!("mount -t tmpfs none /proc && {script}");
        let mut command = Command::new("unshare");
        Some(command.args(options).args(["sh", "-c", &script]).output().ok()?.into())
    };
    let all = [&["--mount"][..], &["--user", "--map-root-user", "--mount"]];
    let found = all.iter().find(|options| run(options, "true").is_some_and(|done| done.code == 0));
    if found.is_none() {
        eprintln!("left out: this user may not hide /proc in a namespace");
    }
    run(found?, script)
}

#[test]
fn a_host_that_is_stopped_is_marked_and_read_all_the_same() {
    let host = Host::start();
    host.until_it_is_shown();
    host.signal(libc::SIGSTOP);
    until("the mark", || host.lines().iter().all(|line| line.contains("stopped")));
    assert_eq!(host.lines().len(), 2);
    assert!(slipring(&["stat", &host.pid()]).succeeded().stdout.contains(", stopped: "));
    host.signal(libc::SIGCONT);
    until("the mark's end", || host.lines().iter().all(|line| !line.contains("stopped")));
}

#[test]
fn a_host_that_was_killed_or_wants_no_page_is_not_shown() {
    let mut killed = Host::start();
    killed.until_it_is_shown();
    let quiet = Host::start_with(WITHOUT_PAGE);
    killed.child.kill().unwrap();
    until("its end", || {
        let refused = slipring(&["stat", &killed.pid()]).stderr;
        refused.contains("has ended; its parent has not reaped it")
    });
    killed.child.wait().unwrap();
    let other = Host::start();
    other.until_it_is_shown();
    for (host, why) in [(&killed, "there is no process"), (&quiet, "has no status page")] {
        assert_eq!(host.lines(), [""; 0]);
        let refused = slipring(&["stat", &host.pid()]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
        assert!(refused.stderr.contains(why), "{}", refused.stderr);
        // The other one is shown all the same.
        let partly = slipring(&["stat", &host.pid(), &other.pid()]);
        assert_eq!(partly.code, 4);
        assert!(partly.stdout.contains("/embed: is_ready 1"), "{partly:?}");
        assert!(partly.stderr.contains(why), "{}", partly.stderr);
    }
}

/// Users that have no processes on most machines.
const OTHER_USERS: [u32; 2] = [65_534, 65_533];

/// A host of another user is seen by root, and by that user alone. Root starts it, so that others than
/// root cannot run this test.
#[test]
fn a_host_of_another_user_is_root_s_and_that_user_s_to_see() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can start programs of other users");
        return;
    }
    // The program may lie where other users cannot reach it.
    let place = Directory::new();
    let program = place.path("slipring");
    copy_program(&program);
    let own = || Command::new(&program);
    let by = |user: u32| {
        let mut command = own();
        command.uid(user).gid(user).env_remove("SLIPRING_STATUS_PAGE");
        command
    };
    let mut host = by(OTHER_USERS[0]);
    let host = host.args(["embed", "-o", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut host = host.spawn().unwrap();
    let pid = host.id().to_string();
    let shown = |mut command: Command| -> Finished {
        command.args(["stat", &pid]).output().unwrap().into()
    };
    until("its page", || shown(own()).stdout.contains("/embed: is_ready 1"));
    assert!(shown(by(OTHER_USERS[0])).succeeded().stdout.contains("/embed: is_ready 1"));
    let refused = shown(by(OTHER_USERS[1]));
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("is another user's"), "{}", refused.stderr);
    let all = |mut command: Command| -> Finished {
        command.args(["top", "--once", "--json"]).output().unwrap().into()
    };
    let is_listed = |all: Finished| all.succeeded().stdout.contains(&format!("\"pid\":{pid},"));
    assert!(is_listed(all(own())) && is_listed(all(by(OTHER_USERS[0]))));
    assert!(!is_listed(all(by(OTHER_USERS[1]))));
    drop(host.stdin.take());
    host.wait().unwrap();
}

const SMALL_HOST: &str = "SLIPRING_TEST_SMALL_HOST";

/// The process of the next test: a pool that has not started its worker yet.
#[test]
fn a_host_without_a_worker_yet() {
    if std::env::var_os(SMALL_HOST).is_none() {
        return;
    }
    let role = Role::new(|_| Spawner::current_exe()).min_idle(0);
    let _pool = Pool::builder().role("small", role).build().unwrap();
    let _ = std::io::stdin().read(&mut [0]);
}

const MANY: usize = 200;

#[test]
fn two_hundred_hosts_are_all_shown_at_once() {
    let start = || {
        let mut host = Command::new(std::env::current_exe().unwrap());
        host.args(["--exact", "hosts::a_host_without_a_worker_yet"]).env(SMALL_HOST, "1");
        host.env_remove("SLIPRING_STATUS_PAGE").stdin(Stdio::piped()).stdout(Stdio::null());
        host.spawn().unwrap()
    };
    let mut hosts: Vec<Child> = (0..MANY).map(|_| start()).collect();
    let mut time = Duration::ZERO;
    until("all hosts", || {
        let start = Instant::now();
        let all = slipring(&["top", "--once", "--json"]).succeeded().stdout;
        time = start.elapsed();
        hosts.iter().all(|host| all.contains(&format!("\"pid\":{},", host.id())))
    });
    println!("`top --once --json` took {time:?} with {MANY} hosts");
    let lines = slipring(&["top", "--once", "--filter", "small"]).succeeded().stdout;
    assert!(lines.lines().filter(|line| line.contains("small")).count() >= MANY, "{lines}");
    for host in &mut hosts {
        drop(host.stdin.take());
        host.wait().unwrap();
    }
}

const LEAVES_SEGMENTS: &str = "SLIPRING_TEST_LEAVES_SEGMENTS";

/// The process of the next test that ends without cleaning up.
#[test]
fn a_process_that_leaves_segments_behind() {
    let Ok(name) = std::env::var(LEAVES_SEGMENTS) else { return };
    let _host = slipring::named::create(&name, &slipring::Config::small()).unwrap();
    std::process::abort();
}

#[test]
fn what_a_killed_process_has_left_is_listed_and_then_removed() {
    let name = format!("prune-{}", std::process::id());
    let mut command = Command::new(std::env::current_exe().unwrap());
    let args = ["--exact", "hosts::a_process_that_leaves_segments_behind"];
    let ended = command.args(args).env(LEAVES_SEGMENTS, &name).output().unwrap();
    assert!(!ended.status.success());
    let of_it = |shown: &str| shown.lines().find(|line| line.starts_with(&name)).map(str::to_owned);
    for _ in 0..2 {
        let listed = slipring(&["prune"]).succeeded().stdout;
        assert!(of_it(&listed).is_some_and(|line| line.contains("left behind")), "{listed}");
    }
    let removed = slipring(&["prune", "--remove"]).succeeded().stdout;
    assert!(of_it(&removed).is_some_and(|line| line.contains(": removed")), "{removed}");
    assert_eq!(of_it(&slipring(&["prune"]).succeeded().stdout), None);
}
