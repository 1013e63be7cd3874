//! The pool over real processes: what becomes of requests whose workers die, and of workers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::common::*;
use crate::pools::{
    alive, close, is_begun, kill_one_that_serves, new_pool_of as pool_of, patient, pids,
};
use slipring::pool::{EventKind, Events, Pool, Priority, RecycleReason, Role, RoleHandle};
use slipring::{ErrorKind, ExitCause};

const ONE: &str = "one";

fn role() -> Role {
    Role::new(|_| Ok(patient())).backoff(
        Duration::from_millis(50),
        Duration::from_millis(400),
        Duration::from_secs(5),
    )
}

fn until(events: &Events, is_it: impl Fn(&EventKind) -> bool) {
    let start = Instant::now();
    while start.elapsed() < LONG {
        if events.recv_timeout(LONG).is_some_and(|event| is_it(&event.kind)) {
            return;
        }
    }
    panic!("the event never came");
}

#[test]
fn requests_of_many_threads_are_served_by_all_workers() {
    let (pool, handle) = pool_of(role().min_idle(3).max_size(3));
    eventually("all serve", || alive(&handle) == 3);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let handle = handle.clone();
            scope.spawn(move || {
                for call in 0..100 {
                    let bytes = encode(&[1, thread, call]);
                    let reply = handle.call(SLOW_ECHO, &bytes, LONG).unwrap();
                    assert_eq!(reply.to_vec(), bytes);
                }
            });
        }
    });
    let workers = handle.health().workers;
    assert_eq!(workers.len(), 3);
    for worker in &workers {
        let served = worker.health.as_ref().unwrap().requests_served;
        assert!(served > 50, "{workers:?}");
    }
    close(&pool);
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_handled_error_is_an_answer_and_costs_no_worker() {
    let (pool, handle) = pool_of(role().idempotent(FAIL));
    for _ in 0..20 {
        let error = handle.call(FAIL, "no", LONG).unwrap_err();
        assert!(error.is_handler_error());
    }
    assert_eq!(pids(&handle).len(), 1);
    assert_eq!(handle.health().workers[0].health.as_ref().unwrap().requests_served, 21);
    close(&pool);
}

#[test]
fn a_begun_request_that_is_not_idempotent_fails_with_what_is_known() {
    let (pool, handle) = pool_of(role());
    let error = handle.call(RAISE, &[libc::SIGSEGV as u8], LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    assert_eq!(error.death().unwrap().cause(), Some(ExitCause::Signaled(libc::SIGSEGV)));
    assert_eq!((error.was_begun(), error.begun_alone()), (Some(true), Some(true)));
    assert_eq!(handle.call(ECHO, "goes on", LONG).unwrap().to_vec(), b"goes on");
    close(&pool);
}

#[test]
fn requests_that_were_not_begun_go_to_another_worker_unasked() {
    let (pool, handle) = pool_of(role().prefetch(3));
    handle.call(ECHO, "", LONG).unwrap();
    std::thread::scope(|scope| {
        let begun = scope.spawn(|| handle.call(FOR_EVER, "", LONG));
        eventually("it is begun", || is_begun(&handle));
        let others: Vec<_> = (0..6_u8)
            .map(|number| {
                let handle = &handle;
                scope.spawn(move || handle.call(ECHO, &[number], LONG).unwrap().to_vec())
            })
            .collect();
        eventually("they are sent or wait", || handle.health().load.in_flight == 4);
        send_signal(pids(&handle)[0], libc::SIGKILL);
        let error = begun.join().unwrap().unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::PeerDied, Some(true)));
        for (number, other) in others.into_iter().enumerate() {
            assert_eq!(other.join().unwrap(), [number as u8]);
        }
    });
    close(&pool);
}

#[test]
fn an_idempotent_request_survives_a_kill() {
    let (pool, handle) = pool_of(role().idempotent(STAY));
    handle.call(ECHO, "", LONG).unwrap();
    let stay = Stay::new();
    let path = stay.path();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| handle.call(STAY, &path, LONG));
        eventually("it is begun", || is_begun(&handle));
        let victim = pids(&handle)[0];
        send_signal(victim, libc::SIGKILL);
        drop(stay);
        assert_eq!(call.join().unwrap().unwrap().to_vec(), path);
        assert!(!pids(&handle).contains(&victim));
    });
    close(&pool);
}

