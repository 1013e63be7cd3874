//! Hosts with their processes, for one fault or many.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use slipring_gateway::tls::MakeCerts;

use crate::caller::Load;
use crate::lines::{Line, Says, now};
use crate::net::Net;
use crate::process::Process;
use crate::proxy;
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

pub const ROLE: &str = "counter";
/// Where callers and gateways find their certificates. There are none in plain text.
pub const CERTS: &str = "HOSTS_CERTS";

/// How many numbers each caller has for its requests.
const EACH_CALLER: u64 = 1_000_000;

/// How callers and gateways speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    PlainText,
    Tls,
}

/// What a trial is made of.
pub struct Plan {
    way: Way,
    hosts: &'static [&'static str],
    line: proxy::Line,
    /// The gateway that is called by way of the host `proxy`, if there is one.
    proxied: &'static str,
    load: Load,
}

pub struct Trial {
    pub net: Net,
    pub gateways: Vec<Process>,
    pub callers: Vec<Process>,
    pub proxy: Option<Process>,
    /// What callers said that were killed.
    gone: Vec<Vec<Line>>,
    begun_callers: u64,
    plan: Plan,
    files: Files,
}

/// The journal, which workers write to, and certificates.
struct Files(PathBuf);

impl Files {
    fn new() -> Self {
        let name = format!("hosts-{}", std::process::id());
        let files = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        std::fs::create_dir_all(&files.0).unwrap();
        std::fs::write(files.journal(), "").unwrap();
        files
    }

    fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    fn certs(&self) -> PathBuf {
        self.0.join("certs")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Plan {
    pub fn new(way: Way, hosts: &'static [&'static str]) -> Self {
        Self { way, hosts, line: proxy::Line::default(), proxied: FAULTY, load: Load::SMALL }
    }

    /// What the line of the host `proxy` is like, by way of which the faulty gateway is called.
    pub fn line(self, line: proxy::Line) -> Self {
        Self { line, ..self }
    }

    /// Has this gateway called by way of the host `proxy`, and not the faulty one.
    pub fn proxied(self, proxied: &'static str) -> Self {
        Self { proxied, ..self }
    }

    pub fn load(self, chunk: usize, request: usize) -> Self {
        Self { load: Load { chunk, request }, ..self }
    }
}

impl Trial {
    /// Starts a gateway or a caller on each host that is called so. If there is a host `proxy`, one
    /// gateway is called by way of it.
    pub fn start(plan: Plan) -> Self {
        let (files, hosts, net) = (Files::new(), plan.hosts, Net::new(plan.hosts));
        let mut trial = Self {
            net,
            gateways: Vec::new(),
            callers: Vec::new(),
            proxy: None,
            gone: Vec::new(),
            begun_callers: 0,
            plan,
            files,
        };
        if trial.plan.way == Way::Tls {
            trial.make_certs();
        }
        for host in hosts.iter().filter(|host| host.starts_with("gateway")) {
            let gateway = trial.start_gateway(host);
            trial.gateways.push(gateway);
        }
        if hosts.contains(&"proxy") {
            let (listen, to) = (trial.at("proxy"), trial.at(trial.plan.proxied));
            let [delay, stall, rate] = &trial.plan.line.words();
            let words = ["run-proxy", &listen, &to, delay, stall, rate];
            trial.proxy = Some(Process::start("proxy", &words, None).listens());
        }
        for host in hosts.iter().filter(|host| host.starts_with("caller")) {
            let caller = trial.start_caller(host);
            trial.callers.push(caller);
        }
        trial
    }

    /// Starts a gateway on a host, and waits until it listens.
    pub fn start_gateway(&self, host: &str) -> Process {
        let address = self.at(host);
        let mut words = vec!["--role", ROLE, "--workers", "4", "--listen", &address];
        let certs = self.files.certs();
        let file = |name| certs.join(name).display().to_string();
        let files = [file("server.pem"), file("server-key.pem"), file("ca.pem")];
        match (self.plan.way, &files) {
            (Way::PlainText, _) => words.push("--plain-text-anywhere"),
            (Way::Tls, [cert, key, ca]) => {
                words.extend(["--cert", cert, "--key", key, "--client-ca", ca]);
            }
        }
        Process::start_gateway(host, &self.files.journal(), &words).listens()
    }

    fn make_certs(&self) {
        let names = self.plan.hosts.iter().map(|host| self.net.address(host));
        let client_names = vec!["caller".to_owned()];
        let certs = MakeCerts { server_names: names.collect(), client_names, days: 1 };
        certs.write(&self.files.certs()).unwrap();
    }

    /// Kills a caller in the midst of its requests, and starts another one on its host.
    pub fn replace_caller(&mut self, which: usize, host: &str) {
        let new = self.start_caller(host);
        let mut killed = std::mem::replace(&mut self.callers[which], new);
        killed.signal("KILL");
        killed.ends();
        self.gone.push(said_before_end(&killed));
    }

