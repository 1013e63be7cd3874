//! A host that forks: the child cannot use the channels of its parent.

use std::path::Path;
use std::time::Duration;

use slipring::{Config, ErrorKind, named};

use crate::common::named::{fresh_name, start};
use crate::common::*;

#[test]
fn a_forked_child_is_refused_and_takes_nothing_along() {
    // The new process has no threads but the library's.
    let name = name_of(a_forked_child_is_refused_and_takes_nothing_along);
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
        let mut blocks: Vec<Vec<u8>> = (0..64).map(|_| vec![0; 1 << 20]).collect();
        drop(reply.take());
        drop(channel.take());
        blocks.iter_mut().for_each(|block| block.fill(1));
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
        let accepted = host.as_mut().unwrap().accept(Duration::from_secs(5)).map(drop);
        let created = named::create("of-a-child", &Config::small()).map(drop);
        [accepted, created].into_iter().all(|r| r.unwrap_err().kind() == ErrorKind::Forked)
    });
    in_fork(|| {
        drop(host.take());
        true
    });
    assert!(Path::new(&format!("/dev/shm/slipring.{other}.up")).exists());
    drop(host);
    assert!(!Path::new(&format!("/dev/shm/slipring.{other}.up")).exists());
}