#[test]
fn a_request_that_kills_two_workers_is_poison_and_hurts_no_other() {
    let (pool, handle) = pool_of(role().min_idle(2).max_size(2).idempotent(RAISE));
    let events = pool.events();
    std::thread::scope(|scope| {
        let innocent = scope.spawn(|| {
            for number in 0..200_u64 {
                let bytes = encode(&[1, number]);
                assert_eq!(handle.call(SLOW_ECHO, &bytes, LONG).unwrap().to_vec(), bytes);
            }
        });
        let error = handle.call(RAISE, &[libc::SIGSEGV as u8], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Poison);
        assert!(error.to_string().contains("it has killed 2 workers"), "{error}");
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().contains("SIGSEGV"), "{source}");
        innocent.join().unwrap();
    });
    let died = |kind: &EventKind| matches!(kind, EventKind::Died(_));
    until(&events, died);
    until(&events, died);
    assert!(!handle.health().is_degraded, "requests degrade no role");
    close(&pool);
}

#[test]
fn over_its_bound_a_role_refuses_at_once_and_says_when_to_come_back() {
    let (pool, handle) = pool_of(role().max_waiting(1).prefetch(0));
    handle.call(ECHO, "", LONG).unwrap();
    let stay = Stay::new();
    let path = stay.path();
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..2).map(|_| scope.spawn(|| handle.call(STAY, &path, LONG))).collect();
        eventually("one waits", || handle.health().load.queued == 1);
        eventually("one is served", || handle.health().load.in_flight == 1);
        let error = handle.call(ECHO, "", LONG).unwrap_err();
        assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Overloaded, Some(false)));
        let overload = error.overload().unwrap();
        assert_eq!((overload.queued, overload.limit, overload.in_flight), (1, 1, 1));
        assert!(overload.retry_after > Duration::ZERO);
        drop(stay);
        calls.into_iter().for_each(|call| drop(call.join().unwrap().unwrap()));
    });
    close(&pool);
}

#[test]
fn a_wait_that_is_too_long_and_a_run_get_different_errors() {
    let (pool, handle) = pool_of(role().prefetch(0));
    handle.call(ECHO, "", LONG).unwrap();
    let short = Duration::from_millis(50);
    let stay = Stay::new();
    let running = handle.submit(STAY, &stay.path(), LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    let error = handle.call(ECHO, "", short).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::QueueTimeout, Some(false)));
    assert!(error.is_timeout());
    drop(stay);
    running.wait().unwrap();
    eventually("one is begun", || {
        // A worker of a busy machine may find it too late to begin.
        let error = handle.call(UNTIL_ABORTED, "", short).unwrap_err();
        let is_begun = error.was_begun() == Some(true);
        let expected = if is_begun { ErrorKind::Timeout } else { ErrorKind::QueueTimeout };
        assert_eq!(error.kind(), expected, "{error}");
        is_begun
    });
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    close(&pool);
}

#[test]
fn an_idle_worker_that_is_killed_is_replaced() {
    let (pool, handle) = pool_of(role());
    let events = pool.events();
    handle.call(ECHO, "", LONG).unwrap();
    let victim = pids(&handle)[0];
    send_signal(victim, libc::SIGKILL);
    until(&events, |kind| matches!(kind, EventKind::Died(_)));
    eventually("another one lives", || {
        let workers = handle.health().workers;
        workers.iter().any(|worker| worker.is_alive && worker.pid != Some(victim))
    });
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    close(&pool);
}

#[test]
fn a_role_whose_workers_cannot_start_is_degraded_and_heals() {
    let heals = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&heals);
    let role = Role::new(move |_| {
        Ok(if is_healed.load(Ordering::Relaxed) { small() } else { small().mode("fail") })
    });
    let (first, most) = (Duration::from_millis(10), Duration::from_millis(300));
    let role = role.backoff(first, most, LONG).max_failures(2, LONG);
    let (pool, handle) = pool_of(role);
    let events = pool.events();
    // The event of it may have come before the reader of the events.
    eventually("it is degraded", || handle.health().is_degraded);
    let error = handle.call(ECHO, "", LONG).unwrap_err();
    assert_eq!((error.kind(), error.was_begun()), (ErrorKind::Degraded, Some(false)));
    assert!(format!("{error:#}").contains("no such model"), "{error:#}");
    assert!(!handle.health().is_ready && !pool.health().is_ready());
    heals.store(true, Ordering::Relaxed);
    until(&events, |kind| matches!(kind, EventKind::Healed));
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    assert!(pool.health().is_ready());
    close(&pool);
}

