//! A host that forks: the child has no part in what the parent made.

use std::path::Path;
use std::time::Duration;

use slipring::{Config, ErrorKind, named};

use crate::common::named::{fresh_name, start};
use crate::common::*;

/// Runs `child` in a fork of this process and panics unless it returns true.
fn in_fork(child: impl FnOnce() -> bool) {
    // SAFETY: the child calls what a host's child might, and ends without unwinding.
    #[allow(unsafe_code, reason = "fork")]
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
        let code = i32::from(!matches!(result, Ok(true)));
        // SAFETY: as said.
        #[allow(unsafe_code, reason = "_exit")]
        unsafe {
            libc::_exit(code)
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just started.
    #[allow(unsafe_code, reason = "waitpid")]
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((waited, status), (pid, 0), "the child's wait status");
}

#[test]
fn a_forked_child_is_refused_and_takes_nothing_along() {
    // In a process of its own, with no threads but the library's.
    let name = "forking::a_forked_child_is_refused_and_takes_nothing_along";
    if !is_rerun(name) {
        rerun(name);
        return;
    }
    let (mut host, mut worker) = start(&Config::small(), "worker_entry");
    let mut channel = Some(host.accept(LONG).unwrap());
    let path = format!("/dev/shm/slipring.{}.down", host.name());
    let mut reply = Some(channel.as_ref().unwrap().call(ECHO, b"kept", LONG).unwrap());
    in_fork(|| {
        let error = channel.as_ref().unwrap().call(ECHO, b"x", Duration::from_secs(5));
        error.unwrap_err().kind() == ErrorKind::Forked
    });
    in_fork(|| reply.as_ref().unwrap().to_vec() == b"kept");
    in_fork(|| {
        drop(reply.take());
        drop(channel.take());
        true
    });
    let channel = channel.unwrap();
    assert_eq!(reply.unwrap().to_vec(), b"kept");
    assert!(Path::new(&path).exists());
    assert_usable(&channel);
    channel.close(LONG).unwrap();
    assert!(worker.wait().unwrap().success());

    let other = fresh_name();
    let mut host = Some(named::create(&other, &Config::small()).unwrap());
    in_fork(|| {
        drop(host.take());
        true
    });
    assert!(Path::new(&format!("/dev/shm/slipring.{other}.up")).exists());
    drop(host);
    assert!(!Path::new(&format!("/dev/shm/slipring.{other}.up")).exists());
}
