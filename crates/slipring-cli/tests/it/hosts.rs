//! What shows the hosts of this machine: `top`, `stat` and `prune`, with real hosts.

use std::process::{Child, Command};

use crate::common::{Directory, Finished, until};

fn slipring(args: &[&str]) -> Finished {
    Command::new(env!("CARGO_BIN_EXE_slipring")).args(args).output().unwrap().into()
}

pub(crate) const WITH_PAGE: &[(&str, &str)] = &[("SLIPRING_STATUS_PAGE", "1")];

/// A host that waits for its standard input.
pub(crate) struct Host {
    child: Child,
    _directory: Directory,
}

impl Host {
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let mut command = directory.command(&["-o", "-"]);
        let child = command.envs(variables.iter().copied()).spawn().unwrap();
        Self { child, _directory: directory }
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
    let host = Host::start(WITH_PAGE);
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
}

#[test]
fn a_host_that_is_stopped_is_marked_and_read_all_the_same() {
    let host = Host::start(WITH_PAGE);
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
    let mut killed = Host::start(WITH_PAGE);
    killed.until_it_is_shown();
    let quiet = Host::start(&[]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    for host in [&killed, &quiet] {
        assert_eq!(host.lines(), [""; 0]);
        let refused = slipring(&["stat", &host.pid()]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("has no status page"), "{}", refused.stderr);
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