#[test]
fn a_changed_recipe_costs_no_request() {
    let (pool, handle) = pool_of(role().min_idle(2).max_size(2));
    let events = pool.events();
    handle.call(ECHO, "", LONG).unwrap();
    let is_over = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            while is_over.load(Ordering::Relaxed) == 0 {
                handle.call(SLOW_ECHO, &encode(&[2]), LONG).unwrap();
            }
        });
        handle.reload(Role::new(|_| Ok(small().mode("other")))).unwrap();
        for _ in 0..2 {
            let why = RecycleReason::Recipe;
            until(&events, |kind| matches!(kind, EventKind::Recycled(it) if *it == why));
        }
        is_over.store(1, Ordering::Relaxed);
        caller.join().unwrap();
    });
    let role = handle.call(ROLE, "", LONG).unwrap().text().unwrap();
    assert!(role.contains("other"), "{role}");
    close(&pool);
}

#[test]
fn a_worker_that_has_served_its_share_is_replaced_without_a_failure() {
    let (pool, handle) = pool_of(role().max_requests(10));
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..60_u64 {
        handle.call(ECHO, &encode(&[number]), LONG).unwrap();
        seen.extend(pids(&handle));
        std::thread::sleep(Duration::from_millis(2));
    }
    eventually("workers were replaced", || {
        handle.call(ECHO, "", LONG).unwrap();
        seen.extend(pids(&handle));
        seen.len() > 2
    });
    close(&pool);
}

#[test]
fn a_stream_is_sent_again_until_its_first_chunk_and_then_not() {
    let (pool, handle) = pool_of(role().idempotent(STAY_AND_COUNT).idempotent(CHUNK_AND_STAY));
    handle.call(ECHO, "", LONG).unwrap();
    let stay = Stay::new();
    let request = stay.path();
    let mut stream = handle.stream(STAY_AND_COUNT, &request, LONG).unwrap();
    kill_one_that_serves(&handle);
    drop(stay);
    for number in 0..4 {
        assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(number, 8));
    }
    drop(stream);
    let mut stream = handle.stream(CHUNK_AND_STAY, "", LONG).unwrap();
    assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(0, 8));
    kill_one_that_serves(&handle);
    let error = loop {
        match stream.next_chunk() {
            Ok(chunk) => assert!(chunk.is_some(), "it was cut, and ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    drop(stream);
    close(&pool);
}

#[test]
fn a_request_that_makes_no_progress_costs_its_worker_if_the_role_says_so() {
    let (pool, handle) = pool_of(role().hang_timeout(Duration::from_millis(100)));
    let events = pool.events();
    let error = handle.call(FOR_EVER, "", LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PeerDied);
    until(&events, |kind| matches!(kind, EventKind::Hung { progress: 0, .. }));
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    close(&pool);
}

#[test]
fn a_close_serves_what_waits_and_then_ends_all_workers_at_once() {
    let (pool, handle) = pool_of(role().min_idle(2).max_size(2));
    handle.call(ECHO, "", LONG).unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..8).map(|_| scope.spawn(|| handle.call(SLOW_ECHO, &encode(&[20]), LONG))).collect();
        eventually("all are taken", || {
            let load = handle.health().load;
            load.queued + load.in_flight == 8
        });
        close(&pool);
        calls.into_iter().for_each(|call| drop(call.join().unwrap().unwrap()));
    });
    assert!(handle.health().workers.is_empty());
    close(&pool);
}

#[test]
fn a_close_whose_time_is_up_ends_what_is_left() {
    let (pool, handle) = pool_of(role());
    handle.call(ECHO, "", LONG).unwrap();
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..3).map(|_| scope.spawn(|| handle.call(FOR_EVER, "", LONG))).collect();
        eventually("all are taken", || {
            let load = handle.health().load;
            load.queued + load.in_flight == 3
        });
        let closed = within_long("close", || pool.close(Duration::from_millis(50)));
        closed.unwrap();
        for call in calls {
            let kind = call.join().unwrap().unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Closed);
        }
    });
}

