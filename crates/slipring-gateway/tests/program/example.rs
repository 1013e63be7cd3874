//! The example `two_machines`, as its two terminals run it.

use std::path::Path;
use std::process::Command;

use super::gateway::{Gateway, PROGRAM};

pub(crate) fn two_terminals_share_their_workers() {
    // Cargo builds the examples before it runs all tests, and this one needs no other.
    let example = Path::new(PROGRAM).with_file_name("examples").join("two_machines");
    if !example.exists() {
        let args = ["build", "--quiet", "-p", "slipring-gateway", "--example", "two_machines"];
        assert!(Command::new(env!("CARGO")).args(args).status().unwrap().success());
    }
    let mut command = Command::new(PROGRAM);
    command.args(["--role", "shout", "--workers", "2", "--listen", "127.0.0.1:0", "--"]);
    let gateway = Gateway::run(command.arg(&example), "shout");
    let output = Command::new(&example).arg(gateway.address.to_string()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("HELLO 11"), "{text}");
    // One of its own, and two behind the gateway.
    assert!(text.ends_with("3 workers have served 12 requests\n"), "{text}");
}
