//! The hosts, the processes on them, and the certificates.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use slipring_gateway::tls::MakeCerts;

use crate::echo::HOST;
use crate::net::{self, Net, ip};
use crate::server::NAME;

pub const CALLER: &str = "caller";
pub const GATEWAYS: [&str; 8] = ["g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8"];
const ALL: &[&str] = &[CALLER, "g1", "g2", "g3", "g4", "g5", "g6", "g7", "g8"];

pub const LOOPBACK: &str = "127.0.0.1";
/// The address of the first gateway on the line that only the caller and it have.
pub const PAIR: &str = "10.78.0.2";

/// Hosts on one switch, and a line between the first two.
pub struct Hosts(Net);

impl Hosts {
    /// Starts the program again if it must, to be where it may make namespaces. An error says why
    /// there is no such place.
    pub fn new() -> Result<Self, String> {
        net::enter()?;
        let net = Net::new(ALL);
        let other = GATEWAYS[0];
        ip(&["-n", CALLER, "link", "add", "name", "pair", "type", "veth"]
            .into_iter()
            .chain(["peer", "name", "pair", "netns", other])
            .collect::<Vec<_>>());
        for (host, address) in [(CALLER, "10.78.0.1/24"), (other, "10.78.0.2/24")] {
            ip(&["-n", host, "address", "add", address, "dev", "pair"]);
            ip(&["-n", host, "link", "set", "dev", "pair", "up"]);
        }
        Ok(Self(net))
    }

    pub fn address(&self, host: &str) -> String {
        self.0.address(host)
    }
}

/// A process on a host. It is killed when this is dropped.
pub struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program on a host, or on no particular one, with other words.
    pub fn start(host: Option<&str>, at: &Processors, number: &str, words: &[&str]) -> Self {
        let mut command = command(host, at, words);
        command.env(HOST, number).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Waits for its next line.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Ends its standard input, and waits for its end.
    pub fn end(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// Runs this program on a host, and waits for its end.
    pub fn run(host: Option<&str>, at: &Processors, words: &[&str]) {
        let status = command(host, at, words).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{words:?}: {status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also after a panic of this process.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn command(host: Option<&str>, at: &Processors, words: &[&str]) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut line: Vec<&OsStr> = Vec::new();
    if let Some(host) = host {
        line.extend(["ip", "netns", "exec", host].map(OsStr::new));
    }
    if let Some(list) = &at.0 {
        line.extend(["taskset", "-c", list.as_str()].map(OsStr::new));
    }
    line.push(program.as_os_str());
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).args(words);
    command
}

/// The processors that a process and its workers may use: a list, or all.
#[derive(Debug)]
pub struct Processors(Option<String>);

impl Processors {
    pub const ALL: Self = Self(None);

    /// Half of the processors for each side, as two machines have processors of their own. All for both
    /// if there is only one.
    pub fn halves() -> [Self; 2] {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let all: Vec<usize> = list.unwrap().trim().split(',').flat_map(range).collect();
        if all.len() < 2 {
            return [Self::ALL, Self::ALL];
        }
        let (first, second) = all.split_at(all.len() / 2);
        [first, second].map(|half| {
            let half: Vec<_> = half.iter().map(ToString::to_string).collect();
            Self(Some(half.join(",")))
        })
    }
}

/// The numbers of `3` or `0-3`.
fn range(text: &str) -> RangeInclusive<usize> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    first.parse().unwrap()..=last.parse().unwrap()
}

/// Certificates of both sides, in a directory that is removed with this.
pub struct Certificates(PathBuf);

impl Certificates {
    pub fn make() -> Self {
        let directory = format!("slipring-network-{}", std::process::id());
        let certificates = Self(std::env::temp_dir().join(directory));
        let make = MakeCerts {
            server_names: vec![NAME.into()],
            client_names: vec!["client".into()],
            days: 1,
        };
        make.write(Path::new(certificates.directory())).unwrap();
        certificates
    }

    pub fn directory(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // Nothing depends on it.
        _ = std::fs::remove_dir_all(&self.0);
    }
}
