//! What the errors of a pool say to a host that reads them.

use std::time::Duration;

use crate::common::*;
use crate::pools::{close, is_begun, is_empty, new_pool_of, pids, pool_of, role};
use slipring::pool::{Pool, Role};
use slipring::{ErrorKind, ExitCause, Spawner, StreamTimeout, StreamTimeouts};

const SEGV: [u8; 1] = [libc::SIGSEGV as u8];

#[test]
fn an_error_after_several_attempts_tells_of_those_before() {
    let (pool, handle) = pool_of(role().idempotent(RAISE));
    let error = handle.call(RAISE, &SEGV, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poison);
    let text = error.to_string();
    let before = "sent once before: its worker killed by signal SIGSEGV (11) while it was begun";
    assert!(text.contains(before), "{text}");
    let earlier = error.earlier_attempts().unwrap();
    assert_eq!((earlier.count, earlier.ends.len()), (1, 1));
    let end = earlier.ends[0];
    assert_eq!((end.kind, end.was_begun), (ErrorKind::PeerDied, Some(true)));
    assert_eq!(end.cause, Some(ExitCause::Signaled(libc::SIGSEGV)));
    let of_one = handle.call(FAIL, "no", LONG).unwrap_err();
    assert!(of_one.earlier_attempts().is_none());
    close(&pool);
}

#[test]
fn a_request_that_no_worker_could_take_says_what_ended_the_last_one() {
    let nowhere = Role::new(|_| Ok(Spawner::program("/no/such/program")));
    let nowhere = nowhere.backoff(Duration::from_millis(10), Duration::from_millis(20), LONG);
    let (pool, handle) = new_pool_of(nowhere.max_failures(1000, LONG));
    eventually("a start has failed", || handle.metrics().workers.failed_to_start > 0);
    let error = handle.call(ECHO, "", Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueTimeout);
    assert_eq!(error.was_begun(), Some(false));
    let text = error.to_string();
    assert!(text.contains("0 workers serve") && text.contains("/no/such/program"), "{text}");
    close(&pool);
}

#[test]
fn a_role_needs_a_name_that_its_workers_can_have() {
    for name in ["a b", "", "..", "a/b"] {
        let built = Pool::builder().role(name, role()).build();
        let error = built.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{name:?}: {error}");
    }
}

#[test]
fn an_error_of_a_death_says_why_the_request_is_not_sent_again() {
    let (pool, handle) = pool_of(role().max_attempts(1));
    let of = |is_idempotent| {
        let request = handle.request(RAISE).idempotent(is_idempotent);
        let error = request.call(&SEGV, LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PeerDied);
        error.to_string()
    };
    let text = of(false);
    assert!(text.contains("is not sent again") && text.contains("idempotent"), "{text}");
    let text = of(true);
    assert!(text.contains("max_attempts"), "{text}");
    close(&pool);
}

#[test]
fn a_request_that_waits_too_long_in_its_worker_has_waited_too() {
    let (pool, handle) = pool_of(role().prefetch(3));
    let stay = Stay::new();
    let path = stay.path();
    let busy = handle.submit(STAY, &path, LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    let short = Duration::from_millis(50);
    let of_call = handle.call(ECHO, "", short).unwrap_err();
    let timeouts = StreamTimeouts::new().queue(short);
    let request = encode(&[1, 8]);
    let mut stream = handle.stream(COUNT, &request, timeouts).unwrap();
    let of_stream = stream.next_chunk().unwrap_err();
    for error in [&of_call, &of_stream] {
        assert_eq!(error.kind(), ErrorKind::QueueTimeout);
        assert_ne!(error.was_begun(), Some(true));
    }
    assert_eq!(of_stream.stream_timeout(), Some(StreamTimeout::Queue));
    drop((stream, stay));
    assert_eq!(busy.wait().unwrap().to_vec(), path);
    assert_eq!(pids(&handle).len(), 1);
    eventually("all places are free", || is_empty(&handle));
    close(&pool);
}
