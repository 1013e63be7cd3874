//! Hosts: network namespaces, each with one address, on one switch.
//!
//! The test has namespaces for mounts and for the network of its own, which end with it and its
//! processes, however it ends: nothing of it is left on the machine.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

const INSIDE: &str = "HOSTS_INSIDE";
/// What a machine must allow: names for namespaces in a place of the test's own, a switch, links.
const PROBE: &str = "mount -t tmpfs tmpfs /run && ip netns add probe \
    && ip -n probe link add name probe type bridge \
    && ip -n probe link add name one type veth peer name other \
    && ip netns exec probe true && ip netns del probe";

/// Starts the program again where it may make namespaces. Returns there; an error says why there is
/// no such place.
pub fn enter() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut reason = String::new();
    // As the super-user it is, or as one of a namespace of users.
    for user in [&[][..], &["--user", "--map-root-user"]] {
        let enter = |script: &str| {
            let mut command = Command::new("unshare");
            command.args(user).args(["--net", "--mount", "sh", "-c", script]);
            command
        };
        match enter(PROBE).stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {
                let mut again = enter("mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"");
                again.arg(std::env::current_exe().unwrap()).args(std::env::args_os().skip(1));
                return Err(again.env(INSIDE, "1").exec().to_string());
            }
            Ok(output) => reason = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => reason = format!("unshare: {error}"),
        }
    }
    Err(reason)
}

/// Hosts on one switch. Host number 0 has the address 10.77.0.1, and so on.
pub struct Net {
    hosts: &'static [&'static str],
}

const SWITCH: &str = "switch";

impl Net {
    pub fn new(hosts: &'static [&'static str]) -> Self {
        // First, so that it also ends what is half made.
        let net = Self { hosts };
        ip(&["netns", "add", SWITCH]);
        ip(&["-n", SWITCH, "link", "add", "name", "bridge", "type", "bridge"]);
        ip(&["-n", SWITCH, "link", "set", "dev", "bridge", "up"]);
        for (number, host) in hosts.iter().enumerate() {
            let address = format!("10.77.0.{}/24", number + 1);
            ip(&["netns", "add", host]);
            ip(&["-n", SWITCH, "link", "add", "name", host, "type", "veth"]
                .into_iter()
                .chain(["peer", "name", "eth0", "netns", host])
                .collect::<Vec<_>>());
            ip(&["-n", SWITCH, "link", "set", "dev", host, "master", "bridge", "up"]);
            ip(&["-n", host, "address", "add", &address, "dev", "eth0"]);
            ip(&["-n", host, "link", "set", "dev", "eth0", "up"]);
            ip(&["-n", host, "link", "set", "dev", "lo", "up"]);
            // Systems differ here, and those that ask seldom are the harder ones.
            let seldom = "cd /proc/sys/net/ipv4; \
                [ ! -e tcp_syn_linear_timeouts ] || echo 0 > tcp_syn_linear_timeouts";
            ip(&["netns", "exec", host, "sh", "-c", seldom]);
        }
        net
    }

    /// The address of a host.
    pub fn address(&self, host: &str) -> String {
        let number = self.hosts.iter().position(|it| *it == host).unwrap();
        format!("10.77.0.{}", number + 1)
    }

    /// Pulls the cable of a host: both ends see that.
    pub fn unplug(&self, host: &str) {
        ip(&["-n", SWITCH, "link", "set", "dev", host, "down"]);
    }

    pub fn plug(&self, host: &str) {
        ip(&["-n", SWITCH, "link", "set", "dev", host, "up"]);
    }

    /// Lets the switch drop all packets of a host and for it: no end sees that.
    pub fn silence(&self, host: &str) {
        ip(&["-n", SWITCH, "link", "set", "dev", host, "nomaster"]);
    }

    pub fn unsilence(&self, host: &str) {
        ip(&["-n", SWITCH, "link", "set", "dev", host, "master", "bridge"]);
    }

    /// Loses all packets from one host to another, and none in the other direction.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        let nobody = ["lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent"];
        let to = self.address(to);
        ip(&[&["-n", from, "neigh", "replace", &to], &nobody[..]].concat());
    }

    pub fn mend_one_way(&self, from: &str, to: &str) {
        ip(&["-n", from, "neigh", "del", &self.address(to), "dev", "eth0"]);
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in self.hosts.iter().chain([&SWITCH]) {
            // Also after a panic, perhaps of a command such as this one.
            _ = Command::new("ip").args(["netns", "del", host]).output();
        }
    }
}

#[track_caller]
pub fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}
