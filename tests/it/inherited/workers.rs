//! The programs that the hosts start: this program, with a test that calls one of these functions.
#![allow(unreachable_pub, missing_docs, reason = "a module of tests")]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use slipring::{Config, Kind, worker};

use crate::common;
use crate::common::{name_of, only, spawner_of};

/// Starts this program as Node would, and replies with what it says.
pub const START: Kind = Kind::named("start");
/// Closes all descriptors from 3 up.
pub const CLOSE_ALL: Kind = Kind::named("close all");

/// Makes the worker close its standard output and error before it attaches, and print.
pub const CLOSED: &str = "SLIPRING_TEST_CLOSED";
/// The number of programs that have started one another without asking whether they are workers.
pub const DEPTH: &str = "SLIPRING_TEST_DEPTH";

pub fn close_fd(fd: i32) {
    // SAFETY: a number; nothing in Rust owns it.
    #[allow(unsafe_code, reason = "close")]
    unsafe {
        libc::close(fd)
    };
}

/// Writes to a descriptor, which is closed unless something is wrong.
pub fn print_a_byte(fd: i32) {
    // SAFETY: one live byte.
    #[allow(unsafe_code, reason = "write")]
    unsafe {
        libc::write(fd, b"x".as_ptr().cast(), 1)
    };
}

/// Serves if this process was started as a worker.
pub fn serve() {
    if std::env::var_os(CLOSED).is_some() {
        close_fd(1);
        close_fd(2);
        // The worker prints nevertheless.
        std::thread::spawn(|| {
            loop {
                print_a_byte(1);
                print_a_byte(2);
            }
        });
    }
    if !worker::is_worker() {
        return;
    }
    let worker = common::worker()
        .on(START, |_, request, responder| {
            let (_own, theirs) = UnixStream::pair()?;
            let own = std::env::current_exe()?;
            // In a pid namespace of its own it does not learn which process has made its socket.
            let mut command = match &*request.to_vec() {
                b"unshare" => Command::new("unshare"),
                _ => Command::new(&own),
            };
            if !request.is_empty() {
                command.args(["--pid", "--fork"]).arg(&own);
            }
            let output =
                command.args(only(name_of(super::asks))).stdin(OwnedFd::from(theirs)).output()?;
            Ok(responder.send(&output.stdout)?)
        })
        .on(CLOSE_ALL, |_, _, responder| {
            // SAFETY: what a library does that wants a clean start.
            #[allow(unsafe_code, reason = "close_range")]
            let closed = unsafe { libc::close_range(3, u32::MAX, 0) };
            assert_eq!(closed, 0);
            Ok(responder.send(b"")?)
        });
    if let Err(error) = worker.serve() {
        let _ = writeln!(std::io::stderr(), "worker: {error}");
        std::process::exit(9);
    }
}

/// Prints whether this process takes itself for a worker.
pub fn ask() {
    println!("is_worker: {}", worker::is_worker());
}

/// Starts this program again, as a program does that never asks whether it is a worker.
pub fn never_ask() {
    let Ok(depth) = std::env::var(DEPTH) else { return };
    let depth: u32 = depth.parse().unwrap();
    if depth > 3 {
        println!("without end");
        return;
    }
    let spawner = spawner_of(super::never_asks)
        .env(DEPTH, (depth + 1).to_string())
        .config(Config::small())
        .handshake_timeout(Duration::from_secs(20));
    println!("{}", spawner.spawn().map(drop).unwrap_err());
}
