//! Hosts with their processes, for one fault.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use crate::lines::{Line, Says, now};
use crate::net::Net;
use crate::process::Process;
use crate::rules::{self, Failed};

/// One that is gone must be used no more after that. Only this suite, whose tests run one after
/// another, has such bounds.
const LONGEST_LEAVE: Duration = Duration::from_secs(2);
/// One that is back must be used after that: a second, and a pause between two attempts to connect.
const LONGEST_RETURN: Duration = Duration::from_millis(1_600);

/// The host that has the faults, and the one that has none.
pub const FAULTY: &str = "gateway-1";
pub const OTHER: &str = "gateway-2";
pub const TWO_GATEWAYS: &[&str] = &["caller-1", FAULTY, OTHER];

pub struct Trial {
    pub net: Net,
    pub gateways: Vec<Process>,
    pub callers: Vec<Process>,
    pub proxy: Option<Process>,
    hosts: &'static [&'static str],
    journal: Journal,
}

/// The file that workers write to.
struct Journal(PathBuf);

impl Drop for Journal {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}

impl Trial {
    /// Starts a gateway or a caller on each host that is called so. If there is a host `proxy`, the
    /// faulty gateway is called by way of it; it has the delay and the stall given.
    pub fn start(hosts: &'static [&'static str], [delay, stall]: [u64; 2]) -> Self {
        let journal = format!("hosts-{}-journal", std::process::id());
        let journal = Journal(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(journal));
        std::fs::write(&journal.0, "").unwrap();
        let net = Net::new(hosts);
        let (gateways, callers) = (Vec::new(), Vec::new());
        let mut trial = Self { net, gateways, callers, proxy: None, hosts, journal };
        for host in hosts.iter().filter(|host| host.starts_with("gateway")) {
            let gateway = trial.start_gateway(host);
            trial.gateways.push(gateway);
        }
        if hosts.contains(&"proxy") {
            let (listen, to) = (trial.at("proxy"), trial.at(FAULTY));
            let words = ["run-proxy", &listen, &to, &delay.to_string(), &stall.to_string()];
            trial.proxy = Some(Process::start("proxy", &trial.journal.0, &words).listens());
        }
        let callers = hosts.iter().filter(|host| host.starts_with("caller"));
        trial.callers =
            callers.enumerate().map(|(at, host)| trial.start_caller(at, host)).collect();
        trial
    }

    /// Starts a gateway on a host, and waits until it listens.
    pub fn start_gateway(&self, host: &str) -> Process {
        let words = ["run-gateway", host, &self.at(host)];
        Process::start(host, &self.journal.0, &words).listens()
    }

    fn start_caller(&self, at: usize, host: &str) -> Process {
        let first = ((at + 1) * 1_000_000).to_string();
        let gateways: Vec<_> = self.gateway_hosts().map(|gateway| self.seen_at(gateway)).collect();
        let words = ["run-caller", &first].into_iter().chain(gateways.iter().map(String::as_str));
        Process::start(host, &self.journal.0, &words.collect::<Vec<_>>())
    }

    fn gateway_hosts(&self) -> impl Iterator<Item = &'static str> {
        self.hosts.iter().copied().filter(|host| host.starts_with("gateway"))
    }

    fn at(&self, host: &str) -> String {
        format!("{}:7000", self.net.address(host))
    }

    /// The address by which callers know a gateway.
    fn seen_at(&self, gateway: &str) -> String {
        self.at(if self.proxy.is_some() && gateway == FAULTY { "proxy" } else { gateway })
    }

    /// Waits until each caller was served by each gateway, and has a stream in the midst from the
    /// faulty one.
    pub fn warm(&self) {
        for caller in &self.callers {
            let begins = self.gateway_hosts().map(|gateway| {
                caller.said("each gateway streams", |_, says| is_first(says, gateway))
            });
            let all = begins.max().unwrap().max(now());
            caller.said("a stream begins", |at, says| at > all && is_first(says, FAULTY));
        }
    }

    /// Waits until the callers use the faulty gateway no more. Returns how long after the time that
    /// took.
    pub fn left(&self, since: u64) -> Duration {
        let address = self.seen_at(FAULTY);
        let is_gone = |at, says: &Says| {
            let is_unused = |state: &str| state != "ready";
            at >= since
                && matches!(says, Says::State { address: it, state } if *it == address && is_unused(state))
        };
        let longest = self.callers.iter().map(|caller| caller.said("it is left", is_gone)).max();
        let left = Duration::from_micros(longest.unwrap() - since);
        assert!(left <= LONGEST_LEAVE, "it was left after {left:?}");
        left
    }

    /// Waits until the faulty gateway answers again. Returns how long after the time that took.
    pub fn back(&self, since: u64) -> Duration {
        let at = self.callers.iter().map(|caller| {
            caller.said("it is back", |at, says| at >= since && is_answer(says, FAULTY))
        });
        let back = Duration::from_micros(at.max().unwrap() - since);
        assert!(back <= LONGEST_RETURN, "it was used after {back:?}: {:?}", self.states(since));
        back
    }

    /// How what each gateway is used for has changed since then, in milliseconds.
    fn states(&self, since: u64) -> Vec<String> {
        let lines = self.callers.iter().flat_map(Process::lines);
        let state = |line: Line| match line.says {
            Says::State { address, state } => {
                let after = line.at.checked_sub(since)? / 1000;
                Some(format!("{after}: {address} {state}"))
            }
            _ => None,
        };
        lines.filter_map(state).collect()
    }

    /// Waits until so long after a time, and looks whether the other gateway has served until then.
    pub fn others_serve(&self, since: u64, lasts: Duration) {
        let until = since + u64::try_from(lasts.as_micros()).unwrap();
        sleep(Duration::from_micros(until.saturating_sub(now())));
        for caller in &self.callers {
            let answers = caller.lines().into_iter().filter(|line| is_answer(&line.says, OTHER));
            let times: Vec<_> = answers.map(|line| line.at).filter(|at| *at >= since).collect();
            let ends = [since]
                .into_iter()
                .chain(times.iter().copied())
                .zip(times.iter().copied().chain([now()]));
            let longest = ends.map(|(from, to)| to.saturating_sub(from)).max().unwrap();
            let longest = Duration::from_micros(longest);
            assert!(longest < Duration::from_secs(1), "the other was silent for {longest:?}");
        }
    }

    /// Lets the callers and then the gateways end, checks all that must hold, and returns the
    /// requests that failed. All must have failed with this kind of error.
    pub fn finish(mut self, kind: Option<&str>) -> Vec<Failed> {
        self.callers.iter_mut().for_each(Process::end_input);
        for caller in &self.callers {
            caller.said("it ends", |_, says| matches!(says, Says::End));
        }
        let lines: Vec<_> = self.callers.iter().map(Process::lines).collect();
        let journal = self.end_gateways();
        let failed: Vec<_> =
            lines.iter().flat_map(|lines| rules::check(lines, &journal, false).unwrap()).collect();
        for failed in &failed {
            assert_eq!(Some(failed.kind.as_str()), kind, "{failed:?}");
        }
        failed
    }

    /// Checks the requests of a caller that was killed.
    pub fn check_killed(&mut self, caller: &Process) -> Vec<Failed> {
        let mut lines = caller.lines();
        // It may have been killed in the midst of its last line.
        lines.pop();
        rules::check(&lines, &self.journal(), true).unwrap()
    }

    pub fn journal(&self) -> String {
        std::fs::read_to_string(&self.journal.0).unwrap()
    }

    /// Returns what the workers wrote.
    fn end_gateways(&mut self) -> String {
        self.gateways.iter_mut().for_each(Process::end_input);
        self.gateways.iter_mut().for_each(Process::ends);
        self.journal()
    }
}

/// The process of the worker that has answered, and its host, if the line is an answer.
pub fn worker_of(line: &Line) -> Option<(&str, u32)> {
    let Says::Answered { host, execution, .. } = &line.says else { return None };
    let (process, _) = execution.split_once('.').unwrap();
    Some((host, process.parse().unwrap()))
}

fn is_first(says: &Says, from: &str) -> bool {
    matches!(says, Says::First { host, .. } if host == from)
}

fn is_answer(says: &Says, from: &str) -> bool {
    matches!(says, Says::Answered { host, .. } if host == from)
}
