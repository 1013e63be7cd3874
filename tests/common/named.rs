//! Workers that attach by name: processes that the library did not start.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use slipring::named::NamedHost;
use slipring::{Channel, Config};

use super::{LONG, worker};

/// The variable with the name of the channel that a process attaches to.
pub const NAME: &str = "SLIPRING_TEST_NAMED";

/// Returns a name that no other test uses.
pub fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Returns a channel over named segments. Its worker runs until the channel is dropped.
pub fn spawn(config: &Config) -> Channel {
    let (mut host, child) = start(config, "worker_entry");
    let channel = host.accept(LONG).unwrap();
    reap(child);
    channel
}

/// The file of one side of the channel `name`.
pub fn segment(name: &str, side: &str) -> String {
    format!("/dev/shm/slipring.{name}.{side}")
}

/// Waits for a process in the background.
pub fn reap(mut child: Child) {
    let stdin = child.stdin.take();
    std::thread::spawn(move || {
        let _ = child.wait();
        drop(stdin);
    });
}

/// Returns a host, and a process that attaches to it in the test `entry`.
pub fn start(config: &Config, entry: &str) -> (NamedHost, Child) {
    let name = fresh_name();
    let host = slipring::named::create(&name, config).unwrap();
    let child = attach(&name, entry);
    (host, child)
}

/// Starts a process that attaches to the channel `name`. The process ends soon after its standard
/// input does, so that it cannot outlive the tests.
pub fn attach(name: &str, entry: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(super::only(entry)).env(NAME, name);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// If this process is to attach by name, serves, and ends the process.
pub fn serve_if_worker() {
    let Some(name) = std::env::var_os(NAME) else { return };
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::thread::sleep(Duration::from_secs(10));
        std::process::exit(3);
    });
    match worker().serve_named(name.to_str().unwrap(), LONG) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("worker: {error}");
            std::process::exit(9);
        }
    }
}