#[test]
fn a_close_waits_for_the_end_of_a_worker_that_is_just_being_started() {
    let pid = Arc::new(AtomicUsize::new(0));
    let spawned = Arc::clone(&pid);
    let (pool, _handle) = pool_of(Role::with_channels(move |_| {
        let channel = small().spawn()?;
        spawned.store(channel.pid().try_into().unwrap(), Ordering::Relaxed);
        // The pool is closed before it has the channel.
        std::thread::sleep(Duration::from_millis(200));
        Ok(channel)
    }));
    within_long("a process", || {
        while pid.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    close(&pool);
    let process = format!("/proc/{}", pid.load(Ordering::Relaxed));
    assert!(!std::path::Path::new(&process).exists(), "its process is there");
}

#[test]
fn a_dropped_pool_ends_its_workers_and_its_handles_say_that_it_is_closed() {
    let (pool, handle) = pool_of(role());
    handle.call(ECHO, "", LONG).unwrap();
    let pid = pids(&handle)[0];
    drop(pool);
    assert_eq!(handle.call(ECHO, "", LONG).unwrap_err().kind(), ErrorKind::Closed);
    eventually("the worker is gone", || !is_in_the_table(pid));
}

#[test]
fn what_cannot_work_is_refused_when_the_pool_is_built() {
    let wrong = [
        (role().max_size(0), "max_size of 0"),
        (role().max_size(usize::MAX), "more than 4096"),
        (role().spares(usize::MAX), "more than 4096"),
        (role().min_idle(3), "min_idle of 3"),
        (role().max_waiting(0).lazy(), "max_waiting of 0"),
        (role().max_waiting(0).min_idle(0), "max_waiting of 0"),
        (role().concurrency(0), "concurrency of 0"),
        (role().max_starts(0), "max_starts of 0"),
        (role().max_requests(0), "max_requests of 0"),
        (role().hang_timeout(Duration::ZERO), "hang timeout of 0"),
        (role().max_attempts(0), "max_attempts of 0"),
    ];
    for (role, part) in wrong {
        let error = Pool::builder().role(ONE, role).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(part), "{error}");
    }
    let twice = Pool::builder().role(ONE, role()).role(ONE, role()).build().unwrap_err();
    assert!(twice.to_string().contains("two roles named one"), "{twice}");
    assert_eq!(Pool::builder().build().unwrap_err().kind(), ErrorKind::InvalidConfig);
    let (pool, _) = pool_of(role().lazy());
    assert_eq!(pool.role("other").unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[test]
fn requests_of_a_higher_priority_go_first() {
    let dir = temp_dir("priorities");
    let logs = dir.clone();
    let role = Role::new(move |_| Ok(small().log_dir(&logs))).prefetch(0);
    let (pool, handle) = pool_of(role);
    handle.call(ECHO, "", LONG).unwrap();
    let stay = Stay::new();
    let first = handle.submit(STAY, &stay.path(), LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    let pending: Vec<_> = [Priority::Low, Priority::Normal, Priority::High]
        .map(|priority| {
            let text = format!("{priority:?}");
            handle.request(PRINT).priority(priority).submit(text.as_str(), LONG).unwrap()
        })
        .into();
    drop(stay);
    first.wait().unwrap();
    pending.into_iter().for_each(|pending| drop(pending.wait().unwrap()));
    close(&pool);
    // The order in which the worker has served them.
    let logs = std::fs::read_dir(&dir).unwrap().map(|log| log.unwrap().path());
    let text: String = logs.map(|log| std::fs::read_to_string(log).unwrap()).collect();
    let order: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("err: ")).collect();
    assert_eq!(order, ["High", "Normal", "Low"]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_worker_that_is_stuck_gets_no_more_and_the_others_serve() {
    let (pool, handle) = pool_of(role().min_idle(2).max_size(2));
    handle.call(ECHO, "", LONG).unwrap();
    eventually("both serve", || alive(&handle) == 2);
    let short = Duration::from_millis(30);
    let given_up = handle.submit(FOR_EVER, "", LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    drop(given_up);
    // One more may lie in the ring of the worker that is stuck.
    let late = (0..50).filter(|_| handle.call(ECHO, "x", short * 10).is_err()).count();
    assert!(late <= 1, "{late} requests went to a worker that is stuck");
    let closed = within_long("close", || pool.close(Duration::ZERO));
    closed.unwrap();
}

#[test]
fn a_request_that_was_given_up_holds_its_place_until_its_handler_returns() {
    let (pool, handle) = pool_of(role().prefetch(0));
    handle.call(ECHO, "", LONG).unwrap();
    let stay = Stay::new();
    let given_up = handle.submit(STAY, &stay.path(), LONG).unwrap();
    eventually("it is begun", || is_begun(&handle));
    drop(given_up);
    let early = handle.call(ECHO, "", Duration::from_millis(20)).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::QueueTimeout);
    drop(stay);
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    close(&pool);
}

#[test]
fn a_recipe_that_panics_is_a_failed_start_and_is_tried_again() {
    let starts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&starts);
    let role = Role::new(move |_| {
        assert!(count.fetch_add(1, Ordering::Relaxed) > 0, "the first start");
        Ok(small())
    });
    let (first, most) = (Duration::from_millis(10), Duration::from_millis(100));
    let (pool, handle) = pool_of(role.backoff(first, most, LONG).lazy());
    let events = pool.events();
    assert_eq!(handle.call(ECHO, "x", LONG).unwrap().to_vec(), b"x");
    until(&events, |kind| matches!(kind, EventKind::Ready(_)));
    assert_eq!(starts.load(Ordering::Relaxed), 2);
    close(&pool);
}

/// A part of a recipe, which uses the recipe's own role when it is dropped.
struct UsesRole(Arc<OnceLock<RoleHandle>>);

impl Drop for UsesRole {
    fn drop(&mut self) {
        if let Some(handle) = self.0.get() {
            let _ = handle.request(ECHO);
        }
    }
}

#[test]
fn a_recipe_that_is_replaced_may_use_its_role_as_it_goes() {
    let own = Arc::new(OnceLock::new());
    let part = UsesRole(Arc::clone(&own));
    // Without a worker: its thread would keep the recipe.
    let (pool, handle) = pool_of(
        Role::new(move |_| {
            let _ = &part;
            Ok(small())
        })
        .lazy(),
    );
    own.set(handle.clone()).unwrap();
    within_long("reload", || handle.reload(role())).unwrap();
    close(&pool);
}

#[test]
fn a_role_takes_limits_as_large_as_they_come() {
    let role = role().concurrency(usize::MAX).prefetch(usize::MAX).max_waiting(usize::MAX);
    let role = role.max_failures(usize::MAX, Duration::MAX).retry_budget(usize::MAX, 0, LONG);
    let (pool, handle) = pool_of(role.grow_after(Duration::MAX).max_lifetime(Duration::MAX));
    assert_eq!(handle.call(ECHO, "x", Duration::MAX).unwrap().to_vec(), b"x");
    close(&pool);
}

#[test]
fn a_stream_whose_reader_pauses_is_not_taken_for_hung() {
    let (pool, handle) = pool_of(role().hang_timeout(Duration::from_secs(1)));
    handle.call(ECHO, "", LONG).unwrap();
    // Longer than the window, so that the worker waits for its reader.
    let request = encode(&[400, 900]);
    let mut stream = handle.stream(COUNT, &request, LONG).unwrap();
    assert_eq!(stream.next_chunk().unwrap().unwrap().to_vec(), pattern(0, 900));
    std::thread::sleep(Duration::from_secs(2));
    let mut count = 1;
    while let Some(chunk) = stream.next_chunk().unwrap() {
        assert_eq!(chunk.to_vec(), pattern(count, 900));
        count += 1;
    }
    assert_eq!(count, 400);
    close(&pool);
}

#[test]
fn a_stream_whose_chunks_are_read_is_not_taken_for_hung() {
    let (pool, handle) = pool_of(role().hang_timeout(Duration::from_secs(1)));
    handle.call(ECHO, "", LONG).unwrap();
    // Its handler reports no progress, and never waits for its reader.
    let request = encode(&[100_000, 25, 8]);
    let stream = handle.stream(TRICKLE, &request, LONG).unwrap();
    assert_eq!(stream.map(Result::unwrap).count(), 25);
    close(&pool);
}

#[test]
fn a_worker_that_is_stopped_does_not_keep_the_pool_from_a_hang() {
    let role = role().ping_interval(Duration::from_millis(20));
    let (pool, handle) = pool_of(role.hang_timeout(Duration::from_secs(1)));
    let events = pool.events();
    std::thread::scope(|scope| {
        // It stops itself.
        let call = scope.spawn(|| handle.call(RAISE, &[libc::SIGSTOP as u8], LONG));
        // A ping is on its way for five seconds.
        let is_either = |kind: &EventKind| {
            let is_late = matches!(kind, EventKind::Unresponsive);
            assert!(!is_late, "the end of the ping was waited for");
            matches!(kind, EventKind::Hung { .. })
        };
        until(&events, is_either);
        assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::PeerDied);
    });
    close(&pool);
}

#[test]
fn a_close_whose_time_is_up_hastens_workers_that_are_already_stopping() {
    let (pool, handle) = pool_of(role().stop_timeout(LONG));
    handle.call(ECHO, "", LONG).unwrap();
    send_signal(pids(&handle)[0], libc::SIGSTOP);
    let closed = within_long("close", || pool.close(Duration::from_millis(100)));
    closed.unwrap();
}
