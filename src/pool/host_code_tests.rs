//! Code of the host's that a pool runs, such as the drop of an error that a recipe has returned: it may
//! use the pool.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{EventKind, Pool, Role, RoleHandle};
use crate::error::{Error, ErrorKind};
use crate::protocol::Kind;

const LONG: Duration = Duration::from_secs(60);
const ECHO: Kind = Kind::named("echo");

/// An error of the host's that asks its role for a worker as it is dropped.
#[derive(Debug)]
struct AsksAtDrop(Arc<OnceLock<RoleHandle>>);

impl fmt::Display for AsksAtDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no device")
    }
}

impl std::error::Error for AsksAtDrop {}

impl Drop for AsksAtDrop {
    fn drop(&mut self) {
        if let Some(role) = self.0.get() {
            let _ = role.call(ECHO, "", Duration::ZERO);
        }
    }
}

#[test]
fn an_error_of_a_recipe_may_use_the_role_as_it_is_dropped() {
    let own = Arc::new(OnceLock::new());
    let (part, is_over) = (Arc::clone(&own), Arc::new(AtomicBool::new(false)));
    let role = Role::with_channels(move |_| {
        Err(Error::with_source(ErrorKind::Spawn, "no worker", AsksAtDrop(Arc::clone(&part))))
    });
    let short = Duration::from_millis(1);
    let role = role.backoff(short, short, LONG).max_failures(1000, LONG).lazy();
    let pool = Pool::builder().role("one", role).build().unwrap();
    let handle = pool.role("one").unwrap();
    let _ = own.set(handle.clone());
    let (ended, events) = (Arc::clone(&is_over), pool.events());
    let asking = std::thread::spawn(move || {
        let _ = handle.call(ECHO, "", Duration::from_millis(1));
        // Each failure takes the place of the one before.
        let failed = |kind: &EventKind| matches!(kind, EventKind::StartFailed(_));
        let failures = events.filter(|event| failed(&event.kind)).take(20).count();
        pool.close(LONG).unwrap();
        ended.store(true, Ordering::Relaxed);
        failures
    });
    for _ in 0..10_000 {
        if is_over.load(Ordering::Relaxed) {
            assert_eq!(asking.join().unwrap(), 20);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the drop of the error waits for a lock of the role's");
}