    /// Starts a caller, whose requests have numbers of their own.
    fn start_caller(&mut self, host: &str) -> Process {
        self.begun_callers += 1;
        let first = (self.begun_callers * EACH_CALLER).to_string();
        let gateways: Vec<_> = self.gateway_hosts().map(|gateway| self.seen_at(gateway)).collect();
        let [chunk, request] = &self.plan.load.words();
        let words = ["run-caller", &first, chunk, request].into_iter();
        let words: Vec<_> = words.chain(gateways.iter().map(String::as_str)).collect();
        let certs = (self.plan.way == Way::Tls).then(|| self.files.certs());
        Process::start(host, &words, certs.as_deref())
    }

    fn gateway_hosts(&self) -> impl Iterator<Item = &'static str> {
        self.plan.hosts.iter().copied().filter(|host| host.starts_with("gateway"))
    }

    fn at(&self, host: &str) -> String {
        format!("{}:7000", self.net.address(host))
    }

    /// The address by which callers know a gateway.
    fn seen_at(&self, gateway: &str) -> String {
        let is_proxied = self.proxy.is_some() && gateway == self.plan.proxied;
        self.at(if is_proxied { "proxy" } else { gateway })
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
        let is_gone = |says: &Says| {
            let is_unused = |state: &str| state != "ready";
            matches!(says, Says::State { address: it, state } if *it == address && is_unused(state))
        };
        let left = self.callers.iter().map(|it| it.said_since(since, "it is left", is_gone));
        let longest = left.max();
        let left = Duration::from_micros(longest.unwrap() - since);
        assert!(left <= LONGEST_LEAVE, "it was left after {left:?}");
        left
    }

    /// Waits until the faulty gateway answers again. Returns how long after the time that took.
    pub fn back(&self, since: u64) -> Duration {
        let at = self
            .callers
            .iter()
            .map(|caller| caller.said_since(since, "it is back", |says| is_answer(says, FAULTY)));
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
    pub fn finish(self, kind: Option<&str>) -> Vec<Failed> {
        self.finish_any(kind.as_slice()).1
    }

    /// The same, with several kinds of errors. Returns how many requests there were, too.
    pub fn finish_any(mut self, kinds: &[&str]) -> (usize, Vec<Failed>) {
        self.callers.iter_mut().for_each(Process::end_input);
        for caller in &self.callers {
            caller.said("it ends", |_, says| matches!(says, Says::End));
        }
        let lines: Vec<_> = self.callers.iter().map(Process::lines).collect();
        let journal = self.end_gateways();
        let all = lines.iter().map(|lines| (lines, false));
        let all = all.chain(self.gone.iter().map(|lines| (lines, true)));
        let is_sent = |line: &&Line| matches!(line.says, Says::Sent { .. });
        let count = all.clone().map(|(lines, _)| lines.iter().filter(is_sent).count()).sum();
        let failed: Vec<_> = all
            .flat_map(|(lines, was_killed)| rules::check(lines, &journal, was_killed).unwrap())
            .collect();
        for failed in &failed {
            assert!(kinds.contains(&failed.kind.as_str()), "{failed:?}");
        }
        (count, failed)
    }

    /// Looks whether workers that live still have requests of callers that were killed.
    pub fn assert_killed_are_forgotten(&self) {
        let journal = self.journal();
        let mut open = HashMap::new();
        for line in journal.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let &[what, _, number, execution] = words.as_slice() else { panic!("{line}") };
            match what {
                "begin" => drop(open.insert(execution, number)),
                _ => drop(open.remove(execution)),
            }
        }
        let caller_of = |lines: &Vec<Line>| {
            lines.iter().find_map(|line| match line.says {
                Says::Sent { number, .. } => Some(number / EACH_CALLER),
                _ => None,
            })
        };
        let gone: Vec<_> = self.gone.iter().filter_map(caller_of).collect();
        open.retain(|execution, number| {
            let lives = |process| Path::new("/proc").join(process).exists();
            let number: u64 = number.parse().unwrap();
            gone.contains(&(number / EACH_CALLER)) && lives(execution.split('.').next().unwrap())
        });
        assert!(
            open.is_empty(),
            "workers still have requests of callers that were killed: {open:?}"
        );
    }

    /// Checks the requests of a caller that was killed.
    pub fn check_killed(&mut self, caller: &Process) -> Vec<Failed> {
        rules::check(&said_before_end(caller), &self.journal(), true).unwrap()
    }

    pub fn journal(&self) -> String {
        std::fs::read_to_string(self.files.journal()).unwrap()
    }

    /// Returns what the workers wrote.
    fn end_gateways(&mut self) -> String {
        self.gateways.iter_mut().for_each(Process::ends_well);
        self.journal()
    }
}

/// What a caller said before it was killed.
fn said_before_end(killed: &Process) -> Vec<Line> {
    let mut lines = killed.lines();
    // It may have been killed in the midst of its last line.
    lines.pop();
    lines
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

pub fn is_answer(says: &Says, from: &str) -> bool {
    matches!(says, Says::Answered { host, .. } if host == from)
}
