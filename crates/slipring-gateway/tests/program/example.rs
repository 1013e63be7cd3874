//! The example `two_machines`, as its two terminals run it.

use std::path::Path;
use std::process::Command;

use super::gateway::{Dir, Gateway, PROGRAM};

pub(crate) fn two_terminals_share_their_workers() {
    run_two_terminals(&[], &[]);
}

pub(crate) fn two_terminals_speak_tls_by_made_certificates() {
    let dir = Dir::new("example-certs");
    let made = Command::new(PROGRAM).args(["--make-certs", dir.path()]).output();
    assert!(made.unwrap().status.success());
    let files = ["server.pem", "server-key.pem", "ca.pem"].map(|name| dir.file(name));
    let [cert, key, ca] = &files;
    run_two_terminals(&["--cert", cert, "--key", key, "--client-ca", ca], &["--certs", dir.path()]);
}

/// Runs a gateway with these options and a host with those.
fn run_two_terminals(of_gateway: &[&str], of_host: &[&str]) {
    // Cargo builds the examples before it runs all tests, and this one needs no other.
    let example = Path::new(PROGRAM).with_file_name("examples").join("two_machines");
    if !example.exists() {
        let args = ["build", "--quiet", "-p", "slipring-gateway", "--example", "two_machines"];
        assert!(Command::new(env!("CARGO")).args(args).status().unwrap().success());
    }
    let mut command = Command::new(PROGRAM);
    command.args(["--role", "shout", "--workers", "2", "--listen", "127.0.0.1:0"]);
    let gateway = Gateway::run(command.args(of_gateway).arg("--").arg(&example), "shout");
    let mut host = Command::new(&example);
    let output = host.args(of_host).arg(gateway.address.to_string()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("HELLO 11"), "{text}");
    // One of its own, and two behind the gateway.
    assert!(text.ends_with("3 workers have served 12 requests\n"), "{text}");
}
